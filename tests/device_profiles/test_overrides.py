"""Single values set from outside a profile: what they change, and how a wrong one is named."""

from pathlib import Path

import pytest

from device_profiles import ProfileError, as_builtins, from_builtins, load
from device_profiles.numbers import numbers
from device_profiles.overrides import MOST
from tests.device_profiles.texts import BOARD, VALID


@pytest.fixture
def board(tmp_path: Path) -> Path:
    place = tmp_path / "board.yaml"
    place.write_text(BOARD)
    return place


def refused(place: Path | str, *overrides: str) -> str:
    with pytest.raises(ProfileError) as caught:
        load(place, overrides)
    return str(caught.value)


def test_values_are_replaced_added_and_removed(board: Path) -> None:
    found = load(
        board,
        [
            "writes.stall_budget_ms=9",
            "name=other",
            "bank.snap=false",
            "queue_limit=3",
            "modes.C3.description=the third",
            "writes.verify=null",
            "target.operators[1]=MatMul",
            "transitions[0][1]=C3",
            "energy.inferences_per_second=1e2",
        ],
    )
    assert (found.writes.stall_budget_ms, found.name, found.bank.snap, found.queue_limit) == (9, "other", False, 3)
    assert found.modes["C3"].description == "the third"
    assert found.writes.verify is None
    assert found.target.operators == ("Conv", "MatMul", "Relu")
    assert found.transitions[0] == ("C1", "C3")
    assert found.energy is not None
    assert found.energy.inferences_per_second == 100


def test_a_section_that_is_left_out_is_begun(tmp_path: Path) -> None:
    place = tmp_path / "small.yaml"
    place.write_text(VALID)
    found = load(place, ["target.runs=simulate", "weights.format=int", "weights.bits=8"])
    assert (found.target.runs, found.weights.bits) == ("simulate", 8)


@pytest.mark.parametrize("path", ["energy.idle_w", "energy.idle_w.value"])
def test_a_figure_as_a_bare_number_is_assumed(path: str, board: Path) -> None:
    found = load(board, [f"{path}=2.5"])
    assert found.energy is not None
    figure = found.energy.idle_w
    assert figure is not None
    assert (figure.value, figure.provenance, figure.source) == (2.5, "assumed", f"given as --set {path}=2.5")


def test_a_number_with_an_origin_is_assumed_from_then_on(board: Path) -> None:
    said = {one.key: one.origin for one in numbers(load(board, ["threads=2"]))}["threads"]
    assert said is not None
    assert (said.provenance, said.source) == ("assumed", "given as --set threads=2")
    assert "queue_limit" not in load(board, ["queue_limit=2"]).origins


def test_names_with_dots_are_quoted(tmp_path: Path) -> None:
    place = tmp_path / "dots.yaml"
    place.write_text(VALID.replace("C3", "v1.3"))
    assert load(place, ["modes.'v1.3'.remove[0].count=5"]).modes["v1.3"].remove[0].count == 5


def test_a_profile_of_a_plan_takes_them_too() -> None:
    data = as_builtins(load("generic-x86"))
    assert from_builtins(data, "plan", ["threads=7"]).threads == 7
    assert data["threads"] == 2


def test_the_last_one_counts(board: Path) -> None:
    assert load(board, ["threads=2", "threads=3"]).threads == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("threads=0", "--set threads=0: threads: found 0, expected an integer of at least 1"),
        ("thread=1", "--set thread=1: thread: found an unknown key, expected one of schema, name"),
        ("writes.stall_budget=1", "did you mean 'stall_budget_ms'?"),
        ("threads=two", "--set threads=two: threads: found 'two', expected an integer"),
        ("threads=", "--set threads=: threads: found no such key"),
        ("bank.policy=shadow", "--set bank.policy=shadow: bank.policy: found 'shadow', expected 'in-place'"),
        ("threads", "--set threads: (whole profile): found no equals sign, expected PATH=VALUE"),
        ("=3", "found no path, expected PATH=VALUE"),
        ("", "found no equals sign"),
        (".threads=3", "found '.threads=3' in the path"),
        ("[0]=3", "found '[0]=3' in the path"),
        ("writes..stall=3", "found '..stall=3' in the path"),
        ("threads={a: 1}", "found a mapping of 1 keys, expected PATH=VALUE"),
        ("threads=!!python/name:os.getpid", "found the tag"),
        ("threads=[", "found a syntax error"),
        ("threads.x=1", "--set threads.x=1: threads: found 1, expected a mapping; correct the path"),
        ("threads[0]=1", "threads: found 1, expected a list with an item 0"),
        ("target.operators[9]=Add", "target.operators: found a list of 3 items, expected a list with an item 9"),
        ("modes.C2.watts=1", "--set modes.C2.watts=1: modes.C2.watts: found 1, expected more than 2, energy.idle_w"),
        ("x" * 2000 + "=1", "found 2002 characters"),
    ],
)
def test_a_wrong_one_is_named(override: str, said: str, board: Path) -> None:
    assert said in refused(board, override)


def test_a_problem_of_the_file_keeps_its_line(board: Path) -> None:
    board.write_text(BOARD.replace("most_writes: 100", "most_writes: 0"))
    message = refused(board, "threads=0")
    assert f"{board}, line 28: writes.verify.most_writes: found 0" in message
    assert "--set threads=0: threads: found 0" in message


def test_there_are_not_too_many() -> None:
    assert f"found {MOST + 1} overrides, expected at most {MOST}" in refused("generic-x86", *["threads=1"] * (MOST + 1))
