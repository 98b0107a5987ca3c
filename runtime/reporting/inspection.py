"""A plan in figures, for people and for other tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from device_profiles import Profile
from device_profiles.figure import Origin
from runtime.plan import costs
from runtime.plan.bundle import Bundle
from runtime.plan.candidates import front, front_of_all, lengths
from runtime.plan.manifest import CostEntry, GridEntry, Manifest, ModeEntry


def summary(bundle: Bundle) -> dict[str, Any]:
    """What ``geoshift inspect --json`` prints; other tools rely on these keys. Accuracies are fractions."""
    manifest, profile = bundle.manifest, bundle.profile
    return {
        "path": str(bundle.path),
        "schema": manifest.schema,
        "release": manifest.release,
        "signed": bundle.signed,
        "model": manifest.model.id,
        "profile": profile.name,
        "trade_off": profile.trade_off,
        "provenance": {
            name: {field: msgspec.to_builtins(one) for field, one in used.items()}
            for name, used in costs.provenance(profile).items()
        },
        "dataset": manifest.planning.dataset,
        "seed": manifest.planning.seed,
        "modes": [
            {
                "name": mode.name,
                "description": mode.description,
                "accuracy": mode.accuracy,
                "macs": mode.macs,
                "weight_bytes": mode.weight_bytes,
                "divergence": mode.divergence,
                "nonzero_macs": mode.nonzero_macs,
                "sparse": None if mode.sparse is None else msgspec.to_builtins(mode.sparse),
                "source": mode.source,
                "power_w": costs.power_w(mode.macs, profile),
                "latency_ms": costs.latency_ms(mode.macs, profile),
                "removed_units": {
                    layer.name: layer.units - len(mode.kept[layer.name])
                    for layer in bundle.table.layers
                    if layer.name in mode.kept
                },
            }
            for mode in manifest.modes
        ],
        "transitions": [
            {
                "from": move.entry.from_,
                "to": move.entry.to,
                "strategy": move.entry.strategy,
                "min_accuracy": move.entry.min_accuracy,
                "worst_drop_points": move.entry.worst_drop_points,
                "torn_states": move.entry.torn_states,
                "chunks": move.entry.chunks,
                "blocks": list(move.entry.blocks),
                "bytes_written": move.entry.bytes_written,
                "cost": _cost(move.entry.cost),
                "cost_back": _cost(move.entry.cost_back),
                "functional_length": move.entry.functional_length,
                "certificate": None if move.entry.certificate is None else msgspec.to_builtins(move.entry.certificate),
                "waypoints": [
                    {
                        "position": waypoint.position,
                        "accuracy": waypoint.accuracy,
                        "functional_length": waypoint.functional_length,
                        "bytes": waypoint.bytes,
                    }
                    for waypoint in move.entry.waypoints
                ],
                "candidates": [
                    {
                        "name": one.name,
                        "strategy": one.strategy,
                        "feasible": one.feasible,
                        "complete": one.complete,
                        "chosen": one.chosen,
                        "front": on_front,
                        "front_of_all": on_all,
                        "worst_accuracy": one.worst_accuracy,
                        "worst_accuracy_bound": one.worst_accuracy_bound,
                        "worst_divergence": one.worst_divergence,
                        "bytes_written": one.bytes_written,
                        "cost": _cost(one.cost),
                        "functional_length": one.functional_length,
                        "fisher_length": lengths(one)[0],
                        "relaxed_fisher_length": lengths(one)[1],
                        "variation": None if one.variation is None else msgspec.to_builtins(one.variation),
                    }
                    for one, on_front, on_all in zip(
                        move.entry.candidates,
                        front(move.entry.candidates, profile.trade_off),
                        front_of_all(move.entry.candidates),
                        strict=True,
                    )
                ],
                "skipped": list(move.entry.skipped),
                "too_dear": list(move.entry.too_dear),
                "landscape": move.entry.landscape,
            }
            for move in bundle.transitions
        ],
        "grid": None
        if manifest.grid is UNSET
        else {
            **msgspec.to_builtins(manifest.grid),
            "row_bytes": {layer.name: layer.row_bytes for layer in bundle.table.layers},
        },
        "size_bytes": bundle.size_bytes,
        "dense_bytes": manifest.model.dense_bytes,
        "dense_accuracy": manifest.modes[0].accuracy,
        "epoch_equivalents": manifest.planning.epoch_equivalents,
        "seconds": manifest.planning.seconds,
    }


def _cost(cost: CostEntry | None) -> dict[str, Any] | None:
    return None if cost is None else msgspec.to_builtins(cost)


def notes(manifest: Manifest) -> list[str]:
    """What multiply-accumulates and bytes do not say of the weights' grid, and of modes that are sparse or given."""
    dense = manifest.modes[0]
    found = [] if manifest.grid is UNSET else [_of_grid(manifest.grid, dense)]
    found += [_of_zeros(mode, dense) for mode in manifest.modes if mode.sparse is not None]
    return found + [
        f"{mode.name} is another network; its checkpoint's SHA-256 is {mode.source}."
        for mode in manifest.modes
        if mode.source is not None
    ]


