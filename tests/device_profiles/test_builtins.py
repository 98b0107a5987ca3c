"""The profiles that come with geoshift, and the exported JSON Schema."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import device_profiles
from device_profiles import Bank, Change, Mode, Selector, Writes, builtin_names, json_schema, load

EXPORTED = Path(__file__).parents[2] / "docs" / "profile.schema.json"
FOLDER = Path(device_profiles.__file__).parent


def test_the_names() -> None:
    assert builtin_names() == ("generic-x86", "raspberry-pi-5")


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
    assert profile.bank == Bank(policy="auto", snap=True)
    assert profile.guard.max_drop_points == 2.5


def test_the_two_differ_in_what_the_devices_allow() -> None:
    desktop, board = load("generic-x86"), load("raspberry-pi-5")
    assert (desktop.threads, desktop.memory.weights_bytes) == (2, 4 * 2**30)
    assert (board.threads, board.memory.weights_bytes) == (4, 2**30)
    assert desktop.writes == Writes(bytes_per_increment=262144, increments_per_second=200.0, stall_budget_ms=2.0)
    assert board.writes == Writes(bytes_per_increment=65536, increments_per_second=100.0, stall_budget_ms=5.0)


def test_the_exported_json_schema_is_up_to_date() -> None:
    assert EXPORTED.read_text(encoding="utf-8") == json.dumps(json_schema(), indent=2) + "\n", (
        "export it again; docs/profiles.md has the command"
    )


@pytest.mark.parametrize("name", builtin_names())
def test_a_built_in_file_validates_against_the_exported_json_schema(name: str) -> None:
    schema = json.loads(EXPORTED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(data)


def test_the_page_explains_every_field_and_its_example_loads(tmp_path: Path) -> None:
    page = (EXPORTED.parent / "profiles.md").read_text(encoding="utf-8")
    for definition in json_schema()["$defs"].values():
        for field in definition["properties"]:
            assert f"`{field}`" in page or f".{field}`" in page, field
    example = page.split("```yaml\n")[1].split("```")[0]
    place = tmp_path / "my-board.yaml"
    place.write_text(example, encoding="utf-8")
    assert load(place).name == "my-board"
