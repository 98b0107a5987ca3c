"""In words: which strategy is to be used where. Made from the figures, so that it cannot say what they do not."""

from __future__ import annotations

from typing import Any

from benchmarks.strategies_states import IN_PLACE

FIRST = ("naive", "zero-first", "ordered", "planned", "ramp", "geodesic", "linear")
"""From the simplest: of two that lose the same, the one that stands first is enough."""


def summary(found: list[dict[str, Any]], rivals: dict[str, Any]) -> list[str]:
    """A few sentences on each journey, then on kills."""
    lines: list[str] = []
    for what, of in rivals.items():
        flip, reload_ = of["flip"], of["reload"]
        lowest = min(of[name]["worst_loss"] for name in IN_PLACE if name in of)
        enough = next(
            name
            for name in FIRST
            if name in of and of[name]["worst_loss"] <= lowest + max(0.5, of[name]["interval"] / 2)
        )
        own, naive = of[enough], of["naive"]
        more = 100 * (flip["peak_bytes"] / own["peak_bytes"] - 1)
        wrong = {name: sum(of[name]["because_per_seed"]) for name in ("naive", enough, "planned")}
        lines += [
            f"{what}: where {more:.0f} % more weight memory is there, flip dominates: no mixed state, worst "
            f"{flip['worst_loss']:.1f} ± {flip['interval']:.1f} points (an end), {flip['times']:.1f} times the bytes "
            f"of the changed rows; reload {reload_['times']:.1f} times.",
            f"{what}, in place: {enough} is the simplest that is as good as any, worst {own['worst_loss']:.1f} ± "
            f"{own['interval']:.1f} points at {own['times']:.1f} times the bytes; naive {naive['worst_loss']:.1f}. Of "
            f"{sum(naive['requests_per_seed'])} requests, wrong because of the transition: "
            + ", ".join(f"{name} {number}" for name, number in wrong.items()) + ".",
        ]  # fmt: skip
    for one in found:
        for name, kills in one["kills"].get("strategies", {}).items():
            if kills["before"]:
                lines.append(
                    f"{one['network']}, seed {one['seed']}, killed while walking by {name}: {kills['walking']} of "
                    f"{kills['kills']} kills on the way, {kills['torn']} with a row half written; what was left lost "
                    f"at worst {max(kills['before']):.1f} points, after the repair {max(kills['after']):.1f}; "
                    f"{len(kills['unrepaired'])} not repaired."
                )
    return lines
