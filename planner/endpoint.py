"""Where the paths lead: the cheaper configurations, compensated so that they answer like the dense network.

A configuration is a pure function of the units it lacks. Layer by layer in forward order, a layer that reads removed
units is refitted against what the dense network computes there, on what it will really read: errors of earlier layers
are corrected, not handed on. So C3 planned by way of C2 and C3 planned at once are the same network, and two modes
that lack the same units up to a layer share its rows.

Layers whose units are tied lose them together: a unit is chosen by what all of its readers lose, and `removed` names
every member of the group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from device_profiles.errors import GeoshiftError
from planner.compensation import eliminate_jointly, refit_columns
from planner.cost import CostMeter
from planner.gram import Statistics, collect
from planner.modes import ModeTarget
from planner.network import Layer, Network
from planner.sweep import Reading

DAMPINGS = (1e-6, 1e-4, 1e-2, 1e-1)
"""Candidates for the ridge, relative to the mean diagonal of G; held-out error decides. The first three were chosen for
some refit of the digits and MNIST networks, and 1e-2 for all of VGG-11's with 1,000 images. That two decades are close
enough together was not measured."""

ORDER_DAMPINGS = (1e-4, 1e-2)
"""Candidates for the ridge while units are chosen, which takes far longer than a refit: half a minute of one core for
1,000 of 4,096 units."""

POSITIONS = 32
"""Output positions drawn of each image; neighbouring patches overlap and say nearly the same. On the MNIST network's
second layer, 32 of the 64 took half the time and raised the held-out error of the refit by 0.4 %."""

POLISH_FROM = 3e-3
"""Relative squared error of a refit on selection inputs below which it is left as it is. VGG-11 without 20 of its 64
first-layer filters had 0.0018, and lost nothing on 3,000 selection images. With 50 gone it was
0.058, and 1.7 points were lost."""

Removed = Mapping[str, tuple[int, ...]]
"""Layer name to the units it lacks, the first removed first."""

Polish = Callable[["EndPoint", Sequence[str]], "EndPoint"]
"""Given a configuration and the names of layers whose rows may change: the configuration with better rows."""


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
        removed: Units it lacks; layers whose units are tied lack the same.
        tensors: All weights and buffers by state-dict key; rows of removed units are zero.
        refits: Layer name to its refit, for every layer that reads removed units.
    """

    mode: str
    removed: Removed
    tensors: Mapping[str, Tensor]
    refits: Mapping[str, Refit]

    def kept(self, layer: Layer) -> list[int]:
        """Units of a layer that are present."""
        return _kept(layer, self.removed)

    def kept_columns(self, layer: Layer) -> list[int]:
        """Weight columns of a layer that do not belong to units that are gone."""
        return _kept_columns(layer, self.removed)


