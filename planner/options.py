"""What a plan may spend."""

from __future__ import annotations

from dataclasses import dataclass

SELECTION = 400
"""Suits the 1,297 training digits: fewer would make the bounds wider than the guard, more would leave too few to train
on. With N samples, a drop of less than about 2.7 / N cannot be told from none."""


@dataclass(frozen=True)
class Options:
    """What a plan may spend.

    Attributes:
        seed: Seed of the split, the probes and the torn states.
        selection: Training samples put aside to choose on.
        walked: Of these, how many every candidate path is walked on.
        fit: Training samples that rows are fitted on, at most. A refit of VGG-11's second layer
            was good with 1,000 images; smaller images have fewer positions, hence twice that.
        probes: Samples of the pullback metric.
        stored: Test samples kept in the bundle.
        waypoints: Measured states of each transition, at most.
        torn: Torn states measured for each transition, both directions together.
        threads: Threads PyTorch computes with; 0 chooses one for a small network and PyTorch's own number for a large.
        alternatives: Whether geodesic paths that were not chosen are kept in the bundle, to be simulated.
    """

    seed: int = 0
    selection: int = SELECTION
    walked: int = 2000
    fit: int = 2000
    probes: int = 64
    stored: int = 1000
    waypoints: int = 11
    torn: int = 20
    threads: int = 0
    alternatives: bool = True
