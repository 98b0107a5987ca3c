"""Many devices give the same result wherever they are played, and take no more memory for being more."""

import math
import multiprocessing
from concurrent.futures import Executor, Future, ProcessPoolExecutor

import msgspec
import numpy as np
import pytest

from runtime.errors import BundleError
from runtime.simulation.histogram import Histogram
from runtime.simulation.sweep import AHEAD, BATCH, Case, device_of, sweep
from tests.runtime.bundles import profile
from tests.runtime.simulation.cases import LATENCY, heated, trace


class Here(Executor):
    """Runs each job when it is submitted, and knows how many were waited for at once."""

    def __init__(self):
        self.submitted = 0

    def submit(self, fn, /, *arguments, **options):
        self.submitted += 1
        future = Future()
        future.set_result(fn(*arguments, **options))
        return future


def cases(plan):
    hot = heated((0.0, 60.0), (10.0, 85.0), (30.0, 65.0), seconds=40.0)
    return [
        Case(
            bundle=str(plan.path), profile=profile(), trace=one, latency_s=LATENCY, bytes_per_increment=100,
            increments_per_second=2.0, second_copy=copy,
        )
        for one, copy in ((hot, None), (trace(), False))
    ]  # fmt: skip


def test_the_result_does_not_depend_on_the_executor(plan):
    wanted = {"strategies": ("planned", "naive", "flip"), "seed": 3}
    here = sweep(cases(plan), BATCH + 2, Here(), **wanted)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        there = sweep(cases(plan), BATCH + 2, pool, **wanted)
    assert msgspec.json.encode(here) == msgspec.json.encode(there)
    assert here.cases[0].strategies["planned"].devices == BATCH + 2
    assert "flip" in here.cases[1].left_out
    assert sum(one.chosen for one in here.cases[0].strategies.values()) == BATCH + 2


def test_a_job_waits_until_others_are_taken_back(plan, monkeypatch):
    played = []
    monkeypatch.setattr("runtime.simulation.sweep._play", lambda number, case, first, *rest: first)
    executor, jobs = Here(), 3 * AHEAD
    from runtime.simulation import sweep as module

    for _, first in module._in_order(executor, module._jobs(cases(plan)[:1], jobs * BATCH, ("flip",), 0), str):
        played.append(first)
        assert executor.submitted - len(played) < AHEAD
    assert played == [BATCH * job for job in range(jobs)]


def test_devices_differ_by_chance_and_each_is_the_same_again():
    hot = heated((0.0, 60.0), (10.0, 85.0))
    found = [device_of(hot, 1, 0, number) for number in range(200)]
    assert found[7] == device_of(hot, 1, 0, 7)
    assert len({seed for _, _, seed in found}) == 200
    rates = np.log([rate for _, rate, _ in found])
    assert abs(rates.mean()) < 0.1
    assert 0.2 < rates.std() < 0.4


def test_quantiles_are_those_of_all_numbers_to_within_a_bin():
    values = np.random.default_rng(0).lognormal(0, 2, 5000)
    values[:100] = 0.0
    whole, parts = Histogram(), Histogram()
    for value in values:
        whole.add(float(value))
    for part in np.split(values[::-1], 5):
        own = Histogram()
        for value in part:
            own.add(float(value))
        parts.merge(own.bins, own.most)
    assert parts.bins == whole.bins
    for share in (0.01, 0.5, 0.9, 0.99):
        truth = float(np.quantile(values, share, method="inverted_cdf"))
        assert math.isclose(whole.quantile(share), truth, rel_tol=0.011)
    assert math.isclose(whole.quantile(1.0), values.max(), rel_tol=0.011)
    assert whole.most == values.max()
    assert Histogram().quantile(0.5) == 0.0


def test_too_many_devices_are_refused(plan):
    with pytest.raises(BundleError, match="expected 1 to"):
        sweep(cases(plan), 0, Here())
