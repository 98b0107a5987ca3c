"""A plan that does not fit a device is refused, with the limit, the need and the nearest thing that would fit."""

from pathlib import Path

import msgspec
import pytest

import geoshift
from device_profiles import ProfileError, Weights, load
from runtime.errors import BundleError, PushRefused
from runtime.plan import bundle as bundles
from runtime.plan.fit import (
    SMALL_BYTES,
    affords_comfort,
    announced_bytes,
    announced_need,
    check_bundle,
    check_live,
    check_operators,
    check_plan,
    check_size,
    check_weights,
    choose_policy,
    comfort_bytes,
    in_words,
    needed_bytes,
    peak_bytes,
    stored_bytes,
)
from runtime.plan.graphs import live_session
from runtime.plan.onnx_file import read_operators
from runtime.pushing.acceptance import check_successor
from runtime.simulation.room import room_for
from runtime.walking.net import Net
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.test_weight_grid import DEVICE, quantised

INT8 = {"format": "int", "bits": 8}
SAID = {"provenance": "datasheet", "source": "a test"}
PAUSES = {
    "writes__quiesce_required": True,
    "writes__stall_budget_ms": 1,
    "writes__bytes_per_second": {"value": 1e5, **SAID},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("fit") / "plan")


@pytest.fixture(scope="module")
def bundle(path: Path) -> bundles.Bundle:
    return bundles.read(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": INT8}, r"weights: found a plan for float32, expected int with 8 bits, signed, one scale a row"),
        ({"weights": {"format": "float16"}}, r"found a plan for float32, expected float16, as the device stores them"),
        (
            {"target": {"operators": ["Conv", "Relu"]}},
            r"target.operators: found .*Gemm.* in the network, expected only",
        ),
        ({"target": {"runs": "simulate"}}, r"target.runs: found 'simulate', expected 'live': nothing is served"),
    ],
)
def test_it_is_refused_when_loaded(changes: dict[str, object], said: str, bundle: bundles.Bundle) -> None:
    device = profile(**changes)
    with pytest.raises(BundleError, match=said) as caught:
        Net(bundle, device)
    assert f"{bundle.path} on {device.name}: " in str(caught.value)
    assert any(name in str(caught.value) for name in ("generic-x86", "geoshift simulate"))


def test_the_nearest_devices_are_those_of_the_same_weights(bundle: bundles.Bundle) -> None:
    with pytest.raises(BundleError, match="or use it on one of the profiles generic-x86, jetson-orin-nano, raspberry"):
        check_weights(Weights(), profile(weights=INT8), "plan")
    chip = load("max78000").weights
    with pytest.raises(BundleError, match=r"found a plan for int with 8 bits.* profiles loihi-2, max78000$"):
        check_weights(chip, profile(), "plan")
    with pytest.raises(BundleError, match="serve a plan made for a device that is live"):
        check_live(load("rram-crossbar"), "plan")
    check_weights(chip, load("max78000"), "plan")
    # Its scales are powers of two, which a device of any scale has too, and not the other way round.
    check_weights(chip, load("loihi-2"), "plan")
    with pytest.raises(BundleError, match=r"expected int with 8 bits, signed, one scale a layer, a power of two, bias"):
        check_weights(load("loihi-2").weights, load("max78000"), "plan")
    check_live(profile(), "plan")


def test_two_cells_and_their_scale_are_told_apart() -> None:
    kinds = [load(name).weights for name in ("generic-x86", "max78000", "rram-crossbar")]
    assert len({in_words(kind) for kind in kinds}) == 3
    assert [stored_bytes(1000, kind) for kind in kinds] == [4000, 1000, 1000]
    assert stored_bytes(3, Weights(format="int", bits=3)) == 2
    assert stored_bytes(10, Weights(format="float16")) == 20


def test_a_device_with_the_operators_takes_it(bundle: bundles.Bundle) -> None:
    graphs = [bundle.graph, *bundle.compact.values()]
    known = sorted(frozenset().union(*(read_operators(graph, "graph") for graph in graphs)))
    assert {"Conv", "Gemm"} <= set(known)
    check_bundle(bundle, profile(target={"operators": known}))
    check_operators(["Anything"], profile(), "plan")


