"""Makes a plan: from a trained network and a device profile to a bundle."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.numpy import save as save_tensors
from torch import nn

from device_profiles import GeoshiftError, Profile
from planner.allocation import allocate, curves
from planner.assemble import complete, describe_modes, describe_paths, to_be_certified
from planner.candidates import Choice, check_trade_off
from planner.cost import CostMeter, passes_of
from planner.datasets import Dataset, split
from planner.deploy import Deployment, deploy, row_table
from planner.device_target import has_target
from planner.division import divide_choices
from planner.endpoint import EndPoint
from planner.endpoint_search import EndPointSearch, Polish
from planner.evidence import HeldOut, pick_canary
from planner.executors import executor
from planner.grid import put_on_grid
from planner.modes import resolve
from planner.network import Network, trace
from planner.options import Options
from planner.progress import Progress, Silent
from planner.provenance import tool_versions
from planner.race import choose_paths
from planner.refine import Settings, refine
from planner.store import Store
from planner.study import Study
from planner.targets import reach, sparse_samples
from planner.threads import threads
from planner.weight_files import read_given
from runtime.plan import bundle as bundles
from runtime.plan import bundle_files
from runtime.plan.costs import check_writes, wanted_policy
from runtime.plan.evaluation import Evaluator
from runtime.plan.fit import check_operators, check_plan, check_rows, check_size
from runtime.plan.grid import Grid
from runtime.plan.grid_parts import SCALES
from runtime.plan.manifest import Manifest, PlanningEntry
from runtime.plan.onnx_file import read_operators
from runtime.plan.samples import Samples
from runtime.walking.rows import State
from runtime.walking.session import Session

SMALL_NETWORK = 1_000_000
"""Weights below which PyTorch computes with one thread, see ``planner.threads``."""
LARGE_BUDGET = 1.0
"""Epoch-equivalents for a large network. The end points of VGG-11's tour and the walk of its one-pass paths take most
of one; searching geodesics between two of its modes takes another, for every transition."""
REFINE_RATE = 1e-3
"""Of Adam, at its highest, for the rows of one layer and few units before it."""
REFINE_BATCH = 32
APPROACH = 4
"""Samples of the approach (`planner.approach`) for each sample of the refinement. On VGG-11 without 50 of 64 filters,
40,000 took the drop on 10,000 training images from 2.01 to 1.41 points at the cost of 5,000 whole ones; 12,000 of the
refinement after it to 1.26."""
REFINE_CHECK = 500
"""Selection samples that a refinement is stopped by."""
LENGTH_BATCH = 512
"""Held-out samples that functional length is measured on."""


class PlanError(GeoshiftError):
    """A network cannot be planned for."""


@dataclass(frozen=True)
class _Split:
    """The data by what it may be used for."""

    fit: Samples
    selection: Samples
    spare: Samples
    """Of the selection, those that no candidate is walked on, where there are enough; else all of it."""
    test: Samples
    whole_fit: np.ndarray
    """Indices of all training samples that may be fitted on, those of ``fit`` first."""
    training_size: int


def make_plan(
    module: nn.Module,
    definition: str,
    dataset: Dataset,
    profile: Profile,
    out: str | os.PathLike[str],
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    replace: bool = False,
    weights: Mapping[str, str | os.PathLike[str]] | None = None,
) -> Manifest:
    """Plan all modes and transitions of a profile for a network and write the bundle.

    Args:
        module: Trained network.
        definition: What it is called, for the manifest.
        dataset: Its data; planning uses the training part, the evidence the test part.
        profile: Device and power modes.
        out: Directory of the bundle.
        options: What may be spent.
        progress: Shows where the work is.
        replace: Whether a bundle that stands at ``out`` may be replaced.
        weights: Mode name to checkpoint, for each mode of which the profile says ``weights: given``.

    Returns:
        The manifest that was written.

    Raises:
        GeoshiftError: The network, its data, or the profile do not allow a plan, or no path is safe. Nothing is
            written then.
    """
    options = options or Options()
    small = weight_count(module) < SMALL_NETWORK
    with threads(options.threads or (1 if small else 0)):
        return _plan(
            module, definition, dataset, profile, Path(out), options, progress or Silent(), replace, weights or {}
        )


def _plan(
    module: nn.Module,
    definition: str,
    dataset: Dataset,
    profile: Profile,
    out: Path,
    options: Options,
    progress: Progress,
    replace: bool,
    weights: Mapping[str, str | os.PathLike[str]],
) -> Manifest:
    """The work of ``make_plan``."""
    begun = time.monotonic()
    bundle_files.check_target(out, replace=replace)
    origin = f"plan for {profile.name}"
    check_size(weight_count(module), profile, origin)
    check_trade_off(profile)
    wanted_policy(profile, None, origin)
    cost = CostMeter()
    data = _divide(dataset, options)
    sample = torch.from_numpy(data.fit.inputs[:2])
    network = trace(module, sample)
    _check_types(network)
    given = read_given(weights, profile, module, network, sample)
    found = None
    if any(has_target(mode) for mode in profile.modes.values()):
        progress.stage("What each layer's units are worth", 1)
        found = curves(network, _tensor(data.fit), cost=cost)
    share_out = None if found is None else partial(allocate, network, found, block=profile.channel_block)
    targets = resolve(profile, network, share_out)

    progress.stage("End points", len(targets))
    orders = None if found is None else {name: curve.order for name, curve in found.items()}
    search = _end_points(network, dataset, data, options, cost, orders)
    ends = reach(
        network, targets, search.find(targets, progress.step), given,
        lambda: torch.from_numpy(dataset.train_x[data.whole_fit]), options, cost, progress,
    )  # fmt: skip
    stops = {pair: stop for pair in profile.transitions if (stop := search.between(*(ends[one] for one in pair)))}
    grid, placed, unrounded = Grid.of(profile.weights), None, network
    if not grid.holds_all:
        progress.stage(f"Weights on the grid of {grid}", len(network.layers))
        placed = put_on_grid(network, ends, grid, _tensor(data.fit), cost=cost, step=progress.step)
        # By way of free seats readers are written twice, and where cells are rounded each is written once.
        network, ends, stops = placed.network, placed.ends, {}
    table, states = row_table(network, {**ends, **{stop.mode: stop for stop in stops.values()}}, grid)
    check_rows(table.layers, profile, origin)
    check_writes(table.layers, profile, origin)
    deployed = deploy(network, ends, table, {name: states[name] for name in ends}, sample, progress)
    check_operators(read_operators(deployed.live, "the exported network"), profile, origin)
    ways = {pair: states[stop.mode] for pair, stop in stops.items()}

    study, choices = _choose_paths(network, ends, ways, deployed, data, profile, options, cost, progress)
    canary = pick_canary(study.samples, list(study.modes.values()))

    seconds = time.monotonic() - begun
    progress.stage("Evidence on held-out data", len(ends) + len(choices))
    held = _held_out(deployed, data.test, options)
    modes, mode_files = describe_modes(network, ends, deployed, held, profile, progress)
    transitions, path_files, table = describe_paths(network, choices, deployed, held, options, profile, progress)
    planning = PlanningEntry(
        seed=options.seed,
        seconds=seconds,
        evidence_seconds=time.monotonic() - begun - seconds,
        epoch_equivalents=cost.epoch_equivalents(len(dataset.train_y)),
        fit_samples=len(data.fit),
        selection_samples=len(data.selection),
        test_samples=len(held.evaluator.samples),
        eval_samples=held.stored,
        dataset=dataset.name,
        versions=tool_versions(),
    )
    manifest, files = complete(
        definition, network, dataset, profile, deployed, table, modes, transitions, planning, canary, held
    )
    if placed is not None:
        accuracy = _accuracy(unrounded, deployed, held)
        manifest = msgspec.structs.replace(manifest, grid=placed.entry(SCALES, accuracy))
        if placed.scales:
            files[SCALES] = save_tensors(placed.scales)
    check_plan(manifest, profile, origin)
    bundles.write(out, manifest, {**files, **mode_files, **path_files}, replace=replace)
    return manifest


def end_points(network: Network, dataset: Dataset, options: Options, cost: CostMeter) -> EndPointSearch:
    """What finds the end points of a plan, with all that the plan would find them with.

    Args:
        network: The traced network.
        dataset: Its data; the test part is not read.
        options: What may be spent.
        cost: Counts what is.
    """
    return _end_points(network, dataset, _divide(dataset, options), options, cost, None)


def _end_points(
    network: Network,
    dataset: Dataset,
    data: _Split,
    options: Options,
    cost: CostMeter,
    orders: Mapping[str, tuple[int, ...]] | None,
) -> EndPointSearch:
    return EndPointSearch(
        network,
        _tensor(data.fit),
        _tensor(data.spare.take(options.fit // 2)),
        cost,
        orders=orders,
        polish=_polish(network, dataset, data, options, cost),
    )


def weight_count(module: nn.Module) -> int:
    """Numbers in a network's weights and buffers."""
    return sum(tensor.numel() for tensor in module.state_dict().values())


