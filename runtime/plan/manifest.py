"""The plan's manifest, ``plan.json``: everything about a bundle that is not a tensor or a graph.

The types are the schema; ``docs/bundle.md`` says in words what they must hold.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from device_profiles.errors import describe
from runtime.errors import BundleError
from runtime.plan.grid import FLOAT32, Grid

SCHEMA: Final = "geoshift.plan/1"
MAX_MANIFEST_BYTES: Final = 16 << 20
"""The demo's manifest has 26 KB; six hundred times that is not a manifest."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?![\s\S])")]
Count = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
NonNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?![\s\S])")]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all records share: frozen, named fields, nothing unknown."""


class FileEntry(_Record, frozen=True, kw_only=True):
    """A file of the bundle."""

    sha256: Digest
    bytes: Count


class ModelEntry(_Record, frozen=True, kw_only=True):
    """The network as the runtime sees it."""

    id: str
    definition: str
    input_shape: tuple[int, ...]
    """Shape of one sample, without the batch axis."""
    outputs: Annotated[int, Meta(ge=1)]
    dense_bytes: Count
    dense_macs: Count


class SourceEntry(_Record, frozen=True, kw_only=True):
    """Columns of a moved layer; see ``runtime.walking.rows.Source``."""

    layer: str
    first: Count
    columns_per_unit: Annotated[int, Meta(ge=1)]


class LayerEntry(_Record, frozen=True, kw_only=True):
    """A moved layer; see ``runtime.walking.rows.MovedLayer``."""

    name: str
    weight: str
    bias: str | None
    shape: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=2)]
    reads: str | None
    columns_per_unit: Annotated[int, Meta(ge=1)]
    """Whole input channels of ``shape``; for a linear layer, columns."""
    concatenated: tuple[SourceEntry, ...] = ()
    """Whose units the layer reads, where it is more than one layer's; ``reads`` is null then."""


class GridLayerEntry(_Record, frozen=True, kw_only=True):
    """A layer whose weights lie on the device's grid, whether it moves or not."""

    name: str
    weight: str
    """Name of the tensor, of two axes or more; the first counts rows."""
    bias: str | None


class GridEntry(_Record, frozen=True, kw_only=True):
    """The grid that every weight of a plan lies on; see ``runtime.plan.grid``."""

    format: Literal["float16", "int"]
    bits: Annotated[int, Meta(ge=2, le=16)] | None
    """Bits of one code; null for float16."""
    scale: Literal["row", "layer"]
    sign: Literal["signed", "differential"]
    bias: Literal["float32", "int32"]
    scales: str | None
    """File of the scales; null for float16."""
    scale_values: Literal["any", "powers-of-two"] = "any"
    """Which scales there are."""
    layers: Annotated[tuple[GridLayerEntry, ...], Meta(min_length=1)]
    """In forward order; all tensors that are none of theirs are float32."""
    unquantised_accuracy: Fraction
    """Of the dense network as it was before its weights were put on the grid, on the whole held-out test set."""

    @property
    def grid(self) -> Grid:
        """The grid as the runtime has it."""
        return Grid(self.format, self.bits, self.scale, self.sign, self.bias, self.scale_values)


class SparseEntry(_Record, frozen=True, kw_only=True):
    """What is zero in a sparse mode."""

    layers: tuple[str, ...]
    """Moved layers in which weights were chosen to be zero, in forward order."""
    weights: Annotated[int, Meta(ge=1)]
    """Their weights in the compact graph, biases not counted."""
    zeros: Count
    """How many of these are zero."""


class ModeEntry(_Record, frozen=True, kw_only=True):
    """A power mode and its evidence on held-out data."""

    name: Name
    description: str
    graph: str
    """File of the compact graph."""
    kept: dict[str, tuple[Count, ...]]
    """Units that are present, for every layer that lost any."""
    accuracy: Fraction
    """On the whole held-out test set."""
    correct: Count
    """Right answers on eval.npz."""
    macs: Count
    weight_bytes: Count
    """Weights of the compact graph."""
    divergence: NonNegative
    """Root mean squared distance of the outputs from the dense network's, on the held-out batch."""
    damping: NonNegative
    """Largest damping among the mode's refits."""
    nonzero_macs: Count | None = None
    """Of ``macs``, those whose weight is not zero: what is left on hardware that skips zeros. Others compute all."""
    sparse: SparseEntry | None = None
    """What is zero, in a mode that was made sparse."""
    source: Digest | None = None
    """SHA-256 of the checkpoint that the weights came from, in a mode that is another network."""


