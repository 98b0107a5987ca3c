"""Which strategy a device should use, by what a trace showed; ``plain`` is never it."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.simulation.result import Choice, StrategyOutcome

RULE = (
    "The fewest requests harmed (refused, late, or wrong because of the transition); of equals, the most switches "
    "brought to their end, then the fewest bytes written, then the least memory. A strategy that brings fewer than "
    "half as many switches to their end as the quickest is too slow, and is not considered."
)


def choose(outcomes: Mapping[str, StrategyOutcome], left_out: Mapping[str, str]) -> Choice | None:
    """The strategy that harms the fewest requests, by ``RULE``; None if none was played."""
    # Whose modes answer worse than the plan's is no way of reaching them.
    considered = [name for name in outcomes if name != "plain"]
    most = max((outcomes[name].switches for name in considered), default=0)
    slow = [name for name in considered if 2 * outcomes[name].switches < most]
    ranked = sorted((name for name in considered if name not in slow), key=lambda name: _cost(outcomes[name]))
    if not ranked:
        return None
    best, won = ranked[0], outcomes[ranked[0]]
    words = [f"{best} harmed {_of(won)}"]
    if twins := [name for name in ranked[1:] if _same(won, outcomes[name])]:
        words.append(f"{' and '.join(twins)} did the same, write by write")
    # The stored path may be one of the others by another name; that is no rival.
    rival = next((name for name in ranked[1:] if not _same(won, outcomes[name])), None)
    if rival is not None:
        other = outcomes[rival]
        if other.harmed != won.harmed:
            words.append(f"{rival}, the next best, {_of(other)}")
        elif other.switches != won.switches:
            words.append(
                f"{rival} harmed as many and brought {other.switches} switches to their end, not {won.switches}"
            )
        elif other.bytes_written != won.bytes_written:
            words.append(f"{rival} harmed as many and wrote {_kb(other.bytes_written)}, not {_kb(won.bytes_written)}")
        elif other.peak_weight_bytes != won.peak_weight_bytes:
            more, less = _kb(other.peak_weight_bytes), _kb(won.peak_weight_bytes)
            words.append(f"{rival} harmed as many and holds {more} of weights at once, not {less}")
        else:
            words.append(f"{rival} did as well in all that counts")
    if best == "flip":
        rest = next((name for name in ranked if name not in ("flip", "reload")), None)
        if rest is not None:
            words.append(f"where there is no room for its second copy, take {rest}, which harmed {_of(outcomes[rest])}")
    elif "flip" in left_out:
        words.append(f"flip, which passes through no state in between, is not to be had here: {left_out['flip']}")
    words += [f"{name} finished {outcomes[name].switches} of {most} switches, and is too slow" for name in slow]
    return Choice(strategy=best, why="; ".join(words) + ".")


def _cost(outcome: StrategyOutcome) -> tuple[int, int, int, int]:
    return outcome.harmed, -outcome.switches, outcome.bytes_written, outcome.peak_weight_bytes


def _same(one: StrategyOutcome, other: StrategyOutcome) -> bool:
    """Whether two strategies did the same under two names."""
    return one == other


def _of(outcome: StrategyOutcome) -> str:
    parts = [
        f"{count:,} {word}"
        for count, word in (
            (outcome.refused, "refused"),
            (outcome.late, "late"),
            (outcome.wrong_by_transition, "wrong because of the transition"),
        )
        if count
    ]
    return f"{outcome.harmed:,} of {outcome.requests:,} requests" + (f" ({', '.join(parts)})" if parts else "")


def _kb(count: int) -> str:
    return f"{count / 1e3:,.0f} kB"
