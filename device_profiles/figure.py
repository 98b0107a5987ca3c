"""A number about a device, with where it comes from."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Provenance = Literal["measured", "datasheet", "paper", "assumed"]


class Origin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a number should be believed."""

    provenance: Annotated[
        Provenance, Meta(description="how the number came about; assumed also for what is a choice of ours")
    ]
    source: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=500,
            description="the measurement, document or argument, so that others can check it",
        ),
    ]


class Figure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number about a device, and why it should be believed."""

    value: Annotated[float, Meta(ge=0, description="the number, in the unit that the field's name says")]
    provenance: Annotated[Provenance, Meta(description="how the number came about")]
    source: Annotated[
        str, Meta(min_length=1, description="the measurement, document or argument, so that others can check it")
    ]


FIGURE_FIELDS = frozenset(Figure.__struct_fields__)
"""Keys of a figure: a mapping of these is a number with its origin."""
