"""Divides chosen paths into blocks where too few of their answers can be proved right.

Blocks are chosen on selection samples; the certificate is then made on test samples, which nothing was chosen on. What
a block gives up is freedom of order, and the device does not need it: it writes a chunk list from front to back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from planner.adversary import margin
from planner.blocks import MOST, divide
from planner.candidates import Candidate, Choice, is_feasible
from planner.certificate import certify
from planner.cost import CostMeter
from planner.progress import Progress
from planner.study import BLOCKS, Ends, Study
from runtime.plan.samples import Samples
from runtime.walking.strategies import Compiled

WITNESSES = 6
"""Samples that a path's share of proved answers is told by, before it is counted. A proof fails where margins are
small, so that those about the quantile of the margins in question say on which side of it the share lies. On the digits
network the four transitions cost 8 % of a plan so; counting on 64 samples would cost as much as the rest of it."""
DIVIDED_ON = 64
"""Selection samples that blocks are chosen on."""


def divide_choices(
    study: Study,
    choices: Mapping[Ends, Choice],
    share: float,
    *,
    budget: int | None,
    cost: CostMeter,
    progress: Progress,
) -> dict[Ends, Choice]:
    """The choices, with a path in blocks wherever less than a share of its answers is proved and blocks prove more.

    Args:
        study: What the paths were walked on.
        choices: Path of each transition.
        share: Of the answers that are right at the ends of all stages, how many are to be proved right in every state
            between; 0 to divide nothing.
        budget: Forward passes up to which ``cost`` may rise; None for no limit.
        cost: Counts what is spent.
        progress: Shows where the work is.

    Returns:
        A choice for every transition. A divided path is a candidate like any other: it is walked, and taken only if it
        is within the guard.
    """
    found = dict(choices)
    few: dict[Ends, Choice] = {}
    for ends, choice in choices.items():
        if share > 0 and not _proved(study, ends, choice, share, budget, cost):
            few[ends] = choice
    if few:
        progress.stage("Blocks, so that more can be proved", len(few))
    for ends, choice in few.items():
        progress.step(" → ".join(ends))
        path = choice.chosen.path
        divided = divide(
            study.network, path.table(study.table), study.states[ends[0]], path.chunks, study.samples.take(DIVIDED_ON),
            cost=cost, enough=share, stops=path.stops,
        )  # fmt: skip
        if len(divided.proved) > 1:
            found[ends] = _with(study, ends, choice, Compiled(divided.chunks, path.rows, divided.stops), cost)
    return found


def _proved(study: Study, ends: Ends, choice: Choice, share: float, budget: int | None, cost: CostMeter) -> bool:
    """Whether a share of the right answers is proved, by the samples about that quantile of the margins.

    Where nothing can be bounded, or the budget does not allow a division, there is nothing to be done either.
    """
    labels = torch.from_numpy(study.samples.labels)
    least = torch.stack([margin(torch.from_numpy(study.modes[name].outputs), labels) for name in ends]).amin(0).numpy()
    right = np.flatnonzero(least > 0)
    order = right[np.argsort(least[right], kind="stable")]
    first = max(0, int((1 - share) * len(order)) - WITNESSES // 2)
    chosen = order[first : first + WITNESSES]
    if not len(chosen):
        return True
    path, before = choice.chosen.path, cost.forward_passes
    if budget is not None and before >= budget:
        return True
    witnesses = Samples(study.samples.inputs[chosen], study.samples.labels[chosen])
    certificate = certify(
        study.network, path.table(study.table), study.states[ends[0]], path.chunks, witnesses, cost=cost,
        stops=path.stops,
    )  # fmt: skip
    if certificate.why_not or 2 * int(certificate.torn.sum()) >= len(chosen):
        return True
    # All stages once, and then two parts at each division, if no sample is proved before the last.
    price = (cost.forward_passes - before) // len(chosen) * DIVIDED_ON * (1 + 2 * MOST)
    return budget is not None and cost.forward_passes + price > budget


def _with(study: Study, ends: Ends, choice: Choice, path: Compiled, cost: CostMeter) -> Choice:
    """The choice with a divided path among its candidates, chosen if it is within the guard."""
    plain = choice.chosen
    name = plain.name if plain.path.stops else f"{plain.name} {BLOCKS}"
    divided: Candidate = study.measure(ends, name, path, plain.record, cost)
    candidates = (*choice.candidates, divided)
    if not is_feasible(divided, study.dense, study.max_drop):
        return replace(choice, candidates=candidates)
    return replace(choice, chosen=divided, candidates=candidates, feasible=(*choice.feasible, divided))
