"""The strategy that is named harms least, arrives, and does so at the least cost."""

import msgspec
import pytest

from runtime.simulation import simulate_trace
from runtime.simulation.choosing import choose
from tests.runtime.bundles import profile
from tests.runtime.simulation.cases import LATENCY, trace


@pytest.fixture(scope="module")
def outcome(plan, stage):
    result = simulate_trace(plan, profile(), trace(), ["planned"], latency_s=LATENCY, stage=stage, series=False)
    return msgspec.structs.replace(
        result.strategies["planned"], refused=0, late=0, wrong_by_transition=0, switches=4, bytes_written=1000
    )


def named(outcome, left_out=None, **changes):
    outcomes = {name: msgspec.structs.replace(outcome, **fields) for name, fields in changes.items()}
    return choose(outcomes, left_out or {})


def test_who_harms_fewer_is_named_before_who_writes_less(outcome):
    choice = named(outcome, planned={"wrong_by_transition": 1, "bytes_written": 1}, flip={"bytes_written": 9000})
    assert choice.strategy == "flip"
    assert "planned, the next best, 1 of" in choice.why
    assert "where there is no room for its second copy, take planned" in choice.why


def test_of_equals_the_one_that_arrives_most_then_writes_least_is_named(outcome):
    assert named(outcome, ramp={"switches": 3, "bytes_written": 1}, ordered={}).strategy == "ordered"
    choice = named(outcome, flip={"bytes_written": 2000}, ordered={})
    assert choice.strategy == "ordered"
    assert "flip harmed as many and wrote 2 kB, not 1 kB" in choice.why
    assert named(outcome, flip={"peak_weight_bytes": 10**9}, ordered={}).strategy == "ordered"


def test_a_tie_in_everything_is_called_one(outcome):
    choice = named(outcome, ordered={}, naive={"different": 10**6})
    assert choice.strategy == "ordered"
    assert "naive did as well in all that counts" in choice.why
    held = named(outcome, ordered={"peak_weight_bytes": 1000}, naive={"peak_weight_bytes": 5000}).why
    assert "naive harmed as many and holds 5 kB of weights at once, not 1 kB" in held


def test_who_hardly_arrives_is_too_slow(outcome):
    choice = named(outcome, linear={"switches": 1}, planned={"wrong_by_transition": 5})
    assert choice.strategy == "planned"
    assert "linear finished 1 of 4 switches, and is too slow" in choice.why


def test_plain_is_never_named_and_twins_are_no_rivals(outcome):
    assert named(outcome, plain={}) is None
    choice = named(outcome, planned={}, ordered={}, plain={"bytes_written": 1})
    assert choice.strategy == "planned"
    assert "ordered did the same" in choice.why


def test_it_says_why_flip_is_not_to_be_had(outcome):
    assert "no room" in named(outcome, {"flip": "no room"}, ordered={}).why
