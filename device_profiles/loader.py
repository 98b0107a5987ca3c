"""Reading device profiles: from the ones that come with geoshift, from YAML files, from a plan's manifest.

A profile is untrusted input. The text goes through the composer of PyYAML, which builds no objects and knows lines;
aliases, anchors and tags are refused, and size and nesting are limited. Scalars follow YAML 1.2, as far as a profile
needs them: ``on`` and ``no`` are text, ``1e3`` is a number.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path as FilePath
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
import yaml
from msgspec import Meta, inspect

from device_profiles.errors import Path, Problem, ProfileError, describe
from device_profiles.rules import conflicts
from device_profiles.schema import LARGEST, Profile, nearest

# A profile of ten modes takes 5 KiB.
MAX_BYTES = 256 * 1024
# profile, modes, C2, remove, its first item, layer, role: 7 levels.
MAX_DEPTH = 12

S = TypeVar("S", bound=msgspec.Struct)

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


def builtin_names() -> tuple[str, ...]:
    """Names of the profiles that come with geoshift, in alphabetical order."""
    files = resources.files("device_profiles").iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def load(source: str | os.PathLike[str]) -> Profile:
    """A profile by its built-in name, such as ``raspberry-pi-5``, or from a YAML file.

    Args:
        source: Built-in name or path. A built-in name goes before a file of that name; ``./name`` is the file.

    Raises:
        ProfileError: There is no such profile, it cannot be read, or it breaks a rule of the format.
    """
    known = builtin_names()
    origin = os.fspath(source)
    place = FilePath(source)
    if isinstance(source, str) and source in known:
        origin = f"{source}.yaml"
        place = resources.files("device_profiles") / origin  # type: ignore[assignment]  # a Traversable opens alike
    expected = f"a YAML file or one of the built-in profiles {', '.join(known)}"
    try:
        if not place.is_file():
            remedy = f"{nearest(origin, known)}give a built-in name or the path of a file"
            raise ProfileError(origin, Problem((), "no such file", expected, remedy))
        with place.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        problem = Problem((), error.strerror or type(error).__name__, expected, "give a file that can be read")
        raise ProfileError(origin, problem) from error
    _limit_size(raw, origin)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{error.object[error.start]:02x}"
        raise ProfileError(origin, Problem((), found, "UTF-8 text", "save the file as UTF-8", line)) from error
    return parse(text, origin)


def parse(text: str, origin: str) -> Profile:
    """A profile from YAML text.

    Args:
        text: The YAML.
        origin: Where it comes from, for error messages.

    Raises:
        ProfileError: It is not YAML, or it breaks a rule of the format.
    """
    return _build(*_read(text, origin))


def structure(kind: type[S], text: str, origin: str) -> S:
    """Another structure than a profile from YAML text, with the same limits and the same words for what is wrong.

    Args:
        kind: The structure's type.
        text: The YAML.
        origin: Where it comes from, for error messages.

    Raises:
        ProfileError: It is not YAML, or it breaks the type.
    """
    data, _, lines = _read(text, origin)
    if problems := list(_mismatches(kind, data, ())):
        raise ProfileError(origin, *(problem.located(lines) for problem in problems))
    return msgspec.convert(data, kind)


def _read(text: str, origin: str) -> tuple[object, str, dict[Path, int]]:
    """Data, origin and the line of each path of a YAML text."""
    _limit_size(text, origin)
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
    return _data(node, (), lines, origin), origin, lines


def from_builtins(data: object, origin: str) -> Profile:
    """A profile from dictionaries, lists and scalars, as ``as_builtins`` gives them.

    Args:
        data: The profile, as a JSON reader returns it.
        origin: Where it comes from, for error messages.

    Raises:
        ProfileError: It breaks a rule of the format.
    """
    return _build(data, origin, {})


def as_builtins(profile: Profile) -> dict[str, Any]:
    """A profile as dictionaries, lists and scalars, ready for JSON; the inverse of ``from_builtins``."""
    data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(profile))
    return data


def json_schema() -> dict[str, Any]:
    """The format as JSON Schema, for editors and other checkers. It cannot say the rules between modes."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Profile)}


def _limit_size(raw: bytes | str, origin: str) -> None:
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


