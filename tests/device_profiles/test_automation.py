"""The sections that may be left out: energy, commands, triggers, safety; what they default to and what is refused."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from device_profiles import (
    Command,
    Energy,
    Figure,
    ProfileError,
    Trigger,
    as_builtins,
    from_builtins,
    json_schema,
    parse,
)
from tests.device_profiles.texts import VALID

SCHEMA = jsonschema.Draft202012Validator(json_schema())

SECTIONS = """\
default_mode: C2
poll_s: 0.5
energy:
  idle_w: {value: 2.5, provenance: measured, source: a bench supply}
  joules_per_mac: {value: 1e-11, provenance: assumed, source: a guess}
commands:
  slow: {governor: powersave}
  low: {nvpmodel: 2, timeout_s: 30}
  save: {power_profile: power-saver}
  camera: {argv: [/usr/bin/camera, "off"], undo: [/usr/bin/camera, "on"]}
triggers:
  - {name: low, mode: C3, source: battery, enter_below: 30, leave_above: 40, dwell_s: 10}
  - {name: away, mode: C2, source: charger, equals: unplugged}
  - {name: night, mode: C3, source: file, path: /run/night, equals: "on"}
  - {name: busy, mode: C2, source: command, command: camera, enter_above: 3, leave_below: 3}
safety:
  - {name: hot, mode: C3, source: temperature, zone: cpu-thermal, enter_above: 80, leave_below: 70}
