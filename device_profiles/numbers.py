"""Every number of a profile, with where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from msgspec import Struct, structs

from device_profiles.errors import Path
from device_profiles.figure import Figure, Origin
from device_profiles.layers import key
from device_profiles.schema import Profile


@dataclass(frozen=True)
class Number:
    """One number of a profile.

    Attributes:
        path: Keys and list positions that lead to it.
        value: The number.
        origin: Why it should be believed; None where the profile does not say.
        figure: Whether it is a figure, which carries its origin itself.
    """

    path: Path
    value: float
    origin: Origin | None
    figure: bool

    @property
    def key(self) -> str:
        """The path as ``origins`` names it."""
        return key(self.path)


def numbers(profile: Profile) -> Iterator[Number]:
    """All numbers of a profile, in the order of its fields; those that are left out have their default."""
    for path, value in _leaves(profile, ()):
        if isinstance(value, Figure):
            yield Number(path, value.value, Origin(provenance=value.provenance, source=value.source), True)
        else:
            yield Number(path, value, profile.origins.get(key(path)), False)


def _leaves(value: object, path: Path) -> Iterator[tuple[Path, Figure | float]]:
    if isinstance(value, Figure):
        yield path, value
    elif isinstance(value, Struct):
        for field in structs.fields(value):
            yield from _leaves(getattr(value, field.name), (*path, field.encode_name))
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, (*path, name))
    elif isinstance(value, tuple):
        for place, part in enumerate(value):
            yield from _leaves(part, (*path, place))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value