class WaypointEntry(_Record, frozen=True, kw_only=True):
    """Evidence at one state of a path."""

    position: Count
    """Chunks written so far."""
    accuracy: Fraction
    correct: Count
    functional_length: NonNegative
    """How far the outputs have travelled since the start of this transition."""
    bytes: Count
    """Bytes written since the start of this transition."""


class RetryEntry(_Record, frozen=True, kw_only=True):
    """What checked writes are expected to add to a walk, by the mean of the profile: rows that are written again."""

    rows: NonNegative
    bytes: NonNegative
    seconds: NonNegative
    joules: NonNegative | None
    """Null where the profile does not say what a byte costs."""


class CostEntry(_Record, frozen=True, kw_only=True):
    """What one walk costs on the plan's device, predicted from its profile; see ``runtime.plan.costs``."""

    bytes: Count
    """Of all increments, every row rounded up to the device's smallest write."""
    increments: Count
    seconds: NonNegative
    """At the profile's pace, from the first write to the last, without retries and without answers in between."""
    joules: NonNegative | None
    """Of the bytes; null where the profile does not say what one costs."""
    cell_writes: Count
    """Writes of the row that is written most."""
    wear: NonNegative | None
    """Share of that row's endurance that a walk there and back uses, retries included; null where it is not known."""
    transitions_left: Count | None
    """Walks, one way each, after which that row is worn out; null where it is not known, or where none is written."""
    retries: RetryEntry | None = None
    """Null where writes are not checked."""
    assumed: tuple[str, ...] = ()
    """Fields above that rest on a figure which the profile says is assumed."""


class VariationEntry(_Record, frozen=True, kw_only=True):
    """What was varied about a candidate; the planner's documents say what each does."""

    beta: Positive
    """β of the tangents, over its natural scale."""
    damping: Positive
    """ε of the relaxation and δ of the correction, over their natural scale."""
    solver: str
    metric: str
    probes: Count
    """Inputs that the metric saw; 0 for the plan's own number."""
    seed: Count
    """Which inputs these were."""
    order: str
    """Order of the rows of a layer in a one-pass write."""


class SearchEntry(_Record, frozen=True, kw_only=True):
    """How geometry found a path."""

    status: str
    """Whether the search reached its end; the planner's documents list the words."""
    unsolved: Count
    """Steps whose own solve did not converge, and were used as they were."""
    steps: Count
    inserted: Count
    """Waypoints inserted where the middle of a leg was far off."""
    energy_before: NonNegative | None
    """Energy of the path that was relaxed; null where nothing was."""
    energy_after: NonNegative | None
    forward_passes: Count
    fisher_length: NonNegative | None = None
    """Length over its waypoints in the softmax Fisher metric, on the planner's probes."""


class CandidateEntry(_Record, frozen=True, kw_only=True):
    """A path that was considered, on the selection split of the training data."""

    name: str
    strategy: str
    feasible: bool
    chosen: bool
    bytes_written: Count
    functional_length: NonNegative
    worst_accuracy: Fraction
    worst_accuracy_bound: Fraction
    """Lower 95 % confidence bound of the worst state's accuracy."""
    worst_divergence: NonNegative
    complete: bool = True
    """Whether all its states were measured; if not, it was given up at one that rules it out."""
    search: SearchEntry | None = None
    """How it was found, where geometry found it."""
    fisher_length: NonNegative | None = None
    """Length over its measured states in the softmax Fisher metric."""
    variation: VariationEntry | None = None
    """What was varied about it; null where nothing could be."""
    cost: CostEntry | None = None
    """What it would cost on the plan's device; null in plans of before this was predicted."""


