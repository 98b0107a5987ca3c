"""Profiles that extend others: what is joined, replaced and removed, and where problems are said to stand."""

from pathlib import Path

import pytest

from device_profiles import ProfileError, as_builtins, from_builtins, load, parse
from device_profiles.loader import MAX_EXTENDS
from tests.device_profiles.texts import BOARD, VALID


@pytest.fixture
def base(tmp_path: Path) -> Path:
    place = tmp_path / "base.yaml"
    place.write_text(VALID)
    return place


def extending(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return place


def refused(place: Path) -> str:
    with pytest.raises(ProfileError) as caught:
        load(place)
    return str(caught.value)


def test_mappings_are_joined_and_the_rest_replaced(base: Path) -> None:
    mine = load(
        extending(
            base.parent,
            "extends: base.yaml\nname: mine\nwrites: {stall_budget_ms: 9}\nmodes:\n  C2:\n    remove:\n"
            "      - layer: {name: conv1}\n        count: 2\n",
        )
    )
    whole = load(base)
    assert (mine.name, mine.description) == ("mine", whole.description)
    assert (mine.writes.stall_budget_ms, mine.writes.bytes_per_increment) == (9, 65536)
    (only,) = mine.modes["C2"].remove
    assert (only.layer.name, only.count, only.fraction) == ("conv1", 2, None)
    assert mine.modes["C3"] == whole.modes["C3"]
    assert list(mine.modes) == ["C1", "C2", "C3"]


def test_null_removes_what_the_other_says(base: Path) -> None:
    text = "extends: base.yaml\nqueue_limit: null\nmodes: {C3: null}\ntransitions: [[C1, C2]]\n"
    mine = load(extending(base.parent, text))
    assert (mine.queue_limit, list(mine.modes)) == (64, ["C1", "C2"])


def test_a_built_in_profile_is_extended_by_name_from_anywhere(tmp_path: Path) -> None:
    mine = load(extending(tmp_path, "extends: raspberry-pi-5\nthreads: 2\n"))
    assert (mine.name, mine.threads) == ("raspberry-pi-5", 2)
    assert mine.energy == load("raspberry-pi-5").energy
    assert parse("extends: raspberry-pi-5\nthreads: 2\n", "text") == mine


def test_a_file_of_the_name_of_what_it_extends_is_no_cycle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    extending(tmp_path, "extends: generic-x86\nthreads: 3\n", "generic-x86.yaml")
    assert load("./generic-x86.yaml").threads == 3


def test_a_path_counts_from_the_extending_file(base: Path) -> None:
    inner = extending(base.parent, "extends: ../base.yaml\nthreads: 7\n", "deep/inner.yaml")
    outer = extending(base.parent, "extends: deep/inner.yaml\nname: outer\n", "outer.yaml")
    assert (load(inner).threads, load(outer).threads, load(outer).name) == (7, 7, "outer")


def test_a_number_takes_its_origin_with_it(tmp_path: Path) -> None:
    extending(tmp_path, BOARD, "board.yaml")
    mine = load(extending(tmp_path, "extends: board.yaml\nthreads: 2\n"))
    assert list(mine.origins) == ["writes.stall_budget_ms"]
    said = "extends: board.yaml\nthreads: 2\norigins: {threads: {provenance: measured, source: counted}}\n"
    assert load(extending(tmp_path, said)).origins["threads"].source == "counted"
    message = refused(extending(tmp_path, "extends: board.yaml\nenergy: {idle_w: {value: 3}}\n"))
    assert "mine.yaml, line 2: energy.idle_w.provenance: found no such key" in message
    moved = load(extending(tmp_path, "extends: board.yaml\nenergy: {idle_w: {source: another meter}}\n"))
    assert moved.energy is not None
    assert moved.energy.idle_w is not None
    assert (moved.energy.idle_w.value, moved.energy.idle_w.source) == (2, "another meter")


def test_a_whole_profile_comes_out_and_a_bundle_carries_no_reference(base: Path) -> None:
    mine = load(extending(base.parent, "extends: base.yaml\nthreads: 2\n"))
    data = as_builtins(mine)
    assert "extends" not in data
    assert from_builtins(data, "plan") == mine
    with pytest.raises(ProfileError, match="plan: extends: found an unknown key"):
        from_builtins({**data, "extends": "generic-x86"}, "plan")


def test_problems_stand_in_the_file_that_they_were_written_in(base: Path) -> None:
    base.write_text(VALID.replace("count: 3", "count: 0"))
    message = refused(extending(base.parent, "extends: base.yaml\n\nthreads: 0\nmemory: {weights_byte: 1}\n"))
    assert message.splitlines() == [
        f"{base.parent}/mine.yaml, line 3: threads: found 0, expected an integer of at least 1 and of at most 1024; "
        "correct it (threads that compute one inference)",
        f"{base.parent}/mine.yaml, line 4: memory.weights_byte: found an unknown key, expected one of weights_bytes, "
        "second_copy; did you mean 'weights_bytes'? correct or remove it",
        f"{base}, line 26: modes.C3.remove[0].count: found 0, expected an integer of at least 1; correct it (number of "
        "units; over several layers, divided in proportion to the units they are taken from)",
    ]


def test_rules_between_files_name_the_line_of_the_part_that_breaks_them(base: Path) -> None:
    message = refused(extending(base.parent, "extends: base.yaml\nmodes: {C3: {from: C9}}\n"))
    assert "mine.yaml, line 2: modes.C3.from: found 'C9', expected one of the modes C1, C2, C3" in message


def test_yaml_of_the_extended_file_is_as_untrusted(base: Path) -> None:
    base.write_text("threads: !!python/object/apply:os.getpid []\n")
    message = refused(extending(base.parent, "extends: base.yaml\n"))
    assert message.startswith(f"{base}, line 1: threads: found the tag")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("[base.yaml]", "found a list of 1 items, expected the name of a built-in profile or the path"),
        ("null", "found nothing, expected the name of a built-in profile"),
        ("''", "found '', expected the name"),
        ('"a\\0b"', "expected the name of a built-in profile or the path"),
        ("nowhere.yaml", "found 'nowhere.yaml', which is no file, expected a YAML file, from"),
        ("raspbery-pi-5", "did you mean 'raspberry-pi-5'?"),
        ("/", "which is no file"),
        ("x" * 4000, "which cannot be looked at (File name too long)"),
    ],
)
def test_what_cannot_be_extended_is_named_with_its_line(value: str, found: str, tmp_path: Path) -> None:
    message = refused(extending(tmp_path, f"name: mine\nextends: {value}\n"))
    assert "mine.yaml, line 2: extends: " in message
    assert found in message


def test_cycles_are_refused(tmp_path: Path) -> None:
    extending(tmp_path, "extends: b.yaml\n", "a.yaml")
    extending(tmp_path, "extends: a.yaml\n", "b.yaml")
    message = refused(tmp_path / "a.yaml")
    assert f"{tmp_path}/b.yaml, line 1: extends: found the cycle a.yaml → b.yaml → a.yaml, expected" in message
    own = extending(tmp_path, "extends: ./self.yaml\n", "self.yaml")
    assert "found the cycle self.yaml → self.yaml" in refused(own)


def test_a_chain_has_an_end(tmp_path: Path) -> None:
    extending(tmp_path, VALID, "0.yaml")
    for step in range(1, MAX_EXTENDS + 2):
        extending(tmp_path, f"extends: {step - 1}.yaml\n", f"{step}.yaml")
    assert load(tmp_path / f"{MAX_EXTENDS}.yaml").threads == 4
    assert f"found a chain of more than {MAX_EXTENDS} files" in refused(tmp_path / f"{MAX_EXTENDS + 1}.yaml")