"""


def full() -> Any:
    """The valid profile with all sections, as builtins."""
    text = (VALID + SECTIONS).replace("  C2:\n", "  C2:\n    before: [slow]\n    after: [low, camera]\n")
    return as_builtins(parse(text, "text"))


def test_all_sections_are_read() -> None:
    profile = from_builtins(full(), "data")
    assert profile.default_mode == "C2"
    assert profile.energy == Energy(
        idle_w=Figure(value=2.5, provenance="measured", source="a bench supply"),
        joules_per_mac=Figure(value=1e-11, provenance="assumed", source="a guess"),
    )
    assert profile.commands["camera"] == Command(argv=("/usr/bin/camera", "off"), undo=("/usr/bin/camera", "on"))
    assert profile.commands["low"].timeout_s == 30
    assert (profile.modes["C2"].before, profile.modes["C2"].after) == (("slow",), ("low", "camera"))
    assert profile.triggers[0] == Trigger(
        name="low", mode="C3", source="battery", enter_below=30.0, leave_above=40.0, dwell_s=10.0
    )
    assert [rule.name for rule in profile.safety] == ["hot"]
    SCHEMA.validate(full())


def test_without_them_a_device_does_nothing_by_itself() -> None:
    profile = parse(VALID, "text")
    assert (profile.default_mode, profile.energy, profile.commands) == (None, None, {})
    assert (profile.triggers, profile.safety, profile.poll_s) == ((), (), 2.0)


def test_the_examples_of_the_page_load() -> None:
    page = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in page.split("```yaml\n")[1:]]
    example = blocks[0]
    energy = next(block for block in blocks if block.startswith("energy:"))
    commands = next(block for block in blocks if block.startswith("commands:"))
    rules = next(block for block in blocks if block.startswith("triggers:"))
    profile = parse(example + energy + commands.partition("\nmodes:")[0] + "\n" + rules, "profiles.md")
    assert profile.energy is not None
    assert len(profile.commands) == 3
    assert [rule.mode for rule in (*profile.triggers, *profile.safety)] == ["night", "day", "night", "night"]
    # The modes of the commands' example are a profile of their own.
    head = example.partition("modes:")[0]
    parse(head + commands + "transitions: [[full, night]]\n", "profiles.md")


LOW = {"name": "low", "mode": "C3", "source": "battery", "enter_below": 30, "leave_above": 40}

# Path, value put there, what is found, what is expected.
WRONG: tuple[tuple[tuple[str | int, ...], object, str, str], ...] = (
    (("default_mode",), "C9", "default_mode: found 'C9'", "one of the modes C1, C2, C3"),
    (("modes", "C2", "before"), ["fast"], "modes.C2.before[0]: found 'fast'", "one of the commands slow, low"),
    (("modes", "C2", "after"), ["slow", "x"], "modes.C2.after[1]: found 'x'", "one of the commands"),
    (("commands", "x"), {}, "commands.x: found none of them", "exactly one of argv, governor, nvpmodel"),
    (("commands", "x"), {"governor": "a", "nvpmodel": 1}, "'governor' and 'nvpmodel'", "exactly one of"),
    (("commands", "x"), {"governor": "a", "undo": ["/bin/true"]}, "commands.x.undo: found an 'undo'", "none"),
    (("commands", "x"), {"argv": ["true"]}, "commands.x.argv[0]: found 'true'", "the absolute path of a program"),
    (("commands", "x"), {"argv": ["/bin/a"], "undo": ["../b"]}, "undo[0]: found '../b'", "the absolute path"),
    (("commands", "x"), {"argv": ["/bin/a", "b\0c"]}, "argv[1]: found a zero character", "text without it"),
    (("triggers", 0, "mode"), "C9", "triggers[0].mode: found 'C9'", "one of the modes"),
    (("triggers", 0, "leave_above"), 29, "triggers[0].leave_above: found 29", "at least 30, as enter_below says"),
    (("triggers", 0, "leave_above"), None, "triggers[0]: found 'enter_below'", "either enter_below and leave_above"),
    (("triggers", 0, "equals"), "x", "'enter_below' and 'leave_above' and 'equals'", "either enter_below"),
    (("triggers", 0, "zone"), "x", "triggers[0].zone: found 'x'", "none with source 'battery'"),
    (("triggers", 1, "equals"), "no", "triggers[1].equals: found 'no'", "'plugged' or 'unplugged'"),
    (("triggers", 1, "name"), "low", "triggers[1].name: found 'low' again (first at triggers[0])", "every name once"),
    (("triggers", 2, "path"), None, "triggers[2].path: found no such key", "one with source 'file'"),
    (("triggers", 2, "path"), "run/night", "triggers[2].path: found 'run/night'", "an absolute path"),
    (("triggers", 2, "path"), "/run\0", "triggers[2].path: found a zero character", "text without it"),
    (("triggers", 3, "command"), "x", "triggers[3].command: found 'x'", "one of the commands slow, low, save, camera"),
    (("triggers", 3, "command"), "slow", "triggers[3].command: found 'slow'", "one of the commands camera"),
    (("safety", 0, "leave_below"), 81, "safety[0].leave_below: found 81", "at most 80, as enter_above says"),
    (("safety", 0, "name"), "low", "safety[0].name: found 'low' again", "every name once"),
    (("safety", 0), {**LOW, "name": "x", "enter_below": None, "leave_above": None, "equals": "y"},
     "safety[0].equals: found 'y'", "thresholds"),
)  # fmt: skip


def changed(path: tuple[str | int, ...], value: object) -> Any:
    data = full()
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return data


@pytest.mark.parametrize(("path", "value", "found", "expected"), WRONG)
def test_what_breaks_a_rule_is_refused_by_name(
    path: tuple[str | int, ...], value: object, found: str, expected: str
) -> None:
    with pytest.raises(ProfileError) as caught:
        from_builtins(changed(path, value), "data")
    assert found in str(caught.value)
    assert f"expected {expected}" in str(caught.value)


# What the JSON Schema refuses too.
MISTYPED: tuple[tuple[tuple[str | int, ...], object, str], ...] = (
    (("energy", "idle_w", "value"), -1, "energy.idle_w.value: found -1, expected a finite number of at least 0"),
    (("energy", "idle_w", "value"), float("inf"), "energy.idle_w.value: found inf"),
    (("energy", "idle_w", "provenance"), "guessed", "energy.idle_w.provenance: found 'guessed', expected 'assumed' or"),
    (("energy", "idle_w", "source"), "", "energy.idle_w.source: found ''"),
    (("energy", "idle"), {}, "energy.idle: found an unknown key, expected one of idle_w"),
    (("energy", "idle_w"), {"value": 1}, "energy.idle_w.provenance: found no such key"),
    (("energy",), [], "energy: found a list of 0 items, expected a mapping"),
    (("poll_s",), 0, "poll_s: found 0, expected a finite number of at least 0.1"),
    (("poll_s",), 61, "poll_s: found 61"),
    (("commands", "../x"), {"nvpmodel": 1}, "expected a name of 1 to 64"),
    (("commands", "low", "nvpmodel"), 256, "commands.low.nvpmodel: found 256"),
    (("commands", "low", "timeout_s"), 0, "commands.low.timeout_s: found 0"),
    (("commands", "slow", "governor"), "a;b", "commands.slow.governor: found 'a;b'"),
    (("commands", "save", "power_profile"), "turbo", "commands.save.power_profile: found 'turbo'"),
    (("commands", "camera", "argv"), [], "commands.camera.argv: found a list of 0 items"),
    (("commands", "camera", "argv"), "/bin/sh -c x", "commands.camera.argv: found '/bin/sh -c x'"),
    (("triggers", 0, "source"), "gps", "triggers[0].source: found 'gps', expected 'battery' or"),
    (("triggers", 0, "dwell_s"), -1, "triggers[0].dwell_s: found -1"),
    (("triggers", 0, "shell"), "rm", "triggers[0].shell: found an unknown key"),
    (("triggers",), {}, "triggers: found a mapping of 0 keys, expected a list"),
    (("triggers",), [{**LOW, "name": f"t{place}"} for place in range(65)], "triggers: found a list of 65 items"),
    (("modes", "C2", "before"), ["slow"] * 17, "modes.C2.before: found a list of 17 items"),
)


@pytest.mark.parametrize(("path", "value", "found"), MISTYPED)
def test_loader_and_json_schema_refuse_alike(path: tuple[str | int, ...], value: object, found: str) -> None:
    data = changed(path, value)
    with pytest.raises(ProfileError) as caught:
        from_builtins(data, "data")
    assert found in str(caught.value)
    # The schema knows no infinity; JSON has none either.
    assert value == float("inf") or not SCHEMA.is_valid(data)