class CertificateEntry(_Record, frozen=True, kw_only=True):
    """What is proved of every state of a transition, on held-out samples; see ``docs/certificate.md``."""

    samples: Annotated[int, Meta(ge=1)]
    """Held-out samples that were bounded."""
    stages: tuple[Count, ...]
    """Chunks written before each stage begins. A stage writes one layer, no row twice; the order within it is free."""
    ends_right: Count
    """Samples answered right before and after every stage."""
    proved_whole: Count
    """Samples proved right in every state in which all rows are whole."""
    proved_torn: Count
    """Samples proved right in every state, one row torn at any place included."""
    bound_whole: Fraction
    """Lower 95 % confidence bound of the share of all inputs for which the first holds."""
    bound_torn: Fraction
    """The same for the second."""
    survived_whole: Count | None
    """Samples for which a search found no wrong state of whole rows; not proved. Null if none was made."""
    survived_torn: Count | None
    """The same with one row torn."""
    why_not: str = ""
    """Why nothing was bounded; empty if it was."""


class TransitionEntry(_Record, frozen=True, kw_only=True):
    """A directed move between two modes, walkable both ways."""

    from_: Name = msgspec.field(name="from")
    to: Name
    strategy: str
    path: str
    """File of the chunk list."""
    alternatives: dict[str, str]
    """Strategy to the file of its chunk list, for strategies that cannot be compiled from the two ends."""
    chunks: Count
    bytes_written: Count
    functional_length: NonNegative
    min_accuracy: Fraction
    """Over waypoints and torn states, both directions."""
    worst_drop_points: float
    """Dense accuracy less that of the worst of these states, on the same samples, in percentage points."""
    torn_states: Count
    """Random torn states that were measured, half of them in each direction."""
    waypoints: tuple[WaypointEntry, ...]
    candidates: tuple[CandidateEntry, ...]
    skipped: tuple[str, ...] = ()
    """Candidates that were not walked, because none of them could have been chosen."""
    too_dear: tuple[str, ...] = ()
    """Candidates that were not walked, because the planner's budget did not allow it."""
    blocks: tuple[Count, ...] = ()
    """Chunks written before each block that begins within a stage; none where no stage was divided. The order of blocks
    is part of the path, and the states between them were measured."""
    certificate: CertificateEntry | None = None
    """What is proved of all its states; null if nothing was bounded."""
    landscape: str | None = None
    """File with its candidates' paths over the loss; null if none was drawn."""
    cost: CostEntry | None = None
    """What the walk costs on the plan's device; null in plans of before this was predicted."""
    cost_back: CostEntry | None = None
    """The same of the way back, whose increments may hold other rows together."""


class PlanningEntry(_Record, frozen=True, kw_only=True):
    """How the plan was made."""

    seed: int
    seconds: NonNegative
    """What planning took, without the evidence on held-out data."""
    epoch_equivalents: NonNegative
    fit_samples: Count
    selection_samples: Count
    test_samples: Count
    eval_samples: Count
    dataset: str
    versions: dict[str, str]
    evidence_seconds: NonNegative = 0.0


class Manifest(_Record, frozen=True, kw_only=True):
    """The whole of plan.json."""

    schema: Literal["geoshift.plan/1"] = SCHEMA
    release: Annotated[int, Meta(ge=1)]
    model: ModelEntry
    profile: dict[str, Any]
    preprocessing: dict[str, Any]
    labels: tuple[str, ...]
    layers: tuple[LayerEntry, ...]
    modes: Annotated[tuple[ModeEntry, ...], Meta(min_length=1)]
    """The dense mode first."""
    transitions: tuple[TransitionEntry, ...]
    planning: PlanningEntry
    files: dict[str, FileEntry]
    grid: GridEntry | UnsetType = UNSET
    """Where weights are stored as something else than float32; left out otherwise."""

    @property
    def stored(self) -> Grid:
        """What the device stores a weight as."""
        return FLOAT32 if self.grid is UNSET else self.grid.grid


def decode(raw: bytes, origin: str) -> Manifest:
    """Read a manifest.

    Raises:
        BundleError: It is not JSON, has another schema, or breaks a rule of the types above.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{origin}: found {len(raw)} bytes, expected at most {MAX_MANIFEST_BYTES}")
    try:
        schema = msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).get("schema")
        found = msgspec.json.decode(schema) if schema is not None else None
        if found != SCHEMA:
            raise BundleError(
                f"{origin}: schema: found {describe(found)}, expected {SCHEMA!r}; "
                "the bundle was made by another version of geoshift: plan again, or use that version"
            )
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{origin}: {error}; copy the bundle again, or plan again") from error


def encode(manifest: Manifest) -> bytes:
    """Write a manifest, readable and the same for the same content."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"
