"""Candidates in rounds: what is left out never matters, and where the jobs run makes no difference."""

from dataclasses import replace

import msgspec
import pytest
import torch
from distributed import LocalCluster

from device_profiles import loader
from device_profiles.figure import Figure
from planner.candidates import NoSafePath
from planner.executors import ClusterError, InProcess, executor
from planner.store import Store, StoreError
from planner.study import IN_STEPS, ONE_PASS, Job, Rival
from planner.variation import ORDERED, Variation
from tests.planner.races import KINDS, TRANSITIONS, facts, race

pytestmark = pytest.mark.xdist_group("race")  # what they share takes long: made once, in one process


@pytest.fixture(scope="module")
def whole(study):
    """Every candidate walked to its end."""
    return race(study, every_candidate=True)


@pytest.fixture(scope="module")
def raced(study):
    """Only those that can still be chosen."""
    return race(study)


def test_a_race_chooses_what_walking_everything_chooses_and_costs_less(whole, raced):
    for ends, choice in whole[0].items():
        mine = raced[0][ends]
        # Among paths of equal bytes the ordered one is taken without a look at the others where it is as good as the
        # ends; everywhere else the race takes the same path.
        assert mine.chosen.name == choice.chosen.name or (mine.chosen.name == "ordered" and mine.skipped)
        assert mine.chosen.bytes_written == choice.chosen.bytes_written
        by_name = {one.name: one for one in choice.candidates}
        for one in mine.candidates:
            if one.complete:
                assert one.worst == by_name[one.name].worst
            else:
                assert one.worst >= by_name[one.name].worst
    assert raced[1] < whole[1] / 3


def test_walking_everything_leaves_nothing_out(whole):
    kinds = {*KINDS}
    assert kinds == {*ONE_PASS, *(f"{name} {steps}" for name in IN_STEPS for steps in (4, 10)), "geodesic"}
    for choice in whole[0].values():
        assert not choice.skipped
        assert all(one.complete for one in choice.candidates)
        assert {one.name for one in choice.candidates} >= kinds - {"geodesic"} | {"geodesic relaxed-line"}


def test_a_path_is_given_up_at_the_first_state_that_rules_it_out(study):
    (whole,) = study.do(Job(("C1", "C2"), "naive", race=False)).candidates
    unbeatable = Rival(worst=1.0, bytes_written=whole.bytes_written)
    outcome = study.do(Job(("C1", "C2"), "naive", race=True, rival=unbeatable))
    (given_up,) = outcome.candidates
    assert not given_up.complete
    assert outcome.forward_passes == len(study.samples)  # one state beside the shared ends
    shorter = Rival(worst=0.0, bytes_written=whole.bytes_written - 1)
    (finished,) = study.do(Job(("C1", "C2"), "naive", race=True, rival=shorter)).candidates
    assert finished.complete == (whole.bound >= study.dense.accuracy - study.max_drop)


def test_what_rules_a_path_out_is_the_cost_that_the_profile_names(study):
    """A path of more bytes that takes fewer seconds is the cheaper one where seconds are asked for."""
    naive = Job(("C1", "C2"), "naive", race=True)
    device = loader.load("raspberry-pi-5")
    paced = msgspec.structs.replace(
        device.writes, bytes_per_second=Figure(value=1e4, provenance="assumed", source="a test")
    )
    timed = replace(study, profile=msgspec.structs.replace(device, trade_off="seconds", writes=paced))
    (whole,) = timed.do(replace(naive, race=False)).candidates
    assert whole.cost.seconds > 0
    assert timed.digest != study.digest
    slower = Rival(worst=1.0, bytes_written=whole.bytes_written - 1, price=whole.cost.seconds + 1)
    assert (
        not timed.do(replace(naive, rival=slower)).candidates[0].complete
    )  # cheaper, so its worst state has to be better
    faster = Rival(worst=0.0, bytes_written=whole.bytes_written + 1, price=whole.cost.seconds / 2)
    (dearer,) = timed.do(replace(naive, rival=faster)).candidates
    assert dearer.complete == (whole.bound >= study.dense.accuracy - study.max_drop)


def test_a_race_for_accuracy_chooses_what_walking_everything_chooses(study):
    """What is left out is known to be worse than something; that it writes more is no reason."""
    device = msgspec.structs.replace(loader.load("raspberry-pi-5"), trade_off="accuracy")
    exact = replace(study, profile=device)
    job = Job(("C1", "C2"), "ramp 4", race=True)
    floor = Rival(worst=0.0, bytes_written=0, price=0, floor=1.0)
    assert not exact.do(replace(job, rival=floor)).candidates[0].complete
    assert exact.do(replace(job, rival=replace(floor, worst=1.0, floor=0.0))).candidates[0].complete
    everything, _ = race(exact, every_candidate=True)
    raced, _ = race(exact)
    for ends, choice in everything.items():
        assert raced[ends].chosen.name == choice.chosen.name
        ordered = next(one for one in choice.candidates if one.name == "ordered")
        assert choice.chosen.divergence <= ordered.divergence
        assert choice.chosen.fisher_length <= ordered.fisher_length
    assert any(choice.chosen.name != "ordered" for choice in everything.values())


