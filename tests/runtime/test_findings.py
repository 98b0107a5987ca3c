"""What the report concludes from a simulation."""

from __future__ import annotations

import pytest

from runtime.reporting.findings import Findings, curves, fitted, limits, percent, reason
from runtime.simulation.simulator import StrategyResult
from tests.runtime.simulations import MOVES, candidate, everything, move, result, simulation


def test_decimals_follow_the_number_of_samples():
    assert percent(0.9666, 500) == "96.7\N{NO-BREAK SPACE}%"
    assert percent(0.96666, 10_000) == "96.67\N{NO-BREAK SPACE}%"


def test_long_names_are_cut_to_the_room_there_is():
    assert fitted(["C1", "high-performance", "C3"], 24) == ["C1", "high-pe…", "C3"]
    assert fitted(["first-mode"] * 40, 40) == ["fi…"] * 40


def test_curves_place_states_by_their_share_of_bytes():
    whole, torn = curves(result(0.9, 0.95))
    assert [x for x, _ in whole] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1.25, 1.5, 1.75, 2])
    assert [x for x, _ in torn] == pytest.approx([0.5, 1.5])
    assert [x for x, _ in curves(result(0.9, 0.95, at_once=True))[0]] == [0, 1, 1, 2]


def test_limits_zoom_only_where_a_strategy_collapses():
    low, high, floor = limits(simulation(ordered=result(0.966, 0.964), naive=result(0.94, 0.966)))
    assert floor is None
    assert low < 94 < 97 < high
    low, high, floor = limits(everything())
    assert floor is not None
    assert floor < 20 < 90 < low < 96.4 < high


def verdict(name: str, **strategies: StrategyResult) -> str:
    return Findings(simulation(**strategies), MOVES).verdict(name)


def test_verdicts_count_answers_and_costs():
    ordered = result(0.966, 0.966)
    assert verdict("ordered", ordered=ordered) == "The plan uses it everywhere."
    assert verdict("naive", ordered=ordered, naive=ordered) == "Same worst state as the plan's paths."
    assert "5 answers fewer in the worst state: too few to tell" in verdict(
        "naive", ordered=ordered, naive=result(0.956, 0.966)
    )
    assert verdict("naive", ordered=ordered, naive=result(0.954, 0.966)) == (
        "Worse: 6 answers fewer in the worst state, on C1 → C2 only."
    )
    flip = verdict("flip", ordered=ordered, flip=result(0.966, 0.966, written=160_000, peak=110_000, at_once=True))
    assert "2.0\N{NO-BREAK SPACE}× the bytes and 2.0\N{NO-BREAK SPACE}× the memory" in flip
    assert verdict("ramp", ordered=result(0.9, 0.9), ramp=ordered).startswith("Better: 33 answers more")


@pytest.mark.parametrize(
    ("naive", "expected"),
    [
        ((0.966, 0.964), "the naive order was never worse than the planned one"),
        ((0.966, 0.960), "the order of writing hardly matters"),
        ((0.800, 0.964), "The order of writing matters here, on C1 → C2 only"),
    ],
)
def test_the_page_says_when_the_naive_order_would_do(naive, expected):
    said = Findings(simulation(ordered=result(0.966, 0.964), naive=result(*naive)), MOVES).simpler()
    assert len(said) == 1
    assert expected in said[0]


def test_the_page_says_when_a_second_copy_or_no_refit_would_do():
    ordered, same = result(0.966, 0.964), result(0.966, 0.964, peak=110_000, at_once=True)
    once, plain = Findings(simulation(ordered=ordered, flip=same, reload=same, plain=ordered), MOVES).simpler()
    assert "110\N{NO-BREAK SPACE}kB of weights here" in once
    assert "flip and reload do as well" in once
    assert plain.startswith("Even without")
    worse = Findings(simulation(ordered=ordered, plain=result(0.2, 0.3)), MOVES).simpler()
    assert worse[0].startswith("The adjusted weights matter too")


def test_nothing_is_compared_when_the_plans_own_strategy_was_not_played():
    findings = Findings(simulation(naive=result(0.8, 0.9)), MOVES)
    assert findings.planned is None
    assert findings.verdict("naive").startswith("Not compared")
    assert "nothing can be compared" in findings.simpler()[0]


def test_reasons_follow_the_planners_rule():
    ordered = candidate("ordered", 40, 0.96, chosen=True)
    assert reason(move("C1", "C2", ordered, candidate("ramp 4", 90, 0.965))).endswith(
        "2 of 2 paths that were walked are feasible; of these, ordered writes the fewest bytes."
    )
    assert reason(move("C1", "C2", ordered, candidate("naive", 40, 0.95))).endswith(
        "ordered and naive write the fewest bytes, and ordered has the best worst state."
    )
    longer = reason(move("C1", "C2", candidate("ordered", 40, 0.9), candidate("ramp 4", 90, 0.96, chosen=True)))
    assert "ramp 4 writes more than ordered" in longer
    assert "(95.0%) lies above ordered's worst state (90.0%)" in longer
    assert "does not say" in reason(move("C1", "C2"))