def _polish(network: Network, dataset: Dataset, data: _Split, options: Options, cost: CostMeter) -> Polish | None:
    """Network-level refinement on images to fit on, stopped by the last of the selection images.

    Where there are enough, these choose nothing else; a small selection serves for everything.
    """
    if not options.refine:
        return None
    inputs = torch.from_numpy(dataset.train_x[data.whole_fit[: APPROACH * options.refine]])
    stop = torch.from_numpy(data.spare.inputs[-REFINE_CHECK:])
    settings = Settings(
        passes=options.refine / len(inputs), batch=REFINE_BATCH, rate=REFINE_RATE, checks=4, shift=options.shift,
        approached=APPROACH * options.refine / len(inputs), seed=options.seed,
    )  # fmt: skip
    return lambda end, layers: refine(network, end, inputs, stop, settings, layers=layers, cost=cost).end


def _check_types(network: Network) -> None:
    """Refuse, before anything is spent, tensors that a bundle cannot hold."""
    for name, tensor in network.module.state_dict().items():
        if tensor.dtype != torch.float32:
            advice = "convert the network with .float()"
            if name.endswith("num_batches_tracked"):
                advice = "call the module, self.bn(x), instead of torch.nn.functional.batch_norm"
            raise PlanError(f"tensor {name}: found {tensor.dtype}, expected torch.float32; {advice}")


