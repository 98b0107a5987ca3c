"""What bringing a network from mode to mode has cost so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.walking.rows import Ints


@dataclass
class Ledger:
    """Sums.

    Attributes:
        written: Bytes of weights, as the runtime counts them.
        physical: Bytes that the memory took: retries, and second copies, counted.
        increments: Increments.
        walking_s: Seconds during which a switch was under way.
        switches: Switches that reached their mode.
        turned: Switches that were turned to another mode on the way.
        rolled_back: Switches that the canary or the guard sent back.
        stall_s: Longest time that callers were kept out at once.
        wear: Layer to the writes of each of its rows, retries not counted.
        spent: (seconds, bytes that the memory took) of each piece of writing.
        asked: (seconds, multiply-accumulates) of what canary and guard asked.
    """

    written: int = 0
    physical: float = 0.0
    increments: int = 0
    walking_s: float = 0.0
    switches: int = 0
    turned: int = 0
    rolled_back: int = 0
    stall_s: float = 0.0
    wear: dict[str, Ints] = field(default_factory=dict)
    spent: list[tuple[float, float]] = field(default_factory=list)
    asked: list[tuple[float, int]] = field(default_factory=list)

    @property
    def asked_macs(self) -> int:
        """Multiply-accumulates of all that canary and guard asked."""
        return sum(macs for _, macs in self.asked)

    def write(self, at_s: float, size: int, physical: float, stall_s: float) -> None:
        """A piece was written."""
        self.written += size
        self.physical += physical
        self.increments += 1
        self.stall_s = max(self.stall_s, stall_s)
        self.spent.append((at_s, physical))
