"""Laws of who decides, against every situation and against a second, simpler telling of the rules."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.deciding.arbiter import Decision, Situation, Step, Walk, Wish, decide, higher, next_end_s, step
from runtime.device.views import RANKS

ORDER = ("C3", "C2", "C1")
modes = st.sampled_from(ORDER)
ends = st.none() | st.floats(0, 20)
wishes = st.builds(Wish, modes, st.sampled_from("abcdef"), st.just("why"), ends)
many = st.lists(wishes, max_size=3).map(tuple)
situations = st.builds(
    Situation,
    order=st.just(ORDER),
    default=st.builds(Wish, modes, st.just("profile"), st.just("default")),
    safety=many,
    manual=st.none() | wishes,
    holds=many,
    triggers=many,
)
moments = st.floats(0, 20)
ranks = st.sampled_from(RANKS)


def standing(given, now_s):
    return [wish for wish in given if wish.until_s is None or wish.until_s > now_s]


def told_again(situation, now_s):
    """The rules once more, as a table from the lowest rank up."""
    mode, rank = situation.default.mode, "default"
    for name, asked in (
        ("trigger", situation.triggers),
        ("hold", situation.holds),
        ("manual", [situation.manual] if situation.manual else []),
    ):
        if alive := standing(asked, now_s):
            mode, rank = min((wish.mode for wish in alive), key=ORDER.index), name
    for wish in standing(situation.safety, now_s):
        if ORDER.index(wish.mode) < ORDER.index(mode):
            mode, rank = wish.mode, "safety"
    return mode, rank


@given(situations, moments)
def test_it_decides_as_the_rules_say(situation, now_s):
    decision = decide(situation, now_s)
    assert (decision.mode, decision.rank) == told_again(situation, now_s)


@given(situations, moments)
def test_nothing_exceeds_safety(situation, now_s):
    decision = decide(situation, now_s)
    for wish in standing(situation.safety, now_s):
        assert ORDER.index(decision.mode) <= ORDER.index(wish.mode)


@given(situations, moments, wishes)
def test_more_holds_never_raise_the_power_of_a_hold(situation, now_s, hold):
    before = decide(situation, now_s)
    after = decide(dataclasses.replace(situation, holds=(*situation.holds, hold)), now_s)
    if before.rank == "hold":
        assert ORDER.index(after.mode) <= ORDER.index(before.mode)
    if before.rank == "manual":
        assert after == before


@given(situations, moments)
def test_the_decision_is_somebodys_wish(situation, now_s):
    decision = decide(situation, now_s)
    asked = {
        "safety": situation.safety,
        "manual": (situation.manual,),
        "hold": situation.holds,
        "trigger": situation.triggers,
        "default": (situation.default,),
    }[decision.rank]
    assert any((wish.mode, wish.source, wish.reason) == (decision.mode, decision.source, decision.reason)
               for wish in asked if wish is not None)  # fmt: skip


@given(situations, moments)
def test_it_stays_the_same_until_the_next_end(situation, now_s):
    end_s = next_end_s(situation, now_s)
    if end_s is None:
        assert decide(situation, now_s) == decide(situation, now_s + 1e9)
    else:
        assert end_s > now_s
        between_s = (now_s + end_s) / 2
        if between_s < end_s:  # not so for two neighbouring numbers
            assert decide(situation, now_s) == decide(situation, between_s)


def test_a_wish_ends_at_its_time():
    wish = Wish("C2", "ann", "by hand", 5.0)
    assert wish.stands(4.999)
    assert not wish.stands(5.0)
    assert Wish("C2", "ann", "by hand").stands(1e12)


def test_of_equal_holds_the_first_decides():
    holds = (Wish("C2", "first", ""), Wish("C2", "second", ""))
    assert decide(Situation(ORDER, Wish("C1", "profile", ""), holds=holds), 0.0).source == "first"


@given(ranks, ranks)
def test_ranks_are_a_strict_order(one, other):
    assert higher(one, other) + higher(other, one) == (one != other)


decisions = st.builds(Decision, modes, ranks, st.just("who"), st.just("why"))
walks = st.builds(Walk, modes, ranks, st.booleans()) | st.builds(Walk, modes, ranks, st.just(True), st.just(True))
"""A paused one can always be turned."""


@given(decisions, modes)
def test_at_rest_it_walks_unless_it_is_there(decision, at):
    assert step(decision, at, None) is (Step.STAY if at == decision.mode else Step.BEGIN)


@given(decisions, modes, walks)
def test_only_a_higher_rank_turns_a_walk_that_goes_on_and_only_one_that_can_be_turned(decision, at, walk):
    found = step(decision, at, walk)
    assert found is not Step.BEGIN
    if found in (Step.TURN, Step.BACK):
        assert higher(decision.rank, walk.rank) or walk.paused
    if found is Step.TURN:
        assert walk.free
        assert walk.target != decision.mode
    if not higher(decision.rank, walk.rank) and not walk.paused:
        assert found is (Step.STAY if walk.target == decision.mode else Step.WAIT)


@given(decisions, modes, modes, ranks)
def test_nobody_waits_for_the_end_of_a_paused_walk(decision, at, target, rank):
    found = step(decision, at, Walk(target, rank, free=True, paused=True))
    if decision.mode != target:
        assert found is Step.TURN
    else:
        assert found is (Step.STAY if decision.rank == rank else Step.BACK)


@pytest.mark.parametrize("part", [Wish("C1", "a", ""), Decision("C1", "hold", "a", ""), Walk("C1", "hold", True)])
def test_all_of_it_is_frozen(part):
    for name in part.__dataclass_fields__:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, None)
