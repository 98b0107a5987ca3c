"""What brings a network from mode to mode on a virtual clock, whatever it writes."""

from __future__ import annotations

from typing import Protocol

from runtime.simulation.ledger import Ledger
from runtime.simulation.paths import Place
from runtime.walking.engine import Runner
from runtime.walking.operation import Operation
from runtime.walking.table import Phase


class Mover(Protocol):
    """What brings a network from mode to mode on a virtual clock."""

    ledger: Ledger

    @property
    def mode(self) -> str:
        """Mode reached last."""
        ...

    @property
    def phase(self) -> Phase:
        """What it is doing."""
        ...

    @property
    def place(self) -> Place:
        """State that answers now."""
        ...

    @property
    def share(self) -> float:
        """How far it is from the first to the second of ``ends``, 0 to 1."""
        ...

    @property
    def ends(self) -> tuple[str, str]:
        """Modes of the leg that it is on; the mode twice at rest."""
        ...

    @property
    def dense(self) -> bool:
        """Whether the dense graph answers now, as it does on the way."""
        ...

    @property
    def asking(self) -> bool:
        """Whether the canary or the guard is being asked, which takes some of the processor's time."""
        ...

    def switch(self, mode: str) -> Operation:
        """Begin to go to a mode."""
        ...

    def due_s(self) -> float | None:
        """When it is to be called next; None while it rests."""
        ...

    def advance(self, now_s: float) -> None:
        """Do what is due now."""
        ...

    def stop(self, now_s: float) -> None:
        """The trace is over."""
        ...

    def runner(self) -> Runner:
        """What answers now."""
        ...
