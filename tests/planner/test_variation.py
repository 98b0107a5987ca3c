"""Grids of variations: what acts on what, nothing searched twice, names that say what differs."""

import pytest

from planner.variation import (
    DEFAULT,
    MOST,
    ORDERED,
    SEARCHES,
    STUDIES,
    WIDE,
    Variation,
    VariationError,
    crossed,
    distinct,
    grid,
    orders,
)


def test_names_say_what_differs_from_the_default_and_acts():
    assert str(DEFAULT) == ""
    one = Variation(beta=0.3, damping=0.1, solver="lanczos", seed=1, order="steady")
    assert str(one) == "beta=0.3 damping=0.1 solver=lanczos seed=1 order=steady"
    assert one.named("geodesic flow", "flow") == "geodesic flow beta=0.3 damping=0.1 solver=lanczos seed=1"
    assert one.named("geodesic relaxed-line", "relaxed-line") == "geodesic relaxed-line damping=0.1 seed=1"
    assert one.named("ordered", ORDERED) == "ordered order=steady"


def test_a_grid_has_no_search_twice_and_misses_none():
    found = distinct([Variation(beta=beta, seed=seed) for seed in (0, 1) for beta in (0.1, 10.0)])
    assert [searches for _, searches in found] == [SEARCHES, ("flow", "relaxed-flow")] * 2
    named = [variation.named(search, search) for variation, searches in found for search in searches]
    assert len(set(named)) == len(named) == 2 * (2 * 2 + 2)


def test_what_acts_on_nothing_adds_nothing():
    assert distinct([DEFAULT, DEFAULT, Variation(order="steady")]) == [(DEFAULT, SEARCHES)]
    assert orders([DEFAULT, Variation(beta=0.1)]) == []
    assert orders([Variation(order="steady", seed=1), Variation(order="steady")]) == [Variation(order="steady")]


def test_the_wide_study_varies_one_parameter_at_a_time():
    assert WIDE[0] == DEFAULT
    for one in WIDE[1:]:
        assert len(str(one).split()) == 1
    assert len(distinct(WIDE)) == len(WIDE)
    assert STUDIES["small"] == (DEFAULT,)


def test_values_are_crossed_in_the_order_given():
    found = crossed({"beta": [1.0, 0.1, 1.0], "seed": [0, 2], "metric": None})
    assert found == (
        Variation(), Variation(seed=2), Variation(beta=0.1), Variation(beta=0.1, seed=2)
    )  # fmt: skip
    assert crossed({}) == (DEFAULT,)


def test_too_many_combinations_are_refused():
    with pytest.raises(VariationError, match=f"found {MOST + 1} combinations, expected at most {MOST}"):
        crossed({"seed": list(range(MOST + 1))})


def test_a_study_by_name_or_by_values_but_not_both():
    assert grid("wide", {"beta": None}) == WIDE
    assert grid("small", {"beta": [0.1]}) == (Variation(beta=0.1),)
    with pytest.raises(VariationError, match="found 'deep', expected small or wide"):
        grid("deep", {})
    with pytest.raises(VariationError, match="found 'wide' and values of beta, expected one or the other"):
        grid("wide", {"beta": [0.1]})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("beta", 0.0, "beta: found 0.0, expected a positive number"),
        ("damping", float("inf"), "damping: found inf, expected a positive number"),
        ("solver", "newton", "solver: found 'newton', expected auto or lanczos or dual"),
        ("metric", "loss", "metric: found 'loss', expected outputs or fisher"),
        ("order", "random", "order: found 'random', expected unit or steady"),
        ("probes", -1, "probes: found -1, expected a number of at least 0"),
    ],
)
def test_values_out_of_range_are_refused(field, value, words):
    with pytest.raises(VariationError, match=words):
        Variation(**{field: value})
