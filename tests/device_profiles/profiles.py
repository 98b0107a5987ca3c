"""Valid profiles of every shape, for Hypothesis."""

from hypothesis import strategies as st
from msgspec.structs import replace

from device_profiles import (
    Bank,
    Change,
    Command,
    Energy,
    Figure,
    Guard,
    Memory,
    Mode,
    Origin,
    Profile,
    Selector,
    Target,
    Trigger,
    Verify,
    Weights,
    Writes,
)
from device_profiles.schema import LARGEST

positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
# Of the basic plane: JSON escapes the others as two halves, which YAML 1.1 reads as two characters.
characters = st.characters(codec="utf-8", max_codepoint=0xFFFF)
texts = st.text(characters, max_size=20)
amounts = st.integers(1, LARGEST)

selectors = st.one_of(
    st.builds(Selector, name=st.text(characters, min_size=1, max_size=12)),
    st.builds(
        Selector,
        role=st.sampled_from(["convolution", "classifier"]),
        position=st.none() | st.integers(-LARGEST, LARGEST).filter(bool),
    ),
)
changes = st.one_of(
    st.builds(Change, layer=selectors, count=amounts),
    st.builds(Change, layer=selectors, fraction=st.floats(0, 1, exclude_min=True)),
)


@st.composite
def modes_with_transitions(draw: st.DrawFn) -> tuple[dict[str, Mode], tuple[tuple[str, str], ...]]:
    """Modes that each come from an earlier one, and transitions that reach all of them, in any direction and order."""
    names = draw(
        st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True), min_size=1, max_size=6, unique=True)
    )
    modes = {names[0]: Mode(description=draw(texts))}
    pairs = set()
    for place, name in enumerate(names[1:], start=1):
        steps = draw(st.lists(changes, min_size=1, max_size=3).map(tuple))
        kind = draw(st.sampled_from(["remove", "restore"]))
        share = draw(st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True))
        if share is not None and draw(st.booleans()):
            steps = ()
        origin = draw(
            st.sampled_from([one for one in names[:place] if modes[one].sparsity is modes[one].weights is None])
        )
        modes[name] = Mode(from_=origin, macs=share, description=draw(texts), **{kind: steps})
        other = draw(st.sampled_from(["units", "units", "sparse", "weights"]))
        if other == "sparse":
            layers = draw(st.lists(selectors, max_size=2).map(tuple))
            sparsity = draw(st.floats(0, 1, exclude_min=True, exclude_max=True))
            modes[name] = replace(modes[name], sparsity=sparsity, sparse_layers=layers)
        elif other == "weights":
            modes[name] = Mode(from_=names[0], weights="given", description=modes[name].description)
        near = {draw(st.sampled_from(names[:place])) for _ in range(2)}
        pairs |= {draw(st.permutations([name, other]).map(tuple)) for other in sorted(near)}
    shuffled = {name: modes[name] for name in draw(st.permutations(names))}
    return shuffled, tuple(draw(st.permutations(sorted(pairs))))


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(characters.filter(lambda character: character != "\0"), max_size=8)
argvs = st.lists(words.filter(bool), max_size=3).map(lambda rest: ("/bin/true", *rest))
timeouts = st.floats(0, 120, exclude_min=True)
commands = st.one_of(
    st.builds(Command, argv=argvs, undo=st.none() | argvs, timeout_s=timeouts),
    st.builds(Command, governor=st.from_regex(r"[a-z0-9_]{1,16}", fullmatch=True), timeout_s=timeouts),
    st.builds(Command, nvpmodel=st.integers(0, 255)),
    st.builds(Command, power_profile=st.sampled_from(["power-saver", "balanced", "performance"])),
)
figures = st.builds(
    Figure,
    value=st.floats(0, allow_infinity=False),
    provenance=st.sampled_from(["measured", "datasheet", "paper", "assumed"]),
    source=st.text(characters, min_size=1, max_size=8),
)
perhaps = st.none() | figures
energies = st.builds(
    Energy,
    idle_w=perhaps,
    joules_per_mac=perhaps,
    joules_per_byte_written=perhaps,
    inferences_per_second=st.none() | positive,
)
above_zero = figures.filter(lambda figure: figure.value >= 1)
targets = st.builds(
    Target,
    architecture=st.sampled_from(["any", "x86-64", "aarch64"]),
    runs=st.sampled_from(["live", "simulate"]),
    macs_per_second=st.none() | above_zero,
    overhead_ms=perhaps,
    operators=st.lists(st.sampled_from(["Conv", "Gemm", "Relu", "Add"]), unique=True).map(tuple),
) | st.builds(
    Target, architecture=st.sampled_from(["microcontroller", "neuromorphic", "crossbar"]), runs=st.just("simulate")
)
weights = st.builds(Weights, format=st.sampled_from(["float32", "float16"])) | st.builds(
    Weights,
    format=st.just("int"),
    bits=st.integers(2, 16),
    scale=st.sampled_from(["row", "layer"]),
    scales=st.sampled_from(["any", "powers-of-two"]),
    sign=st.sampled_from(["signed", "differential"]),
    bias=st.sampled_from(["float32", "int32"]),
)


