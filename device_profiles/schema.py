"""What a device profile says: types and limits.

The types are the format; ``docs/profile.schema.json`` is exported from them. A constructor checks nothing:
profiles from outside come through ``device_profiles.loader``, which checks types, limits and the rules
of ``device_profiles.rules`` that join its parts.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from device_profiles.energy import Energy
from device_profiles.figure import Figure, Origin
from device_profiles.hardware import Target, Verify, Weights
from device_profiles.os_commands import Command
from device_profiles.triggers import Name, Trigger

SCHEMA = "geoshift.profile/1"

# The largest integer that every JSON reader keeps exactly.
LARGEST = 2**53 - 1

# `(?![\s\S])` is "end of text" in Python and in JSON Schema alike; `$` would let a final line break through.
ModeName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?![\s\S])",
        description="a name of 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
    ),
]

_ONE_OF_COUNT_FRACTION = {
    "oneOf": [
        {"required": ["count"], "properties": {"count": {"type": "integer"}}},
        {"required": ["fraction"], "properties": {"fraction": {"type": "number"}}},
    ]
}
_NAME_OR_ROLE = {
    "oneOf": [
        {
            "required": ["name"],
            "properties": {"name": {"type": "string"}, "role": {"type": "null"}, "position": {"type": "null"}},
        },
        {"required": ["role"], "properties": {"role": {"type": "string"}, "name": {"type": "null"}}},
    ]
}


class Memory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory the device spares for a network."""

    weights_bytes: Annotated[
        int, Meta(gt=0, le=LARGEST, description="bytes of memory that weights may take, copies included")
    ]
    second_copy: Annotated[
        bool,
        Meta(
            description="whether a second copy of weights can be held at all; false where the array that computes is "
            "the memory, as in a crossbar"
        ),
    ] = True


class Writes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast weights may be written while the network answers."""

    bytes_per_increment: Annotated[
        int, Meta(gt=0, le=LARGEST, description="bytes of weights written between two inferences")
    ]
    increments_per_second: Annotated[float, Meta(gt=0, description="increments written in a second at most")]
    stall_budget_ms: Annotated[
        float, Meta(gt=0, description="milliseconds by which one increment may delay an inference")
    ]
    granularity_bytes: Annotated[
        int,
        Meta(ge=1, le=LARGEST, description="smallest write: a row takes a whole multiple of it, as pages of flash"),
    ] = 1
    bytes_per_second: Annotated[
        Figure | None, Meta(description="bytes of weights that the memory takes in a second; None for no limit of it")
    ] = None
    verify: Annotated[Verify | None, Meta(description="what writing with a check takes; None where none is made")] = (
        None
    )
    endurance_writes: Annotated[
        Figure | None, Meta(description="writes that one cell stands; None where it does not wear")
    ] = None
    quiesce_required: Annotated[
        bool,
        Meta(
            description="whether the device can only be written while it computes nothing: increments are written in "
            "declared pauses, none longer than the stall budget"
        ),
    ] = False


class Bank(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How live weights are held."""

    policy: Annotated[
        Literal["auto", "in-place", "shadow", "persistent"],
        Meta(
            description="in-place: one copy of the tensors that move, answers and writes take turns; shadow: two, "
            "and answers never wait; persistent: one, in a file that keeps it without power; auto: shadow where memory "
            "allows it, else in-place"
        ),
    ] = "auto"
    snap: Annotated[bool, Meta(description="whether the physically smaller graph is used once a mode is reached")] = (
        True
    )


class Guard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The accuracy a user insists on."""

    max_drop_points: Annotated[
        float,
        Meta(
            gt=0,
            le=100,
            description="worst accepted paired accuracy drop against the dense mode, in percentage points, "
            "anywhere on a path",
        ),
    ]
    canary_every_increments: Annotated[
        int,
        Meta(
            ge=0,
            le=LARGEST,
            description="increments after which the canary samples are asked on the way too; 0 for none: they are "
            "always asked at its end",
        ),
    ] = 0


class Selector(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which layers a change acts on: one by its name, or those of a role."""

    name: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="module path of one layer, e.g. features.0")
    ] = None
    role: Annotated[
        Literal["convolution", "classifier"] | None,
        Meta(description="kind of layer; without position, all of them whose units can be removed"),
    ] = None
    position: Annotated[
        Annotated[int, Meta(ge=-LARGEST, le=LARGEST, extra_json_schema={"not": {"const": 0}})] | None,
        Meta(description="which of the layers of the role whose units can be removed: 1 is the first, -1 the last"),
    ] = None


