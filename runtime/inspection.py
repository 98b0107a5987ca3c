"""A plan in figures, for people and for other tools."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from runtime.bundle import Bundle
from runtime.candidates import front, lengths
from runtime.manifest import GridEntry, Manifest, ModeEntry


def summary(bundle: Bundle) -> dict[str, Any]:
    """What ``geoshift inspect --json`` prints; other tools rely on these keys. Accuracies are fractions."""
    manifest = bundle.manifest
    return {
        "path": str(bundle.path),
        "schema": manifest.schema,
        "release": manifest.release,
        "signed": bundle.signed,
        "model": manifest.model.id,
        "profile": bundle.profile.name,
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
                        "worst_accuracy": one.worst_accuracy,
                        "worst_accuracy_bound": one.worst_accuracy_bound,
                        "worst_divergence": one.worst_divergence,
                        "bytes_written": one.bytes_written,
                        "functional_length": one.functional_length,
                        "fisher_length": lengths(one)[0],
                        "relaxed_fisher_length": lengths(one)[1],
                        "variation": None if one.variation is None else msgspec.to_builtins(one.variation),
                    }
                    for one, on_front in zip(move.entry.candidates, front(move.entry.candidates), strict=True)
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
