"""What a finished plan says about itself: measured once, on held-out data that nothing was chosen on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from device_profiles import Profile
from planner.candidates import Candidate, Choice
from planner.endpoint import EndPoint
from planner.network import Layer, Network
from planner.options import Options
from planner.path_search import Record
from runtime.plan.costs import predict
from runtime.plan.evaluation import Answers, Evaluator, random_tears, spread_positions
from runtime.plan.manifest import (
    CandidateEntry,
    CertificateEntry,
    ModeEntry,
    SearchEntry,
    SparseEntry,
    TransitionEntry,
    VariationEntry,
    WaypointEntry,
)
from runtime.plan.samples import Samples
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable, State


@dataclass(frozen=True)
class HeldOut:
    """The test set as the evidence uses it.

    Attributes:
        evaluator: Asks on the test samples.
        dense: The dense network's answers.
        stored: How many of the first samples go into eval.npz.
        batch: How many of the first samples functional length is measured on.
    """

    evaluator: Evaluator
    dense: Answers
    stored: int
    batch: int

    def correct(self, answers: Answers) -> int:
        """Right answers among the stored samples."""
        return int(answers.right[: self.stored].sum())

    def distance(self, one: Answers, other: Answers) -> float:
        """Distance of the outputs on the batch."""
        return Answers(one.outputs[: self.batch], one.right).distance(Answers(other.outputs[: self.batch], other.right))


def describe_mode(
    network: Network,
    end: EndPoint,
    answers: Answers,
    held: HeldOut,
    *,
    graph: str,
    kept: Mapping[str, tuple[int, ...]],
    description: str,
) -> ModeEntry:
    """Evidence for a mode whose network gave ``answers``."""
    return ModeEntry(
        name=end.mode,
        description=description,
        graph=graph,
        kept=dict(kept),
        accuracy=answers.accuracy,
        correct=held.correct(answers),
        macs=sum(_macs(end, layer) for layer in network.layers),
        weight_bytes=_weight_bytes(network, end),
        divergence=held.distance(answers, held.dense),
        damping=max((refit.damping for refit in end.refits.values()), default=0.0),
        nonzero_macs=sum(layer.positions * int(end.tensors[layer.weight].count_nonzero()) for layer in network.layers),
        sparse=_sparse(network, end),
        source=end.source,
    )


def _sparse(network: Network, end: EndPoint) -> SparseEntry | None:
    """What is zero of the weights that a sparse mode's compact graph has."""
    if not end.sparse:
        return None
    layers = [network.layer(name) for name in end.sparse]
    weights = sum(len(end.kept(layer)) * len(end.kept_columns(layer)) for layer in layers)
    # Weights of units that are gone are zero too, and no part of the compact graph.
    present = sum(int(end.tensors[layer.weight].count_nonzero()) for layer in layers)
    return SparseEntry(layers=end.sparse, weights=weights, zeros=weights - present)


