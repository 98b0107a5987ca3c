"""The pieces of the runtime's benchmarks: what is legal, who is judged, what is looked at; against real services."""

import asyncio
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import pytest

from benchmarks import bare, callers, memory, soak, stall, walk_load
from benchmarks.callers import Answer
from benchmarks.legal import legal_answers
from benchmarks.served import Served, device, serving
from benchmarks.walk_load import Case, Move, Seen, Setting, Tourist, judge
from runtime.plan.bundle import read
from runtime.plan.graphs import compact_session
from runtime.walking.net import Net
from tests.runtime.bundles import write_bundle
from tests.service.running import running

QUESTIONS = 2


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("benchmarks") / "plan")


@pytest.fixture(scope="module")
def bundle(plan):
    return read(plan)


@pytest.fixture(scope="module")
def questions(bundle):
    return [bundle.evaluation.inputs[at : at + 1] for at in range(QUESTIONS)]


@pytest.fixture(scope="module")
def legal(bundle, questions):
    return legal_answers(bundle, questions, snap=False)


def test_the_answers_of_a_walk_are_legal_and_those_of_other_places_are_not(bundle, questions, legal):
    profile = device(bundle, snap=False)
    assert legal.states == sum(len(move.chunks) + 1 for move in bundle.transitions)
    with Net(bundle, profile, "in-place") as net:
        first = net.infer(questions[0]).tobytes()
        assert legal.at("C1", 0, first)
        assert not legal.at("C1", 1, first)
        assert not legal.at("C3", 0, first)
        operation = net.switch("C2")
        seen = [net.infer(questions[0]).tobytes()]
        while operation.result is None:
            seen.append(net.infer(questions[0]).tobytes())
        assert all(legal.between("C1", "C2", 0, one) for one in seen)
        assert legal.at("C2", 0, net.infer(questions[0]).tobytes())
    assert not legal.between("C1", "C2", 0, b"\0" * len(first))


def test_compact_graphs_may_answer_at_modes_only_where_they_are_used(bundle, questions, legal):
    session = compact_session(bundle, "C2", 1)
    answer = session.run(questions[0], session.bind({})).tobytes()
    snapping = legal_answers(bundle, questions, snap=True)
    assert snapping.at("C2", 0, answer)
    assert snapping.between("C1", "C2", 0, answer)
    assert snapping.legs == legal.legs
    assert all(own[0] <= snapping.modes[mode][0] for mode, own in legal.modes.items())


def test_every_answer_is_judged_by_the_switches_that_it_overlaps(bundle, questions, legal):
    with Net(bundle, device(bundle, snap=False), "in-place") as net:
        before = net.infer(questions[0]).tobytes()
        net.switch("C3").wait(60)
        after = net.infer(questions[0]).tobytes()
    # C1 → C3 is no transition of its own here, but C3 → C1 is, which goes through the same states.
    moves = [Move("C1", "C3", 10.0, 11.0, "committed")]

    def judged(begin, end, outputs, status=200):
        return judge([Seen([Answer(begin, end, 0, status, outputs)], moves, "C1")], legal)

    assert judged(9.0, 9.5, before).wrong == 0
    assert judged(9.0, 9.5, after).wrong == 1
    assert judged(12.0, 12.5, after).wrong == 0
    assert judged(12.0, 12.5, before).wrong == 1
    for begin, end in ((9.5, 10.5), (10.2, 10.4), (10.9, 11.5), (9.0, 12.0)):
        seen = judged(begin, end, before)
        assert (seen.wrong, seen.walking) == (0, [pytest.approx(end - begin)])
    assert judged(10.2, 10.4, b"x" * 12).wrong == 1
    assert judged(10.2, 10.4, before, status=503).refused == 1
    assert [len(one) for one in judged(9.0, 9.5, before).resting] == [1, 0]
    assert [len(one) for one in judged(12.0, 12.5, after).resting] == [0, 1]


def test_one_wrong_answer_or_a_slow_walk_misses_its_bar():
    block = {"ratio": 1.0, "control_ratio": 1.0, "wrong": 0, "refused": 0, "answers": 5}
    found = {"blocks": [block] * 10, "dropped": 0, "before": {"wrong": 0, "refused": 0}}
    case = Case("digits", "shadow")

    def missed(**changes):
        one = {**found, **changes}
        return [claim.name for claim in walk_load.findings({case: one}, Setting()).claims if not claim.ok]

    assert missed() == []
    assert missed(dropped=1) == ["dropped_connections"]
    assert missed(blocks=[block] * 9 + [{**block, "wrong": 1}]) == ["answers_of_no_legal_state"]
    assert missed(blocks=[block] * 9 + [{**block, "ratio": 9.0}]) == []
    assert missed(blocks=[block] * 9 + [{**block, "ratio": None}]) == ["blocks_measured"]
    assert missed(blocks=[{**block, "ratio": 1.2}] * 8 + [block] * 2) == ["median_p99_ratio_digits-shadow"]


