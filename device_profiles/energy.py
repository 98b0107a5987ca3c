"""What a profile knows of a device's energy: three figures, each with where it comes from."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class Figure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number about a device, and why it should be believed."""

    value: Annotated[float, Meta(ge=0, description="the number, in the unit that the field's name says")]
    provenance: Annotated[
        Literal["measured", "datasheet", "paper", "assumed"], Meta(description="how the number came about")
    ]
    source: Annotated[
        str, Meta(min_length=1, description="the measurement, document or argument, so that others can check it")
    ]


class Energy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The energy model of a device, used where it has no meter. A figure that nobody knows is left out."""

    idle_w: Annotated[Figure | None, Meta(description="watts that the device draws while it answers nothing")] = None
    joules_per_mac: Annotated[
        Figure | None, Meta(description="joules that one multiply-accumulate adds, memory traffic included")
    ] = None
    joules_per_byte_written: Annotated[
        Figure | None, Meta(description="joules that one byte of weights written adds")
    ] = None
