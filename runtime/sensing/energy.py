"""What a mode costs: measured where there is a meter, else estimated from the profile's figures, and labelled so."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from device_profiles import Energy, Figure
from runtime.device.views import Provenance
from runtime.sensing.power import Sample

LATENCIES = 256
"""Calls whose latency is kept for a mode: enough for a median that a single slow call does not move."""
ENOUGH = 20
"""Inferences, and seconds at rest, that a measurement of a mode's energy must rest on. Fewer say more of the moment
than of the mode."""


@dataclass(frozen=True)
class Known:
    """A number with its origin."""

    value: float
    provenance: Provenance


@dataclass
class _ModeAccount:
    """What was seen of one mode while the network stood at it."""

    samples: int = 0
    seconds: float = 0.0
    metered_seconds: float = 0.0
    metered_samples: int = 0
    energy_j: float = 0.0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))


class EnergyAccount:
    """Counts inferences, time and energy by mode; safe from any thread.

    Args:
        energy: The profile's figures, or None.
        macs: Mode to its multiply-accumulates.
        now_s: The time, on a clock that never jumps.
    """

    def __init__(self, energy: Energy | None, macs: dict[str, int], now_s: float) -> None:
        self._figures = energy or Energy()
        self._macs = macs
        self._modes = {mode: _ModeAccount() for mode in macs}
        self._lock = threading.Lock()
        self._at_s = now_s
        self._energy_j: float | None = None
        self._source = ""
        self._power_w: float | None = None
        self._unseen: dict[str, int] = dict.fromkeys(macs, 0)
        self._macs_before = 0
        """Multiply-accumulates of all that other plans answered."""

    def turn_to(self, macs: dict[str, int]) -> None:
        """Another plan is at work: what was seen of the modes before is over, sums go on.

        Args:
            macs: Mode to its multiply-accumulates.
        """
        with self._lock:
            self._macs_before += self._answered_macs()
            self._macs, self._unseen = macs, dict.fromkeys(macs, 0)
            self._modes = {mode: _ModeAccount() for mode in macs}

    def answered(self, mode: str, samples: int, seconds: float) -> None:
        """Count a call that was answered.

        Args:
            mode: Mode the network stood at.
            samples: Samples of the call.
            seconds: What it took.
        """
        with self._lock:
            account = self._modes.get(mode)
            if account is None:
                return  # answered by a plan that is not at work any more
            account.samples += samples
            self._unseen[mode] += samples
            if samples == 1:
                account.latencies_ms.append(seconds * 1e3)

    def tick(self, now_s: float, mode: str | None, sample: Sample | None, source: str) -> None:
        """Take the time since the last tick into account.

        Args:
            now_s: The time.
            mode: Mode the network stood at all that time, or None if it walked.
            sample: What the meter says now; None without a meter.
            source: What the meter is called.
        """
        with self._lock:
            seconds, self._at_s = now_s - self._at_s, now_s
            answered = self._unseen[mode] if mode is not None else 0
            self._unseen = dict.fromkeys(self._macs, 0)
            if mode is not None:
                self._modes[mode].seconds += seconds
            if sample is None:
                return
            before, self._energy_j = self._energy_j, sample.energy_j
            self._source, self._power_w = source, sample.power_w
            if mode is not None and before is not None and sample.power_w is not None:
                account = self._modes[mode]
                account.energy_j += sample.energy_j - before
                account.metered_seconds += seconds
                account.metered_samples += answered

    def latency_ms(self, mode: str) -> Known | None:
        """Median latency of calls with one sample, or None before the first."""
        with self._lock:
            seen = list(self._modes[mode].latencies_ms)
        if not seen:
            return None
        return Known(statistics.median(seen), Provenance(basis="measured", source=f"median of {len(seen)} calls"))

    def power_w(self, mode: str) -> Known | None:
        """Power of the device at a mode, at the load it has seen there."""
        with self._lock:
            account = self._modes[mode]
            seconds, rate = account.metered_seconds, _rate(account.samples, account.seconds)
            mean_w, source = account.energy_j / seconds if seconds else 0.0, self._source
        if seconds >= ENOUGH:
            said = f"{source}; mean of {seconds:.0f} s in this mode"
            return Known(mean_w, Provenance(basis="measured", source=said))
        return self._estimated_w(mode, rate)

    def energy_j_per_inference(self, mode: str) -> Known | None:
        """Joules of one inference at a mode."""
        with self._lock:
            account = self._modes[mode]
            spent_j, seconds, samples = account.energy_j, account.metered_seconds, account.metered_samples
            source = self._source
        if seconds >= ENOUGH and samples >= ENOUGH:
            idle = self._figures.idle_w
            less = "the idle device's included" if idle is None else f"less idle_w, {_word(idle)}"
            each = (spent_j - (idle.value * seconds if idle is not None else 0.0)) / samples
            # An idle power that is set too high would make answers give energy.
            if each > 0:
                said = f"{source}; {samples} inferences, {less}"
                assumed = idle is not None and idle.provenance == "assumed"
                return Known(each, Provenance(basis="measured", source=said, assumed=assumed))
        joules = self._figures.joules_per_mac
        if joules is None:
            return None
        return Known(joules.value * self._macs[mode], _estimated(("joules_per_mac", joules)))

    def present_w(self, mode: str) -> Known | None:
        """Power of the device now: by the meter, else as the mode's."""
        with self._lock:
            power_w, source = self._power_w, self._source
        if power_w is not None:
            return Known(power_w, Provenance(basis="measured", source=source))
        return self.power_w(mode)

    def total_j(self, uptime_s: float, bytes_written: int) -> Known | None:
        """Joules since the device was opened.

        Args:
            uptime_s: Seconds since then.
            bytes_written: Bytes of weights written since.
        """
        with self._lock:
            energy_j, source = self._energy_j, self._source
            answered_macs = self._macs_before + self._answered_macs()
        if energy_j is not None:
            return Known(energy_j, Provenance(basis="measured", source=source))
        idle, per_mac, per_byte = (
            self._figures.idle_w,
            self._figures.joules_per_mac,
            self._figures.joules_per_byte_written,
        )
        if idle is None or per_mac is None:
            return None
        answers_j = per_mac.value * answered_macs
        writes_j = per_byte.value * bytes_written if per_byte is not None else 0.0
        used = [("idle_w", idle), ("joules_per_mac", per_mac)]
        used += [("joules_per_byte_written", per_byte)] if per_byte is not None else []
        return Known(idle.value * uptime_s + answers_j + writes_j, _estimated(*used))

    def _answered_macs(self) -> int:
        """Of the plan at work; the lock must be held."""
        return sum(self._macs[mode] * account.samples for mode, account in self._modes.items())

    def _estimated_w(self, mode: str, rate_hz: float) -> Known | None:
        idle, per_mac = self._figures.idle_w, self._figures.joules_per_mac
        if idle is None or (per_mac is None and rate_hz > 0):
            return None
        if per_mac is None or rate_hz == 0:
            return Known(idle.value, _estimated(("idle_w", idle), load="at rest"))
        power_w = idle.value + per_mac.value * self._macs[mode] * rate_hz
        return Known(
            power_w, _estimated(("idle_w", idle), ("joules_per_mac", per_mac), load=f"at {rate_hz:.3g} inferences/s")
        )


def by_power(macs: dict[str, int]) -> tuple[str, ...]:
    """Modes, that of lowest power first: by multiply-accumulates, then the later one of the plan."""
    names = list(macs)
    return tuple(sorted(names, key=lambda name: (macs[name], -names.index(name))))


def provenances(fields: Iterable[tuple[str, Known | None]]) -> dict[str, Provenance]:
    """Origins by field name, of the fields that are known."""
    return {name: known.provenance for name, known in fields if known is not None}


def _rate(samples: int, seconds: float) -> float:
    return samples / seconds if seconds > 0 else 0.0


def _word(figure: Figure) -> str:
    return f"{figure.provenance}: {figure.source}"


def _estimated(*used: tuple[str, Figure], load: str = "") -> Provenance:
    parts = "; ".join(f"{name} {_word(figure)}" for name, figure in used)
    return Provenance(
        basis="estimated",
        source=f"the profile's model{', ' + load if load else ''} ({parts})",
        assumed=any(figure.provenance == "assumed" for _, figure in used),
    )