def test_the_percentile_is_of_milliseconds_and_of_something():
    assert walk_load.p99_ms([0.001 * number for number in range(101)]) == pytest.approx(99.0)
    assert walk_load.p99_ms([]) is None


@pytest.mark.parametrize("policy", ["in-place", "shadow"])
def test_callers_of_a_service_that_tours_get_legal_answers_alone(plan, bundle, tmp_path, policy, legal, questions):
    async def load(served):
        tour = [move.ends[1] for move in bundle.transitions]
        tourist = Tourist(served, "C1", tour, 0.1)
        async with callers.calling(served, "synthetic", questions, 8) as asking:
            parts = []
            # On a machine that is busy a while may pass without a switch.
            while not all(any(part.moves for part in parts[kind::2]) for kind in (0, 1)):
                parts.append(await tourist.during(asking.at_random(200, 0.7, np.random.default_rng(len(parts)))))
                parts.append(await tourist.during(asking.one_after_the_other(0.7)))
            dropped = asking.dropped + tourist.connection.dropped
        await tourist.connection.close()
        return parts, dropped

    with running(plan, tmp_path / "service", policy=policy) as one:
        where = urlsplit(one.url)
        served = Served(where.hostname, where.port, one.token(), 0, False)
        parts, dropped = asyncio.run(load(served))
    assert dropped == 0
    found = judge(parts, legal)
    assert found.answers == sum(len(part.answers) for part in parts) > 0
    assert (found.wrong, found.refused) == (0, 0)
    moves = [move for part in parts for move in part.moves]
    assert [move.source for move in moves[1:]] == [move.target for move in moves[:-1]]


def test_a_connection_that_breaks_is_counted_and_opened_again(plan, tmp_path, questions):
    async def ask(served):
        connection = callers.Connection(served)
        good = callers.question(served, "synthetic", questions[0])
        first = await connection.ask(good)
        broken = await connection.ask(b"this is no HTTP\r\n\r\n")
        again = await connection.ask(good)
        await connection.close()
        return first, broken, again, connection.dropped

    with running(plan, tmp_path / "service") as one:
        where = urlsplit(one.url)
        first, broken, again, dropped = asyncio.run(ask(Served(where.hostname, where.port, one.token(), 0, False)))
    assert first[0] == again[0] == 200
    assert first[2][first[1] :] == again[2][again[1] :]
    assert broken[0] != 200
    assert dropped == 1


def test_the_command_serves_in_a_process_of_its_own_and_ends_well(bundle, tmp_path, questions, legal):
    async def ask(served):
        connection = callers.Connection(served)
        status, at, body = await connection.ask(callers.question(served, bundle.manifest.model.id, questions[0]))
        await connection.close()
        return status, body[at:]

    with serving(bundle, device(bundle, snap=False), "shadow", tmp_path) as served:
        status, outputs = asyncio.run(ask(served))
    assert status == 200
    assert legal.at("C1", 0, outputs)


def test_stalls_of_whole_tours_are_timed_and_sessions_made_between_them(bundle):
    setting = replace(stall.QUICK, tours=1, creations=1, sizes=(400,))
    found = stall.stalls(bundle, setting)
    chunks = sum(len(move.chunks) for move in bundle.transitions)
    assert 0 < found["stalls"]["400"]["increments"] <= 2 * chunks
    assert 0 < found["stalls"]["400"]["median"] <= found["stalls"]["400"]["p99.9"] <= found["stalls"]["400"]["most"]
    assert found["recreation_ms"]["least"] > 0


def test_memory_is_looked_at_in_a_process_that_loads_the_runtime_alone(bundle):
    found = bare.call("benchmarks.resident", path=str(bundle.path), policy="shadow", snap=False, rest_s=0.2, tours=1)
    assert found["moved_bytes"] == sum(layer.row_bytes * layer.units for layer in bundle.table.layers)
    assert 0 < found["rest"]["own"] <= found["rest"]["resident"]
    runs = [dict.fromkeys(memory.CASES, found)]
    names = [claim.name for claim in memory.findings(memory.QUICK, runs).claims]
    assert names == ["in_place_resident", "shadow_resident", "in_place_own", "shadow_own"]


def test_a_soak_counts_its_transitions_and_holds_no_file_or_thread(bundle):
    found = bare.call(
        "benchmarks.enduring", path=str(bundle.path), policy="in-place", seed=0, warm=3, transitions=6, looks=1
    )
    assert found["transitions"] == 9
    claims = {claim.name: claim for claim in soak.findings(soak.QUICK, {("in-place", 0): found}).claims}
    assert claims["descriptors_more"].ok
    assert claims["threads_more"].ok
    assert {"resident_memory_growth", "own_memory_growth", "transitions"} <= set(claims)
