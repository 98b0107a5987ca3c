"""What comes of playing a trace, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct, to_builtins

_SPEED: Final = ("target.macs_per_second", "target.overhead_ms")
_MEMORY: Final = ("writes.bytes_per_second", "writes.verify.mean_writes")
_PACE: Final = (*_MEMORY, "writes.bytes_per_increment", "writes.increments_per_second")
_JOULES: Final = ("energy.idle_w", "energy.joules_per_mac", "energy.joules_per_byte_written")
_HARM: Final = (*_SPEED, *_PACE, "queue_limit")
RESTS_ON: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("harmed", "wrong_by_transition", "late", "refused"), _HARM),
    **dict.fromkeys(("p50_ms", "p99_ms", "longest_ms"), (*_SPEED, *_MEMORY)),
    "longest_stall_ms": (*_MEMORY, "writes.bytes_per_increment"),
    "walking_s": _PACE,
    "wear_writes": ("writes.verify.mean_writes",),
    "wear_share": ("writes.verify.mean_writes", "writes.endurance_writes"),
    **dict.fromkeys(("total_j", "watts"), _JOULES),
}
"""Outcomes, and the figures of a profile that they rest on."""


class Series(Struct, frozen=True, kw_only=True):
    """One strategy over time; every list has one entry a window, None where nothing was answered in it."""

    at_s: tuple[float, ...]
    """When each window begins."""
    requests: tuple[int, ...]
    answered: tuple[int, ...]
    accuracy: tuple[float | None, ...]
    dense_accuracy: tuple[float | None, ...]
    """What the dense network would have answered right of the same requests."""
    wrong_by_transition: tuple[int, ...]
    late: tuple[int, ...]
    refused: tuple[int, ...]
    p50_ms: tuple[float | None, ...]
    p99_ms: tuple[float | None, ...]
    macs: tuple[float | None, ...]
    """Multiply-accumulates of an answer, on average."""
    watts: tuple[float | None, ...]
    position: tuple[float, ...]
    """Where the network stood at the window's end: place of its mode in ``TraceResult.modes``, or between two."""
    stands: tuple[tuple[float, float], ...]
    """The same from each moment on, in seconds, whatever the windows."""


class Worst(Struct, frozen=True, kw_only=True):
    """The window in which most answers were lost."""

    from_s: float
    answered: int
    lost_points: float
    """Right answers of the dense network less right answers given, over the answers, in percentage points."""


class Latency(Struct, frozen=True, kw_only=True):
    """From request to answer, waiting included, over the answers of a kind."""

    answered: int
    p50_ms: float
    p99_ms: float


class Energy(Struct, frozen=True, kw_only=True):
    """Joules, as the profile's figures say; None for a part that it has no figure of."""

    idle_j: float | None
    answers_j: float | None
    writes_j: float | None

    @property
    def total_j(self) -> float | None:
        """Their sum, where idle power and the cost of answers are known."""
        if self.idle_j is None or self.answers_j is None:
            return None
        return self.idle_j + self.answers_j + (self.writes_j or 0.0)


class StrategyOutcome(Struct, frozen=True, kw_only=True):
    """How one strategy fared.

    A request is *lost* when it was answered wrong and the dense network (C1) answers it right, and *gained* the other
    way round. It is lost *on the way* when the state that answered is neither end of the transition; and *wrong because
    of the transition* when, besides, the modes at both ends answer it right: only the state in between is to blame.
    """

    requests: int
    answered: int
    refused: int
    """Turned away because the line was full."""
    late: int
    """Answered after the trace's deadline."""
    right: int
    dense_right: int
    """Of the answered requests, those that the dense network answers right."""
    different: int
    """Answered otherwise than the dense network answers."""
    lost: int
    gained: int
    on_the_way: int
    """Answered in a state that is neither end of a transition."""
    lost_on_the_way: int
    wrong_by_transition: int
    paired_loss_points: float
    """Lost less gained, over the answers, in percentage points."""
    worst_window: Worst | None
    p50_ms: float
    p99_ms: float
    longest_ms: float
    at_rest: Latency | None
    """Of requests that came while no switch was under way; None if none did."""
    under_way: Latency | None
    """Of those that came while one was, the canary's questions included."""
    mean_macs: float
    """Multiply-accumulates of an answer, on average."""
    energy: Energy
    total_j: float | None
    bytes_written: int
    physical_bytes: float
    """With whole units of the memory, and with the retries of writing with a check."""
    increments: int
    wear_writes: float
    """Writes of the cell that was written most, retries included."""
    wear_share: float | None
    """The same, over what a cell stands; None where the profile does not say."""
    peak_weight_bytes: int
    """Most memory that weights take at once, the stored plan not counted."""
    walking_s: float
    """Seconds with a switch under way."""
    switches: int
    turned: int
    """Switches that turned to another mode on the way."""
    rolled_back: int
    """Switches that went back, as the canary at their end or the guard on the way was not content."""
    conflicts: int
    """Requests for a mode that were refused."""
    longest_stall_ms: float
    """Longest time that writing kept callers out at once."""
    mode_s: dict[str, float]
    """Mode to the seconds during which it was the one reached last."""
    series: Series | None = None

    @property
    def harmed(self) -> int:
        """Requests that switching harmed: refused, late, or wrong because of the transition."""
        return self.refused + self.late + self.wrong_by_transition


class Assumption(Struct, frozen=True, kw_only=True):
    """A figure of the profile that was used, with where it comes from."""

    name: str
    value: float
    provenance: str
    source: str


def resting_on_assumed(assumptions: Iterable[Assumption], *, own_speed: bool) -> tuple[str, ...]:
    """The outcomes that an assumed figure is in.

    Args:
        assumptions: The figures that were used.
        own_speed: Whether the time of an answer is the profile's, not measured or given.
    """
    assumed = {one.name for one in assumptions if one.provenance == "assumed"}
    if not own_speed:
        assumed -= {*_SPEED}
    return tuple(name for name, used in RESTS_ON.items() if assumed & {*used})


class Choice(Struct, frozen=True, kw_only=True):
    """The strategy that would be chosen for the device, and why."""

    strategy: str
    why: str


class TraceResult(Struct, frozen=True, kw_only=True):
    """All strategies on one trace."""

    trace: str
    description: str
    seconds: float
    deadline_ms: float
    profile: str
    bundle: str
    """SHA-256 of the plan's manifest."""
    seed: int
    modes: tuple[str, ...]
    """The plan's modes, that of lowest power first."""
    triggers: str
    """Whose triggers counted: the profile's, the trace's, or nobody's."""
    samples: int
    """Held-out samples that requests were drawn from."""
    dense_accuracy: float | None
    """The dense network on the requests of the trace; None if every strategy was left out."""
    bytes_per_increment: int
    increments_per_second: float
    second_copy: bool
    policy: str
    """How weights are held that are walked: in-place or shadow."""
    latency_ms: dict[str, float]
    """Mode to the time of one answer; ``live`` for the dense graph on weights that move."""
    latency_source: str
    window_s: float
    strategies: dict[str, StrategyOutcome]
    left_out: dict[str, str]
    """Strategies that the plan or the device does not allow, and why."""
    choice: Choice | None
    assumptions: tuple[Assumption, ...]
    assumed: tuple[str, ...]
    """Names of outcomes that rest on an assumed figure."""


def as_json(result: TraceResult) -> Mapping[str, object]:
    """The result as plain data."""
    data: Mapping[str, object] = to_builtins(result)
    return data
