"""A profile made from others: data in layers, each part of which remembers the file it was written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from device_profiles.errors import Path, Place
from device_profiles.figure import FIGURE_FIELDS


@dataclass(frozen=True)
class Tree:
    """Dictionaries, lists and scalars, and where each part of them stands.

    Attributes:
        data: The data.
        places: Path to file and line.
    """

    data: object
    places: dict[Path, Place]


def laid_over(base: Tree, over: Tree) -> Tree:
    """One tree with another laid over it: mappings are joined, lists and scalars replaced, ``null`` removes.

    What says of a number where it comes from goes with the number. So a figure is replaced as a whole, and an entry of
    ``origins`` is dropped when another file sets its number and says nothing about it.

    Args:
        base: The extended profile.
        over: The extending one.
    """
    replaced: list[Path] = []
    data = _joined(base.data, over.data, (), replaced)
    places = {**without(base.places, *replaced), **over.places}
    if isinstance(data, dict) and isinstance(over.data, dict) and isinstance(data.get("origins"), dict):
        own = over.data.get("origins")
        said = own if isinstance(own, dict) else {}
        numbers = {key(path) for path in _leaves(over.data, ())}
        kept = {name: origin for name, origin in data["origins"].items() if name in said or name not in numbers}
        data = {**data, "origins": kept}
    return Tree(data, places)


def key(path: Path) -> str:
    """A path as a plain dotted text, as ``origins`` names it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def without(places: Mapping[Path, Place], *replaced: Path) -> dict[Path, Place]:
    """Places without those of paths that something else stands at now, and of all that was inside them."""
    gone = set(replaced)
    return {
        path: place for path, place in places.items() if not any(path[:depth] in gone for depth in range(len(path) + 1))
    }


def _joined(base: object, over: object, path: Path, replaced: list[Path]) -> object:
    """Data with other data laid over it; the paths where one took the other's place are added to ``replaced``."""
    figure = isinstance(base, dict) and base.keys() <= FIGURE_FIELDS and "value" in base
    if not isinstance(base, dict) or not isinstance(over, dict) or (figure and "value" in over):
        replaced.append(path)
        return over
    found = dict(base)
    for name, value in over.items():
        if value is None and name in found:
            del found[name]
        else:
            found[name] = _joined(found[name], value, (*path, name), replaced) if name in found else value
    return found


def _leaves(data: object, path: Path) -> list[Path]:
    if isinstance(data, dict):
        return [leaf for name, value in data.items() for leaf in _leaves(value, (*path, name))]
    if isinstance(data, list):
        return [leaf for place, value in enumerate(data) for leaf in _leaves(value, (*path, place))]
    return [path]
