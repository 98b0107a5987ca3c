"""Meters: the power that a device draws, read where the kernel tells it.

In this order, the first that can be read: a current monitor on the supply (INA chips; a server's ACPI meter), the
processor's own energy counters (RAPL), the battery while it is being emptied. What a meter covers differs, a board or
a processor alone, so every figure carries its meter's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from runtime.sensing.sysfs import entries, integer, text

_INA: Final = ("ina209", "ina219", "ina220", "ina226", "ina230", "ina231", "ina233", "ina237", "ina238", "ina260")
"""hwmon names of monitors that compute power themselves, in microwatts."""
_TOTALS: Final = ("VDD_IN", "POM_5V_IN")
"""Labels of the channel of a Jetson's INA3221 that carries the whole module; the others are parts of it."""


@dataclass(frozen=True)
class Sample:
    """What a meter says.

    Attributes:
        power_w: Watts, at this moment or on average since the sample before; None if it cannot be read now.
        energy_j: Joules since the meter was made.
    """

    power_w: float | None
    energy_j: float


class Meter(Protocol):
    """Something that knows how much power the device draws."""

    source: str
    """What is measured, and by whom."""

    def sample(self, now_s: float) -> Sample:
        """Read it.

        Args:
            now_s: The time, on a clock that never jumps.
        """
        ...


class WattMeter:
    """A meter that tells power; energy is summed up from sample to sample.

    Args:
        read_w: Gives the watts of this moment, or None.
        source: Name for people.
    """

    def __init__(self, read_w: Callable[[], float | None], source: str) -> None:
        self.source = source
        self._read_w = read_w
        self._before: tuple[float, float] | None = None
        self._energy_j = 0.0

    def sample(self, now_s: float) -> Sample:
        """Read it. Time in which it could not be read adds no energy."""
        power_w = self._read_w()
        if power_w is not None and self._before is not None:
            before_s, before_w = self._before
            self._energy_j += (before_w + power_w) / 2 * (now_s - before_s)
        self._before = None if power_w is None else (now_s, power_w)
        return Sample(power_w, self._energy_j)


@dataclass(frozen=True)
class Zone:
    """An energy counter.

    Attributes:
        path: Folder of the powercap zone.
        range_uj: Largest value before the counter begins again at 0.
    """

    path: Path
    range_uj: int


class RaplMeter:
    """Energy counters of processor packages.

    Args:
        zones: The packages' zones.
    """

    def __init__(self, zones: tuple[Zone, ...]) -> None:
        names = ", ".join(text(zone.path / "name") or zone.path.name for zone in zones)
        self.source = f"RAPL counters of {names}: the processors alone"
        self._zones = zones
        self._before: tuple[float, tuple[int, ...]] | None = None
        self._energy_j = 0.0

    def sample(self, now_s: float) -> Sample:
        """Read it. Power is the mean since the sample before, so the first one has none.

        A counter may begin again once between two samples: at 200 W the smallest, of 65 kJ, does after five minutes.
        """
        counts = tuple(integer(zone.path / "energy_uj") for zone in self._zones)
        known = tuple(count for count in counts if count is not None)
        if len(known) < len(counts):
            self._before = None
            return Sample(None, self._energy_j)
        power_w = None
        if self._before is not None and now_s > self._before[0]:
            before_s, before = self._before
            spent_j = sum(
                _risen(was, is_now, zone.range_uj) for was, is_now, zone in zip(before, known, self._zones, strict=True)
            )
            self._energy_j += spent_j / 1e6
            power_w = spent_j / 1e6 / (now_s - before_s)
        self._before = now_s, known
        return Sample(power_w, self._energy_j)


def find_meter(root: Path = Path("/")) -> Meter | None:
    """The best meter that can be read on this device, or None.

    Args:
        root: Directory that stands for ``/``.
    """
    return _supply_monitor(root) or _rapl(root) or _battery(root)


def _risen(was: int, is_now: int, range_uj: int) -> int:
    """Microjoules between two readings of a counter that begins again after ``range_uj``."""
    return is_now - was if is_now >= was else is_now + range_uj - was


def _supply_monitor(root: Path) -> Meter | None:
    chips = [(place, text(place / "name")) for place in entries(root / "sys/class/hwmon")]
    for place, name in chips:
        if name == "ina3221" and (meter := _ina3221(place)) is not None:
            return meter
    for place, name in chips:
        # A graphics card has a power1_input too, and draws a part of the power alone: only known chips count.
        if name in _INA or name == "power_meter":
            for attribute in ("power1_input", "power1_average"):
                if integer(place / attribute) is not None:
                    return WattMeter(_micro(place / attribute), f"hwmon {name}, {attribute}")
    return None


def _ina3221(place: Path) -> Meter | None:
    """Meter of an INA3221, which tells millivolts and milliamperes of three channels and no power."""
    channels = {}
    for number in (1, 2, 3):
        label = text(place / f"in{number}_label") or f"channel {number}"
        if _channel_w(place, number) is not None:
            channels[label] = number
    total = next((label for label in _TOTALS if label in channels), None)
    if total is not None:
        number = channels[total]
        return WattMeter(lambda: _channel_w(place, number), f"hwmon ina3221, {total}: the whole module")
    if not channels:
        return None

    def read_w() -> float | None:
        found = [_channel_w(place, number) for number in channels.values()]
        known = [power_w for power_w in found if power_w is not None]
        return sum(known) if len(known) == len(found) else None

    return WattMeter(read_w, f"hwmon ina3221, sum of {', '.join(channels)}")


def _channel_w(place: Path, number: int) -> float | None:
    millivolts, milliamperes = integer(place / f"in{number}_input"), integer(place / f"curr{number}_input")
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


def _micro(path: Path) -> Callable[[], float | None]:
    def read_w() -> float | None:
        found = integer(path)
        return None if found is None else found / 1e6

    return read_w


def _rapl(root: Path) -> Meter | None:
    """Meter of the processor packages; since Linux 5.10 root alone may read it."""
    zones = []
    for place in entries(root / "sys/class/powercap"):
        # Zones of the other control type, intel-rapl-mmio, count the same energy again; inner ones are parts.
        prefix, _, number = place.name.partition(":")
        if prefix != "intel-rapl" or not number.isdecimal() or not (text(place / "name") or "").startswith("package"):
            continue
        range_uj = integer(place / "max_energy_range_uj")
        if range_uj is not None and integer(place / "energy_uj") is not None:
            zones.append(Zone(place, range_uj))
    return RaplMeter(tuple(zones)) if zones else None


def _battery(root: Path) -> Meter | None:
    for place in entries(root / "sys/class/power_supply"):
        if text(place / "type") != "Battery" or text(place / "scope") == "Device":
            continue
        if (place / "power_now").exists() or ((place / "current_now").exists() and (place / "voltage_now").exists()):
            return WattMeter(_discharge(place), f"battery {place.name}, while it is being emptied: the whole device")
    return None


def _discharge(place: Path) -> Callable[[], float | None]:
    """Reads what leaves a battery. While it is charged, its power says nothing of the device's."""

    def read_w() -> float | None:
        if text(place / "status") != "Discharging":
            return None
        power_uw = integer(place / "power_now")
        if power_uw is not None:
            return abs(power_uw) / 1e6  # some drivers count what leaves as negative
        current_ua, voltage_uv = integer(place / "current_now"), integer(place / "voltage_now")
        return None if current_ua is None or voltage_uv is None else abs(current_ua) * voltage_uv / 1e12

    return read_w
