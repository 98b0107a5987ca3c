"""What a profile knows of a device's energy: figures, each with where it comes from."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from device_profiles.figure import Figure


class Energy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The energy model of a device, used where it has no meter. A figure that nobody knows is left out."""

    idle_w: Annotated[Figure | None, Meta(description="watts that the device draws while it answers nothing")] = None
    joules_per_mac: Annotated[
        Figure | None, Meta(description="joules that one multiply-accumulate adds, memory traffic included")
    ] = None
    joules_per_byte_written: Annotated[
        Figure | None, Meta(description="joules that one byte of weights written adds")
    ] = None
    inferences_per_second: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="load that a mode's watts are stated at, and planned for; None for what was seen"),
    ] = None
