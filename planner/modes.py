"""What each mode of a profile comes to on a given network: units that are removed, layers that are made sparse.

A profile speaks of fractions and roles, so that one profile fits many networks; a plan needs numbers of units by
layer name. Modes build on each other through `from`, so the numbers do too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from device_profiles.errors import GeoshiftError
from device_profiles.schema import Change, Mode, Profile, Selector
from planner.device_target import Allocate, has_target, towards
from planner.network import Layer, Network, removable


class ModeError(GeoshiftError):
    """A mode of the profile does not fit the network."""


@dataclass(frozen=True)
class Sparsity:
    """How much of which layers is zero.

    Attributes:
        share: Share of their weights, all of these layers together, of those that the mode's removals leave.
        layers: Their names, in forward order.
    """

    share: float
    layers: tuple[str, ...]


@dataclass(frozen=True)
class ModeTarget:
    """What one mode comes to on a network.

    Attributes:
        mode: Name of the mode.
        from_: The mode it is made from, None for the dense one.
        removed: Number of units that are gone, by layer name in forward order; layers that keep all are left out. Of
            layers whose units are tied, the first stands for all.
        sparsity: What is zero besides, None where nothing is asked for.
        given: Whether it is another network, whose weights come from a file.
    """

    mode: str
    from_: str | None
    removed: Mapping[str, int]
    sparsity: Sparsity | None = None
    given: bool = False


def resolve(profile: Profile, network: Network, allocate: Allocate | None = None) -> dict[str, ModeTarget]:
    """Count the removed units of every mode.

    A fraction to remove is of the layer's units in the dense network, one to restore of the units that are gone at
    that point; both are rounded half up, and are at least one unit. A count over several layers is divided in
    proportion to what it is taken from, largest remainder first. Removals come before restorations, and both before a
    target for multiply-accumulates, which watts and milliseconds are turned into by the profile's figures.

    Args:
        profile: The device profile.
        network: The network the modes are for.
        allocate: Divides a target for multiply-accumulates among the layers; needed where a mode has one.

    Returns:
        A target per mode, every mode after the one it is made from.

    Raises:
        ModeError: a mode names a layer that is missing or fixed, or asks for more units than there are.
        TargetError: a mode has a target that cannot be had on the device.
    """
    targets: dict[str, ModeTarget] = {}
    while len(targets) < len(profile.modes):
        ready = {
            name: mode
            for name, mode in profile.modes.items()
            if name not in targets and (mode.from_ is None or mode.from_ in targets)
        }
        if not ready:
            stuck = ", ".join(name for name in profile.modes if name not in targets)
            raise ModeError(
                f"profile {profile.name!r}: modes {stuck} do not lead back to the dense mode; expected every 'from' to "
                "name another mode, without a cycle: correct it"
            )
        for name, mode in ready.items():
            targets[name] = _target(profile, network, name, mode, targets, allocate)
    return targets


def _target(
    profile: Profile,
    network: Network,
    name: str,
    mode: Mode,
    targets: Mapping[str, ModeTarget],
    allocate: Allocate | None,
) -> ModeTarget:
    removed = {layer.name: 0 for layer in network.layers}
    if mode.from_ is not None:
        removed |= targets[mode.from_].removed
    for kind, changes in (("remove", mode.remove), ("restore", mode.restore)):
        for place, change in enumerate(changes):
            where = f"profile {profile.name!r}, mode {name!r}, {kind}[{place}]"
            chosen = _select(network, change.layer, where)
            count = _removals if kind == "remove" else _restorations
            step = count(change, chosen, removed, where)
            for layer, units in step.items():
                removed[layer] += units
    gone = {layer: units for layer, units in removed.items() if units}
    if has_target(mode):
        if allocate is None:
            raise ModeError(
                f"profile {profile.name!r}, mode {name!r}: found a target of "
                f"{mode.macs or mode.watts or mode.latency_ms:g}, expected an allocation to divide it among the "
                "layers: give `allocate`"
            )
        removed |= towards(profile, network, name, mode, gone, allocate)
    left = {layer: units for layer, units in removed.items() if units}
    return ModeTarget(name, mode.from_, left, _sparsity(profile, network, name, mode), mode.weights is not None)


def _sparsity(profile: Profile, network: Network, name: str, mode: Mode) -> Sparsity | None:
    """What a mode says of zeros; any layer can be made sparse, those whose units cannot be removed too."""
    if mode.sparsity is None:
        return None
    chosen = {layer.name for layer in network.layers}
    if mode.sparse_layers:
        chosen = set()
        for place, selector in enumerate(mode.sparse_layers):
            where = f"profile {profile.name!r}, mode {name!r}, sparse_layers[{place}]"
            chosen |= {layer.name for layer in _select_any(network, selector, where)}
    return Sparsity(mode.sparsity, tuple(layer.name for layer in network.layers if layer.name in chosen))


def _select_any(network: Network, selector: Selector, where: str) -> tuple[Layer, ...]:
    """The layers a selector stands for among all layers."""
    if selector.name is not None:
        found = tuple(layer for layer in network.layers if layer.name == selector.name)
        if not found:
            raise ModeError(
                f"{where}: no layer {selector.name!r}; expected one of {_names(network.layers)}: correct the name"
            )
        return found
    of_role = tuple(layer for layer in network.layers if layer.role == selector.role)
    if not of_role:
        raise ModeError(
            f"{where}: no {selector.role} layer; expected at least one: choose another role or one of the layers "
            f"{_names(network.layers)}"
        )
    return of_role if selector.position is None else (_at(of_role, selector.position, f"{selector.role} layer", where),)


def _at(layers: tuple[Layer, ...], position: int, what: str, where: str) -> Layer:
    """The layer at a position that counts from 1, or from -1 backwards."""
    if not 1 <= abs(position) <= len(layers):
        raise ModeError(
            f"{where}: {what} {position} does not exist; expected 1 to {len(layers)}, or -1 for the last, of "
            f"{_names(layers)}: correct the position"
        )
    return layers[position - 1 if position > 0 else position]


def _select(network: Network, selector: Selector, where: str) -> tuple[Layer, ...]:
    """The layers a selector stands for."""
    free = removable(network)
    if selector.name is not None:
        found = [layer for layer in network.layers if layer.name == selector.name]
        if not found:
            raise ModeError(
                f"{where}: no layer {selector.name!r}; expected one whose units can be removed ({_names(free)}): "
                "correct the name"
            )
        if found[0].why_fixed is not None:
            raise ModeError(
                f"{where}: the units of layer {selector.name!r} cannot be removed: {found[0].why_fixed}; expected "
                f"one of {_names(free)}: choose another layer"
            )
        return (network.layer(found[0].group),)
    of_role = tuple(layer for layer in free if layer.role == selector.role)
    if not of_role:
        raise ModeError(
            f"{where}: no {selector.role} layer whose units can be removed; expected at least one: choose another role "
            f"or one of the layers {_names(free)}"
        )
    if selector.position is None:
        return of_role
    return (_at(of_role, selector.position, f"{selector.role} layer", where),)


def _removals(change: Change, chosen: Sequence[Layer], removed: Mapping[str, int], where: str) -> dict[str, int]:
    """Units to add to what is removed, by layer."""
    if change.count is None:
        step = {layer.name: _share(change, layer.units) for layer in chosen}
    else:
        step = _divide(change.count, {layer.name: layer.units for layer in chosen})
    for layer in chosen:
        present = layer.units - removed[layer.name]
        if step[layer.name] >= present:
            raise ModeError(
                f"{where}: {_units(step[layer.name])} of layer {layer.name!r} to remove; expected at most "
                f"{present - 1}, as {present} of its {layer.units} are there and one must stay: remove fewer"
            )
    return step


def _restorations(change: Change, chosen: Sequence[Layer], removed: Mapping[str, int], where: str) -> dict[str, int]:
    """Units to add to what is removed, by layer; negative."""
    gone = {layer.name: removed[layer.name] for layer in chosen if removed[layer.name]}
    there = sum(gone.values())
    if there < (change.count or 1):
        asked = _units(change.count) if change.count else f"a fraction {change.fraction:g} of the removed units"
        raise ModeError(
            f"{where}: {asked} of {_names(chosen)} to restore; expected at most the {there} that are removed there: "
            "restore fewer, or remove some in the mode it is made from"
        )
    step = _divide(change.count, gone) if change.count else {name: _share(change, n) for name, n in gone.items()}
    return {name: -units for name, units in step.items()}


def _share(change: Change, whole: int) -> int:
    """The change's fraction of a number of units, rounded half up, at least 1."""
    # Decimal of the number as it is written: 0.35 of 30 is 10.5 and not what 0.35 in binary makes of it.
    exact = Decimal(repr(change.fraction)) * whole
    return max(1, int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP)))


def _divide(count: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Divide a count in proportion to sizes; what rounding leaves goes to the largest remainders, first layer first."""
    whole = sum(sizes.values())
    shares = {name: count * size // whole for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: count * sizes[name] % whole, reverse=True)
    for name in by_remainder[: count - sum(shares.values())]:
        shares[name] += 1
    return shares


def _units(count: int) -> str:
    return "1 unit" if count == 1 else f"{count} units"


def _names(layers: Sequence[Layer]) -> str:
    return ", ".join(layer.name for layer in layers) or "none"
