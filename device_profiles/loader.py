"""Reading device profiles: from the ones that come with geoshift, from YAML files, from a plan's manifest.

A file may extend another profile. What it leaves out is taken from there, so that what comes out is a whole profile
again, and a plan carries no reference to files.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path as FilePath
from typing import Any, TypeVar

import msgspec

from device_profiles import yaml_text
from device_profiles.errors import Path, Place, Problem, ProfileError, describe
from device_profiles.layers import Tree, laid_over
from device_profiles.mismatches import mismatches
from device_profiles.overrides import with_overrides
from device_profiles.rules import conflicts
from device_profiles.schema import Profile, nearest
from device_profiles.yaml_text import MAX_BYTES, MAX_DEPTH

__all__ = [
    "MAX_BYTES", "MAX_DEPTH", "MAX_EXTENDS", "as_builtins", "builtin_names", "from_builtins", "json_schema", "load",
    "parse", "structure",
]  # fmt: skip

S = TypeVar("S", bound=msgspec.Struct)

MAX_EXTENDS = 4
"""Files that a profile may rest on, one after the other: a board, its family, the modes that all have."""
_LONGEST_NAME = 4096


def builtin_names() -> tuple[str, ...]:
    """Names of the profiles that come with geoshift, in alphabetical order.

    Files whose name begins with an underscore are parts that these extend.
    """
    files = (file.name for file in resources.files("device_profiles").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml") and name[0] != "_"))


def load(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Profile:
    """A profile by its built-in name, such as ``raspberry-pi-5``, or from a YAML file.

    Args:
        source: Built-in name or path. A built-in name goes before a file of that name; ``./name`` is the file.
        overrides: Texts PATH=VALUE that replace single values, such as ``writes.bytes_per_increment=4096``.

    Raises:
        ProfileError: There is no such profile, it cannot be read, or it breaks a rule of the format.
    """
    origin, place = _find(source, None)
    tree = _read(origin, place)
    return _build(with_overrides(tree, overrides), origin)


def parse(text: str, origin: str) -> Profile:
    """A profile from YAML text. It may extend a built-in profile; a file it extends is sought from where one is.

    Args:
        text: The YAML.
        origin: Where it comes from, for error messages.

    Raises:
        ProfileError: It is not YAML, or it breaks a rule of the format.
    """
    return _build(_extended(text, origin, FilePath(), ("",)), origin)


def structure(kind: type[S], text: str, origin: str) -> S:
    """Another structure than a profile from YAML text, with the same limits and the same words for what is wrong.

    Args:
        kind: The structure's type.
        text: The YAML.
        origin: Where it comes from, for error messages.

    Raises:
        ProfileError: It is not YAML, or it breaks the type.
    """
    data, lines = yaml_text.read(text, origin)
    if problems := list(mismatches(kind, data, ())):
        places = {path: Place(origin, line) for path, line in lines.items()}
        raise ProfileError(origin, *(problem.located(places) for problem in problems))
    return msgspec.convert(data, kind)


def from_builtins(data: object, origin: str, overrides: Sequence[str] = ()) -> Profile:
    """A profile from dictionaries, lists and scalars, as ``as_builtins`` gives them.

    Args:
        data: The profile, as a JSON reader returns it.
        origin: Where it comes from, for error messages.
        overrides: As for ``load``.

    Raises:
        ProfileError: It breaks a rule of the format.
    """
    return _build(with_overrides(Tree(data, {}), overrides), origin)


def as_builtins(profile: Profile) -> dict[str, Any]:
    """A profile as dictionaries, lists and scalars, ready for JSON; the inverse of ``from_builtins``."""
    data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(profile))
    return data


def json_schema() -> dict[str, Any]:
    """The format as JSON Schema, for editors and other checkers. It cannot say the rules between modes."""
    schema = msgspec.json.schema(Profile)
    for definition in schema["$defs"].values():
        # msgspec takes docstrings as they are indented, from release 0.23 on without.
        if words := definition.get("description"):
            definition["description"] = inspect.cleandoc(words)
    fields = schema["$defs"]["Profile"]["properties"]
    extends = {
        "type": "string",
        "minLength": 1,
        "maxLength": _LONGEST_NAME,
        "description": "a built-in profile or a YAML file, from which everything is taken that is left out here",
    }
    schema["$defs"]["Extension"] = {
        "title": "Extension",
        "description": "A profile that says only in what it differs from another one.",
        "type": "object",
        "properties": {"extends": extends, **{name: {} for name in fields}},
        "required": ["extends"],
        "additionalProperties": False,
    }
    whole = {"anyOf": [{"$ref": "#/$defs/Profile"}, {"$ref": "#/$defs/Extension"}], "$defs": schema["$defs"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def _find(source: str | os.PathLike[str], folder: FilePath | Traversable | None) -> tuple[str, FilePath | Traversable]:
    """What to call a profile in errors, and where it is read; a relative path counts from ``folder``."""
    known = builtin_names()
    if isinstance(source, str) and source in known:
        return f"{source}.yaml", resources.files("device_profiles") / f"{source}.yaml"
    if folder is None:
        return os.fspath(source), FilePath(source)
    place = folder / os.fspath(source)
    return str(place), place


def _read(origin: str, place: FilePath | Traversable, inside: tuple[str, ...] = ()) -> Tree:
    """What a file says and extends; ``inside`` are the real paths of the files that lead to it."""
    known = builtin_names()
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
    yaml_text.check_size(raw, origin)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{error.object[error.start]:02x}"
        raise ProfileError(origin, Problem((), found, "UTF-8 text", "save the file as UTF-8", line)) from error
    folder = place.parent if isinstance(place, FilePath) else resources.files("device_profiles")
    return _extended(text, origin, folder, (*inside, os.path.realpath(str(place))))


def _extended(text: str, origin: str, folder: FilePath | Traversable, chain: tuple[str, ...]) -> Tree:
    """What a text says, laid over what it extends; ``chain`` are the real paths of the files up to this one."""
    data, lines = yaml_text.read(text, origin)
    places: dict[Path, Place] = {path: Place(origin, line) for path, line in lines.items()}
    if not isinstance(data, dict) or "extends" not in data:
        return Tree(data, places)
    here = ("extends",)
    own = Tree({name: value for name, value in data.items() if name != "extends"}, places)
    source = data["extends"]

    def refuse(found: str, expected: str, remedy: str) -> ProfileError:
        return ProfileError(origin, Problem(here, found, expected, remedy).located(places))

    if not isinstance(source, str) or not 0 < len(source) <= _LONGEST_NAME or "\0" in source:
        raise refuse(describe(source), "the name of a built-in profile or the path of a YAML file", "name one profile")
    name, place = _find(source, folder)
    if os.path.realpath(str(place)) in chain:
        walk = " → ".join(FilePath(one).name for one in (*chain, str(place)))
        raise refuse(f"the cycle {walk}", "profiles that end at a whole one", "extend another profile, or none")
    if len(chain) > MAX_EXTENDS:
        raise refuse(f"a chain of more than {MAX_EXTENDS} files", f"at most {MAX_EXTENDS}", "join some of the files")
    try:
        why = "" if place.is_file() else "which is no file"
    except OSError as error:
        why = f"which cannot be looked at ({error.strerror})"
    if why:
        known = builtin_names()
        raise refuse(
            f"{describe(source)}, {why}",
            f"a YAML file, from {folder}, or one of the built-in profiles {', '.join(known)}",
            f"{nearest(source, known)}correct the name",
        )
    base = _read(name, place, chain)
    return laid_over(base, own)


def _build(tree: Tree, origin: str) -> Profile:
    problems = list(mismatches(Profile, tree.data, ()))
    if not problems:
        profile = msgspec.convert(tree.data, Profile)
        problems = list(conflicts(profile))
        if not problems:
            return profile
    places: Mapping[Path, Place] = tree.places
    raise ProfileError(origin, *(problem.located(places) for problem in problems))
