"""Errors that a user may see share one base class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

Path = tuple[str | int, ...]

# Problems whose text a ProfileError spells out: a screenful.
SHOWN = 20


class GeoshiftError(Exception):
    """Base of every error geoshift raises on purpose.

    The message names the thing, what was found, what was expected and what to do; the command line prints it
    without a traceback.
    """


@dataclass(frozen=True)
class Place:
    """Where a part of a profile was written.

    Attributes:
        origin: The file, or the option of the command line.
        line: Its line, from 1; None where there are no lines.
    """

    origin: str
    line: int | None = None


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a profile.

    Attributes:
        path: Keys and list positions that lead to it from the top; empty for the document itself.
        found: What stands there, in words.
        expected: What would be accepted, in words.
        remedy: What the author of the profile can do.
        line: Line of the file, from 1; None where the profile did not come from a text.
        origin: The file, where it is another than the profile's own: one that it extends, or an override.
    """

    path: Path
    found: str
    expected: str
    remedy: str
    line: int | None = None
    origin: str | None = None

    @property
    def key(self) -> str:
        """The path as a user writes it, e.g. ``modes.C2.remove[0].count``."""
        steps = "".join(f"[{step}]" if isinstance(step, int) else f".{_plain(step)}" for step in self.path)
        return steps.removeprefix(".") or "(whole profile)"

    def located(self, places: Mapping[Path, Place]) -> Problem:
        """The problem with the place of its path, or of the nearest part around it that ``places`` knows."""
        around = (self.path[:depth] for depth in range(len(self.path), -1, -1))
        place = next((places[path] for path in around if path in places), None)
        return self if place is None else replace(self, line=place.line, origin=place.origin)


def describe(value: object) -> str:
    """A value as an error message shows it: short, and on one line."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 64:
            return f"an integer of {value.bit_length()} bits"
        case str() if len(value) > 60:
            return f"{value[:57]!r}... ({len(value)} characters)"
        case int() | float() | str():
            return repr(value)
        case dict():
            return f"a mapping of {len(value)} keys"
        case list() | tuple():
            return f"a list of {len(value)} items"
    return f"a value of type {type(value).__name__}"


def _plain(step: object) -> str:
    return step if isinstance(step, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", step) else describe(step)


class ProfileError(GeoshiftError):
    """A device profile is refused. Correct what the text names; every problem has a line of its own.

    Attributes:
        origin: File or other source of the profile.
        problems: What is wrong, never empty.
    """

    def __init__(self, origin: str, *problems: Problem) -> None:
        self.origin = origin
        self.problems = problems
        lines = [self._line(problem) for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"{origin}: and {len(problems) - SHOWN} more; correct these first")
        super().__init__("\n".join(lines))

    def _line(self, problem: Problem) -> str:
        origin = problem.origin or self.origin
        place = origin if problem.line is None else f"{origin}, line {problem.line}"
        found = problem.found if len(problem.found) <= 200 else f"{problem.found[:197]}..."
        return f"{place}: {problem.key}: found {found}, expected {problem.expected}; {problem.remedy}"
