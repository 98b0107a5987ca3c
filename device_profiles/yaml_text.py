"""The part of YAML that a profile is written in: the one door to PyYAML.

A profile is untrusted input. The text goes through the composer of PyYAML, which builds no objects and knows lines;
aliases, anchors and tags are refused, and size and nesting are limited. Scalars follow YAML 1.2, as far as a profile
needs them: ``on`` and ``no`` are text, ``1e3`` is a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from device_profiles.errors import Path, Problem, ProfileError, describe

# A profile of ten modes takes 5 KiB.
MAX_BYTES = 256 * 1024
# profile, modes, C2, remove, its first item, layer, role: 7 levels.
MAX_DEPTH = 12

_YAML = "tag:yaml.org,2002:"
# Tag → how the plain text looks, its first characters, its value. An integer of more than 18 digits reads as a float,
# so that the type check refuses it by name.
_PLAIN: dict[str, tuple[str, str, Callable[[str], object]]] = {
    "null": (r"(?:~|null|Null|NULL|)$", "~nN", lambda text: None),
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]{1,18}$", "-+0123456789", int),
    "float": (
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
        lambda text: float(re.sub(r"\.(?=[iInN])", "", text)),
    ),
}


def read(text: str, origin: str) -> tuple[object, dict[Path, int]]:
    """What a YAML text says, as dictionaries, lists and scalars, and the line on which each part stands.

    Args:
        text: The YAML.
        origin: Where it comes from, for error messages.

    Raises:
        ProfileError: It is too large, or not of the part of YAML that is understood.
    """
    check_size(text, origin)
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"the character U+{ord(text[error.position]):04X}"
        raise ProfileError(origin, Problem((), found, "printable text", "remove it", line)) from error
    loader.origin = origin
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        found = f"a syntax error ({' '.join(part for part in (error.problem, error.context) if part)})"
        mark = error.problem_mark or loader.get_mark()
        raise ProfileError(origin, Problem(loader.path, found, "YAML", "correct this line", mark.line + 1)) from error
    except (ValueError, OverflowError) as error:  # PyYAML lets those of an escape such as \Uffffffff out
        found, line = "an escape or a version out of range", loader.get_mark().line + 1
        raise ProfileError(origin, Problem(loader.path, found, "YAML", "correct this line", line)) from error
    if node is None:
        problem = Problem((), "an empty document", "a mapping", "start from one of the built-in profiles", 1)
        raise ProfileError(origin, problem)
    lines: dict[Path, int] = {}
    return _data(node, (), lines, origin), lines


def check_size(raw: bytes | str, origin: str) -> None:
    """Refuse a text that no profile is as long as, before it is looked at."""
    if len(raw) > MAX_BYTES:
        found, expected = f"more than {MAX_BYTES} bytes", f"at most {MAX_BYTES}"
        raise ProfileError(origin, Problem((), found, expected, "give a file that holds one profile and nothing else"))


class _Loader(yaml.SafeLoader):
    """Composes nodes of a small, safe part of YAML, and knows the path of the node it is at."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # declared so by PyYAML
    origin = ""
    path: Path = ()
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # the hook of PyYAML
        outside = self.path
        if isinstance(index, int):
            self.path = (*outside, index)
        elif isinstance(index, yaml.ScalarNode):
            self.path = (*outside, index.value)
        self.depth += 1
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self.refuse(event, f"the alias *{event.anchor}", "values written out", "repeat the value instead")
        if event.anchor is not None:
            self.refuse(event, f"the anchor &{event.anchor}", "no anchors", "remove it, and repeat the value")
        if event.tag is not None:
            self.refuse(event, f"the tag {event.tag}", "no tags", "remove it")
        if self.depth > MAX_DEPTH:
            self.refuse(event, "deeper nesting", f"at most {MAX_DEPTH} levels", "remove the inner levels")
        node = super().compose_node(parent, index)
        self.path, self.depth = outside, self.depth - 1
        return node

    def refuse(self, event: yaml.Event, found: str, expected: str, remedy: str) -> None:
        line = event.start_mark.line + 1 if event.start_mark else None
        raise ProfileError(self.origin, Problem(self.path, found, expected, remedy, line))


for _name, (_look, _first, _) in _PLAIN.items():
    _Loader.add_implicit_resolver(_YAML + _name, re.compile(_look), [*_first, *([""] if _name == "null" else [])])


def _data(node: yaml.Node, path: Path, lines: dict[Path, int], origin: str) -> object:
    """The value of a node; notes in ``lines`` where each path stands."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_data(item, (*path, place), lines, origin) for place, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, object] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != _YAML + "str":
                shown = describe(_data(key, (*path, "?"), lines, origin))
                raise ProfileError(
                    origin, Problem(path, f"the key {shown}", "text as key", "write the key in quotes", line)
                )
            here = (*path, key.value)
            if key.value in found:
                said = f"this key again (first in line {lines[here]})"
                raise ProfileError(origin, Problem(here, said, "every key once", "keep one of the two", line))
            lines[here] = line
            found[key.value] = _data(value, here, lines, origin)
        return found
    plain = _PLAIN.get(node.tag.removeprefix(_YAML))
    return plain[2](node.value) if plain else node.value
