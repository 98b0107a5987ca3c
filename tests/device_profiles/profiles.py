"""Valid profiles of every shape, for Hypothesis."""

from hypothesis import strategies as st

from device_profiles import Bank, Change, Guard, Memory, Mode, Profile, Selector, Writes
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
        origin = draw(st.sampled_from(names[:place]))
        modes[name] = Mode(from_=origin, macs=share, description=draw(texts), **{kind: steps})
        near = {draw(st.sampled_from(names[:place])) for _ in range(2)}
        pairs |= {draw(st.permutations([name, other]).map(tuple)) for other in sorted(near)}
    shuffled = {name: modes[name] for name in draw(st.permutations(names))}
    return shuffled, tuple(draw(st.permutations(sorted(pairs))))


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Any valid profile."""
    modes, transitions = draw(modes_with_transitions())
    return Profile(
        schema="geoshift.profile/1",
        name=draw(st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)),
        description=draw(texts),
        threads=draw(st.integers(1, 1024)),
        memory=Memory(weights_bytes=draw(amounts)),
        writes=Writes(
            bytes_per_increment=draw(amounts), increments_per_second=draw(positive), stall_budget_ms=draw(positive)
        ),
        bank=Bank(policy=draw(st.sampled_from(["auto", "in-place", "shadow"])), snap=draw(st.booleans())),
        guard=Guard(max_drop_points=draw(st.floats(0, 100, exclude_min=True))),
        queue_limit=draw(amounts),
        modes=modes,
        transitions=transitions,
    )
