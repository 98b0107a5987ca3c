"""Where the paths lead: the cheaper configurations, compensated so that they answer like the dense network.

A configuration is a pure function of the units it lacks. Layer by layer in forward order, a layer that reads removed
units is refitted against what the dense network computes there, on what it will really read: errors of earlier layers
are corrected, not handed on. So C3 planned by way of C2 and C3 planned at once are the same network, and two modes
that lack the same units up to a layer share its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from device_profiles.errors import GeoshiftError
from planner.compensation import eliminate, refit
from planner.cost import CostMeter
from planner.gram import Statistics, collect
from planner.modes import ModeTarget
from planner.network import Layer, Network

DAMPINGS = (1e-6, 1e-4, 1e-2)
"""Candidates for the ridge, relative to the mean diagonal of G; held-out error decides. All three were chosen for some
refit of the digits and MNIST networks. That two decades are close enough together was not measured."""

POSITIONS = 32
"""Output positions drawn of each image; neighbouring patches overlap and say nearly the same. On the MNIST network's
second layer, 32 of the 64 took half the time and raised the held-out error of the refit by 0.4 %."""

Removed = Mapping[str, tuple[int, ...]]
"""Layer name to the units it lacks, the first removed first."""


class EndPointError(GeoshiftError):
    """A configuration cannot be built."""


@dataclass(frozen=True)
class Refit:
    """Rows of one layer for a given set of units before it.

    Attributes:
        rows: Weights then bias, float64 [units, columns (+ 1)].
        damping: Ridge that was chosen.
        error: Relative squared error of its pre-activations on the selection split.
    """

    rows: Tensor
    damping: float
    error: float


@dataclass(frozen=True)
class EndPoint:
    """A configuration.

    Attributes:
        mode: Power mode it realises.
        removed: Units it lacks.
        tensors: All weights and buffers by state-dict key; rows of removed units are zero.
        refits: Layer name to its refit, for every layer that reads removed units.
    """

    mode: str
    removed: Removed
    tensors: Mapping[str, Tensor]
    refits: Mapping[str, Refit]

    def kept(self, layer: Layer) -> list[int]:
        """Units of a layer that are present."""
        gone = set(self.removed.get(layer.name, ()))
        return [unit for unit in range(layer.units) if unit not in gone]


class EndPointSearch:
    """Finds and builds configurations; remembers refits, so that modes share them.

    Args:
        network: The dense network.
        fit: Inputs that rows are fitted on, float32 [N, ...].
        selection: Inputs that units and damping are chosen on, float32 [M, ...].
        cost: Counts what is spent.
    """

    def __init__(self, network: Network, fit: Tensor, selection: Tensor, cost: CostMeter) -> None:
        self._network = network
        self._fit = fit
        self._selection = selection
        self._cost = cost
        self._dense = {name: tensor.detach().clone() for name, tensor in network.module.state_dict().items()}
        self._refits: dict[tuple[object, ...], Refit] = {}
        self._moments: dict[tuple[object, ...], tuple[Statistics, Statistics]] = {}

    def find(self, targets: Mapping[str, ModeTarget], step: Callable[[str], None]) -> dict[str, EndPoint]:
        """End points of all modes.

        Args:
            targets: Mode name to how many units each layer lacks, every mode after the one it comes from.
            step: Called with the name of each mode before it is built.
        """
        found: dict[str, EndPoint] = {}
        for name, target in targets.items():
            step(name)
            removed = dict(found[target.from_].removed) if target.from_ is not None else {}
            for layer in self._network.layers:
                wanted, have = target.removed.get(layer.name, 0), len(removed.get(layer.name, ()))
                if wanted < have:
                    # The last removed come back: the sets of one elimination are nested.
                    removed[layer.name] = removed[layer.name][:wanted]
                elif wanted > have:
                    removed[layer.name] = self._remove_more(removed, layer, wanted)
            found[name] = self.build(name, {layer: units for layer, units in removed.items() if units})
        return found

    def build(self, mode: str, removed: Removed) -> EndPoint:
        """The configuration that lacks the given units."""
        state = dict(self._dense)
        present = dict(self._dense)  # the same, but with the rows of removed units as they would be if present
        refits: dict[str, Refit] = {}
        for layer in self._network.layers:
            if layer.reads is not None and removed.get(layer.reads):
                refits[layer.name] = self._refit(layer, removed, self._before(layer, state, present))
                state = _with_rows(state, layer, refits[layer.name].rows)
                present = _with_rows(present, layer, refits[layer.name].rows)
            if removed.get(layer.name):
                state = _without(state, layer, removed[layer.name])
        return EndPoint(mode, dict(removed), state, refits)

    def _before(self, layer: Layer, state: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State in which all units that a layer reads are there.

        What the present units compute does not depend on which of their neighbours are gone, so these activations
        serve every choice among the units.
        """
        assert layer.reads is not None
        reads = self._network.layer(layer.reads)
        names = [name for name in (reads.weight, reads.bias) if name is not None]
        return {**state, **{name: present[name] for name in names}}

    def _remove_more(self, removed: Removed, layer: Layer, wanted: int) -> tuple[int, ...]:
        """Units to remove from a layer, those gone already first; damping and with it the units by held-out error."""
        if layer.reader is None:
            raise EndPointError(f"layer {layer.name}: found no layer that reads its units, expected one")
        reader = self._network.layer(layer.reader)
        before = self.build("", removed)
        gone = removed.get(layer.name, ())
        rows = before.kept(reader)
        whole = self.build("", {name: units for name, units in removed.items() if name != layer.name})
        fit, selection = self._statistics(reader, removed, whole.tensors)
        fit, selection = fit.only(rows), selection.only(rows)
        best: tuple[float, tuple[int, ...]] | None = None
        for damping in DAMPINGS:
            order = eliminate(
                fit,
                columns_per_unit=reader.columns_per_unit,
                units=layer.units,
                remove=wanted - len(gone),
                damping=damping,
                start_kept=before.kept(layer),
            ).order
            units = (*gone, *order)
            kept = [unit for unit in range(layer.units) if unit not in set(units)]
            error = selection.error(refit(fit, kept, reader.columns_per_unit, damping=damping))
            if best is None or error < best[0]:
                best = error, units
        assert best is not None
        return best[1]

    def _refit(self, layer: Layer, removed: Removed, state: Mapping[str, Tensor]) -> Refit:
        """Rows of a layer that reads removed units; the same for the same units before it."""
        assert layer.reads is not None
        key = (layer.name, *self._lacking(removed, layer.name))
        if key not in self._refits:
            gone = set(removed[layer.reads])
            kept = [unit for unit in range(self._network.layer(layer.reads).units) if unit not in gone]
            fit, selection = self._statistics(layer, removed, state)
            tried = []
            for damping in DAMPINGS:
                rows = refit(fit, kept, layer.columns_per_unit, damping=damping)
                tried.append(Refit(rows, damping, selection.error(rows)))
            self._refits[key] = min(tried, key=lambda one: one.error)
        return self._refits[key]

    def _statistics(self, layer: Layer, removed: Removed, state: Mapping[str, Tensor]) -> tuple[Statistics, Statistics]:
        """Moments of what a layer reads, on the fit and on the selection inputs.

        They depend on the units that are gone before the layer it reads; those of that layer itself must be present.
        """
        assert layer.reads is not None
        key = (layer.name, *self._lacking(removed, layer.reads))
        if key not in self._moments:
            fit, selection = (
                collect(
                    self._network, layer, inputs, current=state, dense=self._dense, positions=POSITIONS, cost=self._cost
                )
                for inputs in (self._fit, self._selection)
            )
            self._moments[key] = fit, selection
        return self._moments[key]

    def _lacking(self, removed: Removed, before: str) -> tuple[tuple[object, ...], ...]:
        """Units that are gone in the layers before a layer, as a key."""
        names = [layer.name for layer in self._network.layers]
        return tuple((name, *sorted(removed[name])) for name in names[: names.index(before)] if removed.get(name))


def plain(network: Network, removed: Removed) -> dict[str, Tensor]:
    """Weights with units zeroed and nothing made up for: the end point of naive pruning, a rival."""
    state = {name: tensor.detach().clone() for name, tensor in network.module.state_dict().items()}
    for layer in network.layers:
        if removed.get(layer.name):
            state = _without(state, layer, removed[layer.name])
    return state


def _with_rows(state: Mapping[str, Tensor], layer: Layer, rows: Tensor) -> dict[str, Tensor]:
    weight = state[layer.weight]
    changed = {layer.weight: rows[:, : layer.columns].to(weight.dtype).reshape(weight.shape)}
    if layer.bias is not None:
        changed[layer.bias] = rows[:, -1].to(weight.dtype)
    return {**state, **changed}


def _without(state: Mapping[str, Tensor], layer: Layer, units: Sequence[int]) -> dict[str, Tensor]:
    changed: dict[str, Tensor] = {}
    for name in (layer.weight, layer.bias):
        if name is not None:
            changed[name] = state[name].index_fill(0, torch.tensor(units), 0.0)
    return {**state, **changed}
