"""Requests that come while weights are written at a constant rate, and which of their answers are wrong because of it.

The rate is such that writing every changed row once takes 20 seconds; who writes more, or other bytes as well, takes
longer. At every moment the network stands at the last whole state before the bytes that the rate allows. Requests come
as a Poisson process and ask about random samples; both are those of the seed, whatever the strategy.

An answer is wrong *because of the transition* where it is wrong although the dense network, the mode being left and the
mode being reached all answer that sample right: neither end is to blame. Also counted are all answers that are wrong
and differ from the dense network's, whoever is to blame.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.strategies_states import Classes, Seen

RATE: Final = 50.0
"""Requests a second."""
SECONDS: Final = 20.0
"""That writing each changed row once takes."""
SEEDS: Final = tuple(range(10))


def count(seen: Seen, times: float, labels: NDArray[np.integer[Any]], dense: Classes, seed: int) -> dict[str, int]:
    """What the requests of one transition got.

    Args:
        seen: Answers of the way, both ends first and last.
        times: How many times as long as writing each changed row once the way takes.
        labels: Of the samples.
        dense: Classes that the dense network gives them.
        seed: Of arrivals and samples.
    """
    shares, samples = arrivals(times, len(labels), seed)
    state = np.searchsorted(seen.shares, shares, side="right") - 1
    answers = seen.along[state, samples]
    wrong, right = answers != labels[samples], seen.along == labels
    blameless = (dense == labels) & right[0] & right[-1]
    return {
        "requests": len(samples),
        "because": int((wrong & blameless[samples]).sum()),
        "wrong_and_different": int((wrong & (answers != dense[samples])).sum()),
    }


def arrivals(times: float, samples: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Share of the way that is behind, and sample, of each request; a shorter way has the first of a longer one's."""
    length = times * SECONDS
    generator = np.random.default_rng(seed)
    gaps = generator.exponential(1 / RATE, int(RATE * length + 10 * (RATE * length) ** 0.5 + 10))
    moments = gaps.cumsum()
    chosen = np.random.default_rng((seed, 1)).integers(0, samples, len(moments))
    inside = moments < length
    return moments[inside] / length, chosen[inside]


def held(left: Classes, reached: Classes) -> Seen:
    """What callers of a way that no mixed state is seen of get until it is over: the mode being left."""
    return Seen(np.array([0.0, 1.0]), np.stack([left, reached]), ())