def test_a_damaged_graph_has_no_operators() -> None:
    with pytest.raises(BundleError, match=r"graph\.onnx: found no ONNX model"):
        read_operators(b"\xff\xff", "graph.onnx")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"memory__second_copy": False}, "memory.second_copy is false"),
        ({"writes__quiesce_required": True}, "writes.quiesce_required is true"),
    ],
)
def test_no_second_copy_means_none(changes: dict[str, object], why: str, bundle: bundles.Bundle) -> None:
    device = profile(**changes)
    assert choose_policy(bundle, device) == "in-place"
    assert choose_policy(bundle, profile()) == "shadow"
    said = f"policy: found 'shadow', expected in-place or persistent, as {why}; use in-place"
    with pytest.raises(BundleError, match=said):
        choose_policy(bundle, device, "shadow")
    with pytest.raises(ProfileError, match=f"bank.policy: found 'shadow', .* as {why}"):
        profile(**changes, bank__policy="shadow")
    assert announced_need(bundle.manifest, device, None) < announced_need(bundle.manifest, profile(), None)


def test_planning_knows_before_anything_is_spent() -> None:
    chip = load("max78000")
    check_size(442_368, chip, "plan for max78000")
    with pytest.raises(
        BundleError, match="found 442368, expected at least 442369 for 442,369 weights of int with 8"
    ) as one:
        check_size(442_369, chip, "plan for max78000")
    assert "up to 442,368 weights fit" in str(one.value)
    assert "use one of the profiles loihi-2;" in str(one.value)
    # A device that serves holds the plan's own copy as well.
    board = profile(memory__weights_bytes=800)
    check_size(100, board, "plan")
    with pytest.raises(BundleError, match=r"expected at least 808 for 101 weights of .*; up to 100 weights fit"):
        check_size(101, board, "plan")


def test_a_finished_plan_is_held_to_the_memory(bundle: bundles.Bundle) -> None:
    need = announced_need(bundle.manifest, profile(memory__second_copy=False), None)
    check_plan(bundle.manifest, profile(memory__weights_bytes=need), "plan")
    with pytest.raises(BundleError, match=f"found {need - 1}, expected at least {need}; plan a smaller network, raise"):
        check_plan(bundle.manifest, profile(memory__weights_bytes=need - 1), "plan")
    check_plan(bundle.manifest, profile(memory__weights_bytes=1, target={"runs": "simulate"}), "plan")


@pytest.fixture(scope="module")
def coded(path: Path, tmp_path_factory: pytest.TempPathFactory) -> bundles.Bundle:
    """The same plan with weights of four bits."""
    return bundles.read(quantised(tmp_path_factory.mktemp("coded") / "plan", path))


@pytest.mark.parametrize(("policy", "copies"), [("in-place", 1), ("shadow", 2)])
def test_a_device_that_serves_codes_holds_float32_and_the_scales(
    bundle: bundles.Bundle, coded: bundles.Bundle, policy: str, copies: int
) -> None:
    for one in (bundle, coded):
        # no more than that, or there would be room to lay the network out
        device = profile(
            bank__snap=False, weights=DEVICE if one is coded else {},
            memory__weights_bytes=peak_bytes(one, copies, snap=False),
        )  # fmt: skip
        with Net(one, device, policy) as net:
            held = sum(
                array.nbytes for array in (*one.tensors.values(), *one.table.pool.values(), *one.scales.values())
            )
            assert held + net.weight_bytes == peak_bytes(one, copies, snap=False) == needed_bytes(one, device, copies)
        assert 0 <= announced_bytes(one.manifest, copies, snap=False) - peak_bytes(one, copies, snap=False) < 1024
    scales = sum(scale.nbytes for scale in coded.scales.values())
    assert peak_bytes(coded, copies, snap=False) - peak_bytes(bundle, copies, snap=False) == scales > 0


