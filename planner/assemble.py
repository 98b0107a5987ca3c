"""Puts a plan together: the manifest with its evidence, and the files it lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from safetensors.numpy import save as save_tensors

from device_profiles import Profile, loader
from planner.adopt import adopt, alternative_file
from planner.adversary import Search
from planner.candidates import Candidate, Choice
from planner.certificate import Effort, certify
from planner.cost import CostMeter
from planner.datasets import Dataset
from planner.deploy import Deployment, kept_units
from planner.endpoint import EndPoint
from planner.evidence import HeldOut, describe_candidates, describe_mode, describe_transition
from planner.landscape import LARGEST, SAMPLES, draw
from planner.network import Network
from planner.options import Options
from planner.progress import Progress
from runtime.plan.bundle import CANARY, EVALUATION, GRAPH, ROWS
from runtime.plan.bundle_parts import BASE, MODES
from runtime.plan.evaluation import Evaluator
from runtime.plan.landscape import encode as encode_landscape
from runtime.plan.manifest import (
    CandidateEntry,
    CertificateEntry,
    LayerEntry,
    Manifest,
    ModeEntry,
    ModelEntry,
    PlanningEntry,
    SourceEntry,
    TransitionEntry,
)
from runtime.plan.samples import Samples, pack
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable, State

Files = dict[str, bytes]
CERTIFIED = 200
"""Test samples that a proof is tried on by default. One takes milliseconds on LeNet-300-100, seconds on VGG-11."""
CERTIFIABLE = 1_000_000
"""Weights from which on no proof is tried unless it is asked for."""
SEARCHED = 20
"""Test samples that wrong states are searched for where no proof is tried: of VGG-11 one takes most of a second."""
SHORT = Search(targets=2, steps=4)
"""How hard then; benchmarks/certificate.py searches VGG-11 as hard."""


def describe_modes(
    network: Network,
    ends: Mapping[str, EndPoint],
    deployed: Deployment,
    held: HeldOut,
    profile: Profile,
    progress: Progress,
) -> tuple[tuple[ModeEntry, ...], Files]:
    """Evidence and compact graph of every mode."""
    entries: list[ModeEntry] = []
    files: Files = {}
    for number, (name, end) in enumerate(ends.items()):
        progress.step(name)
        file = f"graphs/{number}-{name}.onnx"
        files[file] = deployed.compact[name]
        entries.append(
            describe_mode(
                network,
                end,
                held.evaluator.at(deployed.table, deployed.states[name]),
                held,
                graph=file,
                kept=kept_units(network, end),
                description=profile.modes[name].description,
            )
        )
    return tuple(entries), files


def describe_paths(
    network: Network,
    choices: Mapping[tuple[str, str], Choice],
    deployed: Deployment,
    held: HeldOut,
    options: Options,
    profile: Profile,
    progress: Progress,
) -> tuple[tuple[TransitionEntry, ...], Files, RowTable]:
    """Evidence and chunk lists of every transition, and the table that has the rows of all of them."""
    table, adopted = adopt(deployed.table, {ends: choice.chosen.path for ends, choice in choices.items()})
    entries: list[TransitionEntry] = []
    files: Files = {}
    for number, (ends, choice) in enumerate(choices.items()):
        progress.step(" → ".join(ends))
        stem = f"paths/{number}-{'-'.join(ends)}"
        files[f"{stem}.safetensors"] = save_tensors(adopted[ends].arrays())
        others: dict[str, str] = {}
        best = _best_geodesic(choice) if options.every_candidate else None
        if best is not None:
            others["geodesic"] = f"{stem}-geodesic.safetensors"
            files[others["geodesic"]] = alternative_file(best.path, deployed.table, table)
        candidates = describe_candidates(choice)
        landscape = _landscape(network, ends, choice, candidates, deployed, held, options)
        if landscape is not None:
            files[f"landscapes/{number}-{'-'.join(ends)}.json"] = landscape
        entries.append(
            describe_transition(
                ends,
                deployed.states[ends[0]],
                table,
                adopted[ends],
                choice,
                held,
                options,
                profile,
                candidates=candidates,
                file=f"{stem}.safetensors",
                alternatives=others,
                certificate=_certificate(
                    network, table, deployed.states[ends[0]], adopted[ends], choice.chosen.path.stops, held, options
                ),
                landscape=None if landscape is None else f"landscapes/{number}-{'-'.join(ends)}.json",
            )
        )
    return tuple(entries), files, table


def to_be_certified(network: Network, options: Options) -> int:
    """Test samples that a proof is tried on; 0 for no certificate."""
    weights = sum(tensor.numel() for tensor in network.module.state_dict().values())
    return (CERTIFIED if weights < CERTIFIABLE else 0) if options.certified is None else options.certified


def _certificate(
    network: Network,
    table: RowTable,
    start: State,
    chunks: ChunkList,
    stops: Sequence[int],
    held: HeldOut,
    options: Options,
) -> CertificateEntry | None:
    """What is proved of a path's states; where the network is large and no proof is asked for, what a search leaves."""
    proof = to_be_certified(network, options)
    wanted = SEARCHED if options.certified is None and not proof else proof
    if not wanted:
        return None
    samples = held.evaluator.samples.take(min(wanted, len(held.evaluator.samples)))
    # Evidence is no part of what planning cost.
    cost = CostMeter()
    effort: Effort = "linear" if proof else "none"
    search = Search() if proof else SHORT
    return certify(network, table, start, chunks, samples, cost=cost, effort=effort, search=search, stops=stops).entry()


