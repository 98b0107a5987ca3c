"""Where the paths lead: the cheaper configurations, compensated so that they answer like the dense network.

Layer by layer in forward order, a layer that reads removed units is refitted against what the dense network computes
there, on what it will really read: errors of earlier layers are corrected, not handed on. So C3 planned by way of C2
and C3 planned at once are the same network, and two modes that lack the same units up to a layer share its rows.

A unit is chosen by what all of its readers lose. Few units that are left are trained with their readers, and then sit
where nothing reads them on the way, see `planner.seats`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from planner.compensation import eliminate_jointly, refit_columns
from planner.cost import CostMeter
from planner.endpoint import (
    EndPoint,
    EndPointError,
    Refit,
    Removed,
    by_group,
    by_member,
    present_columns,
    present_units,
    with_rows,
    with_units_of,
    without,
)
from planner.gram import Statistics, collect
from planner.modes import ModeTarget
from planner.network import Layer, Network
from planner.seats import best_seats, reseat, taken_seats
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

Polish = Callable[["EndPoint", Sequence[str]], "EndPoint"]
"""Given a configuration and the names of layers whose rows may change: the configuration with better rows."""


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
            removed = by_group(self._network, found[target.from_].lacking if target.from_ is not None else {})
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
        end = self._build(mode, removed, self._polish)
        for layer in self._network.layers:
            seats = best_seats(end, layer)
            if seats is not None and self._trained_anew(layer, end):
                end = reseat(self._network, end, layer, seats)
        return end

    def between(self, begin: EndPoint, end: EndPoint) -> EndPoint | None:
        """A configuration to pass on the way from one to the other, None where none is needed.

        Where a unit of the one sits in the place of a unit of the other, it is given up first: that configuration lacks
        these places besides, compensated like any other.
        """
        if begin.free or end.free:
            return None  # all units are others, and a network that lacks them all is none
        clashes = taken_seats(self._network, begin, end)
        if not clashes:
            return None
        plain = [one for one in (begin, end) if one.lacks is None]
        if len(plain) != 1:
            return None  # units of both were trained: nothing between the two can be built from the dense network
        lacking = {**plain[0].lacking}
        for name, units in clashes.items():
            have = lacking.get(name, ())
            lacking[name] = (*have, *(unit for unit in units if unit not in set(have)))
        return self._build(f"{begin.mode} → {end.mode}", lacking, None)

    def _trained_anew(self, layer: Layer, end: EndPoint) -> bool:
        """Whether the units that are left of a layer are not those of the dense network, though it reads the same."""
        kept = end.kept(layer)
        own, dense = end.tensors[layer.weight][kept], self._dense[layer.weight][kept]
        return layer.name not in end.refits and not torch.equal(own, dense)

    def _build(self, mode: str, removed: Removed, polish: Polish | None) -> EndPoint:
        """The configuration with all units in their own seats."""
        state = dict(self._dense)
        present = dict(self._dense)  # the same, but with the rows of removed units as they would be if present
        refits: dict[str, Refit] = {}
        removed = by_member(self._network, removed)
        for layer in self._network.layers:
            if any(removed.get(source.group) for source in layer.sources):
                refits[layer.name] = self._refit(layer, removed, self._before(layer, state, present))
                state = with_rows(state, layer, refits[layer.name].rows)
                present = with_rows(present, layer, refits[layer.name].rows)
            if removed.get(layer.name):
                state = without(state, layer, removed[layer.name])
            if polish is not None and layer.name in refits:
                better = self._better_rows(layer, removed, state, present, refits, polish)
                dense, state, present = present, {**state, **better}, {**present, **better}
                for other in self._network.layers:
                    if other.weight in better and other.name in removed:
                        state = without(state, other, removed[other.name])
                        if other.name not in refits:
                            present = with_units_of(present, dense, other, removed[other.name])
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

        The units that are left of these groups get better rows too where that takes no more bytes than the readers'
        do, and where there are free seats for them: 14 filters of 28 numbers cost nothing beside 128 rows that read
        them, and together they recover more. Only these groups and those finished before are gone, and what comes
        behind is dense. So the rows depend on nothing but the units that are gone before.
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
        sources = [one for one in self._network.layers if one.group in ending and self._may_train(one, removed, refits)]
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
                own = without(own, self._network.layer(name), gone[name])
            end = EndPoint("", gone, own, dict(refits))
            self._polished[key] = polish(end, [one.name for one in changing])
        return {name: self._polished[key].tensors[name] for name in tensors}

    def _may_train(self, layer: Layer, removed: Removed, refits: Mapping[str, Refit]) -> bool:
        """Whether units that are left may be trained: alone in their group, and with free seats for all of them."""
        alone = self._network.members(layer.group) == (layer,)
        return alone and layer.name not in refits and 2 * len(removed.get(layer.name, ())) >= layer.units

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
        removed = by_member(self._network, removed)
        gone = removed.get(layer.name, ())
        settled = (*gone, *(unit for unit in self._orders.get(layer.name, ()) if unit not in set(gone)))
        if len(settled) >= wanted:
            return settled[:wanted]
        others = {name: units for name, units in removed.items() if self._network.layer(name).group != layer.group}
        whole = self._build("", others, self._polish).tensors
        readings: list[tuple[Reading, Statistics]] = []
        for reader in map(self._network.layer, layer.readers):
            columns = torch.tensor([reader.columns_of(layer.group, [unit]) for unit in range(layer.units)])
            stay = sorted(set(present_columns(reader, others)) - set(columns.flatten().tolist()))
            rows = present_units(reader, removed)
            fit, selection = (one.only(rows) for one in self._statistics(reader, others, whole))
            readings.append((Reading(fit, columns, torch.tensor(stay, dtype=torch.long)), selection))
        best: tuple[float, tuple[int, ...]] | None = None
        for damping in ORDER_DAMPINGS:
            order = eliminate_jointly(
                [reading for reading, _ in readings],
                wanted - len(gone),
                damping=damping,
                start_kept=present_units(layer, removed),
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
            columns = torch.tensor(present_columns(layer, removed))
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


def _row_numbers(layer: Layer) -> int:
    """Numbers in all rows of a layer."""
    return layer.units * (layer.columns + (layer.bias is not None))