def _divide(dataset: Dataset, options: Options) -> _Split:
    """Fit, selection and test samples in random order, so that the first of them are a fair part.

    Nothing of the test part is seen before the evidence.
    """
    fit, selection = split(dataset, options.seed, options.selection)
    generator = np.random.default_rng(options.seed)
    whole, selection = generator.permutation(fit), generator.permutation(selection)
    fit = whole[: options.fit]
    test = generator.permutation(len(dataset.test_y))
    spare = selection[options.walked :]
    if len(spare) < options.fit // 2 + REFINE_CHECK:
        spare = selection
    return _Split(
        fit=Samples(dataset.train_x[fit], dataset.train_y[fit]),
        selection=Samples(dataset.train_x[selection], dataset.train_y[selection]),
        spare=Samples(dataset.train_x[spare], dataset.train_y[spare]),
        test=Samples(dataset.test_x[test], dataset.test_y[test]),
        whole_fit=whole,
        training_size=len(dataset.train_y),
    )


def _choose_paths(
    network: Network,
    ends: dict[str, EndPoint],
    ways: dict[tuple[str, str], State],
    deployed: Deployment,
    data: _Split,
    profile: Profile,
    options: Options,
    cost: CostMeter,
    progress: Progress,
) -> tuple[Study, dict[tuple[str, str], Choice]]:
    """The path of every transition, with the candidates it was chosen from."""
    study = Study(
        network=network,
        points=ends,
        table=deployed.table,
        states=deployed.states,
        ways=ways,
        live=deployed.live,
        constants=deployed.constants,
        # A worker of a cluster may do several jobs at once, and its cores are not this machine's.
        threads=1 if options.cluster else max(1, (os.cpu_count() or 1) // options.workers),
        torch_threads=torch.get_num_threads(),
        samples=data.selection.take(options.walked),
        pool=_tensor(data.fit),
        probes=options.probes,
        max_drop=profile.guard.max_drop_points / 100,
        seed=options.seed,
        profile=profile,
    )
    cost.forward(len(study.samples) * len(study.modes))
    budget = _budget(network, data, profile, options)
    with executor(options.workers, options.cluster) as (pool, share):
        choices = choose_paths(
            study,
            profile.transitions,
            pool,
            share,
            grid=options.grid,
            store=None if options.work is None else Store(options.work, study.digest),
            every_candidate=options.every_candidate,
            write_once=not Grid.of(profile.weights).holds_all,
            budget=budget,
            cost=cost,
            progress=progress,
        )
    if to_be_certified(network, options):
        choices = divide_choices(study, choices, options.proved, budget=budget, cost=cost, progress=progress)
    return study, choices


def _budget(network: Network, data: _Split, profile: Profile, options: Options) -> int | None:
    """Forward passes that the plan may cost; None for no limit."""
    epochs = options.budget
    if epochs is None:
        if options.every_candidate or weight_count(network.module) < SMALL_NETWORK:
            return None
        sparse = sum(mode.sparsity is not None for mode in profile.modes.values())
        epochs = LARGE_BUDGET + sparse * sparse_samples(options, len(data.whole_fit)) / data.training_size
    return passes_of(epochs, data.training_size)


def _held_out(deployed: Deployment, test: Samples, options: Options) -> HeldOut:
    """The test set, asked for the first time."""
    test = test.take(min(options.tested, len(test)))
    evaluator = Evaluator(deployed.session, test)
    dense = evaluator.at(deployed.table, deployed.table.dense())
    return HeldOut(evaluator, dense, min(options.stored, len(test)), min(LENGTH_BATCH, len(test)))


def _accuracy(network: Network, deployed: Deployment, held: HeldOut) -> float:
    """Accuracy on the test set of a network that the deployed live graph fits, as that graph computes it."""
    tensors = {name: tensor.detach().numpy() for name, tensor in network.module.state_dict().items()}
    moved = {name for layer in deployed.table.layers for name in (layer.weight, layer.bias)}
    session = Session(deployed.live, {name: tensors[name] for name in deployed.constants}, threads=os.cpu_count() or 1)
    evaluator = Evaluator(session, held.evaluator.samples)
    return evaluator.answers(session.bind({name: tensors[name] for name in moved if name is not None})).accuracy


def _tensor(samples: Samples) -> torch.Tensor:
    return torch.from_numpy(samples.inputs)