def _landscape(
    network: Network,
    ends: tuple[str, str],
    choice: Choice,
    candidates: tuple[CandidateEntry, ...],
    deployed: Deployment,
    held: HeldOut,
    options: Options,
) -> bytes | None:
    """The candidates over the loss, where the network is small or a picture is asked for."""
    macs = sum(layer.macs for layer in network.layers)
    wanted = (SAMPLES if macs <= LARGEST else 0) if options.landscape is None else options.landscape
    if not wanted:
        return None
    # As with a proof, what the evidence takes is no part of what planning cost.
    evaluator = Evaluator(held.evaluator.session, held.evaluator.samples.take(min(wanted, held.stored)))
    begin, end = (deployed.states[mode] for mode in ends)
    found = draw(evaluator, deployed.table, (begin, end), choice, candidates)
    return None if found is None else encode_landscape(found)


def complete(
    definition: str,
    network: Network,
    dataset: Dataset,
    profile: Profile,
    deployed: Deployment,
    table: RowTable,
    modes: tuple[ModeEntry, ...],
    transitions: tuple[TransitionEntry, ...],
    planning: PlanningEntry,
    canary: Samples,
    held: HeldOut,
) -> tuple[Manifest, Files]:
    """The manifest, and the files that are not those of one mode or one transition."""
    manifest = Manifest(
        release=1,
        model=ModelEntry(
            id=type(network.module).__name__,
            definition=definition,
            input_shape=network.input_shape,
            outputs=held.dense.outputs.shape[1],
            dense_bytes=sum(4 * tensor.size for tensor in deployed.dense.values()),
            dense_macs=sum(layer.macs for layer in network.layers),
        ),
        profile=loader.as_builtins(profile),
        preprocessing=dict(dataset.preprocessing),
        labels=dataset.labels,
        layers=tuple(
            LayerEntry(
                name=layer.name,
                weight=layer.weight,
                bias=layer.bias,
                shape=layer.shape,
                reads=layer.reads,
                columns_per_unit=layer.columns_per_unit,
                concatenated=tuple(
                    SourceEntry(layer=one.layer, first=one.first, columns_per_unit=one.columns_per_unit)
                    for one in layer.concatenated
                ),
            )
            for layer in table.layers
        ),
        modes=modes,
        transitions=transitions,
        planning=planning,
        files={},
    )
    states = {f"{name}/{layer}": rows for name, state in deployed.states.items() for layer, rows in state.items()}
    files = {
        GRAPH: deployed.live,
        BASE: deployed.base,
        ROWS: save_tensors({name: rows for name, rows in table.pool.items() if len(rows)}),
        MODES: save_tensors(states),
        CANARY: pack(canary),
        EVALUATION: pack(held.evaluator.samples.take(held.stored)),
    }
    return manifest, files


def _best_geodesic(choice: Choice) -> Candidate | None:
    """The geodesic whose worst state was best, to be simulated; None when there is none or it was chosen itself."""
    if choice.chosen.strategy == "geodesic":
        return None
    geodesics = [one for one in choice.candidates if one.strategy == "geodesic"]
    return max(geodesics, key=lambda one: (one.worst, -one.bytes_written), default=None)
