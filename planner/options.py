"""What a plan may spend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from planner.variation import SMALL, Variation

SELECTION = 400
"""Suits the 1,297 training digits: fewer would make the bounds wider than the guard, more would leave too few to train
on. With N samples, a drop of less than about 2.7 / N cannot be told from none."""

FIT = 2000
"""Suits small images: a refit of VGG-11's second layer was good with 1,000 of 32 × 32, and smaller ones have fewer
positions."""

PROVED = 0.9
"""What single stages reach by themselves on shallow networks: 94 % on the digits, 98 % on LeNet-300-100. Blocks are for
paths on which something goes wrong."""


@dataclass(frozen=True)
class Options:
    """What a plan may spend.

    Attributes:
        seed: Seed of the split, the probes and the torn states.
        selection: Training samples put aside to choose on.
        walked: Of these, how many every candidate path is walked on.
        fit: Training samples that rows are fitted on, at most.
        refine: Samples that each refitted layer is trained on afterwards, towards the dense network's outputs; 0 for
            least squares alone.
        shift: Pixels that these images are moved by at random, and mirrored; None to leave them as they are.
        probes: Samples of the pullback metric.
        grid: How geodesics are searched, and in which orders rows are written; see ``planner.variation``.
        landscape: Test samples that the loss around each transition's paths is drawn from, of those kept in the bundle;
            0 for no picture, None for 128 where the network is small.
        sparse: Samples that each sparse mode is trained on, the metric's among them; None for five passes over the
            training set, and at least 20,000.
        certified: Test samples that a proof is tried on for every state of each path; 0 for none. None for 200 where
            the network is small; where it is large no proof is tried, and wrong states are searched for on 20.
        proved: Share of the answers that are right at the ends of a path's stages that is to be proved right in every
            state between. Where less is, on selection samples, its rows are divided into blocks, if that proves more.
            Only where certificates are made; 0 for no blocks on this account.
        stored: Test samples kept in the bundle.
        tested: Test samples that the evidence is measured on, at most.
        waypoints: Measured states of each transition, at most.
        torn: Torn states measured for each transition, both directions together.
        threads: Threads PyTorch computes with; 0 chooses one for a small network and PyTorch's own number for a large.
        every_candidate: Whether paths are walked to their end even when they cannot be chosen any more, and the best
            geodesic is kept in the bundle: for comparisons, at several times the cost.
        budget: Epoch-equivalents that the plan may cost: candidates that would go beyond are left out, all but the
            one-pass write. None for 1, and what the sparse modes take, where the network is large, and for no limit
            where it is small or every candidate is asked for.
        workers: Processes that walk candidates; 1 for none but this one.
        cluster: Address of a Dask scheduler whose workers walk candidates instead.
        work: Folder that finished jobs are kept in; a plan that was interrupted goes on from them.
    """

    seed: int = 0
    selection: int = SELECTION
    walked: int = 1000
    fit: int = FIT
    refine: int = 0
    shift: int | None = None
    probes: int = 64
    grid: tuple[Variation, ...] = SMALL
    landscape: int | None = None
    sparse: int | None = None
    certified: int | None = None
    proved: float = PROVED
    stored: int = 1000
    tested: int = 10_000
    waypoints: int = 11
    torn: int = 20
    threads: int = 0
    every_candidate: bool = False
    budget: float | None = None
    workers: int = 1
    cluster: str | None = None
    work: Path | None = None
