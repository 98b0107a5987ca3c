"""What is told elsewhere about files of the device: which one, and not where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NAME: Final = "STATE"
"""Stands for the state directory, as in the documentation."""


def without_place(text: str, state: Path | None) -> str:
    """A text for clients, in which the state directory has its name in place of its path.

    Args:
        text: May name files, as errors do.
        state: The state directory, if there is one.
    """
    if state is None:
        return text
    for place in (str(state), str(state.absolute()), str(state.resolve())):
        # A relative path gives nothing away, and may be a word of the text.
        if place.startswith("/") and len(place) > 1:
            text = text.replace(place, NAME)
    return text
