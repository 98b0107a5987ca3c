"""Letting a client in for the first time: a one-time code, made by somebody who stands at the board.

``geoshift pair`` writes the stretched code to the state directory; the service, another process, asks for it there.
It is gone after one success, after ten minutes, and with the next boot.

Wrong proofs do not close the door soon, or anybody on the network could keep everybody out. Who was wrong a few times
waits longer and longer, each address for itself; a wait at one address is none at another. The code needs no more: it
has 60 bits, and closes after 2^24 wrong proofs from wherever they came. So all attackers together guess a code with a
probability of at most 2^24 / 2^60 < 2e-11, and to close it they would have to send 28,000 proofs a second for all of
its ten minutes, which is more than a board answers. One address alone sends some twenty.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from device_profiles.errors import GeoshiftError
from runtime import private_files
from runtime.device.clock import since_boot_s
from runtime.pairing_proof import new_code, proof, stretch
from runtime.service.backoff import Backoff
from runtime.service.tokens import Scope, Tokens

LIFETIME_S: Final = 600.0
"""Time to walk from the board to the desktop."""
MOST_WRONG: Final = 1 << 24
"""Wrong proofs that a code stands in all."""
MAX_BYTES: Final = 4096


class PairingRefused(GeoshiftError):
    """Nobody is let in: no code is open, or the proof was wrong. Run ``geoshift pair`` on the device."""


class PairingTooSoon(PairingRefused):
    """This address was wrong too often. Wait.

    Attributes:
        wait_s: Seconds until it may try again.
    """

    def __init__(self, wait_s: float) -> None:
        super().__init__("pair: found too many wrong codes from this address")
        self.wait_s = wait_s


class _Open(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A code that waits."""

    key: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?![\s\S])")]
    scope: Annotated[int, Meta(ge=1, le=3)]
    boot: str
    until_s: float
    """On the clock since boot, which runs on while the board sleeps and knows no date."""


def _boot_id() -> str:
    """Which boot this is; the clock above begins anew with each."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Pairing:
    """The one code that may be open at a time.

    Args:
        path: Where it is kept.
        clock: Seconds since boot.
        boot: Id of this boot.
        most_wrong: Wrong proofs that a code stands.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = since_boot_s,
        boot: Callable[[], str] = _boot_id,
        most_wrong: int = MOST_WRONG,
    ) -> None:
        self._path = path
        self._clock = clock
        self._boot = boot
        self._most_wrong = most_wrong
        # Both are used under the file's lock. Counting in the file would let strangers wear the flash.
        self._backoff = Backoff(clock)
        self._wrong = ("", 0)

    def open(self, certificate_sha256: str, scope: Scope) -> str:
        """Open the door once, in place of any code before.

        Returns:
            The code, to be shown and never kept.
        """
        code = new_code()
        waiting = _Open(
            key=stretch(code, certificate_sha256).hex(),
            scope=int(scope),
            boot=self._boot(),
            until_s=self._clock() + LIFETIME_S,
        )
        with private_files.locked(self._path):
            private_files.write(self._path, msgspec.json.encode(waiting))
        return code

    def waits(self) -> bool:
        """Whether a code is open."""
        with private_files.locked(self._path):
            return self._load() is not None

    def admit(
        self, nonce: bytes, answer: bytes, name: str, tokens: Tokens, address: str = "local"
    ) -> tuple[str, bytes]:
        """Exchange a client's proof for a token.

        Args:
            nonce: The client's fresh number.
            answer: Its proof.
            name: Whom the token is for.
            tokens: Where the token is added.
            address: Where the client is.

        Returns:
            The token, and the device's own proof.

        Raises:
            PairingTooSoon: This address was wrong too often; the proof was not looked at.
            PairingRefused: No code is open or the proof is wrong.
        """
        with private_files.locked(self._path):
            waiting = self._load()
            if waiting is None:
                raise PairingRefused("pair: found no open code; run `geoshift pair` on the device and try again")
            if wait_s := self._backoff.wait_s(address):
                raise PairingTooSoon(wait_s)
            key = bytes.fromhex(waiting.key)
            if not hmac.compare_digest(proof(key, "client", nonce), answer):
                self._backoff.failed(address)
                count = self._wrong[1] + 1 if self._wrong[0] == waiting.key else 1
                self._wrong = waiting.key, count
                if count >= self._most_wrong:
                    private_files.remove(self._path)
                    raise PairingRefused("pair: wrong code, and too often; run `geoshift pair` again")
                raise PairingRefused("pair: wrong code; read it again on the device")
            self._backoff.forgive(address)
            # The code goes first: a power cut in between costs a new code, never a second client.
            private_files.remove(self._path)
        return tokens.add(name, Scope(waiting.scope)), proof(key, "device", nonce)

    def _load(self) -> _Open | None:
        """The code that waits; one that is over or damaged is removed."""
        raw = private_files.read(self._path, MAX_BYTES)
        if raw is None:
            return None
        try:
            waiting = msgspec.json.decode(raw, type=_Open)
        except (msgspec.DecodeError, UnicodeDecodeError):
            private_files.remove(self._path)
            return None
        if waiting.boot != self._boot() or self._clock() >= waiting.until_s:
            private_files.remove(self._path)
            return None
        return waiting