def _of_grid(entry: GridEntry, dense: ModeEntry) -> str:
    """What weights are stored as, and what the dense mode lost by it."""
    lost = 100 * (entry.unquantised_accuracy - dense.accuracy)
    return (
        f"Weights of {len(entry.layers)} layers are stored as {entry.grid}; biases as {entry.bias}. Bytes written are "
        f"the device's; weights held here are float32. {dense.name} answers {dense.accuracy:.2%} right, the float32 "
        f"network it was made from {entry.unquantised_accuracy:.2%} ({lost:+.2f} points lost)."
    )


def _of_zeros(mode: ModeEntry, dense: ModeEntry) -> str:
    """That zeros save nothing by themselves, and what they might."""
    assert mode.sparse is not None
    share, layers = mode.sparse.zeros / mode.sparse.weights, ", ".join(mode.sparse.layers)
    words = (
        f"{mode.name}: {share:.1%} of the weights of {layers} are zero. Dense kernels, such as those of ONNX Runtime, "
        "multiply by zeros too and save nothing."
    )
    if mode.nonzero_macs is None or not dense.macs:
        return words
    return (
        f"{words} Hardware that skips zeros would compute {mode.nonzero_macs / dense.macs:.1%} of {dense.name}'s "
        "multiply-accumulates."
    )


TRADE_OFFS: Final[Mapping[str, str]] = {
    "bytes": "the fewest bytes",
    "seconds": "the fewest seconds",
    "energy": "the least energy",
    "wear": "the least wear of one row",
    "accuracy": "a worst state as good as any, then the straightest way",
}
"""What the planner looks for among paths within the guard, by the profile's trade-off."""
COLUMNS: Final = ("bytes", "increments", "time", "energy", "writes of a row", "wear there and back", "retries")
_FIELDS: Final = ("bytes", "increments", "seconds", "joules", "cell_writes", "wear", "retries")
_NAMES: Final[Mapping[str, str]] = {
    **dict(zip(_FIELDS, COLUMNS, strict=True)), "transitions_left": "walks until worn out", "power_w": "power",
    "latency_ms": "latency",
}  # fmt: skip
ASSUMED: Final = "*"
"""Follows what rests on a figure that the profile says is assumed."""
ASSUMED_WORDS: Final = "rests on a figure that the profile says is assumed"


def cost_words(cost: CostEntry) -> tuple[str, ...]:
    """A walk's cost in the order of ``COLUMNS``, with a mark on what rests on an assumed figure."""
    again, left = cost.retries, cost.transitions_left
    words = {
        "bytes": f"{cost.bytes:,}",
        "increments": f"{cost.increments:,}",
        "seconds": _quantity(cost.seconds, "s"),
        "joules": _quantity(cost.joules, "J"),
        "cell_writes": f"{cost.cell_writes:,}",
        "wear": "-" if cost.wear is None else f"{cost.wear:.2g} ({'no row' if left is None else f'{left:,} walks'})",
        "retries": "-" if again is None else f"{again.bytes:,.0f} bytes, {_quantity(again.seconds, 's')}",
    }
    return tuple(words[name] + (ASSUMED if name in cost.assumed else "") for name in _FIELDS)


def mode_words(macs: int, profile: Profile) -> tuple[str, str]:
    """Watts and milliseconds that the profile predicts of a mode, marked likewise."""
    marks = {name: _assumed(used) for name, used in costs.provenance(profile).items()}
    watts, latency = costs.power_w(macs, profile), costs.latency_ms(macs, profile)
    return (
        _quantity(watts, "W") + (ASSUMED if watts is not None and marks.get("power_w") else ""),
        "-" if latency is None else f"{latency:.3g} ms" + (ASSUMED if marks.get("latency_ms") else ""),
    )


def origins(profile: Profile) -> list[str]:
    """One line for each prediction: the profile's figures that it rests on, and where they come from."""
    return [
        f"{_NAMES[name]}{ASSUMED if _assumed(used) else ''}: "
        + "; ".join(f"{field} {one.provenance}: {one.source}" for field, one in used.items())
        for name, used in costs.provenance(profile).items()
    ]


def _assumed(used: Mapping[str, Origin]) -> bool:
    return any(one.provenance == "assumed" for one in used.values())


def _quantity(value: float | None, unit: str) -> str:
    """A value with three digits and a prefix."""
    if value is None:
        return "-"
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if value >= factor:
            return f"{value / factor:,.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