class EndPointSearch:
    """Finds and builds configurations; remembers refits, so that modes share them.

    Args:
        network: The dense network.
        fit: Inputs that rows are fitted on, float32 [N, ...].
        selection: Inputs that units and damping are chosen on, float32 [M, ...].
        cost: Counts what is spent.
        orders: Units of some groups in the order of their removal, where that is settled already; the others' are
            chosen on what each reader will really read.
        polish: Improves the rows of the layers named in a configuration that lacks units only before them; None to
            leave them as the least squares made them.
    """

    def __init__(
        self,
        network: Network,
        fit: Tensor,
        selection: Tensor,
        cost: CostMeter,
        orders: Mapping[str, tuple[int, ...]] | None = None,
        polish: Polish | None = None,
    ) -> None:
        self._network = network
        self._fit = fit
        self._selection = selection
        self._cost = cost
        self._orders = orders or {}
        self._polish = polish
        self._polished: dict[tuple[object, ...], EndPoint] = {}
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
            removed = _by_group(self._network, found[target.from_].removed if target.from_ is not None else {})
            counts = {self._network.layer(layer).group: count for layer, count in target.removed.items()}
            for layer in self._network.layers:
                if layer.group != layer.name:
                    continue
                wanted, have = counts.get(layer.name, 0), len(removed.get(layer.name, ()))
                if wanted < have:
                    # The last removed come back: the sets of one elimination are nested.
                    removed[layer.name] = removed[layer.name][:wanted]
                elif wanted > have:
                    removed[layer.name] = self._remove_more(removed, layer, wanted)
            found[name] = self.build(name, {layer: units for layer, units in removed.items() if units})
        return found

    def build(self, mode: str, removed: Removed) -> EndPoint:
        """The configuration that lacks the given units.

        Args:
            mode: Its name.
            removed: Layer name to units; one member stands for all of its group.

        Raises:
            EndPointError: Two members of a group are to lack different units.
        """
        state = dict(self._dense)
        present = dict(self._dense)  # the same, but with the rows of removed units as they would be if present
        refits: dict[str, Refit] = {}
        removed = _by_member(self._network, removed)
        for layer in self._network.layers:
            if any(removed.get(source.group) for source in layer.sources):
                refits[layer.name] = self._refit(layer, removed, self._before(layer, state, present))
                state = _with_rows(state, layer, refits[layer.name].rows)
                present = _with_rows(present, layer, refits[layer.name].rows)
            if removed.get(layer.name):
                state = _without(state, layer, removed[layer.name])
            if self._polish is not None and layer.name in refits:
                better = self._better_rows(layer, removed, state, present, refits, self._polish)
                dense, state, present = present, {**state, **better}, {**present, **better}
                for other in self._network.layers:
                    if other.weight in better and other.name in removed:
                        state = _without(state, other, removed[other.name])
                        if other.name not in refits:
                            present = _with_units_of(present, dense, other, removed[other.name])
        return EndPoint(mode, removed, state, refits)

    def _better_rows(
        self,
        layer: Layer,
        removed: Removed,
        state: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        refits: Mapping[str, Refit],
        polish: Polish,
    ) -> dict[str, Tensor]:
        """Better rows for the readers of the groups that a layer is the last to read; none where it is not.

        The units that are left of these groups get better rows too where writing them takes no more bytes than writing
        the readers: 14 filters of 28 numbers cost nothing beside 128 rows that read them, and together they recover
        more. Only these groups and those finished before are gone, and what comes behind is dense. So the rows depend
        on nothing but the units that are gone before.
        """
        names = [other.name for other in self._network.layers]
        behind = set(names[names.index(layer.name) + 1 :])
        finished = {
            other.group for other in self._network.layers if removed.get(other.name) and not behind & {*other.readers}
        }
        ending = finished & {source.group for source in layer.sources}
        refitted = map(self._network.layer, refits)
        readers = [reader for reader in refitted if {source.group for source in reader.sources} & ending]
        if max((refits[reader.name].error for reader in readers), default=0.0) < POLISH_FROM:
            return {}
        sources = [one for one in self._network.layers if one.group in ending and one.name not in refits]
        if sum(map(_row_numbers, sources)) > sum(map(_row_numbers, readers)):
            sources = []
        if not sources and not any(reader.readers for reader in readers):
            return {}  # the least squares of the output layer are what polishing would minimise
        changing = (*sources, *readers)
        tensors = [name for one in changing for name in (one.weight, one.bias) if name is not None]
        gone = {name: units for name, units in removed.items() if self._network.layer(name).group in finished}
        key = (layer.name, *self._lacking(gone, layer))
        if key not in self._polished:
            own = dict(present)
            for name in gone:
                own = _without(own, self._network.layer(name), gone[name])
            end = EndPoint("", gone, own, dict(refits))
            self._polished[key] = polish(end, [one.name for one in changing])
        return {name: self._polished[key].tensors[name] for name in tensors}

    def _before(self, layer: Layer, state: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State in which all units that a layer reads are there.

        What the present units compute does not depend on which of their neighbours are gone, so these activations
        serve every choice among the units.
        """
        members = [member for source in layer.sources for member in self._network.members(source.group)]
        names = [name for member in members for name in (member.weight, member.bias) if name is not None]
        return {**state, **{name: present[name] for name in names}}

    def _remove_more(self, removed: Removed, layer: Layer, wanted: int) -> tuple[int, ...]:
        """Units to remove from a group, those gone already first; damping and with it the units by held-out error.

        Every reader is asked on what it would read with all units of the group there. That its own columns make up
        for what readers before it could not is left to the refit.
        """
        if not layer.readers:
            raise EndPointError(f"layer {layer.name}: found no layer that reads its units, expected at least one")
        removed = _by_member(self._network, removed)
        gone = removed.get(layer.name, ())
        settled = (*gone, *(unit for unit in self._orders.get(layer.name, ()) if unit not in set(gone)))
        if len(settled) >= wanted:
            return settled[:wanted]
        others = {name: units for name, units in removed.items() if self._network.layer(name).group != layer.group}
        whole = self.build("", others).tensors
        readings: list[tuple[Reading, Statistics]] = []
        for reader in map(self._network.layer, layer.readers):
            columns = torch.tensor([reader.columns_of(layer.group, [unit]) for unit in range(layer.units)])
            stay = sorted(set(_kept_columns(reader, others)) - set(columns.flatten().tolist()))
            rows = _kept(reader, removed)
            fit, selection = (one.only(rows) for one in self._statistics(reader, others, whole))
            readings.append((Reading(fit, columns, torch.tensor(stay, dtype=torch.long)), selection))
        best: tuple[float, tuple[int, ...]] | None = None
        for damping in ORDER_DAMPINGS:
            order = eliminate_jointly(
                [reading for reading, _ in readings],
                wanted - len(gone),
                damping=damping,
                start_kept=_kept(layer, removed),
            ).order
            units = (*gone, *order)
            kept = [unit for unit in range(layer.units) if unit not in set(units)]
            error = 0.0
            for reading, selection in readings:
                columns = torch.cat([reading.columns[kept].flatten(), reading.others]).sort().values
                error += selection.error(refit_columns(reading.stats, columns, damping=damping))
            if best is None or error < best[0]:
                best = error, units
        assert best is not None
        return best[1]

    def _refit(self, layer: Layer, removed: Removed, state: Mapping[str, Tensor]) -> Refit:
        """Rows of a layer that reads removed units; the same for the same units before it."""
        key = (layer.name, *self._lacking(removed, layer))
        if key not in self._refits:
            columns = torch.tensor(_kept_columns(layer, removed))
            fit, selection = self._statistics(layer, removed, state)
            tried = []
            for damping in DAMPINGS:
                rows = refit_columns(fit, columns, damping=damping)
                tried.append(Refit(rows, damping, selection.error(rows)))
            self._refits[key] = min(tried, key=lambda one: one.error)
        return self._refits[key]

    def _statistics(self, layer: Layer, removed: Removed, state: Mapping[str, Tensor]) -> tuple[Statistics, Statistics]:
        """Moments of what a layer reads, on the fit and on the selection inputs.

        They depend on the units that are gone before it. Those that it reads are present, and make a difference only
        if a layer before it reads them too, and was refitted without them.
        """
        own = {source.group for source in layer.sources}
        first = {name for name in own if self._network.layer(name).readers[0] == layer.name}
        before = {name: units for name, units in removed.items() if name not in first}
        key = (layer.name, *self._lacking(before, layer))
        if key not in self._moments:
            fit, selection = (
                collect(
                    self._network, layer, inputs, current=state, dense=self._dense, positions=POSITIONS, cost=self._cost
                )
                for inputs in (self._fit, self._selection)
            )
            self._moments[key] = fit, selection
        return self._moments[key]

    def _lacking(self, removed: Removed, layer: Layer) -> tuple[tuple[object, ...], ...]:
        """Units that are gone in groups that begin before a layer, as a key."""
        names = [other.name for other in self._network.layers]
        return tuple(
            (other.name, *sorted(removed[other.name]))
            for other in self._network.layers[: names.index(layer.name)]
            if other.group == other.name and removed.get(other.name)
        )


def _kept(layer: Layer, removed: Removed) -> list[int]:
    gone = set(removed.get(layer.name, ()))
    return [unit for unit in range(layer.units) if unit not in gone]


def _kept_columns(layer: Layer, removed: Removed) -> list[int]:
    gone = {
        column
        for group in {source.group for source in layer.sources}
        for column in layer.columns_of(group, removed.get(group, ()))
    }
    return [column for column in range(layer.columns) if column not in gone]


def _by_group(network: Network, removed: Removed) -> dict[str, tuple[int, ...]]:
    """Removed units by the first layer of each group."""
    by_group: dict[str, tuple[int, ...]] = {}
    for name, units in removed.items():
        group = network.layer(name).group
        if set(by_group.setdefault(group, units)) != set(units):
            raise EndPointError(
                f"layer {name}: units {sorted(units)} are to be removed, but {sorted(by_group[group])} from {group}, "
                "whose units are tied to them; expected the same units, or only one of the two to be named"
            )
    return by_group


def _by_member(network: Network, removed: Removed) -> dict[str, tuple[int, ...]]:
    """Removed units by layer, every member of a group named."""
    by_group = _by_group(network, removed)
    return {layer.name: by_group[layer.group] for layer in network.layers if layer.group in by_group}


def plain(network: Network, removed: Removed) -> dict[str, Tensor]:
    """Weights with units zeroed and nothing made up for: the end point of naive pruning, a rival."""
    state = {name: tensor.detach().clone() for name, tensor in network.module.state_dict().items()}
    for layer in network.layers:
        units = _by_member(network, removed).get(layer.name)
        state = _without(state, layer, units) if units else state
    return state


def _with_rows(state: Mapping[str, Tensor], layer: Layer, rows: Tensor) -> dict[str, Tensor]:
    weight = state[layer.weight]
    changed = {layer.weight: rows[:, : layer.columns].to(weight.dtype).reshape(weight.shape)}
    if layer.bias is not None:
        changed[layer.bias] = rows[:, -1].to(weight.dtype)
    return {**state, **changed}


def _with_units_of(
    state: Mapping[str, Tensor], other: Mapping[str, Tensor], layer: Layer, units: Sequence[int]
) -> dict[str, Tensor]:
    """The state with some rows of a layer as they stand in another."""
    changed: dict[str, Tensor] = {}
    for name in (layer.weight, layer.bias):
        if name is not None:
            changed[name] = state[name].index_copy(0, torch.tensor(units), other[name][list(units)])
    return {**state, **changed}


def _row_numbers(layer: Layer) -> int:
    """Numbers in all rows of a layer."""
    return layer.units * (layer.columns + (layer.bias is not None))


def _without(state: Mapping[str, Tensor], layer: Layer, units: Sequence[int]) -> dict[str, Tensor]:
    changed: dict[str, Tensor] = {}
    for name in (layer.weight, layer.bias):
        if name is not None:
            changed[name] = state[name].index_fill(0, torch.tensor(units), 0.0)
    return {**state, **changed}
