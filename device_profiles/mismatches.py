"""Every place where data breaks the types of the schema, in words; msgspec itself stops at the first."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta, inspect

from device_profiles.errors import Path, Problem, describe
from device_profiles.schema import LARGEST, nearest


def mismatches(kind: Any, value: object, path: Path) -> Iterator[Problem]:
    """Every place where ``value`` breaks the type ``kind``, with its path."""
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
                inner += mismatches(field.type, value[key], (*path, key))
            elif field.required:
                inner.append(Problem((*path, key), "no such key", _expected(field.type), f"add it{_about(field.type)}"))
    elif get_origin(bare) is dict and isinstance(value, dict):
        for key, item in value.items():
            for part, part_kind in zip((key, item), get_args(bare), strict=True):
                inner += mismatches(part_kind, part, (*path, key))
    elif get_origin(bare) is tuple and isinstance(value, list | tuple):
        kinds = get_args(bare)
        each = [kinds[0]] * len(value) if kinds[-1] is ... else kinds
        for place, (item, item_kind) in enumerate(zip(value, each, strict=False)):
            inner += mismatches(item_kind, item, (*path, place))
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