def _build(data: object, origin: str, lines: dict[Path, int]) -> Profile:
    problems = list(_mismatches(Profile, data, ()))
    if not problems:
        profile = msgspec.convert(data, Profile)
        problems = list(conflicts(profile))
        if not problems:
            return profile
    raise ProfileError(origin, *(problem.located(lines) for problem in problems))


def _mismatches(kind: Any, value: object, path: Path) -> Iterator[Problem]:
    """Every place where ``value`` breaks the type ``kind``. msgspec itself stops at the first and names no key."""
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if type(None) in get_args(bare) and isinstance(value, dict):
        # A section that may be left out, or one of its parts: look into it as into any other.
        bare = get_args(bare)[0]
    inner: list[Problem] = []
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct) and isinstance(value, dict):
        fields = {field.encode_name: field for field in msgspec.structs.fields(bare)}
        for key in (key for key in value if key not in fields):
            remedy = f"{nearest(key, fields)}correct or remove it"
            inner.append(Problem((*path, key), "an unknown key", f"one of {', '.join(fields)}", remedy))
        for key, field in fields.items():
            if key in value:
                inner += _mismatches(field.type, value[key], (*path, key))
            elif field.required:
                inner.append(Problem((*path, key), "no such key", _expected(field.type), f"add it{_about(field.type)}"))
    elif get_origin(bare) is dict and isinstance(value, dict):
        for key, item in value.items():
            for part, part_kind in zip((key, item), get_args(bare), strict=True):
                inner += _mismatches(part_kind, part, (*path, key))
    elif get_origin(bare) is tuple and isinstance(value, list | tuple):
        kinds = get_args(bare)
        each = [kinds[0]] * len(value) if kinds[-1] is ... else kinds
        for place, (item, item_kind) in enumerate(zip(value, each, strict=False)):
            inner += _mismatches(item_kind, item, (*path, place))
    yield from inner
    if not inner and not _fits(kind, value):
        too_large = isinstance(value, int) and abs(value) > LARGEST
        expected = _expected(kind) + (f" and of at most {LARGEST}" if too_large else "")
        # A literal's values are the quoted words of what is expected.
        close = nearest(value, re.findall(r"'([^']*)'", expected)) if isinstance(value, str) else ""
        yield Problem(path, describe(value), expected, f"{close}correct it{_about(kind)}")


def _fits(kind: Any, value: object) -> bool:
    try:
        msgspec.convert(value, kind)
        str(value if isinstance(value, str) else "").encode()  # half a surrogate pair is no text
        return not isinstance(value, float) or math.isfinite(value)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False


def _about(kind: Any) -> str:
    notes = [note.description for note in get_args(kind)[1:] if isinstance(note, Meta) and note.description]
    return f" ({notes[-1]})" if notes else ""


def _expected(kind: Any) -> str:
    return _words(inspect.type_info(kind))


def _words(info: inspect.Type) -> str:
    """What a type accepts, in words."""
    match info:
        case inspect.Metadata(type=inspect.StrType(pattern=str()), extra_json_schema={"description": str(words)}):
            return words
        case inspect.Metadata(type=inner):
            return _words(inner)
        case inspect.UnionType(types=options):
            return " or ".join(_words(option) for option in options if not isinstance(option, inspect.NoneType))
        case inspect.IntType() | inspect.FloatType():
            limits = (("above", info.gt), ("of at least", info.ge), ("of at most", info.le), ("below", info.lt))
            known = [f"{word} {limit:g}" for word, limit in limits if limit is not None and abs(limit) < LARGEST]
            noun = "an integer" if isinstance(info, inspect.IntType) else "a finite number"
            return f"{noun} {' and '.join(known)}".rstrip()
        case inspect.LiteralType(values=values):
            return " or ".join(repr(value) for value in values)
        case inspect.StructType(fields=fields):
            return f"a mapping with keys among {', '.join(field.encode_name for field in fields)}"
        case inspect.DictType(min_length=fewest, max_length=limit):
            return f"a mapping of {fewest or 0} to {limit} names"
        case inspect.TupleType(item_types=items):
            return f"a list of {len(items)} items"
        case inspect.VarTupleType():
            return "a list"
        case inspect.BoolType():
            return "true or false"
    return "text"
