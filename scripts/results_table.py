"""The README's table of modes, made from what the benchmarks wrote."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from device_profiles import GeoshiftError

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
HEAD = (
    "| network, mode | accuracy | points below C1 | multiply-accumulates | weights | one answer takes |\n"
    "|---|---|---|---|---|---|"
)


class ResultsError(GeoshiftError):
    """A benchmark's results are not what the table needs."""


def table(results: Path = RESULTS) -> str:
    """Accuracy, multiply-accumulates, bytes, latency of each mode: means over seeds, range of drops, median latency.

    Args:
        results: Folder of the benchmarks' JSON files; those that were not written yet are left out.

    Raises:
        ResultsError: A file lacks a figure.
    """
    rows: list[str] = []
    try:
        for name, rows_of in (("fig2d", _tour), ("deep", _deep)):
            path = results / f"{name}.json"
            if path.is_file():
                rows += rows_of(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, IndexError) as error:
        raise ResultsError(f"{results}: found no figure {error}, expected it: run the benchmarks again") from error
    return "\n".join([HEAD, *rows])


def _tour(record: dict[str, Any]) -> list[str]:
    per_seed = record["data"]["per_seed"]
    dense = per_seed[0]["modes"]["C1"]
    return [
        _row(
            f"VGG-11, {mode}",
            [100 * one["modes"][mode]["accuracy"] for one in per_seed],
            [one["modes"][mode]["drop"] for one in per_seed],
            per_seed[0]["modes"][mode]["macs"] / dense["macs"],
            per_seed[0]["modes"][mode]["weight_bytes"] / dense["weight_bytes"],
            [one["latency"][mode] for one in per_seed],
        )
        for mode in sorted(per_seed[0]["modes"])
    ]


def _deep(record: dict[str, Any]) -> list[str]:
    titles = {"vgg11": "VGG-11", "resnet8-wide": "ResNet-8, four times as wide"}
    rows = []
    for name, per_seed in record["data"]["networks"].items():
        drops = [one["drops"]["planned"]["points"] for one in per_seed]
        if name != "vgg11":  # whose C1 is the tour's
            dense = [100 * one["dense_accuracy"] for one in per_seed]
            rows.append(_row(f"{titles.get(name, name)}, C1", dense, [0.0], 1.0, 1.0, [1.0]))
        rows.append(
            _row(
                f"{titles.get(name, name)}, half the work",
                [100 * one["dense_accuracy"] - drop for one, drop in zip(per_seed, drops, strict=True)],
                drops,
                statistics.mean(one["macs"] for one in per_seed),
                statistics.mean(one["weights"] for one in per_seed),
                [one["latency"]["ratio"] for one in per_seed],
            )
        )
    return rows


def _row(
    name: str, accuracy: list[float], drops: list[float], macs: float, weights: float, latency: list[float]
) -> str:
    spread = f"{min(drops):.2f} to {max(drops):.2f}" if len({f"{one:.2f}" for one in drops}) > 1 else f"{drops[0]:.2f}"
    return (
        f"| {name} | {statistics.mean(accuracy):.2f} % | {spread} | {macs:.0%} | {weights:.0%} | "
        f"{statistics.median(latency):.0%} |"
    )
