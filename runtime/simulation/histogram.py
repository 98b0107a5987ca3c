"""Quantiles of a stream of numbers in memory that does not grow, the same whatever the order of the stream."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

STEP: Final = 1.02
"""Width of a bin, as a factor: a quantile is within 1 % of the truth."""
_LEAST: Final = 1e-9
"""Below this, a number counts as zero."""


class Histogram:
    """Counts of numbers from 0 on in bins that grow by ``STEP``; zero has a bin of its own."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = 0
        self.most = 0.0

    def add(self, value: float) -> None:
        """Count a number."""
        self._bins[_bin(value)] += 1
        self.count += 1
        self.most = max(self.most, value)

    def merge(self, bins: Iterable[tuple[int, int]], most: float) -> None:
        """Count what another histogram has counted.

        Args:
            bins: Its ``bins``.
            most: Its ``most``.
        """
        for place, count in bins:
            self._bins[place] += count
            self.count += count
        self.most = max(self.most, most)

    @property
    def bins(self) -> tuple[tuple[int, int], ...]:
        """Bins with their counts, in order."""
        return tuple(sorted(self._bins.items()))

    def quantile(self, share: float) -> float:
        """The least number that a share of all does not exceed, to within a bin; 0 if nothing was counted."""
        wanted, seen = math.ceil(share * self.count), 0
        for place, count in self.bins:
            seen += count
            if seen >= wanted:
                return min(_middle(place), self.most)
        return self.most


_ZERO: Final = -(10**6)


def _bin(value: float) -> int:
    return _ZERO if value < _LEAST else math.floor(math.log(value) / math.log(STEP))


def _middle(place: int) -> float:
    return 0.0 if place == _ZERO else float(STEP ** (place + 0.5))
