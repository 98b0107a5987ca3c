"""The transition table: what is listed happens, what is not raises and changes nothing."""

import re

import pytest

from runtime.errors import IllegalEvent
from runtime.walking.table import TABLE, Event, Phase, after, diagram

PAIRS = [(phase, event) for phase in Phase for event in Event]


@pytest.mark.parametrize(("phase", "event"), [pair for pair in PAIRS if pair not in TABLE])
def test_an_event_that_is_not_listed_is_refused_by_name(phase, event):
    before = dict(TABLE)
    allowed = ", ".join(sorted(known.value for at, known in TABLE if at is phase)) or "nothing"
    with pytest.raises(IllegalEvent) as caught:
        after(phase, event)
    assert str(caught.value) == f"{event.value}: the controller is {phase.value}, where only {allowed} is allowed"
    assert caught.value.__suppress_context__, "the KeyError behind it is nobody's business"
    assert before == TABLE


@pytest.mark.parametrize(("phase", "event"), TABLE)
def test_an_event_that_is_listed_leads_where_the_table_says(phase, event):
    assert after(phase, event) is TABLE[phase, event]


def test_every_phase_can_be_reached_and_every_event_happens():
    reached = {Phase.IDLE}
    while grown := {TABLE[pair] for pair in TABLE if pair[0] in reached} - reached:
        reached |= grown
    assert reached == set(Phase)
    assert {event for _, event in TABLE} == set(Event)


def test_every_phase_but_failed_leads_back_to_idle():
    safe = {Phase.IDLE}
    while grown := {at for (at, _), to in TABLE.items() if to in safe} - safe:
        safe |= grown
    assert safe == set(Phase) - {Phase.FAILED}


def test_only_what_walks_or_stands_can_be_cancelled():
    assert {at for at, event in TABLE if event is Event.CANCEL} == {Phase.WALKING, Phase.PAUSED}


def test_the_diagram_lists_every_entry_and_nothing_else():
    head, start, *rows = diagram().splitlines()
    assert (head, start) == ("stateDiagram-v2", "    [*] --> idle")
    drawn = [re.fullmatch(r"    (\w+) --> (\w+): ([\w-]+)", row).groups() for row in rows]
    listed = [(at.value, to.value, event.value) for (at, event), to in TABLE.items()]
    assert drawn == [(at.replace("-", "_"), to.replace("-", "_"), event) for at, to, event in listed]


def test_only_what_walks_stands_or_goes_back_can_be_turned_and_then_it_walks():
    turned = {at: to for (at, event), to in TABLE.items() if event is Event.RETARGET}
    assert turned == dict.fromkeys((Phase.WALKING, Phase.PAUSED, Phase.ROLLING_BACK), Phase.WALKING)
