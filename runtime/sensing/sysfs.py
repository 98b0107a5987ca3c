"""Reads sysfs, where the kernel tells one value a file."""

from __future__ import annotations

from pathlib import Path

_MOST_BYTES = 4096
"""sysfs gives at most a page."""


def text(path: Path) -> str | None:
    """The line in a file, or None: an attribute may be missing, and reading one may fail while a chip is off."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return None


def integer(path: Path) -> int | None:
    """The number in a file, or None as above."""
    try:
        return int(text(path) or "")
    except ValueError:
        return None


def entries(folder: Path) -> list[Path]:
    """What is in a folder, in an order that stays (``hwmon2`` before ``hwmon10``); nothing if it is not there."""
    try:
        return sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name))
    except OSError:
        return []
