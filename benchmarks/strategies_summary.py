"""In words: which strategy is to be used where. Made from the figures, so that it cannot say what they do not."""

from __future__ import annotations

from typing import Any

from benchmarks.strategies_states import IN_PLACE

FIRST = ("naive", "zero-first", "ordered", "planned", "ramp", "geodesic", "linear")
"""From the simplest: of two that lose the same, the one that stands first is enough."""


BAR = 5.0
"""Per cent of the answers that are wrong because of the transition under ``naive``."""


def within(of: dict[str, Any]) -> list[str]:
    """Strategies that write in place and meet the bar, with the bytes that they take."""
    naive = sum(of["naive"]["because_per_seed"])
    return [
        f"{name} ({of[name]['times']:.1f} times the bytes)"
        for name in FIRST
        if name in of and 100 * sum(of[name]["because_per_seed"]) <= BAR * naive
    ]


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
            + ", ".join(f"{name} {number}" for name, number in wrong.items())
            + f". At most {BAR:g} % of naive's: {', '.join(within(of)) or 'none'}.",
        ]  # fmt: skip
    for (network, name), kills in kills_by_strategy(found).items():
        if kills["before"]:
            lines.append(
                f"{network}, killed while walking by {name}: {kills['walking']} of {kills['kills']} kills on the way, "
                f"{kills['torn']} with a row half written; what was left, and without a journal stays, lost at worst "
                f"{max(kills['before']):.1f} points, with that row written again {max(kills['after']):.1f}; "
                f"{len(kills['unrepaired'])} were not repaired or did not reach a mode afterwards."
            )
    return lines


def kills_by_strategy(found: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """What kills left by network and strategy, those of all planning seeds together."""
    together: dict[tuple[str, str], dict[str, Any]] = {}
    for one in found:
        for name, kills in one["kills"].get("strategies", {}).items():
            known = together.setdefault((one["network"], name), {})
            for key, value in kills.items():
                known[key] = known[key] + value if key in known else value
    return together
