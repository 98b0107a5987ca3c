"""Who may do what: bearer tokens with a scope, kept as digests.

A token reads ``gs_<id>_<secret>``. The id is public and names the token in lists and logs; the secret has 256 bits from
the system's generator, so a plain SHA-256 of it cannot be guessed back, and no slow hash is needed at every request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from device_profiles.errors import GeoshiftError, describe
from runtime import private_files

LIMIT: Final = 256
"""Tokens a device keeps; more than people who look after it."""
MAX_BYTES: Final = 1 << 18
_NOBODY: Final = hashlib.sha256(b"").digest()


ScopeName = Literal["read", "switch", "admin"]


class UnknownToken(GeoshiftError):
    """There is no token of this id. ``geoshift tokens list`` shows those that there are."""


class TooManyTokens(GeoshiftError):
    """The device keeps no more tokens. Revoke one first."""


class Scope(IntEnum):
    """What a token allows; each scope includes those before it."""

    READ = 1
    """Look, and ask for inference."""
    SWITCH = 2
    """Change the mode."""
    ADMIN = 3
    """Manage tokens, push plans, read the log."""

    @classmethod
    def named(cls, name: str) -> Scope:
        """Scope of a name in lower case.

        Raises:
            GeoshiftError: There is no such scope.
        """
        for scope in cls:
            if scope.word == name:
                return scope
        raise GeoshiftError(f"scope: found {describe(name)}, expected one of {', '.join(one.word for one in cls)}")

    @property
    def word(self) -> ScopeName:
        """Its name in lower case."""
        return _WORDS[self]


_WORDS: Final[dict[Scope, ScopeName]] = {Scope.READ: "read", Scope.SWITCH: "switch", Scope.ADMIN: "admin"}


class TokenEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token as it is kept: nothing of it opens a door."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{12}(?![\s\S])")]
    name: Annotated[str, Meta(max_length=64)]
    """Whose it is, in words."""
    scope: Annotated[int, Meta(ge=1, le=3)]
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?![\s\S])")]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal["geoshift.tokens/1"]
    tokens: Annotated[tuple[TokenEntry, ...], Meta(max_length=LIMIT)]


@dataclass(frozen=True)
class Principal:
    """Who a request comes from.

    Attributes:
        id: Public id of the token, or of the way in where there is none.
        name: In words.
        scope: What is allowed.
    """

    id: str
    name: str
    scope: Scope
    mark: str = ""
    """Changes with every new secret of the token; it is no secret itself."""


class Tokens:
    """The tokens of one device, in one file that several processes may change.

    Args:
        path: The file; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._entries: dict[str, TokenEntry] = {}

    def verify(self, token: str) -> Principal | None:
        """Whose token this is; None for nobody's. Takes as long for a wrong secret as for a right one."""
        prefix, _, rest = token.partition("_")
        id, _, secret = rest.partition("_")
        entry = self._current().get(id) if prefix == "gs" else None
        expected = bytes.fromhex(entry.digest) if entry is not None else _NOBODY
        right = hmac.compare_digest(_digest(secret), expected)
        if entry is None or not right:
            return None
        return Principal(entry.id, entry.name, Scope(entry.scope), entry.digest)

    def knows(self, principal: Principal) -> bool:
        """Whether the token that somebody came with is still good: neither revoked nor rotated since."""
        entry = self._current().get(principal.id)
        return entry is not None and entry.digest == principal.mark

    def add(self, name: str, scope: Scope) -> str:
        """Make a token.

        Returns:
            The token itself, which is kept nowhere: only its owner has it from now on.

        Raises:
            TooManyTokens: There are as many as a device keeps.
        """
        with private_files.locked(self._path):
            entries = self._load()
            if len(entries) >= LIMIT:
                raise TooManyTokens(f"tokens: found {len(entries)}, expected fewer than {LIMIT}; revoke one first")
            id = secrets.token_hex(6)
            while id in entries:
                id = secrets.token_hex(6)
            token, entry = _mint(id, name, scope)
            self._save({**entries, id: entry})
        return token

    def revoke(self, id: str) -> None:
        """Make a token worthless at once.

        Raises:
            UnknownToken: There is none of this id.
        """
        with private_files.locked(self._path):
            entries = self._load()
            self._require(entries, id)
            self._save({key: entry for key, entry in entries.items() if key != id})

    def rotate(self, id: str) -> str:
        """Give a token a new secret; the old one is worthless at once.

        Returns:
            The new token; its id, name and scope are those of the old one.

        Raises:
            UnknownToken: There is none of this id.
        """
        with private_files.locked(self._path):
            entries = self._load()
            old = self._require(entries, id)
            token, entry = _mint(old.id, old.name, Scope(old.scope))
            self._save({**entries, id: entry})
        return token

    def listed(self) -> tuple[TokenEntry, ...]:
        """All tokens, the oldest first."""
        return tuple(self._current().values())

    def _current(self) -> dict[str, TokenEntry]:
        """The tokens as the file has them now: what another process revoked is worthless with the next request."""
        with self._guard:
            stamp = _stamp(self._path)
            if stamp != self._seen:
                self._entries = self._load()
                self._seen = stamp
            return self._entries

    def _load(self) -> dict[str, TokenEntry]:
        raw = private_files.read(self._path, MAX_BYTES)
        if raw is None:
            return {}
        try:
            found = msgspec.json.decode(raw, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise private_files.PrivateFileError(
                f"{self._path}: {error}; remove the file and pair every client again"
            ) from error
        return {entry.id: entry for entry in found.tokens}

    def _save(self, entries: dict[str, TokenEntry]) -> None:
        private_files.write(self._path, msgspec.json.encode(_File("geoshift.tokens/1", tuple(entries.values()))))
        with self._guard:
            # Two changes within one tick of the file system's clock may look alike.
            self._seen = None

    def _require(self, entries: dict[str, TokenEntry], id: str) -> TokenEntry:
        if id not in entries:
            raise UnknownToken(f"token: found no {describe(id)}; `geoshift tokens list` shows those that there are")
        return entries[id]


def _mint(id: str, name: str, scope: Scope) -> tuple[str, TokenEntry]:
    secret = secrets.token_urlsafe(32)
    clean = "".join(one for one in name if one.isprintable())[:64]
    return f"gs_{id}_{secret}", TokenEntry(id=id, name=clean, scope=int(scope), digest=_digest(secret).hex())


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever the file is replaced."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
