"""Single values of a profile set from outside it, such as by ``--set writes.bytes_per_increment=4096``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from device_profiles import yaml_text
from device_profiles.errors import Path, Place, Problem, ProfileError, describe
from device_profiles.figure import FIGURE_FIELDS
from device_profiles.layers import Tree, key, without

MOST = 64
"""Overrides at once: more belong into a file that extends the profile."""
LONGEST = 1000
"""Characters of one override."""
_STEP = re.compile(r"""(?P<dot>\.?)(?:'(?P<quoted>[^']+)'|(?P<name>[^.\['=]+))|\[(?P<place>-?[0-9]{1,6})\]""")


def with_overrides(tree: Tree, overrides: Sequence[str]) -> Tree:
    """A profile's data with single values replaced.

    A figure that is given as a bare number is an assumed one. So is a number of which ``origins`` says where it comes
    from: what is said there is said of another number.

    Args:
        tree: The profile.
        overrides: Texts PATH=VALUE; the value is one YAML scalar, and ``null`` removes what stands there.

    Raises:
        ProfileError: One of them is no such text, or leads through something that has no parts.
    """
    if len(overrides) > MOST:
        problem = Problem((), f"{len(overrides)} overrides", f"at most {MOST}", "write a file that extends the profile")
        raise ProfileError("--set", problem)
    for text in overrides:
        tree = _with(tree, text)
    return tree


def _with(tree: Tree, text: str) -> Tree:
    origin = f"--set {text}" if len(text) <= 120 else f"--set {text[:117]}..."
    path, value = _parts(text, origin)
    said = {"provenance": "assumed", "source": f"given as {origin}"[:500]}
    places = {**without(tree.places, path), path: Place(origin)}
    data = tree.data
    figure = path[:-1] if path[-1] == "value" and _is_figure(_at(data, path[:-1])) else path
    if isinstance(value, int | float) and not isinstance(value, bool) and _is_figure(_at(data, figure)):
        data = _set(data, figure, {"value": value, **said}, origin, ())
        return Tree(data, {**without(places, figure), figure: Place(origin)})
    data = _set(data, path, value, origin, ())
    origins = _at(data, ("origins",))
    if isinstance(origins, dict) and key(path) in origins:
        if value is None:
            origins = {name: one for name, one in origins.items() if name != key(path)}
        else:
            origins = {**origins, key(path): said}
        data = _set(data, ("origins",), origins, origin, ())
    return Tree(data, places)


def _parts(text: str, origin: str) -> tuple[Path, object]:
    """Path and value of one override."""

    def refuse(found: str) -> ProfileError:
        expected = "PATH=VALUE, such as writes.bytes_per_increment=4096"
        return ProfileError(origin, Problem((), found, expected, "write a path, an equals sign and a single value"))

    if len(text) > LONGEST:
        raise refuse(f"{len(text)} characters")
    steps: list[str | int] = []
    at = 0
    while at < len(text) and text[at] != "=":
        step = _STEP.match(text, at)
        # The first step is a name without a dot, every further name has one.
        if step is None or (not steps if step["place"] else bool(step["dot"]) != bool(steps)):
            raise refuse(f"{describe(text[at:])} in the path")
        steps.append(int(step["place"]) if step["place"] else step["quoted"] or step["name"].strip())
        at = step.end()
    if at >= len(text):
        raise refuse("no equals sign")
    if not steps:
        raise refuse("no path")
    raw = text[at + 1 :]
    value, _ = yaml_text.read(raw, origin) if raw.strip() else (None, None)
    if isinstance(value, dict | list):
        raise refuse(describe(value))
    return tuple(steps), value


def _is_figure(data: object) -> bool:
    return isinstance(data, dict) and data.keys() == FIGURE_FIELDS


def _at(data: object, path: Path) -> object:
    for step in path:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and -len(data) <= step < len(data):
            data = data[step]
        else:
            return None
    return data


def _set(data: object, path: Path, value: object, origin: str, around: Path) -> object:
    """A copy of the data with one value replaced; sections on the way that are left out are begun."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    here = (*around, step)
    if isinstance(step, str) and (isinstance(data, dict) or data is None):
        found = dict(data or {})
        if value is None and not rest:
            found.pop(step, None)
        else:
            found[step] = _set(found.get(step), rest, value, origin, here)
        return found
    if isinstance(step, int) and isinstance(data, list | tuple) and -len(data) <= step < len(data):
        items = list(data)
        items[step] = _set(items[step], rest, value, origin, here)
        return items
    expected = f"a list with an item {step}" if isinstance(step, int) else "a mapping"
    raise ProfileError(origin, Problem(around, describe(data), expected, "correct the path"))
