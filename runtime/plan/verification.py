"""Repeats a plan's evidence on this machine: every mode, every waypoint, both ways, on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
from msgspec import UNSET

from device_profiles import Profile
from runtime.errors import BundleError
from runtime.plan.bundle import Bundle, Transition
from runtime.plan.compact import pack
from runtime.plan.evaluation import Answers, Evaluator
from runtime.plan.graphs import compact_session, live_session
from runtime.plan.grid_parts import check_values
from runtime.plan.manifest import GridEntry, SparseEntry
from runtime.walking.bank import Increment, InPlaceBank
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import Floats, RowTable, State
from runtime.walking.session import Session, Weights

TOLERANCE: Final = 1e-4
"""Largest accepted difference between two graphs of one network, relative to the largest output (at least 1). Sums in
another order differed by up to 6e-7 of it."""
SLACK: Final = 0.002
"""Share of the stored samples whose answer may differ from the evidence: other processors round otherwise, and an
answer on the fence may fall to the other side."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def verify(bundle: Bundle, profile: Profile, step: Callable[[str], None] = lambda name: None) -> tuple[Check, ...]:
    """Repeat the evidence of a bundle; reading it has checked files, digests and paths already.

    Args:
        bundle: A checked bundle.
        profile: Device whose number of threads counts.
        step: Called with the name of each mode and transition before it is looked at.
    """
    session = live_session(bundle, profile.threads, profile)
    evaluator = Evaluator(session, bundle.evaluation)
    checks = [Check(name="files", ok=True, detail=f"{len(bundle.files)} files, digests and shapes as listed")]
    if bundle.manifest.grid is not UNSET:
        checks.append(_on_grid(bundle, bundle.manifest.grid))
    for mode in bundle.manifest.modes:
        step(mode.name)
        answers = evaluator.at(bundle.table, bundle.states[mode.name])
        checks.append(_agrees(f"mode {mode.name}: accuracy", answers, mode.correct))
        checks.append(_compact(bundle, profile, evaluator, mode.name, answers))
        if mode.sparse is not None:
            checks.append(_sparse(bundle, mode.name, mode.sparse))
        canary = Evaluator(session, bundle.canary).at(bundle.table, bundle.states[mode.name])
        right = int(canary.right.sum())
        checks.append(
            Check(
                name=f"mode {mode.name}: canary",
                ok=right == len(bundle.canary),
                detail=f"{right} of {len(bundle.canary)} right",
            )
        )
    for move in bundle.transitions:
        step(" → ".join(move.ends))
        checks += _transition(bundle, evaluator, session, move)
    return tuple(checks)


def _on_grid(bundle: Bundle, entry: GridEntry) -> Check:
    """Whether every value that a device could be left with lies on its grid."""
    paths = [move.chunks for move in bundle.transitions]
    try:
        rows = check_values(
            bundle.manifest, bundle.scales, bundle.tensors, bundle.table, bundle.states, paths, bundle.path
        )
    except BundleError as error:
        return Check(name="grid", ok=False, detail=str(error))
    return Check(
        name="grid",
        ok=True,
        detail=f"{rows:,} rows of {len(entry.layers)} layers, in every version that a path has: all values on the grid "
        f"of {entry.grid}",
    )


def _agrees(name: str, answers: Answers, correct: int) -> Check:
    """Whether as many answers are right as the evidence says."""
    right, total = int(answers.right.sum()), len(answers.right)
    allowed = int(np.ceil(SLACK * total))
    return Check(
        name=name,
        ok=abs(right - correct) <= allowed,
        detail=f"{right} of {total} right, evidence says {correct} (±{allowed})",
    )


def _compact(bundle: Bundle, profile: Profile, evaluator: Evaluator, mode: str, masked: Answers) -> Check:
    """Whether a mode's smaller graph equals its masked dense network."""
    compact = compact_session(bundle, mode, profile.threads)
    answers = Evaluator(compact, evaluator.samples).answers(compact.bind({}))
    scale = max(1.0, float(np.abs(masked.outputs).max()))
    worst = float(np.abs(answers.outputs - masked.outputs).max()) / scale
    return Check(
        name=f"mode {mode}: compact graph",
        ok=worst <= TOLERANCE,
        detail=f"outputs differ by at most {worst:.1e}, allowed {TOLERANCE:.0e}",
    )


def _sparse(bundle: Bundle, mode: str, entry: SparseEntry) -> Check:
    """Whether as many weights of a mode's smaller network are zero as the manifest says."""
    name, layers = f"mode {mode}: zeros", {layer.name: layer for layer in bundle.table.layers}
    if unknown := [one for one in entry.layers if one not in layers]:
        return Check(name=name, ok=False, detail=f"{unknown[0]!r} is none of the moved layers")
    weights = pack(bundle, mode)
    found = [weights[layers[one].weight] for one in entry.layers]
    size, zeros = sum(one.size for one in found), sum(int((one == 0).sum()) for one in found)
    return Check(
        name=name,
        ok=(size, zeros) == (entry.weights, entry.zeros),
        detail=f"{zeros:,} of {size:,} weights are zero, the manifest says {entry.zeros:,} of {entry.weights:,}",
    )


def _transition(bundle: Bundle, evaluator: Evaluator, session: Session, move: Transition) -> list[Check]:
    name, (start, end) = " → ".join(move.ends), (bundle.states[mode] for mode in move.ends)
    positions = [waypoint.position for waypoint in move.entry.waypoints]
    answers = evaluator.along(bundle.table, start, move.chunks, positions)
    checks = [
        _agrees(f"{name}: waypoint at chunk {waypoint.position}", found, waypoint.correct)
        for waypoint, found in zip(move.entry.waypoints, answers, strict=True)
    ]
    forward = _walked(bundle.table, session, start, move.chunks)
    back = _walked(bundle.table, session, end, move.chunks.reversed())
    same = _same(forward, bundle.table.tensors(end)) and _same(back, bundle.table.tensors(start))
    detail = "walked there and back: weights equal those rebuilt from the bundle, bit for bit"
    checks.append(Check(name=f"{name}: weights", ok=same, detail=detail if same else "weights differ"))
    return checks + _landscape(name, bundle, evaluator, move)


def _landscape(name: str, bundle: Bundle, evaluator: Evaluator, move: Transition) -> list[Check]:
    """Whether the chosen path is drawn with the answers that it gives; nothing where nothing is drawn."""
    if move.landscape is None:
        return []
    few = Evaluator(evaluator.session, evaluator.samples.take(move.landscape.samples))
    chosen = {one.name for one in move.entry.candidates if one.chosen}
    checks: list[Check] = []
    for path in (one for one in move.landscape.paths if one.name in chosen):
        positions = [point.position for point in path.points]
        found = few.along(bundle.table, bundle.states[move.ends[0]], move.chunks, positions)
        checks += [
            _agrees(f"{name}: drawn at chunk {point.position}", answers, point.correct)
            for point, answers in zip(path.points, found, strict=True)
        ]
    return checks


def _walked(table: RowTable, session: Session, start: State, chunks: ChunkList) -> dict[str, Floats]:
    """Weights after a whole walk, written chunk list by chunk list as on a device."""
    held: dict[str, Floats] = {}

    def keep(tensors: dict[str, Floats]) -> Weights:
        held.update(tensors)
        return session.bind(tensors)

    bank = InPlaceBank(table, start, keep)  # type: ignore[arg-type]  # the bank hands over a dict
    bank.write(Increment.gather(table, chunks, 0, len(chunks)))
    return held


def _same(one: dict[str, Floats], other: dict[str, Floats]) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in one)
