"""The profiles that come with geoshift, and the exported JSON Schema."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import device_profiles
from device_profiles import Change, Mode, Selector, Weights, builtin_names, json_schema, load
from device_profiles.numbers import numbers

EXPORTED = Path(__file__).parents[2] / "docs" / "profile.schema.json"
FOLDER = Path(device_profiles.__file__).parent
LIVE = ("generic-x86", "jetson-orin-nano", "raspberry-pi-4", "raspberry-pi-5")
SIMULATED = ("loihi-2", "max78000", "rram-crossbar")


def test_the_names() -> None:
    assert builtin_names() == tuple(sorted(LIVE + SIMULATED))


@pytest.mark.parametrize("name", builtin_names())
def test_a_built_in_profile(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    assert profile == load(FOLDER / f"{name}.yaml")
    first = Selector(role="convolution", position=1)
    assert {key: (mode.from_, mode.remove, mode.restore) for key, mode in profile.modes.items()} == {
        "C1": (None, (), ()),
        "C2": ("C1", (Change(layer=first, fraction=0.5),), ()),
        "C3": ("C2", (Change(layer=Selector(role="classifier"), fraction=0.25),), ()),
        "C4": ("C3", (), (Change(layer=first, fraction=0.5),)),
    }
    assert all(isinstance(mode, Mode) and mode.description for mode in profile.modes.values())
    assert profile.transitions == (("C1", "C2"), ("C2", "C3"), ("C3", "C4"), ("C4", "C1"))
    assert profile.guard.max_drop_points == 2.5
    assert not profile.commands
    assert not profile.triggers
    assert not profile.safety


@pytest.mark.parametrize("name", builtin_names())
def test_every_number_says_where_it_comes_from(name: str) -> None:
    # Those of modes and transitions are what a user asks for.
    said = [one for one in numbers(load(name)) if one.path[0] != "modes"]
    assert len(said) >= 10
    assert [one.key for one in said if one.origin is None] == []
    for one in said:
        assert one.origin is not None
        assert len(one.origin.source) >= 20, f"{one.key}: nobody can check {one.origin.source!r}"


def test_what_runs_where() -> None:
    assert {name: load(name).target.runs for name in builtin_names()} == {
        **dict.fromkeys(LIVE, "live"), **dict.fromkeys(SIMULATED, "simulate")
    }  # fmt: skip
    assert all(load(name).weights == Weights() for name in LIVE)


def test_what_the_devices_allow() -> None:
    desktop, board = load("generic-x86"), load("raspberry-pi-5")
    assert (desktop.threads, desktop.memory.weights_bytes, desktop.channel_block) == (2, 4 * 2**30, 16)
    assert (board.threads, board.memory.weights_bytes, board.channel_block) == (4, 2**30, 1)
    pace = [(one.writes.bytes_per_increment, one.writes.increments_per_second) for one in (desktop, board)]
    assert pace == [(262144, 200.0), (65536, 100.0)]
    crossbar, chip = load("rram-crossbar"), load("max78000")
    assert (crossbar.weights.bits, crossbar.weights.sign) == (4, "differential")
    assert crossbar.writes.verify is not None
    assert crossbar.writes.endurance_writes is not None
    assert not crossbar.memory.second_copy
    assert (chip.weights.bits, chip.memory.weights_bytes, chip.writes.quiesce_required) == (8, 432 * 1024, True)
    assert chip.memory.second_copy
    assert chip.weights.scales == "powers-of-two"


def test_the_exported_json_schema_is_up_to_date() -> None:
    assert EXPORTED.read_text(encoding="utf-8") == json.dumps(json_schema(), indent=2) + "\n", (
        "export it again; docs/profiles.md has the command"
    )


@pytest.mark.parametrize("name", builtin_names())
def test_a_built_in_file_validates_against_the_exported_json_schema(name: str) -> None:
    schema = json.loads(EXPORTED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    checker.validate(data)
    checker.validate(device_profiles.as_builtins(load(name)))
    assert not checker.is_valid({**data, "thread": 4})


def test_the_page_explains_every_field_and_its_example_loads(tmp_path: Path) -> None:
    page = (EXPORTED.parent / "profiles.md").read_text(encoding="utf-8")
    for definition in json_schema()["$defs"].values():
        for field in definition["properties"]:
            assert f"`{field}`" in page or f".{field}`" in page, field
    example = page.split("```yaml\n")[1].split("```")[0]
    place = tmp_path / "my-board.yaml"
    place.write_text(example, encoding="utf-8")
    assert load(place).name == "my-board"
    extending = page.split("## Extending a profile")[1].split("```yaml\n")[1].split("```")[0]
    place.write_text(extending, encoding="utf-8")
    camera = load(place)
    assert (camera.name, camera.threads, camera.writes.stall_budget_ms) == ("garden-camera", 4, 20)
    assert (camera.energy, list(camera.modes)) == (None, ["C1", "C2", "C3"])
