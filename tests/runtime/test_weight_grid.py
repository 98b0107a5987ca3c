"""What a row takes on a device, which values it can hold, and what is refused of a bundle that says otherwise."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load, save

from runtime.errors import BundleError
from runtime.plan import bundle as bundles
from runtime.plan.bundle import ROWS
from runtime.plan.bundle_parts import BASE
from runtime.plan.grid import Grid, misfit, values
from runtime.plan.grid_parts import SCALES, used
from runtime.plan.manifest import GridEntry, GridLayerEntry
from runtime.plan.verification import verify
from runtime.reporting.inspection import notes, summary
from runtime.simulation.simulator import simulate
from tests.runtime.bundles import profile, write_bundle


@pytest.mark.parametrize(
    ("grid", "columns", "bias", "expected"),
    [
        (Grid(), 25, True, 104),
        (Grid("float16"), 25, True, 54),
        (Grid("float16"), 25, False, 50),
        (Grid("int", 8), 25, True, 29),
        (Grid("int", 4), 25, True, 17),  # 100 bits end in the middle of a byte
        (Grid("int", 3), 8, False, 3),
        (Grid("int", 2, sign="differential"), 25, True, 17),  # two cells of two bits
    ],
)
def test_a_row_takes_whole_bytes_and_four_for_its_bias(grid, columns, bias, expected):
    assert grid.row_bytes(columns, bias) == expected


def test_codes_have_a_sign_within_their_bits_or_beside_them():
    assert [Grid("int", bits).largest_code for bits in (2, 4, 8, 16)] == [1, 7, 127, 32767]
    assert [Grid("int", bits, sign="differential").largest_code for bits in (2, 4)] == [3, 15]


@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_every_code_is_known_again_and_its_neighbours_in_float32_are_not(bits):
    grid = Grid("int", bits)
    draw = np.random.default_rng(bits)
    scales = np.exp(draw.uniform(-20, 5, 40)).astype(np.float32)
    codes = draw.integers(-grid.largest_code, grid.largest_code + 1, (40, 30))
    rows = values(codes, scales)
    assert misfit(grid, rows, 30, scales) is None
    # −0 is not what a device would write.
    assert not np.signbit(rows[codes == 0]).any()
    row, column = 7, 11
    rows[row, column] = np.nextafter(values(np.array([[1]]), scales[row : row + 1])[0, 0], np.float32(np.inf))
    assert misfit(grid, rows, 30, scales)[:2] == (row, column)
    rows[row, column] = (grid.largest_code + 1) * scales[row]
    assert misfit(grid, rows, 30, scales)[:2] == (row, column)


def test_a_bias_in_integers_is_counted_in_parts_of_its_rows_scale():
    grid, scales = Grid("int", 4, bias="int32"), np.array([0.3, 0.7], np.float32)
    rows = np.concatenate([values(np.ones((2, 3)), scales), (np.array([[1000.0], [-3.0]]) * scales[:, None] / 256)], 1)
    rows = rows.astype(np.float32)
    rows[:, 3] = np.float32([1000, -3]) * (scales * np.float32(1 / 256))
    assert misfit(grid, rows, 3, scales) is None
    rows[1, 3] = 0.1
    assert misfit(grid, rows, 3, scales)[:2] == (1, 3)
    assert misfit(dataclasses.replace(grid, bias="float32"), rows, 3, scales) is None


def test_half_precision_has_what_it_has():
    rows = np.array([[0.5, 1 / 3]], np.float32)
    assert misfit(Grid("float16"), rows, 2, None) == (0, 1, "a number that float16 has")
    assert misfit(Grid("float16"), rows.astype(np.float16).astype(np.float32), 2, None) is None
    assert misfit(Grid("float16"), np.array([[1e6]], np.float32), 1, None)[:2] == (0, 0)


BITS = 4
DEVICE = {"format": "int", "bits": BITS}


def quantised(path: Path, source: Path) -> Path:
    """The small bundle with its rows on a grid: nearest rounding, one scale a row over all of its versions."""
    plan = bundles.read(source)
    grid = Grid("int", BITS)
    tensors, table = {**plan.tensors}, plan.table
    pool, scales, layers = {name: rows.copy() for name, rows in table.pool.items()}, {}, []
    names = sorted(name.removesuffix(".weight") for name in tensors if name.endswith(".weight"))
    for name in names:
        weight = tensors[f"{name}.weight"].reshape(len(tensors[f"{name}.weight"]), -1)
        # Pool rows are shared by rows of the same bits, so here the layer's rows have one scale for simplicity.
        largest = max(np.abs(weight).max(), np.abs(pool[name]).max() if name in pool and len(pool[name]) else 0.0)
        scale = np.float32(largest / grid.largest_code)
        scales[name] = np.full(len(weight), scale, np.float32)
        tensors[f"{name}.weight"] = values(np.rint(weight / scale), scales[name]).reshape(
            tensors[f"{name}.weight"].shape
        )
        if name in pool and len(pool[name]):
            own = pool[name][:, : weight.shape[1]]
            pool[name][:, : weight.shape[1]] = values(np.rint(own / scale), np.full(len(own), scale, np.float32))
        layers.append(GridLayerEntry(name=name, weight=f"{name}.weight", bias=f"{name}.bias"))
    entry = GridEntry(
        format="int", bits=BITS, scale="row", sign="signed", bias="float32", scales=SCALES, layers=tuple(layers),
        unquantised_accuracy=1.0,
    )  # fmt: skip
    device = profile()
    manifest = msgspec.structs.replace(
        plan.manifest,
        grid=entry,
        profile={**plan.manifest.profile, "weights": DEVICE},
        transitions=tuple(
            msgspec.structs.replace(
                move.entry,
                bytes_written=sum(
                    (dataclasses.replace(table.layer(move.chunks.layers[one]), grid=grid)).row_bytes
                    for one in move.chunks.layer
                ),
                alternatives={},
                landscape=None,
                cost=None,
                cost_back=None,
            )
            for move in plan.transitions
        ),
    )
    gone = {
        name for move in plan.manifest.transitions for name in (*move.alternatives.values(), move.landscape) if name
    }
    files = {name: raw for name, raw in plan.files.items() if name not in gone and name != "plan.json"}
    files |= {BASE: save(tensors), ROWS: save({n: r for n, r in pool.items() if len(r)}), SCALES: save(scales)}
    assert device.name == plan.profile.name
    return bundles.write(path, manifest, files, replace=False)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    return quantised(folder / "quantised", write_bundle(folder / "plan"))


@pytest.fixture
def plan(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "plan"))


def test_a_sound_bundle_is_read_says_its_grid_and_counts_the_devices_bytes(sound):
    bundle = bundles.read(sound)
    layer = bundle.table.layer("conv2")
    assert (layer.row_bytes, layer.array_bytes) == (18 + 4, 37 * 4)
    assert summary(bundle)["grid"]["bits"] == BITS
    assert summary(bundle)["grid"]["row_bytes"]["conv2"] == 22
    assert any("4 bits (signed)" in note for note in notes(bundle.manifest))
    checked = {check.name: check for check in verify(bundle, bundle.profile)}
    assert checked["grid"].ok
    pairs = sum(
        len(used(name, bundle.table, bundle.states, [m.chunks for m in bundle.transitions])[0])
        for name in bundle.table.names
    )
    assert checked["grid"].detail.startswith(f"{pairs + len(bundle.tensors['fc2.weight']):,} rows")


def test_a_float32_bundle_says_nothing_of_a_grid(tmp_path):
    path = write_bundle(tmp_path / "plan")
    assert "grid" not in json.loads((path / "plan.json").read_text())
    assert summary(bundles.read(path))["grid"] is None


def test_strategies_that_leave_the_grid_are_not_played(sound):
    bundle = bundles.read(sound)
    played = simulate(bundle, bundle.profile, names=("ordered", "linear", "ramp", "geodesic"), states=2, torn=0)
    assert set(played.left_out) == {"linear", "ramp", "geodesic"}
    assert "not on the device's grid" in played.left_out["linear"]


def change(plan, name, alter):
    """Change tensors of a file, and list it as it is then."""
    arrays = {key: array.copy() for key, array in load((plan / name).read_bytes()).items()}
    alter(arrays)
    relist(plan, {name: save(arrays)})


def relist(plan, files=None, **fields):
    """Write files and manifest fields, with digests as they are then."""
    said = json.loads((plan / "plan.json").read_text()) | fields
    for name, raw in (files or {}).items():
        (plan / name).write_bytes(raw)
        said["files"][name] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    (plan / "plan.json").write_text(json.dumps(said))


def entry(plan, **fields):
    said = json.loads((plan / "plan.json").read_text())["grid"]
    relist(plan, grid=said | fields)


def set_at(name, place, value):
    def alter(arrays):
        arrays[name][place] = value

    return alter


@pytest.mark.parametrize(
    ("name", "alter", "words"),
    [
        (
            BASE,
            set_at("conv1.weight", (2, 0, 1, 1), 0.125),
            r"layer conv1, row 2, version 0: found 0.125 at 4, expected",
        ),
        (BASE, set_at("fc2.weight", (1, 3), 0.125), r"base.safetensors: layer fc2, row 1, version 0: found 0.125 at 3"),
        (ROWS, set_at("conv2", (0, 5), 0.125), r"layer conv2, row 0, version 2: found 0.125 at 5, expected"),
        (SCALES, set_at("conv2", 0, 1.0), r"layer conv2, row 0, version 0: found .* expected 1 times a whole number"),
        (SCALES, set_at("conv1", 1, 0.0), r"layer conv1, row 1: found scale 0, expected"),
        (SCALES, set_at("conv1", 1, -1.0), r"layer conv1, row 1: found scale -1, expected"),
        (SCALES, set_at("conv1", 1, np.nan), "not finite"),
        (SCALES, lambda arrays: arrays.pop("fc2"), r"found layers that differ in 'fc2'"),
        (
            SCALES,
            lambda arrays: arrays.update(conv1=arrays["conv1"][:1]),
            r"layer conv1: found shape \[1\], expected \[4\]",
        ),
    ],
)
def test_a_value_off_the_grid_is_refused_with_its_place(plan, name, alter, words):
    change(plan, name, alter)
    with pytest.raises(BundleError, match=words):
        bundles.read(plan)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bits": 3}, r"grid: found 3 bits .* expected 4 bits .* as its profile says"),
        ({"bits": None}, r"grid: found .* expected 4 bits"),
        ({"sign": "differential"}, r"grid: found 4 bits \(differential\)"),
        ({"scales": None}, "found null for bits or scales|used and not listed|listed and not used"),
        ({"bits": 40}, "Expected `int` <= 16"),
    ],
)
def test_a_grid_that_is_not_the_profiles_is_refused(plan, fields, words):
    entry(plan, **fields)
    with pytest.raises(BundleError, match=words):
        bundles.read(plan)


def powers_of_two(plan, scales):
    """The plan for a device whose scales are powers of two, with these; its profile says so too."""
    said = json.loads((plan / "plan.json").read_text())
    said["grid"]["scale_values"] = said["profile"]["weights"]["scales"] = "powers-of-two"
    relist(plan, {SCALES: save(scales)}, grid=said["grid"], profile=said["profile"])


def test_scales_that_are_no_powers_of_two_are_refused_where_they_must_be(plan):
    found = load((plan / SCALES).read_bytes())
    powers = {name: np.full_like(scales, 0.25) for name, scales in found.items()}
    wrong = {**powers, "conv2": powers["conv2"].copy()}
    wrong["conv2"][3] = np.nextafter(np.float32(0.25), np.float32(1))
    powers_of_two(plan, wrong)
    with pytest.raises(BundleError, match=r"layer conv2, row 3: found scale 0.25000003, expected .*, a power of two"):
        bundles.read(plan)
    # With powers of two alone, it is only the values that are off the grid.
    powers_of_two(plan, powers)
    with pytest.raises(BundleError, match=r"expected 0.25 times a whole number from -7 to 7"):
        bundles.read(plan)


def test_a_plan_for_any_scale_is_none_for_a_device_of_powers_of_two(plan):
    said = json.loads((plan / "plan.json").read_text())
    said["profile"]["weights"]["scales"] = "powers-of-two"
    relist(plan, profile=said["profile"])
    with pytest.raises(BundleError, match=r"grid: found 4 bits .* expected 4 bits .* a row, a power of two"):
        bundles.read(plan)


def test_a_layer_that_moves_and_is_not_on_the_grid_is_refused(plan):
    said = json.loads((plan / "plan.json").read_text())["grid"]["layers"]
    entry(plan, layers=[one for one in said if one["name"] != "conv2"])
    with pytest.raises(
        BundleError, match=r"grid: layer conv2: found none, expected it as under layers|differ in 'conv2'"
    ):
        bundles.read(plan)


def test_a_profile_that_wants_a_grid_and_a_plan_without_are_refused(plan):
    said = json.loads((plan / "plan.json").read_text())
    del said["grid"], said["files"][SCALES]
    (plan / SCALES).unlink()
    (plan / "plan.json").write_text(json.dumps(said))
    with pytest.raises(BundleError, match="grid: found none, expected 4 bits"):
        bundles.read(plan)