def describe_transition(
    ends: tuple[str, str],
    start: State,
    table: RowTable,
    chunks: ChunkList,
    choice: Choice,
    held: HeldOut,
    options: Options,
    profile: Profile,
    *,
    candidates: tuple[CandidateEntry, ...],
    file: str,
    alternatives: Mapping[str, str],
    certificate: CertificateEntry | None,
    landscape: str | None,
) -> TransitionEntry:
    """Evidence for a transition, in both directions.

    Args:
        ends: Mode left and mode reached.
        start: State it begins at.
        table: The plan's joint table.
        chunks: The chosen path on it.
        choice: What it was chosen from.
        held: Held-out data.
        options: How much to measure.
        profile: Device that costs are predicted for.
        candidates: What it was chosen from, see ``describe_candidates``.
        file: File of the chunk list.
        alternatives: Strategy to the file of its chunk list.
        certificate: What is proved of its states, if a proof was tried.
        landscape: File of its candidates' paths over the loss, if there is one.
    """
    positions = spread_positions(chunks, table, options.waypoints)
    whole = list(held.evaluator.along(table, start, chunks, positions))
    torn: list[Answers] = []
    end = chunks.state_at(start, len(chunks))
    for way, begin, salt in ((chunks, start, 0), (chunks.reversed(), end, 1)):
        torn += held.evaluator.torn(table, begin, way, random_tears(table, way, options.torn // 2, options.seed + salt))
    written = np.concatenate([[0], chunks.chunk_bytes(table).cumsum()])
    lengths = np.cumsum([0.0, *(held.distance(one, other) for one, other in pairwise(whole))])
    worst = min(answers.accuracy for answers in [*whole, *torn])
    return TransitionEntry(
        from_=ends[0],
        to=ends[1],
        strategy=choice.chosen.strategy,
        path=file,
        alternatives=dict(alternatives),
        chunks=len(chunks),
        blocks=choice.chosen.path.stops,
        bytes_written=choice.chosen.bytes_written,
        functional_length=float(lengths[-1]),
        min_accuracy=worst,
        worst_drop_points=100 * (held.dense.accuracy - worst),
        torn_states=len(torn),
        waypoints=tuple(
            WaypointEntry(
                position=position,
                accuracy=answers.accuracy,
                correct=held.correct(answers),
                functional_length=float(length),
                bytes=int(written[position]),
            )
            for position, answers, length in zip(positions, whole, lengths, strict=True)
        ),
        candidates=candidates,
        skipped=choice.skipped,
        too_dear=choice.too_dear,
        certificate=certificate,
        landscape=landscape,
        cost=predict(table, chunks, profile),
        cost_back=predict(table, chunks.reversed(), profile),
    )


def describe_candidates(choice: Choice) -> tuple[CandidateEntry, ...]:
    """What a path was chosen from, in the order in which it was walked."""
    return tuple(_candidate(one, choice) for one in choice.candidates)


def _candidate(candidate: Candidate, choice: Choice) -> CandidateEntry:
    return CandidateEntry(
        name=candidate.name,
        strategy=candidate.strategy,
        feasible=candidate in choice.feasible,
        chosen=candidate is choice.chosen,
        complete=candidate.complete,
        search=_search(candidate.record),
        bytes_written=candidate.bytes_written,
        functional_length=candidate.length,
        worst_accuracy=candidate.worst,
        worst_accuracy_bound=max(candidate.bound, 0.0),
        worst_divergence=candidate.divergence,
        fisher_length=candidate.fisher_length,
        variation=None if candidate.variation is None else VariationEntry(**asdict(candidate.variation)),
        cost=candidate.cost,
    )


def _search(record: Record | None) -> SearchEntry | None:
    if record is None:
        return None
    return SearchEntry(
        status=record.status,
        unsolved=record.unsolved,
        steps=record.steps,
        inserted=record.inserted,
        energy_before=record.energy_before,
        energy_after=record.energy_after,
        forward_passes=record.forward_passes,
        fisher_length=record.fisher_length,
    )


def pick_canary(samples: Samples, modes: list[Answers], per_class: int = 3) -> Samples:
    """Samples that every mode answers right and none easily: of each class those of median margin.

    The easiest samples would pass on damaged weights too, the hardest might fail on sound ones of another machine.

    Args:
        samples: The selection split.
        modes: Answers of every mode to them.
        per_class: Samples of each class; fewer where fewer are right.
    """
    margin = np.min([_margin(answers.outputs, samples.labels) for answers in modes], axis=0)
    picked: list[int] = []
    for label in np.unique(samples.labels):
        right = np.flatnonzero((samples.labels == label) & (margin > 0))
        by_margin = right[np.argsort(margin[right], kind="stable")]
        middle = max(0, len(by_margin) // 2 - per_class // 2)
        picked += by_margin[middle : middle + per_class].tolist()
    return Samples(samples.inputs[picked], samples.labels[picked])


def _margin(outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Output of the right class minus the largest other one, shape [N]."""
    rows = np.arange(len(labels))
    others = outputs.copy()
    others[rows, labels] = -np.inf
    return outputs[rows, labels] - others.max(axis=1)


def _macs(end: EndPoint, layer: Layer) -> int:
    """Multiply-accumulates of a layer in its compact form, per sample."""
    return layer.positions * len(end.kept(layer)) * len(end.kept_columns(layer))


def _weight_bytes(network: Network, end: EndPoint) -> int:
    """Bytes of all weights of the compact network."""
    total = sum(tensor.numel() for tensor in network.module.state_dict().values())
    for layer in network.layers:
        kept = len(end.kept(layer))
        total -= layer.units * layer.columns - kept * len(end.kept_columns(layer))
        total -= (layer.units - kept) if layer.bias is not None else 0
    return 4 * total