class Change(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How many units of the selected layers are removed or restored: a count or a fraction."""

    layer: Annotated[Selector, Meta(description="the layers to change", extra_json_schema=_NAME_OR_ROLE)]
    count: Annotated[
        Annotated[int, Meta(ge=1, le=LARGEST)] | None,
        Meta(
            description="number of units; over several layers, divided in proportion to the units they are taken from"
        ),
    ] = None
    fraction: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(
            description="share of the units of each layer: to remove, of those in the dense network; to restore, of "
            "those that are removed at that point"
        ),
    ] = None


_Changes = tuple[Annotated[Change, Meta(extra_json_schema=_ONE_OF_COUNT_FRACTION)], ...]
_Selectors = tuple[Annotated[Selector, Meta(extra_json_schema=_NAME_OR_ROLE)], ...]


class Mode(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename={"from_": "from"}):
    """A power mode: another mode and what is changed in it.

    Removals come first, then restorations, then a target (``macs``, ``watts`` or ``latency_ms``), then ``sparsity``. A
    mode with ``weights`` is another network.
    """

    from_: Annotated[ModeName | None, Meta(description="mode this one is made from; the dense mode alone has none")] = (
        None
    )
    remove: Annotated[_Changes, Meta(description="units taken out")] = ()
    restore: Annotated[_Changes, Meta(description="removed units brought back")] = ()
    macs: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None,
        Meta(
            description="share of the dense network's multiply-accumulates that may be left: the planner removes "
            "further units where that costs least"
        ),
    ] = None
    watts: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="watts that the device may draw at energy.inferences_per_second: the planner removes further "
            "units where that costs least"
        ),
    ] = None
    latency_ms: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="milliseconds that one inference may take by target.macs_per_second: the planner removes "
            "further units where that costs least"
        ),
    ] = None
    sparsity: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None,
        Meta(
            description="share of the weights that are zero, of those left after the changes above: the planner "
            "chooses which, and trains the others to make up for them"
        ),
    ] = None
    sparse_layers: Annotated[
        _Selectors,
        Meta(description="layers that sparsity speaks of, the output layer and other fixed ones too; default all"),
    ] = ()
    weights: Annotated[
        Literal["given"] | None,
        Meta(description="given: another network's weights for the same layers, from a file that planning is given"),
    ] = None
    before: Annotated[
        tuple[Name, ...], Meta(max_length=16, description="commands run before a walk to this mode begins, in order")
    ] = ()
    after: Annotated[
        tuple[Name, ...], Meta(max_length=16, description="commands run once this mode is reached, in order")
    ] = ()
    description: Annotated[str, Meta(description="a line for people")] = ""


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device, what it allows, and the power modes it is asked to offer."""

    schema: Annotated[Literal["geoshift.profile/1"], Meta(description="version of this format")]
    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9-]+(?![\s\S])",
            max_length=64,
            description="a name of at most 64 lowercase letters, digits and dashes",
        ),
    ]
    description: Annotated[str, Meta(description="a line for people")]
    threads: Annotated[int, Meta(ge=1, le=1024, description="threads that compute one inference")]
    channel_block: Annotated[
        int,
        Meta(
            ge=1,
            le=1024,
            description="channels that the device computes together: where the planner divides a target for "
            "multiply-accumulates, convolutions keep whole blocks of filters, since a part of one costs as much",
        ),
    ] = 1
    target: Annotated[Target, Meta(description="what computes")] = Target()
    weights: Annotated[Weights, Meta(description="how one weight is stored")] = Weights()
    memory: Annotated[Memory, Meta(description="memory the device spares")]
    writes: Annotated[Writes, Meta(description="pace of writing weights")]
    bank: Annotated[Bank, Meta(description="how live weights are held")]
    guard: Annotated[Guard, Meta(description="the accuracy insisted on")]
    trade_off: Annotated[
        Literal["bytes", "seconds", "energy", "wear", "accuracy"],
        Meta(
            description="what the planner minimises among paths within the guard: a cost; or, for accuracy, how far "
            "outputs stray and travel, among paths of which none is known to have the better worst state"
        ),
    ] = "bytes"
    origins: Annotated[
        dict[Annotated[str, Meta(max_length=128)], Origin],
        Meta(max_length=128, description="where plain numbers come from, by path, such as writes.bytes_per_increment"),
    ] = {}
    queue_limit: Annotated[int, Meta(ge=1, le=LARGEST, description="callers that may wait for an answer at once")] = 64
    modes: Annotated[dict[ModeName, Mode], Meta(min_length=1, max_length=64, description="power modes by name")]
    transitions: Annotated[
        tuple[tuple[ModeName, ModeName], ...],
        Meta(description="pairs of modes that are walked between, each pair both ways"),
    ]
    default_mode: Annotated[
        ModeName | None, Meta(description="mode wanted while nobody asks for another; without it, the dense mode")
    ] = None
    energy: Annotated[Energy | None, Meta(description="energy model, for a device without a meter")] = None
    commands: Annotated[
        dict[Name, Command], Meta(max_length=64, description="the only programs and settings it may use, by name")
    ] = {}
    triggers: Annotated[tuple[Trigger, ...], Meta(max_length=64, description="what changes the mode by itself")] = ()
    safety: Annotated[
        tuple[Trigger, ...], Meta(max_length=64, description="triggers that nobody can overrule, for limits of safety")
    ] = ()
    poll_s: Annotated[
        float, Meta(ge=0.1, le=60, description="seconds between two readings of what triggers and safety watch")
    ] = 2.0


def nearest(word: object, known: Iterable[str]) -> str:
    """A "did you mean" for a mistyped word, or an empty text if nothing is near it."""
    close = difflib.get_close_matches(str(word)[:100], list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
