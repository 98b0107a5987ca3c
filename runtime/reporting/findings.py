"""What a simulation shows: where states lie on the tour, which strategy did as well as which, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from runtime.plan.candidates import price
from runtime.plan.costs import TradeOff
from runtime.plan.manifest import CandidateEntry, TransitionEntry
from runtime.simulation.simulator import PLANNED, Simulation, StrategyResult

AT_ONCE: Final = ("flip", "reload")
"""Strategies that pass through no mixed state, for the price of a second copy."""
TELLING: Final = 6
"""Answers by which two states must differ at least before chance can be excluded: all samples are the same, so only
those count that one state gets right and the other wrong, and with five of these, even if all favour one side, the
sign test says p = 2 / 2^5 = 0.06; with six 0.03."""
READABLE: Final = 0.08
"""Up to this share of answers lost, all strategies can be read on one axis."""
NEAR: Final = 0.03
"""Where some lose more, those that lose up to this share are shown again on an axis of their own."""

Point = tuple[float, float]


def decimals(samples: int) -> int:
    """Decimals of a percentage that this number of samples can show."""
    return 1 if samples <= 1000 else 2


def percent(fraction: float, samples: int) -> str:
    """A share of ``samples`` answers; no line breaks within it."""
    return f"{100 * fraction:.{decimals(samples)}f}\N{NO-BREAK SPACE}%"


def at_least(fraction: float, places: int) -> str:
    """A share that is promised: rounded down, so that no more is said than holds; no line breaks within it."""
    scale = 10.0**places
    return f"{math.floor(100 * fraction * scale + 1e-9) / scale:.{places}f}\N{NO-BREAK SPACE}%"


def fitted(modes: Sequence[str], letters: int) -> list[str]:
    """Names of modes, cut where they would run into their neighbours on an axis as wide as so many letters."""
    most = max(3, letters // len(modes))
    return [mode if len(mode) <= most else f"{mode[: most - 1]}…" for mode in modes]


def ranked(simulation: Simulation) -> list[tuple[str, StrategyResult]]:
    """Strategies, the best worst state first, fewest bytes breaking ties."""
    return sorted(simulation.strategies.items(), key=lambda item: (-item[1].min_accuracy, item[1].bytes_written))


def curves(result: StrategyResult) -> tuple[list[Point], list[Point]]:
    """Whole and torn states: x counts transitions, and within one the share of its bytes; y is in percent."""
    whole: list[Point] = []
    torn: list[Point] = []
    for number, group in groupby(result.states, key=lambda state: state.transition):
        own = list(group)
        done = [state.bytes for state in own]
        if min(done) == max(done):
            done = [state.position for state in own]
        for state, amount in zip(own, done, strict=True):
            x = number + (amount - min(done)) / max(max(done) - min(done), 1)
            (torn if state.torn else whole).append((x, 100 * state.accuracy))
    return whole, torn


def worst_point(result: StrategyResult) -> Point:
    """Place and percentage of the worst state, the first of several."""
    whole, torn = curves(result)
    return min([*whole, *torn], key=lambda point: (point[1], point[0]))


def limits(simulation: Simulation) -> tuple[float, float, float | None]:
    """Ends in % of an axis on which strategies can be compared, and an end that shows all if some fall far below."""
    dense, results = simulation.dense_accuracy, simulation.strategies.values()
    worst = min(result.min_accuracy for result in results)
    # Where even the best strategy loses much, "far below" begins later.
    accepted = max(NEAR, 2 * (dense - max(result.min_accuracy for result in results)))
    deepest = worst if dense - worst <= READABLE else dense - accepted - 1e-9
    near = [state.accuracy for result in results if result.min_accuracy >= deepest for state in result.states]
    low, high = 100 * min([dense, *near]), 100 * max([dense, *near])
    margin = 0.17 * max(high - low, 1.0)
    low, high, floor = low - margin, high + margin, 100 * worst - 0.17 * (high - 100 * worst)
    return low, high, floor if 100 * worst < low else None


@dataclass(frozen=True)
class Findings:
    """Every strategy against the paths that the plan chose.

    Args:
        simulation: All strategies.
        moves: The plan's transitions, those of the tour.
    """

    simulation: Simulation
    moves: Sequence[TransitionEntry]

    def worst(self, name: str, transition: int) -> float:
        """Worst state of a strategy within one transition."""
        states = self.simulation.strategies[name].states
        return min(state.accuracy for state in states if state.transition == transition)

    @property
    def planned(self) -> float | None:
        """Worst state over the chosen strategies; None where one of them was not played."""
        if any(self.played_as(move) not in self.simulation.strategies for move in self.moves):
            return None
        return min(self.worst(self.played_as(move), number) for number, move in enumerate(self.moves))

    def played_as(self, move: TransitionEntry) -> str:
        """What the stored path of a transition was played as."""
        return PLANNED if PLANNED in self.simulation.strategies else move.strategy

    @property
    def planned_bytes(self) -> int:
        """Bytes that the chosen paths write on the whole tour."""
        return sum(move.bytes_written for move in self.moves)

    def answers(self, one: float, other: float) -> int:
        """How many more samples are answered right at the first accuracy."""
        return round((one - other) * self.simulation.samples)

    def lost(self, name: str) -> bool:
        """Whether a strategy's worst state is telling answers below the plan's."""
        planned = self.planned
        worst = self.simulation.strategies[name].min_accuracy
        return planned is not None and self.answers(worst, planned) <= -TELLING

    def verdict(self, name: str) -> str:
        """One sentence on how a strategy compares with the paths that the plan chose."""
        planned = self.planned
        if planned is None:
            return "Not compared: a strategy that the plan uses was not played."
        worst = self.simulation.strategies[name].min_accuracy
        gap = self.answers(worst, planned)
        count = f"{abs(gap)} answer{'s' if abs(gap) != 1 else ''}"
        if all(self.played_as(move) == name for move in self.moves):
            return "The plan uses it everywhere."
        if gap == 0:
            return f"Same worst state as the plan's paths{self._cost(name)}."
        if abs(gap) < TELLING:
            return f"{count} {'more' if gap > 0 else 'fewer'} in the worst state: too few to tell{self._cost(name)}."
        if gap > 0:
            return f"Better: {count} more in the worst state{self._cost(name)}."
        return f"Worse: {count} fewer in the worst state{self._where(name)}{self._cost(name)}."

    def _where(self, name: str) -> str:
        """Transitions in which a strategy falls behind, if those are not all."""
        below = [
            f"{move.from_} → {move.to}"
            for number, move in enumerate(self.moves)
            if self.answers(self.worst(name, number), self.worst(self.played_as(move), number)) <= -TELLING
        ]
        return f", on {_joined(below)} only" if 0 < len(below) < len(self.moves) else ""

    def _cost(self, name: str) -> str:
        """What a strategy pays or saves beside accuracy, where it is a tenth or more."""
        result = self.simulation.strategies[name]
        least = min(one.peak_weight_bytes for one in self.simulation.strategies.values())
        words = []
        if self.planned_bytes and not 0.9 < (ratio := result.bytes_written / self.planned_bytes) < 1.1:
            words.append(f"{ratio:.1f}\N{NO-BREAK SPACE}× the bytes")
        if least and (ratio := result.peak_weight_bytes / least) > 1.1:
            words.append(f"{ratio:.1f}\N{NO-BREAK SPACE}× the memory")
        return f", at {_joined(words)}" if words else ""

    def simpler(self) -> list[str]:
        """What a reader should know before using the planned paths: which simpler strategy does as well."""
        played, samples, planned = self.simulation.strategies, self.simulation.samples, self.planned
        if planned is None:
            return ["A strategy that the plan uses was not played, so nothing can be compared with it."]
        said = []
        if once := [name for name in AT_ONCE if name in played and not self.lost(name)]:
            peak, one = (f"{value / 1e3:,.0f}\N{NO-BREAK SPACE}kB" for value in (
                max(played[name].peak_weight_bytes for name in once), min(r.peak_weight_bytes for r in played.values())
            ))  # fmt: skip
            said.append(
                f"Where memory holds two copies for a moment (up to {peak} of weights here, instead of {one}), "
                f"{_joined(once)} {'do' if len(once) > 1 else 'does'} as well, with no mixed state at all. The "
                "other strategies are for devices where a second copy does not fit, or whose weights can only be "
                "overwritten where they stand."
            )
        if "naive" in played:
            worst = percent(played["naive"].min_accuracy, samples)
            own = [self.worst(self.played_as(move), number) for number, move in enumerate(self.moves)]
            if all(self.worst("naive", number) >= lowest for number, lowest in enumerate(own)):
                said.append(
                    f"On this network the naive order was never worse than the planned one (worst state {worst}): "
                    "writing in storage order would do."
                )
            elif not self.lost("naive"):
                said.append(
                    f"The naive order fell to {worst}, the planned paths to {percent(planned, samples)}: too few "
                    f"answers of {samples} to tell them apart, so on this network the order of writing hardly matters."
                )
            else:
                said.append(
                    f"The order of writing matters here{self._where('naive')}: naive falls to {worst}, the planned "
                    f"paths to {percent(planned, samples)} at the lowest."
                )
        if "plain" in played:
            worst = percent(played["plain"].min_accuracy, samples)
            rest = "without making up for the removed units (plain) the worst state is"
            said.append(
                f"The adjusted weights matter too: {rest} {worst}." if self.lost("plain") else
                f"Even {rest} {worst}, so on this network adjusting weights gains nothing that {samples} samples show."
            )  # fmt: skip
        return said


SUPERLATIVES: Final[Mapping[TradeOff, tuple[str, str]]] = {
    "bytes": ("the fewest bytes", "write"),
    "seconds": ("the fewest seconds", "take"),
    "energy": ("the least energy", "take"),
    "wear": ("the least of a row's endurance", "use"),
}


def reason(move: TransitionEntry, trade_off: TradeOff = "bytes") -> str:
    """Why a path was chosen among the candidates, by the planner's rule and the profile's trade-off."""
    feasible = [one for one in move.candidates if one.feasible]
    chosen = next((one for one in feasible if one.chosen), None)
    if chosen is None:
        return "The plan does not say which candidate was chosen."
    start = f"{len(feasible)} of {len(move.candidates)} paths that were walked are feasible"
    if trade_off == "accuracy":
        return (
            f"{start}; of those whose worst states cannot be told apart and whose outputs stay nearest to the dense "
            f"network's, {chosen.name} is the shortest way, or writes the fewest bytes of those as short."
        )
    most, verb = SUPERLATIVES[trade_off]
    spent = price(chosen, trade_off)
    shorter = [one for one in feasible if price(one, trade_off) < spent]
    if shorter:
        cheapest = min(shorter, key=lambda one: (price(one, trade_off), -one.worst_accuracy))
        return f"{start}; {_earned(chosen, cheapest, verb)}"
    equal = [one for one in feasible if price(one, trade_off) == spent and one is not chosen]
    if not equal and move.skipped:
        return f"{start}; its worst state cannot be told from its ends, so that no other path could be better."
    if not equal:
        return f"{start}; of these, {chosen.name} {verb}s {most}."
    if move.blocks and (plain := [one.name for one in equal if chosen.name.startswith(one.name)]):
        return f"{start}; it is {plain[0]}, divided into blocks so that more of its answers are proved right."
    start = f"{start}; of these, {_joined([chosen.name, *(one.name for one in equal)])} {verb} {most}"
    if chosen.worst_accuracy > max(one.worst_accuracy for one in equal):
        return f"{start}, and {chosen.name} has the best worst state."
    if chosen.worst_divergence < min(one.worst_divergence for one in equal):
        return f"{start}, and the outputs of {chosen.name} stay nearest to the dense network's."
    return f"{start}; none of them was better than {chosen.name} on both the worst state and the outputs' divergence."


def proved(move: TransitionEntry) -> str:
    """What is proved of all states of a path, and what is only not disproved."""
    certificate = move.certificate
    if certificate is None:
        return "Nothing was proved beyond the states that were measured."
    samples = certificate.samples
    if certificate.why_not:
        words = f"Nothing was proved beyond the states that were measured: {certificate.why_not}."
        if certificate.survived_torn is None:
            return words
        ends, left = (
            percent(count / samples, samples) for count in (certificate.ends_right, certificate.survived_torn)
        )
        return (
            f"{words} Not certified: of {samples:,} held-out samples, {ends} are right between the "
            f"{len(certificate.stages)} stages, and for {left} a search by gradients found no wrong state."
        )

    def share(count: int) -> str:
        return at_least(count / samples, decimals(samples))

    words = (
        f"Of {samples:,} held-out samples, {share(certificate.proved_torn)} are proved right in "
        f"every state of this path, whatever the order of rows within each of its {len(certificate.stages)} stages, in "
        "both directions and with a row torn at any place"
    )
    if certificate.proved_whole > certificate.proved_torn:
        words += f" (with whole rows only: {share(certificate.proved_whole)})"
    words += f"; {percent(certificate.ends_right / samples, samples)} are right between the stages, and more cannot be."
    if certificate.proved_torn:
        words += (
            f" With 95 % confidence that makes at least {at_least(certificate.bound_torn, decimals(samples))} of all "
            "inputs like these."
        )
    else:
        words += " The bound is empty: this network is too deep for it, and says nothing about its states."
    if certificate.survived_torn is not None:
        words += (
            f" Not certified: a search by gradients found no wrong state for "
            f"{percent(certificate.survived_torn / samples, samples)} of them."
        )
    return words


def _joined(words: Sequence[str]) -> str:
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), words[-1]])


def _earned(chosen: CandidateEntry, shorter: CandidateEntry, verb: str) -> str:
    return (
        f"{chosen.name} {verb}s more than {shorter.name} and was chosen because even the lower bound of its worst "
        f"state ({chosen.worst_accuracy_bound:.1%}) lies above {shorter.name}'s worst state "
        f"({shorter.worst_accuracy:.1%})."
    )
