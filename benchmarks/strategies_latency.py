"""What a request costs at rest and while weights are replaced, from runs that alternate so that other load spares none.

Requests and writes take turns on one core, as in the engine with policy ``in-place``. A reload is the one thing that
does not take turns: it makes a session in another thread while requests come. Percentiles are those of a core that
other processes may use as well; medians of ratios are not moved by them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np

from benchmarks.strategies_requests import RATE, SECONDS
from benchmarks.strategies_states import increments_of, way
from runtime.plan.bundle import Bundle, Transition
from runtime.plan.graphs import compact_session, live_session
from runtime.simulation.simulator import PLANNED
from runtime.walking.bank import Increment, InPlaceBank
from runtime.walking.rows import Floats
from runtime.walking.session import Session, Weights


def latency(bundle: Bundle, move: Transition, pairs: int) -> dict[str, dict[str, float]]:
    """Medians in milliseconds, and medians of the ratios of neighbouring runs.

    Args:
        bundle: The plan.
        move: Transition under way.
        pairs: Pairs of runs.
    """
    session = live_session(bundle, 1)
    one = way(bundle, move, PLANNED)
    assert one is not None
    x = bundle.evaluation.inputs[:1]
    bank, aside = (InPlaceBank(one.table, one.start, session.bind) for _ in range(2))
    compact = {mode: compact_session(bundle, mode, 1) for mode in move.ends}
    constant = {mode: (known, known.bind({})) for mode, known in compact.items()}
    # As many increments as requests come while every changed row is written once.
    steps = increments_of(one, int(RATE * SECONDS))[: pairs + 5]

    def live() -> None:
        with bank.read() as weights:
            session.run(x, weights)

    def beside(target: InPlaceBank[Weights]) -> Callable[[], None]:
        left: Iterator[Increment] = cycle(steps)

        def write_and_ask() -> None:
            target.write(next(left))
            live()

        return write_and_ask

    def asked(mode: str) -> Callable[[], None]:
        known, weights = constant[mode]

        def ask() -> None:
            known.run(x, weights)

        return ask

    def rebound() -> None:
        with aside.read() as weights:
            session.run(x, session.bind(weights.arrays))

    left, reached = move.ends
    return {
        "constants_at_rest": _pairs(live, asked(left), pairs),
        "reached_mode_constants": _pairs(live, asked(reached), pairs),
        "in_place_walking": _pairs(live, beside(bank), pairs),
        "flip_copying_aside": _pairs(live, beside(aside), pairs),
        "flip_moment": _pairs(live, rebound, pairs),
        "reload_making_a_session": _reloading(bundle, reached, compact[left], x, pairs),
    }


def _pairs(base: Callable[[], None], other: Callable[[], None], pairs: int) -> dict[str, float]:
    """The live network at rest and something else, by turns."""
    times = np.empty((pairs + 5, 2))
    for row in times:
        for place, work in enumerate((base, other)):
            begun = time.perf_counter()
            work()
            row[place] = time.perf_counter() - begun
    times = 1000 * times[5:]
    return {
        "live_at_rest_ms": float(np.median(times[:, 0])),
        "ms": float(np.median(times[:, 1])),
        "p99_ms": float(np.percentile(times[:, 1], 99)),
        "ratio": float(np.median(times[:, 1] / times[:, 0])),
    }


def _reloading(bundle: Bundle, mode: str, old: Session, x: Floats, pairs: int) -> dict[str, float]:
    """Requests on the old session while a new one is made beside it, and how long that takes alone and so."""
    begun = time.perf_counter()
    compact_session(bundle, mode, 1)
    alone_s = time.perf_counter() - begun
    weights = old.bind({})

    def ask() -> float:
        begun = time.perf_counter()
        old.run(x, weights)
        return 1000 * (time.perf_counter() - begun)

    rest = [ask() for _ in range(pairs)]
    during: list[float] = []
    while len(during) < 20:
        maker = threading.Thread(target=compact_session, args=(bundle, mode, 1), name="reload")
        maker.start()
        while maker.is_alive():
            during.append(ask())
            time.sleep(1 / RATE if during[-1] > 1 else 1e-3)
        maker.join()
    return {
        "rest_ms": float(np.median(rest)),
        "ms": float(np.median(during)),
        "p99_ms": float(np.percentile(during, 99)),
        "ratio": float(np.median(during) / np.median(rest)),
        "making_s": alone_s,
    }
