"""The plane through three networks, and a transition's candidates over it."""

import numpy as np
import pytest

from planner.candidates import choose
from planner.evidence import describe_candidates
from planner.landscape import SIDE, STATES, Plane, cross_entropy, draw
from planner.study import Job
from runtime.plan.evaluation import Answers, Evaluator
from runtime.plan.landscape import MAX_LANDSCAPE_BYTES, encode

ENDS = ("C1", "C2")


def test_a_plane_goes_through_its_points_and_is_told_apart_from_a_line():
    rng = np.random.default_rng(0)
    points = list(rng.standard_normal((3, 7)))
    plane = Plane.through(*points)
    assert plane.coordinates(points[0]) == pytest.approx((0, 0, 0), abs=1e-12)
    assert plane.coordinates(points[1]) == pytest.approx((plane.width, 0, 0), abs=1e-12)
    x, y, away = plane.coordinates(points[2])
    assert (y, away) == pytest.approx((plane.height, 0), abs=1e-12)
    assert plane.at(x, y) == pytest.approx(points[2])
    assert plane.across @ plane.up == pytest.approx(0, abs=1e-12)
    off = np.linalg.svd(np.array([plane.across, plane.up]))[2][-1]
    assert plane.coordinates(plane.at(0.3, -2.0) + 1.5 * off) == pytest.approx((0.3, -2.0, 1.5))
    assert Plane.through(points[0], points[1], (points[0] + points[1]) / 2) is None
    assert Plane.through(points[0], points[0], points[1]) is None


def test_cross_entropy_is_that_of_the_softmax_and_never_infinite():
    outputs = np.array([[0.0, 0.0], [np.log(3.0), 0.0]], np.float32)
    answers = Answers(outputs, np.array([True, True]))
    assert cross_entropy(answers, np.array([0, 0])) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2, rel=1e-5)
    broken = Answers(np.array([[np.inf, 0.0]], np.float32), np.array([False]))
    assert cross_entropy(broken, np.array([1])) == 1e6


@pytest.fixture(scope="module")
def walked(study):
    """Candidates of a transition, with a geodesic and without."""
    jobs = [Job(ENDS, kind, race=False) for kind in ("ordered", "zero-first", "linear 4")]
    jobs.append(Job(ENDS, "geodesic", race=False, searches=("relaxed-line",)))
    return [one for job in jobs for one in study.do(job).candidates]


def drawn(study, candidates):
    choice = choose(candidates, study.dense, 1.0, "")
    evaluator = Evaluator(study.session, study.samples.take(40))
    ends = tuple(study.states[mode] for mode in ENDS)
    return choice, draw(evaluator, study.table, ends, choice, describe_candidates(choice))


def test_paths_are_drawn_where_they_are_and_over_what_the_network_answers(study, walked):
    choice, found = drawn(study, walked)
    assert found.samples == 40
    assert len(found.x) == len(found.y) == SIDE
    assert [path.name for path in found.paths] == [one.name for one in walked]
    few = Evaluator(study.session, study.samples.take(40))
    width = found.paths[0].points[-1].x
    for path, candidate in zip(found.paths, walked, strict=True):
        first, last = path.points[0], path.points[-1]
        assert (first.x, first.y, first.away, first.position) == pytest.approx((0, 0, 0, 0), abs=1e-5)
        assert (last.x, last.y, last.away) == pytest.approx((width, 0, 0), abs=1e-5)
        assert last.position == len(candidate.path.chunks)
        assert len(path.points) <= STATES
        own = candidate.path.table(study.table)
        at = path.points[len(path.points) // 2]
        answers = few.at(own, candidate.path.chunks.state_at(study.states["C1"], at.position))
        assert at.correct == int(answers.right.sum())
        assert at.loss == pytest.approx(cross_entropy(answers, few.samples.labels))
    # The ends are points of the plane: between the grid points around them, loss is that of the modes.
    for mode, x in (("C1", 0.0), ("C2", width)):
        own = cross_entropy(few.at(study.table, study.states[mode]), few.samples.labels)
        row, column = (int(np.searchsorted(axis, value)) for axis, value in ((found.y, 0.0), (found.x, x)))
        around = [found.loss[i][j] for i in (row - 1, row) for j in (column - 1, column)]
        assert min(around) - 0.05 <= own <= max(around) + 0.05
    assert len(encode(found)) < MAX_LANDSCAPE_BYTES / 10
    assert (
        draw(few, study.table, tuple(study.states[mode] for mode in ENDS), choice, describe_candidates(choice)) == found
    )


def test_without_a_geodesic_the_chosen_path_spans_the_plane(study, walked):
    choice, found = drawn(study, [one for one in walked if one.strategy != "geodesic"])
    assert found.spanned_by == choice.chosen.name == "ordered"
    assert max(point.y for point in found.paths[0].points) > 0


def test_equal_ends_have_no_landscape(study, walked):
    choice = choose(walked, study.dense, 1.0, "")
    none = study.do(Job(("C1", "C1"), "ordered", race=False)).candidates
    empty = choose(none, study.dense, 1.0, "")
    evaluator = Evaluator(study.session, study.samples.take(4))
    same = study.states["C1"], study.states["C1"]
    assert draw(evaluator, study.table, same, empty, describe_candidates(empty)) is None
    assert len(choice.candidates) == 4
