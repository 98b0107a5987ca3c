"""Traces that come with geoshift are valid; others are refused with the place, what was found and what to do."""

import re
from pathlib import Path

import numpy as np
import pytest

from device_profiles.loader import MAX_BYTES
from runtime.simulation.arrivals import reading_at, request_times
from runtime.simulation.trace import (
    MOST_REQUESTS,
    Arrivals,
    TraceError,
    load_trace,
    parse_csv,
    parse_trace,
    trace_names,
)
from tests.runtime.simulation.cases import trace

GOOD = """
schema: geoshift.trace/1
name: mine
seconds: 60
requests:
  - {kind: constant, per_second: 5}
"""


def test_four_traces_come_with_it_and_each_has_requests_and_something_that_changes_the_mode():
    assert trace_names() == ("day-night-camera", "drone-descent", "flapping-trigger", "thermal-throttling")
    for name in trace_names():
        found = load_trace(name)
        assert found.name == name
        assert found.triggers or found.manual
        assert len(request_times(found, np.random.default_rng(0))) > 1000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty document"),
        (GOOD.replace("geoshift.trace/1", "geoshift.trace/9"), "line 2: schema: found 'geoshift.trace/9'"),
        (GOOD.replace("seconds: 60", "seconds: -1"), "line 4: seconds: found -1"),
        (GOOD.replace("seconds: 60", "seconds: .inf"), "line 4: seconds"),
        (GOOD.replace("seconds: 60", "secunds: 60"), "did you mean 'seconds'"),
        (GOOD.replace("per_second: 5", "count: 5"), "requests[0]: found count, expected per_second and no other"),
        (
            GOOD.replace("per_second: 5", "per_second: 99999") + "  - {kind: poisson, per_second: 9}",
            f"{MOST_REQUESTS:,}",
        ),
        (GOOD.replace("constant", "konstant"), "did you mean 'constant'"),
        (GOOD + "  - {kind: constant, per_second: 1, from_s: 50, until_s: 40}", "requests[1]: found from_s 50"),
        (GOOD + "  - {kind: recorded, at_s: [3, 2]}", "requests[1].at_s: found times out of order"),
        (GOOD + "  - {kind: bursts, every_s: 5, count: 2, within_s: 6}", "within_s: found 6, expected at most every_s"),
        (GOOD + "readings: {battery: [[0, 101]]}", "readings.battery: found 101 at 0 s, expected 0 to 100"),
        (GOOD + "readings: {battery: [[5, 50]]}", "expected one at 0"),
        (GOOD + "readings: {temperature: [[0, 5], [9, 6], [8, 7]]}", "readings.temperature: found times out of order"),
        (GOOD + "readings: {charger: [[0, on]]}", "readings.charger: found 'on'"),
        (GOOD + "manual: [{at_s: 70, mode: C2}]", "manual: found times out of order or after seconds"),
        (GOOD + "triggers: [{name: a, mode: C2, source: battery}]", "triggers[0]: found no condition"),
        (GOOD + "triggers: [{name: a, mode: C2, source: command, command: x, equals: y}]", "triggers[0]"),
        (GOOD + "more: &a [1]\n", "found the anchor &a"),
        ("x: " + "[" * 40 + "]" * 40, "deeper nesting"),
    ],
)
def test_what_breaks_the_format_is_refused_by_name(text, said):
    with pytest.raises(TraceError) as refused:
        parse_trace(text, "mine.yaml")
    assert said in str(refused.value)
    assert "mine.yaml" in str(refused.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("time,event\n", "line 1: found 'time,event'"),
        ("at_s,event,value\n", "found no request"),
        ("at_s,event,value\nx,request,\n", "line 2: at_s: found 'x', expected a finite number"),
        ("at_s,event,value\n1,reqest,\n", "line 2: event: found 'reqest'"),
        ("at_s,event,value\n2,request,\n1,request,\n", "line 3: at_s: found 1 after 2"),
        ("at_s,event,value\n-1,request,\n", "at_s: found -1"),
        ("at_s,event,value\n1,battery,\n", "line 2: value: found ''"),
        ("at_s,event,value\n1,request,,,\n", "found 5 cells"),
        ("at_s,event,value\n0,battery,120\n1,request,\n", "readings.battery: found 120"),
    ],
)
def test_csv_that_breaks_the_format_is_refused_by_line(rows, said):
    with pytest.raises(TraceError) as refused:
        parse_csv(rows, "mine.csv", "mine")
    assert said in str(refused.value)


def test_csv_says_the_same_as_yaml(tmp_path):
    file = tmp_path / "two days.csv"
    rows = "0,battery,80\n0.5,request,\n1,mode,C2\n2,request,\n3,battery,20\n3,deadline_ms,50\n4,end,\n"
    file.write_text(f"at_s,event,value\n{rows}")
    found = load_trace(file)
    assert found.name == "two-days"
    assert (found.seconds, found.deadline_ms) == (4.0, 50.0)
    assert request_times(found, np.random.default_rng(0)).tolist() == [0.5, 2.0]
    assert found.readings.battery == ((0.0, 80.0), (3.0, 20.0))
    assert (found.manual[0].at_s, found.manual[0].mode) == (1.0, "C2")


def test_files_that_are_missing_too_large_or_not_text_are_refused(tmp_path):
    with pytest.raises(TraceError, match="no such file"):
        load_trace(tmp_path / "drone-descend")
    large, binary = tmp_path / "large.yaml", tmp_path / "binary.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    binary.write_bytes(b"name: \xff\n")
    with pytest.raises(TraceError, match="expected at most"):
        load_trace(large)
    with pytest.raises(TraceError, match="line 1"):
        load_trace(binary)


def test_requests_come_when_their_kind_says():
    def times(**fields):
        return request_times(trace(requests=(Arrivals(**fields),)), np.random.default_rng(3))

    np.testing.assert_allclose(times(kind="constant", per_second=2.0, from_s=10, until_s=12), [10, 10.5, 11, 11.5])
    np.testing.assert_allclose(times(kind="bursts", every_s=15.0, count=2, within_s=1.0), [0, 0.5, 15, 15.5, 30, 30.5])
    np.testing.assert_allclose(times(kind="recorded", at_s=(1.0, 1.0, 39.0)), [1, 1, 39])
    many = times(kind="poisson", per_second=200.0)
    # 8,000 expected: five standard deviations are 450
    assert abs(len(many) - 8000) < 450
    assert (np.diff(many) >= 0).all()
    # of a Poisson process the gaps have mean and standard deviation 1 / rate
    assert abs(np.diff(many).std() * 200 - 1) < 0.1


def test_readings_lie_on_a_line_and_texts_stay_until_the_next():
    levels = ((0.0, 10.0), (10.0, 30.0), (10.0, 50.0))
    assert [reading_at(levels, at) for at in (0, 5, 10, 99)] == [10, 20, 50, 50]
    said = ((0.0, "plugged"), (5.0, "unplugged"))
    assert [reading_at(said, at) for at in (0, 4.9, 5)] == ["plugged", "plugged", "unplugged"]


def test_the_examples_of_the_documentation_are_valid():
    text = (Path(__file__).parents[3] / "docs/simulation.md").read_text("utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    found = parse_trace(shown, "docs")
    assert {one.kind for one in found.requests} == {"constant", "poisson", "bursts", "recorded"}
    (rows,) = re.findall(r"```csv\n(.*?)```", text, re.DOTALL)
    assert parse_csv(rows, "docs", "docs").seconds == 9.0