def test_a_device_that_plans_are_played_for_holds_its_own_format_and_no_plan(coded: bundles.Bundle) -> None:
    chip = profile(weights=DEVICE, target={"runs": "simulate"}, bank__snap=False)
    numbers = sum(tensor.size for tensor in coded.tensors.values())
    moved = sum(layer.units * layer.width for layer in coded.table.layers)
    assert needed_bytes(coded, chip, 1) == stored_bytes(numbers, chip.weights) == -(-numbers // 2)
    assert needed_bytes(coded, chip, 2) == -(-(numbers + moved) // 2)
    assert needed_bytes(coded, chip, 2) < peak_bytes(coded, 1, snap=False) / 8
    tight = profile(
        weights=DEVICE, target={"runs": "simulate"}, bank__snap=False, memory__weights_bytes=-(-numbers // 2)
    )
    assert room_for("ordered", coded, tight, second_copy=False).why_not == ""
    why = room_for("flip", coded, tight, second_copy=True).why_not
    assert f"it takes {needed_bytes(coded, chip, 2)}" in why


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"writes__bytes_per_increment": 147}, r"writes\.bytes_per_increment: found 147, expected at least 148, one"),
        ({"writes__bytes_per_increment": 200, "writes__granularity_bytes": 147},
         r"writes\.bytes_per_increment: found 200, expected at least 294, one row of conv2"),
        (PAUSES, r"writes\.stall_budget_ms: found 1, expected at least 1\.644 for a pause in which one row of conv2"),
        ({**PAUSES, "writes__stall_budget_ms": 4,
          "writes__verify": {"mean_writes": {"value": 1.5, **SAID}, "most_writes": 3}},
         r"writes\.stall_budget_ms: found 4, expected at least 4\.933 .*148 bytes, up to 3 times"),
    ],
)  # fmt: skip
def test_a_plan_whose_rows_the_device_cannot_write_is_refused_before_it_is_staged(
    changes: dict[str, object], said: str, bundle: bundles.Bundle
) -> None:
    manifest = bundle.manifest
    wide = msgspec.structs.replace(manifest.layers[1], shape=(6, 4, 3, 3))
    narrow = msgspec.structs.replace(manifest.layers[1], shape=(6, 1, 3, 3))
    for layer in (narrow, wide):
        found = msgspec.structs.replace(manifest, layers=(manifest.layers[0], layer))
        if layer is narrow:
            check_successor(found, manifest, profile(**changes), None, 1)
        else:
            with pytest.raises(PushRefused, match=rf"the pushed plan on generic-x86: {said}"):
                check_successor(found, manifest, profile(**changes), None, 1)


def test_it_is_refused_when_pushed(bundle: bundles.Bundle) -> None:
    manifest = bundle.manifest
    check_successor(manifest, manifest, profile(), None, 1)
    with pytest.raises(
        PushRefused, match=r"the pushed plan on .*weights: found a plan for float32, expected int with 8"
    ):
        check_successor(manifest, manifest, profile(weights=INT8), None, 1)


def test_overrides_reach_a_network_that_is_opened(path: Path) -> None:
    with geoshift.open(path, overrides=["writes.stall_budget_ms=7", "bank.policy=in-place"]) as net:
        assert (net.profile.writes.stall_budget_ms, net.policy) == (7, "in-place")
    with geoshift.open(path, "generic-x86", overrides=["threads=1"]) as net:
        assert net.profile.threads == 1
    with pytest.raises(ProfileError, match="--set threads=0: threads: found 0"):
        geoshift.open(path, overrides=["threads=0"])
    with pytest.raises(BundleError, match=r"target\.runs: found 'simulate'"):
        geoshift.open(path, overrides=["target.runs=simulate"])


def test_what_makes_a_small_network_faster_is_taken_only_where_two_plans_have_room_for_it(
    bundle: bundles.Bundle,
) -> None:
    """What is held with all of it is no more than was reckoned with, or two of them would not fit after a push."""
    reckoned = comfort_bytes(bundle.manifest, profile())
    for memory, comfort in ((2 * reckoned, True), (2 * reckoned - 1, False)):
        device = profile(memory__weights_bytes=memory)
        assert affords_comfort(bundle.manifest, device) is comfort
        with Net(bundle, device, "shadow") as net:
            assert (net._plan._sessions is not None) is comfort
            assert live_session(bundle, 1, device).laid_out <= comfort
            held = sum(array.nbytes for array in (*bundle.tensors.values(), *bundle.table.pool.values()))
            assert held + net.weight_bytes <= reckoned
    large = msgspec.structs.replace(
        bundle.manifest, model=msgspec.structs.replace(bundle.manifest.model, dense_bytes=SMALL_BYTES + 1)
    )
    assert not affords_comfort(large, profile(memory__weights_bytes=2**40))
