"""Reads what triggers watch: battery, charger, temperature, files, commands. The one file that imports psutil.

Linux tells all of it in sysfs, whose root is a parameter, so that a recorded tree can stand in for a board. psutil is
asked where there is no sysfs, on a laptop with another system that somebody tries a plan on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from device_profiles import Command, Trigger
from runtime.deciding.triggers import Reading
from runtime.errors import CommandFailed, SourceError
from runtime.sensing.programs import MOST_BYTES, run
from runtime.sensing.sysfs import entries, integer, text

COLDEST_C: Final = -55.0
"""Below this, a thermal zone that is switched off or broken: sensors of boards end at -40 or -55 °C."""
_PLUGS: Final = ("Mains", "USB", "USB_C", "USB_PD", "USB_PD_DRP", "USB_DCP", "USB_CDP", "USB_ACA", "Wireless")
"""Types of power supplies that are chargers; some kernels tell the kinds of USB apart here."""


class Sources:
    """Reads sources; nothing is kept between readings.

    Args:
        commands: What may be run, by name.
        root: Directory that stands for ``/``, for sysfs.
        outside: Whether files and commands are read at all: not so for a profile that came with a plan.
    """

    def __init__(self, commands: Mapping[str, Command], root: Path = Path("/"), *, outside: bool = True) -> None:
        self._commands = commands
        self._root = root
        self._outside = outside

    def read(self, rule: Trigger) -> Reading:
        """Present reading of a trigger's source.

        Returns:
            Percent, degrees Celsius, ``plugged`` or ``unplugged``, or the text of a file or command.

        Raises:
            SourceError: It cannot be read now.
        """
        if rule.source == "battery":
            return battery_percent(self._root)
        if rule.source == "charger":
            return "plugged" if charger_plugged(self._root) else "unplugged"
        if rule.source == "temperature":
            return temperature_c(self._root, rule.zone)
        if not self._outside:
            raise SourceError(
                f"trigger {rule.name}: a {rule.source} of a profile that came with a plan is not read; "
                "give the profile to the device itself"
            )
        if rule.source == "file":
            assert rule.path is not None
            return _file(Path(rule.path))
        assert rule.command is not None
        return _output(rule.command, self._commands[rule.command])


def battery_percent(root: Path) -> float:
    """Charge of all batteries of the device together, 0 to 100.

    Raises:
        SourceError: There is no battery, or none says how full it is.
    """
    batteries = list(_supplies(root, ("Battery",)))
    if not batteries and (found := _psutil_battery(root)) is not None:
        return found[0]
    shares = [share for battery in batteries if (share := _share(battery)) is not None]
    if not shares:
        raise SourceError(
            f"battery: found {len(batteries)} batteries and no level in {_supply_folder(root)}, expected a battery "
            "with 'capacity', 'energy_now' or 'charge_now'"
        )
    full = [size for _, size in shares if size is not None]
    if len(full) == len(shares):
        return 100.0 * sum(level * size for (level, _), size in zip(shares, full, strict=True)) / sum(full)
    return 100.0 * sum(level for level, _ in shares) / len(shares)


def charger_plugged(root: Path) -> bool:
    """Whether any charger gives power.

    Raises:
        SourceError: There is nothing that says so.
    """
    online = [value for plug in _supplies(root, _PLUGS) if (value := integer(plug / "online")) is not None]
    if online:
        # 2 is a charger with a programmable voltage that is in use.
        return any(value > 0 for value in online)
    states = [text(battery / "status") for battery in _supplies(root, ("Battery",))]
    if any(states):
        return all(state != "Discharging" for state in states if state)
    if (found := _psutil_battery(root)) is not None and found[1] is not None:
        return found[1]
    raise SourceError(f"charger: found no charger and no battery in {_supply_folder(root)}, expected one with 'online'")


def temperature_c(root: Path, zone: str | None) -> float:
    """Temperature of a thermal zone, or of the hottest one, in degrees Celsius.

    Args:
        root: Directory that stands for ``/``.
        zone: Type of the zone; None for the hottest. Several zones of one type count as one, with its hottest reading.

    Raises:
        SourceError: There is no such zone, or it gives no plausible reading now.
    """
    folder = root / "sys/class/thermal"
    zones = {place: text(place / "type") or place.name for place in entries(folder) if "zone" in place.name}
    if not zones and zone is None and (found := _psutil_temperature(root)) is not None:
        return found
    wanted = [place for place, kind in zones.items() if zone in (None, kind)]
    readings = [value / 1000 for place in wanted if (value := integer(place / "temp")) is not None]
    plausible = [value for value in readings if value > COLDEST_C]
    if not plausible:
        known = ", ".join(sorted(set(zones.values()))) or "none"
        raise SourceError(
            f"temperature: found no reading of {zone or 'any zone'} in {folder}, expected one of the zones {known}; "
            "correct 'zone', or wait if the sensor is off"
        )
    return max(plausible)


def _supply_folder(root: Path) -> Path:
    return root / "sys/class/power_supply"


def _supplies(root: Path, kinds: tuple[str, ...]) -> Iterator[Path]:
    """Power supplies of some types that feed the device itself: a wireless mouse has a battery too."""
    for place in entries(_supply_folder(root)):
        # Absent in a socket that is empty now.
        if text(place / "type") in kinds and text(place / "scope") != "Device" and text(place / "present") != "0":
            yield place


def _share(battery: Path) -> tuple[float, float | None] | None:
    """How full a battery is, 0 to 1, and its size in µWh, if they are known."""
    for kind in ("energy", "charge"):
        now, full = integer(battery / f"{kind}_now"), integer(battery / f"{kind}_full")
        if now is not None and full is not None and full > 0:
            # A charge in µAh says nothing of the size of one battery against another of a different voltage.
            return min(1.0, max(0.0, now / full)), float(full) if kind == "energy" else None
    capacity = integer(battery / "capacity")
    return None if capacity is None else (min(100, max(0, capacity)) / 100, None)


def _psutil_battery(root: Path) -> tuple[float, bool | None] | None:
    """Level in percent and whether power is plugged in, where there is no sysfs; None for no battery."""
    if root != Path("/") or (root / "sys/class").is_dir():
        return None
    import psutil

    found = psutil.sensors_battery()
    return None if found is None else (float(found.percent), found.power_plugged)


def _psutil_temperature(root: Path) -> float | None:
    """The hottest sensor that psutil knows of, where there are no thermal zones."""
    if root != Path("/"):
        return None
    import psutil

    # psutil has this on Linux and FreeBSD only; there it reads hwmon too, which a machine without zones may have.
    read = getattr(psutil, "sensors_temperatures", dict)
    found = [one.current for chip in read().values() for one in chip if one.current > COLDEST_C]
    return max(found, default=None)


def _file(path: Path) -> str:
    try:
        # Not blocking, so that a pipe without a writer cannot hold up everything else that is watched.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            raw = os.read(descriptor, MOST_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; expected a file that can be read") from error
    return raw.decode("utf-8", "replace").strip()


def _output(name: str, command: Command) -> str:
    assert command.argv is not None
    try:
        return run(name, command.argv, command.timeout_s)
    except CommandFailed as error:
        raise SourceError(str(error)) from error