@st.composite
def verifies(draw: st.DrawFn) -> Verify:
    """Writing with a check whose mean is no more than its limit."""
    most = draw(st.integers(1, 1000))
    return Verify(mean_writes=replace(draw(figures), value=draw(st.floats(1, most))), most_writes=most)


@st.composite
def all_writes(draw: st.DrawFn) -> Writes:
    """Any valid pace, with or without what hardware adds to it."""
    budget = draw(amounts)
    plain = {
        "bytes_per_increment": budget, "increments_per_second": draw(positive), "stall_budget_ms": draw(positive)
    }  # fmt: skip
    if draw(st.booleans()):
        return Writes(**plain)
    return Writes(
        **plain,
        granularity_bytes=draw(st.integers(1, budget)),
        bytes_per_second=draw(st.none() | above_zero),
        verify=draw(st.none() | verifies()),
        endurance_writes=draw(st.none() | above_zero),
        quiesce_required=draw(st.booleans()),
    )


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, float]:
    """Two thresholds, in an order that makes sense."""
    low, high = sorted((draw(finite), draw(finite)))
    if draw(st.booleans()):
        return {"enter_below": low, "leave_above": high}
    return {"enter_above": high, "leave_below": low}


@st.composite
def triggers(draw: st.DrawFn, name: str, modes: list[str], programs: list[str]) -> Trigger:
    """Any valid trigger of that name, for one of the modes; one that reads a command reads one of the programs."""
    kinds = ["battery", "charger", "temperature", "file", *(["command"] if programs else [])]
    source = draw(st.sampled_from(kinds))
    text = {"equals": draw(st.sampled_from(["plugged", "unplugged"]) if source == "charger" else words)}
    free = source in ("file", "command") and draw(st.booleans())
    of_source = {
        "file": {"path": "/run/state"},
        "command": {"command": programs and draw(st.sampled_from(programs))},
        "temperature": {"zone": draw(st.none() | st.just("cpu-thermal"))},
    }
    return Trigger(
        name=name,
        mode=draw(st.sampled_from(modes)),
        source=source,
        dwell_s=draw(st.floats(0, 86400)),
        **(text if source == "charger" or free else draw(conditions())),
        **of_source.get(source, {}),
    )


@st.composite
def automation(draw: st.DrawFn, modes: list[str]) -> dict[str, object]:
    """The sections that may be left out."""
    if not draw(st.booleans()):
        return {}
    listed = draw(st.dictionaries(names, commands, max_size=3))
    programs = [name for name, command in listed.items() if command.argv is not None]
    called = draw(st.lists(names, max_size=4, unique=True))
    made = [draw(triggers(name, modes, programs)) for name in called]
    split = draw(st.integers(0, len(made)))
    return {
        "commands": listed,
        "triggers": tuple(made[:split]),
        "safety": tuple(made[split:]),
        "energy": draw(st.none() | energies),
        "default_mode": draw(st.none() | st.sampled_from(modes)),
        "poll_s": draw(st.floats(0.1, 60)),
    }


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Any valid profile."""
    modes, transitions = draw(modes_with_transitions())
    optional = draw(automation(list(modes)))
    if listed := list(optional.get("commands", ())):
        some = st.lists(st.sampled_from(listed), max_size=2).map(tuple)
        modes = {name: replace(mode, before=draw(some), after=draw(some)) for name, mode in modes.items()}
    writes, second_copy = draw(all_writes()), draw(st.booleans())
    one_copy = ["auto", "in-place", "persistent"]
    origin = st.builds(Origin, provenance=st.just("assumed"), source=st.text(characters, min_size=1, max_size=8))
    return Profile(
        schema="geoshift.profile/1",
        name=draw(st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)),
        description=draw(texts),
        threads=draw(st.integers(1, 1024)),
        target=draw(targets),
        weights=draw(weights),
        memory=Memory(weights_bytes=draw(amounts), second_copy=second_copy),
        writes=writes,
        bank=Bank(
            policy=draw(st.sampled_from(one_copy + ["shadow"] * (second_copy and not writes.quiesce_required))),
            snap=draw(st.booleans()),
        ),
        trade_off=draw(st.sampled_from(["bytes", "seconds", "wear", "accuracy"])),
        origins=draw(st.dictionaries(st.sampled_from(["threads", "memory.weights_bytes"]), origin)),
        guard=Guard(
            max_drop_points=draw(st.floats(0, 100, exclude_min=True)),
            canary_every_increments=draw(st.integers(0, LARGEST)),
        ),
        queue_limit=draw(amounts),
        modes=modes,
        transitions=transitions,
        **optional,
    )
