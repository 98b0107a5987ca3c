"""Races, and all that came of them bit for bit."""

from planner.cost import CostMeter
from planner.executors import InProcess
from planner.progress import Silent
from planner.race import ROUNDS, choose_paths
from planner.study import BLOCKS, SEATED

TRANSITIONS = (("C1", "C2"), ("C2", "C3"))
KINDS = tuple(kind for kinds in ROUNDS for kind in kinds if kind not in (SEATED, BLOCKS))
"""What is walked where no unit takes another seat and something is feasible."""


def race(study, pool=None, share=lambda study: study, transitions=TRANSITIONS, **options):
    """Choices and what they cost."""
    cost = CostMeter()
    options = {"every_candidate": False, "progress": Silent()} | options
    return choose_paths(study, transitions, pool or InProcess(), share, cost=cost, **options), cost.forward_passes


def facts(choices):
    """All of it, bit for bit."""
    return {
        ends: (
            choice.chosen.name, [one.name for one in choice.feasible], choice.skipped,
            [
                (
                    one.name, one.bytes_written, one.length, one.fisher_length, one.worst, one.bound, one.divergence,
                    one.complete, one.variation, one.record,
                    [array.tobytes() for array in one.path.chunks.arrays().values()],
                    {name: rows.tobytes() for name, rows in one.path.rows.items()},
                )
                for one in choice.candidates
            ],
        )
        for ends, choice in choices.items()
    }  # fmt: skip
