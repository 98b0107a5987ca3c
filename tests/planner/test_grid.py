"""Studies that vary parameters: each search once, wherever it runs, and kept apart from the others."""

from dataclasses import replace

import pytest

from planner.executors import executor
from planner.store import Store
from planner.study import Job
from planner.variation import DEFAULT, ORDERED, SEARCHES, Variation, distinct
from tests.planner.races import facts, race

pytestmark = pytest.mark.xdist_group("grid")  # what they share takes long: made once, in one process

GRID = (DEFAULT, Variation(beta=0.1, seed=1), Variation(damping=10.0), Variation(order="steady"))
ONE = (("C1", "C2"),)


@pytest.fixture(scope="module")
def few(study):
    """The study on fewer samples, on which a drop cannot be told from none as well."""
    return replace(study, probes=8, samples=study.samples.take(120), max_drop=0.05)


@pytest.fixture(scope="module")
def varied(few):
    """A transition with everything that a grid has."""
    return race(few, transitions=ONE, every_candidate=True, grid=GRID)


def test_a_grid_gives_each_search_once_for_each_set_of_parameters_that_acts_on_it(varied):
    (choice,) = varied[0].values()
    names = [one.name for one in choice.candidates]
    assert len(set(names)) == len(names)
    plain = {one.name for one in choice.candidates if not one.variation or one.variation == DEFAULT}
    assert plain >= {"ordered", "naive", "ramp 10", *(f"geodesic {search}" for search in SEARCHES)}
    assert set(names) - plain == {
        "ordered order=steady",
        "geodesic flow beta=0.1 seed=1", "geodesic relaxed-flow beta=0.1 seed=1", "geodesic relaxed-line seed=1",
        "geodesic corrected seed=1",
        *(f"geodesic {search} damping=10" for search in SEARCHES),
    }  # fmt: skip
    by_name = {one.name: one for one in choice.candidates}
    assert by_name["geodesic relaxed-line seed=1"].variation == Variation(seed=1)
    assert by_name["ordered"].variation is None
    steady, unit = by_name["ordered order=steady"], by_name["ordered"]
    assert steady.bytes_written == unit.bytes_written
    written = [sorted(zip(*(a.tolist() for a in one.path.chunks.arrays().values()), strict=True)) for one in
               (steady, unit)]  # fmt: skip
    assert written[0] == written[1]
    assert (steady.path.chunks.row != unit.path.chunks.row).any()


def test_parameters_change_the_paths_they_act_on(varied):
    (choice,) = varied[0].values()
    by_name = {one.name: one for one in choice.candidates}
    for search in SEARCHES:
        paths = [by_name[f"geodesic {search}{suffix}"].path.rows for suffix in ("", " damping=10")]
        same = all(
            paths[0][name].shape == paths[1][name].shape and (paths[0][name] == paths[1][name]).all()
            for name in paths[0]
        )
        # The flow is only respaced by ε; which waypoints that gives may agree.
        assert not same or search == "flow"


def test_processes_find_what_one_process_finds_of_a_grid(few, varied):
    with executor(workers=2) as (pool, share):
        assert facts(race(few, pool, share, ONE, every_candidate=True, grid=GRID)[0]) == facts(varied[0])


def test_varied_jobs_are_kept_apart_and_come_back_whole(few, tmp_path):
    store = Store(tmp_path, few.digest)
    jobs = [Job(("C1", "C2"), "geodesic", False, None, *one) for one in distinct(GRID)[1:2]]
    jobs.append(Job(("C1", "C2"), ORDERED, False, None, Variation(order="steady"), ()))
    for job in jobs:
        outcome = few.do(job)
        assert outcome.candidates
        store.save(job, outcome)
        (found, again) = (store.load(job), outcome)
        assert [(one.name, one.variation, one.record, one.fisher_length) for one in found.candidates] == [
            (one.name, one.variation, one.record, one.fisher_length) for one in again.candidates
        ]
        assert store.load(replace(job, variation=DEFAULT)) is None
    assert len(list(tmp_path.iterdir())) == len(jobs)


def test_a_path_that_cannot_win_is_named_with_its_parameters(study):
    found, _ = race(replace(study, max_drop=1.0), transitions=ONE, grid=GRID)
    (choice,) = found.values()
    assert choice.skipped
    assert {"geodesic", "geodesic beta=0.1 seed=1", "geodesic damping=10"} <= {*choice.skipped}
