"""How long work says where it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Something that shows stages and steps."""

    def stage(self, name: str, steps: int) -> None:
        """A new stage of ``steps`` steps begins; the one before is over."""
        ...

    def step(self, detail: str) -> None:
        """The next step of the stage begins."""
        ...


class Silent:
    """Shows nothing."""

    def stage(self, name: str, steps: int) -> None:
        """Nothing."""

    def step(self, detail: str) -> None:
        """Nothing."""
