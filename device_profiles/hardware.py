"""What a device is: its processor, how it stores a weight, and what writing one does to it.

Numbers that say something about hardware are figures with their origin (``device_profiles.figure``). Numbers that are a
choice (paces, limits, guards) are plain, and a profile may say of them too where they come from.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from device_profiles.figure import Figure

LARGEST_BITS = 16


class Target(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What computes, and whether this project's runtime runs there."""

    architecture: Annotated[
        Literal["any", "x86-64", "aarch64", "microcontroller", "neuromorphic", "crossbar"],
        Meta(description="kind of processor; any for what runs wherever ONNX Runtime does"),
    ] = "any"
    provider: Annotated[
        Literal["CPUExecutionProvider"],
        Meta(description="execution provider of ONNX Runtime; others copy weights or want them constant"),
    ] = "CPUExecutionProvider"
    runs: Annotated[
        Literal["live", "simulate"],
        Meta(
            description="live: the runtime serves there; simulate: plans are made and played for it, and serving is "
            "refused"
        ),
    ] = "live"
    macs_per_second: Annotated[
        Figure | None, Meta(description="multiply-accumulates that the device computes in a second, for latency")
    ] = None
    overhead_ms: Annotated[
        Figure | None, Meta(description="milliseconds that one inference takes beside its multiply-accumulates")
    ] = None
    operators: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...],
        Meta(max_length=256, description="ONNX operators that the device has; empty for all of the graphs'"),
    ] = ()


class Weights(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How one weight is stored. Of ``int``, every weight is an integer code times a scale."""

    format: Annotated[
        Literal["float32", "float16", "int"],
        Meta(description="kind of number; int for codes of so many bits, int8 is int with 8 bits"),
    ] = "float32"
    bits: Annotated[
        Annotated[int, Meta(ge=2, le=LARGEST_BITS)] | None, Meta(description="bits of one code, the sign's included")
    ] = None
    scale: Annotated[
        Literal["row", "layer"],
        Meta(description="what shares one scale: a row (a unit's weights), or the layer, as on a core or an array"),
    ] = "row"
    scales: Annotated[
        Literal["any", "powers-of-two"],
        Meta(description="which scales there are; powers-of-two where a product is only shifted, not multiplied again"),
    ] = "any"
    sign: Annotated[
        Literal["signed", "differential"],
        Meta(
            description="signed: codes from -(2^(bits-1) - 1) to 2^(bits-1) - 1; differential: two cells of bits each, "
            "one for either sign, so codes from -(2^bits - 1) to 2^bits - 1"
        ),
    ] = "signed"
    bias: Annotated[
        Literal["float32", "int32"],
        Meta(description="kind of number of a bias; it is written with its row, and takes four bytes either way"),
    ] = "float32"


class Verify(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Writing with a check, as resistive cells need it: what is read back wrong is written again."""

    mean_writes: Annotated[Figure, Meta(description="writes that one row takes on average, the first included")]
    most_writes: Annotated[int, Meta(ge=1, le=1000, description="writes after which a row counts as broken")]