def test_a_budget_leaves_out_what_would_go_beyond_it_and_says_so(study, whole):
    first, _ = race(study, every_candidate=True, budget=0)
    for choice in first.values():
        assert [one.name for one in choice.candidates] == ["ordered"]  # no plan can do without it
        assert {*choice.too_dear} == {*KINDS[1:]}
    begun = sum(study.price(Job(ends, "ordered")) for ends in TRANSITIONS)
    naive = study.price(Job(TRANSITIONS[0], "naive"))
    some, spent = race(study, every_candidate=True, budget=begun + naive)
    assert spent <= begun + naive
    assert sum(len(choice.candidates) for choice in some.values()) == len(TRANSITIONS) + 1
    everything, _ = race(study, every_candidate=True, budget=10 * whole[1])
    assert facts(everything) == facts(whole[0])


def test_no_job_takes_more_than_its_price(study):
    for kind in KINDS:
        job = Job(("C1", "C2"), kind, race=False)
        assert study.do(job).forward_passes <= study.price(job), kind
    for variation in (Variation(solver="lanczos"), Variation(beta=0.1, solver="dual")):
        job = Job(("C1", "C2"), "geodesic", False, None, variation, ("flow", "relaxed-flow"))
        assert study.do(job).forward_passes <= study.price(job), job
    job = Job(("C1", "C2"), ORDERED, False, None, Variation(order="steady"), ())
    assert study.do(job).forward_passes <= study.price(job)


def test_a_plan_that_fails_for_want_of_budget_says_so(study):
    with pytest.raises(NoSafePath, match="geodesic were left out, raise --budget"):
        race(replace(study, max_drop=0.001), budget=0)


def test_a_guard_that_nothing_meets_is_refused_although_every_path_was_given_up(study):
    with pytest.raises(NoSafePath, match="C1 → C2: found at best"):
        race(replace(study, max_drop=0.001))


def test_processes_find_what_one_process_finds(study, raced):
    with executor(workers=2) as (pool, share):
        assert facts(race(study, pool, share)[0]) == facts(raced[0])


def test_a_dask_cluster_finds_what_one_process_finds(study, raced):
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        executor(cluster=cluster.scheduler_address) as (pool, share),
    ):
        assert facts(race(study, pool, share)[0]) == facts(raced[0])


def test_a_cluster_that_is_not_there_is_named():
    with pytest.raises(ClusterError, match="no Dask scheduler answers"), executor(cluster="tcp://127.0.0.1:9"):
        pass


class Stopping(InProcess):
    """Stops after a number of jobs, as Ctrl-C does."""

    def __init__(self, after=10**6):
        self.left = after
        self.done = 0

    def submit(self, *arguments, **options):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.done += 1
        return super().submit(*arguments, **options)


def test_an_interrupted_study_goes_on_where_it_was(study, raced, tmp_path):
    store = Store(tmp_path / "work", study.digest)
    with pytest.raises(KeyboardInterrupt):
        race(study, Stopping(after=1), store=store)
    assert len(list((tmp_path / "work").iterdir())) == 1
    rest = Stopping()
    assert facts(race(study, rest, store=store)[0]) == facts(raced[0])
    again = Stopping()
    choices, passes = race(study, again, store=store)
    assert (facts(choices), passes) == (facts(raced[0]), raced[1])
    assert again.done == 0
    assert rest.done == len(list((tmp_path / "work").iterdir())) - 1


def test_finished_work_of_another_study_is_not_taken(study, tmp_path):
    store, job = Store(tmp_path, study.digest), Job(("C1", "C2"), "ordered")
    store.save(job, study.do(job))
    assert store.load(job) is not None
    assert store.load(replace(job, race=False)) is None
    assert replace(study).digest == study.digest
    for other in (
        replace(study, seed=1),
        replace(study, pool=study.pool + torch.tensor(1e-6)),
        replace(study, probes=3),
    ):
        assert Store(tmp_path, other.digest).load(job) is None


def test_a_damaged_file_of_finished_work_is_named(study, tmp_path):
    store, job = Store(tmp_path, study.digest), Job(("C1", "C2"), "ordered")
    store.save(job, study.do(job))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(StoreError, match=f"{path.name}: found a damaged file"):
        store.load(job)
