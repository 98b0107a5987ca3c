"""What is predicted of a walk is what the engine then does, and a device that must pause is written in pauses only."""

import json
import threading

import msgspec
import numpy as np
import pytest

from device_profiles import loader
from runtime.errors import BundleError
from runtime.memory.files import Files
from runtime.memory.weight_memory import PersistentBank, WeightMemory
from runtime.plan import bundle as bundles
from runtime.plan import costs
from runtime.plan.evaluation import Evaluator
from runtime.plan.graphs import live_session
from runtime.plan.manifest import decode
from runtime.walking.bank import Increment, InPlaceBank, ShadowBank, increments
from runtime.walking.chunks import ChunkList
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from runtime.walking.rows import RowTable
from tests.runtime.bundles import content, profile, write_bundle
from tests.runtime.devices import made, settled
from tests.runtime.nets import PACE
from tests.runtime.plans import LAYERS, table
from tests.runtime.threads import PATIENCE_S, in_line, until
from tests.runtime.walking import PROFILES, walked, wearing


def figure(value, provenance="datasheet"):
    return {"value": value, "provenance": provenance, "source": "a test"}


def device(**changes):
    return profile(**{"bank__snap": False, "bank__policy": "in-place", **changes})


def some_chunks():
    """Rows of all three layers, one of them twice."""
    start = table().dense()
    writes = [("c", 0, 2), ("c", 1, 3), ("b", 2, 2), ("a", 4, 1), ("a", 3, 2), ("c", 0, 4)]
    return ChunkList.build(tuple(layer.name for layer in LAYERS), start, writes)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("costs") / "plan"))


@pytest.mark.parametrize("name", PROFILES)
def test_the_engine_writes_what_the_plan_says_to_the_byte(name, tmp_path):
    found = []
    own = bundles.read(write_bundle(tmp_path / "plan", wearing(profile(), PROFILES[name], increment=400)))

    def check(move, back, result, counters):
        said = move.entry.cost_back if back else move.entry.cost
        assert result.bytes_written == counters.bytes_written == said.bytes
        assert counters.increments == said.increments
        assert (result.retries, result.bytes_retried) == (0, 0)
        assert result.pauses == (said.increments if name == "in pauses" else 0)
        assert (said.retries is None) == ("verified" not in name)
        found.append(said)

    walked(own, own.profile, check)
    assert len(found) == 6
    assert max(one.increments for one in found) > 1
    grain = PROFILES[name].get("granularity_bytes", 1)
    assert all(one.bytes % grain == 0 for one in found)


def test_a_row_takes_whole_multiples_of_the_smallest_write():
    chunks = some_chunks()
    rows = {layer.name: layer.row_bytes for layer in LAYERS}
    assert rows == {"a": 76, "b": 20, "c": 36}
    for grain, total in ((1, 3 * 36 + 20 + 2 * 76), (64, 4 * 64 + 2 * 128), (4096, 6 * 4096)):
        said = costs.predict(table(), chunks, device(writes__granularity_bytes=grain, writes__bytes_per_increment=4096))
        assert (said.bytes, said.cell_writes) == (total, 2)


def test_seconds_are_those_of_the_pace_or_of_the_memory_whichever_is_longer():
    chunks, ten = some_chunks(), {"writes__increments_per_second": 10, "writes__bytes_per_increment": 80}
    # Increments of 72, 20, 76, 76 and 36 bytes, each row a chunk.
    paced = costs.predict(table(), chunks, device(**ten))
    assert (paced.increments, paced.seconds) == (5, pytest.approx(0.4))
    slow = costs.predict(table(), chunks, device(**ten, writes__bytes_per_second=figure(400)))
    assert slow.seconds == pytest.approx(72 / 400 + 0.1 + 76 / 400 + 76 / 400 + 36 / 400)
    pauses = {"writes__quiesce_required": True, "writes__stall_budget_ms": 1000}
    paused = costs.predict(table(), chunks, device(**ten, **pauses, writes__bytes_per_second=figure(400)))
    assert paused.seconds == pytest.approx(280 / 400 + 4 * 0.1)


def test_retries_are_counted_apart_by_the_mean():
    verify = {"mean_writes": figure(3.0, "paper"), "most_writes": 9}
    energy = {"joules_per_byte_written": figure(2e-6, "assumed")}
    asked = device(
        writes__verify=verify, energy=energy, writes__endurance_writes=figure(1000), writes__increments_per_second=1e9,
        writes__bytes_per_second=figure(1e3),
    )  # fmt: skip
    said = costs.predict(table(), some_chunks(), asked)
    assert (said.bytes, said.joules) == (280, pytest.approx(280 * 2e-6))
    assert said.seconds == pytest.approx(0.28)
    again = said.retries
    assert (again.rows, again.bytes, again.joules) == (12, 560, pytest.approx(560 * 2e-6))
    assert again.seconds == pytest.approx(0.56)
    # One row is written twice each way, three times as often with retries: 12 of 1,000 there and back.
    assert (said.wear, said.transitions_left) == (pytest.approx(12 / 1000), 166)
    assert said.assumed == ("joules", "retries")


def test_a_figure_that_the_profile_lacks_gives_nothing():
    said = costs.predict(table(), some_chunks(), device())
    assert (said.joules, said.wear, said.transitions_left, said.retries, said.assumed) == (None, None, None, None, ())


def test_origins_of_figures_and_of_plain_numbers_are_told_by_what_rests_on_them():
    asked = device(
        writes__bytes_per_second=figure(1e6, "measured"), writes__granularity_bytes=8,
        origins={"writes.granularity_bytes": {"provenance": "assumed", "source": "a guess"}},
    )  # fmt: skip
    found = costs.provenance(asked)
    assert {path: one.provenance for path, one in found["seconds"].items()} == {
        "writes.granularity_bytes": "assumed",
        "writes.bytes_per_second": "measured",
    }
    assert "wear" not in found
    assert costs.predict(table(), some_chunks(), asked).assumed == ("bytes", "increments", "seconds")


def test_a_plan_of_before_costs_were_predicted_is_read(bundle):
    data = json.loads((bundle.path / "plan.json").read_text())
    for move in data["transitions"]:
        del move["cost"], move["cost_back"]
        for one in move["candidates"]:
            del one["cost"]
    old = decode(json.dumps(data).encode(), "old")
    assert [move.cost for move in old.transitions] == [None] * 3


def test_a_plan_that_promises_other_bytes_is_refused(tmp_path):
    manifest, files = content()
    first, *others = manifest.transitions
    for field in ("cost", "cost_back"):
        cost = msgspec.structs.replace(getattr(first, field), bytes=getattr(first, field).bytes - 1)
        told = msgspec.structs.replace(first, **{field: cost})
        lying = msgspec.structs.replace(manifest, transitions=(told, *others))
        with pytest.raises(BundleError, match=rf"transition C1 → C2: {field}\.bytes: found \d+, expected \d+, which"):
            bundles.write(tmp_path / "plan", lying, files, replace=False)


# Pace and pauses


def test_no_walk_is_faster_than_the_memory(bundle):
    asked = device(writes__increments_per_second=2000, writes__bytes_per_second=figure(50_000))
    move = bundle.transitions[0]
    least = costs.predict(bundle.table, move.chunks, asked)
    assert least.seconds > 1.5 * least.increments / 2000
    with Net(bundle, asked) as net:
        result = net.switch("C2").wait(60)
    assert result.outcome is Outcome.COMMITTED
    assert result.seconds >= least.seconds - 1e-6


PAUSES = {
    "writes__quiesce_required": True,
    "writes__bytes_per_second": figure(1e6),
    "writes__increments_per_second": 500,
    "writes__stall_budget_ms": 1,
}


def test_in_declared_pauses_callers_wait_and_see_whole_prefixes_alone(bundle):
    """Callers ask all the time; every answer is that of a state between two pauses, bit for bit."""
    asked = device(**PAUSES)
    move, x = bundle.transitions[0], bundle.evaluation.inputs[:1]
    evaluator = Evaluator(live_session(bundle, 1), bundle.evaluation.take(1))
    # Any prefix: increments become smaller where a pause took longer than it may, as it does below.
    states = (move.chunks.state_at(bundle.states["C1"], end) for end in range(len(move.chunks) + 1))
    legal = {evaluator.at(bundle.table, state).outputs.tobytes() for state in states}
    assert len(legal) > 2
    least = costs.predict(bundle.table, move.chunks, asked)
    seen, waited, over = set(), [], threading.Event()

    def ask(net):
        while not over.is_set():
            seen.add(net.infer(x).tobytes())

    with Net(bundle, asked) as net:
        callers = [threading.Thread(target=ask, args=(net,), daemon=True) for _ in range(2)]
        bank = net._controller._live.bank
        write = bank.write

        def watched(increment):
            # Nobody is answered while this is written: both callers come to stand in line.
            until(lambda: over.is_set() or in_line(net._engine._turnstile) >= 2)
            before = set(seen)
            retries = write(increment)
            waited.append(seen == before)
            return retries

        bank.write = watched
        for caller in callers:
            caller.start()
        try:
            result = net.switch("C2").wait(60)
        finally:
            # Whatever went wrong: who asks on would keep the test from ending.
            over.set()
            for caller in callers:
                caller.join(PATIENCE_S)
        assert not any(caller.is_alive() for caller in callers)
    assert result.outcome is Outcome.COMMITTED
    assert len(seen) > 2
    assert seen <= legal
    assert result.pauses == len(waited) >= least.increments
    assert all(waited)


def test_a_pause_is_no_longer_than_the_stall_budget_by_its_bytes(bundle):
    for most in (1, 3):
        asked = device(
            **PAUSES, writes__verify={"mean_writes": figure(min(1.5, most)), "most_writes": most},
        )  # fmt: skip
        budget = costs.budget_bytes(asked.writes)
        for move in bundle.transitions:
            for begin, end, size in costs.split(move.chunks, bundle.table, asked.writes, lambda room=budget: room):
                assert end > begin
                assert costs.write_seconds(most * size, asked.writes) <= 1e-3


def test_between_pauses_the_device_answers_for_a_whole_interval(bundle):
    asked = device(**PAUSES)
    with Net(bundle, asked) as net:
        result = net.switch("C2").wait(60)
    least = costs.predict(bundle.table, bundle.transitions[0].chunks, asked)
    assert result.outcome is Outcome.COMMITTED
    assert result.pauses == least.increments > 2 or result.pauses > least.increments  # a late timer divides pauses
    assert result.seconds >= least.seconds - 1e-6


def test_a_row_that_no_pause_has_room_for_is_refused(bundle):
    largest = max(layer.row_bytes for layer in bundle.table.layers)
    asked = device(**{**PAUSES, "writes__bytes_per_second": figure(largest * 1000 * 0.5)})
    with pytest.raises(BundleError) as error:
        Net(bundle, asked)
    said = str(error.value)
    assert "writes.stall_budget_ms: found 1, expected at least 2.222 for a pause" in said
    assert f"{largest} bytes at writes.bytes_per_second" in said
    enough = device(**{**PAUSES, "writes__bytes_per_second": figure(largest * 1000 / 0.9 + 1)})
    Net(bundle, enough).close()


def test_a_row_that_no_increment_has_room_for_once_rounded_is_refused(bundle):
    largest = max(layer.row_bytes for layer in bundle.table.layers)
    asked = device(writes__granularity_bytes=largest - 1, writes__bytes_per_increment=largest)
    with pytest.raises(BundleError, match=rf"found {largest}, expected at least {2 * largest - 2}.*granularity"):
        Net(bundle, asked)


def test_a_second_copy_is_no_answer_where_writing_needs_a_pause(bundle):
    with pytest.raises(BundleError, match=r"found 'shadow' with writes\.quiesce_required.*use policy in-place"):
        Net(bundle, device(**PAUSES), "shadow")
    with Net(bundle, device(**{**PAUSES, "bank__policy": "auto"})) as net:
        assert net.policy == "in-place"


# Checked writes


class Flipping(InPlaceBank):
    """Memory in which some writes of some rows leave a bit wrong."""

    def __init__(self, *args, wrong, **kwargs):
        super().__init__(*args, **kwargs)
        self.wrong = wrong
        self.flipped = []

    def _store(self, name, rows, values):
        values = np.array(values)
        for number, row in enumerate(rows):
            if self.wrong(name, int(row)):
                bits = values[number : number + 1].view(np.int32)
                bits[0, int(row) % bits.shape[1]] ^= 1  # the last bit of a mantissa
                self.flipped.append((name, int(row)))
        super()._store(name, rows, values)


def flipping(bundle, asked, wrong):
    """A network whose memory misbehaves so, and that memory."""
    net = Net(bundle, asked)
    live = net._controller._live
    most = asked.writes.verify.most_writes
    live.bank = Flipping(bundle.table, bundle.states["C1"], live._session.bind, most, wrong=wrong)
    return net, live.bank


CHECKED = {
    **PACE,
    "writes__verify": {"mean_writes": figure(1.5), "most_writes": 8},
    "writes__granularity_bytes": 64,
}


def test_rows_that_read_back_wrong_are_written_again_and_counted_apart(bundle):
    rng = np.random.default_rng(0)
    net, memory = flipping(bundle, device(**CHECKED), lambda name, row: rng.random() < 0.4)
    with net:
        result = net.switch("C2").wait(60)
        held = memory._tensors
        expected = bundle.table.tensors(bundle.states["C2"])
        assert all(held[name].tobytes() == expected[name].tobytes() for name in expected)
        said = costs.predict(bundle.table, bundle.transitions[0].chunks, device(**CHECKED))
        assert result.outcome is Outcome.COMMITTED
        assert result.bytes_written == said.bytes
        assert result.retries == len(memory.flipped) > 0
        sizes = {layer.name: -(-layer.row_bytes // 64) * 64 for layer in bundle.table.layers}
        assert result.bytes_retried == sum(sizes[name] for name, _ in memory.flipped)
        counters = net.standing.counters
        assert counters.retries == result.retries
        assert counters.bytes_written == result.bytes_written + result.bytes_retried
        assert sum(counters.row_writes.values()) == len(bundle.transitions[0].chunks) + result.retries
        most = max(memory.flipped.count(one) for one in set(memory.flipped))
        assert counters.cell_writes == 1 + most


def test_a_row_that_stays_wrong_fails_the_walk_and_is_named(bundle):
    net, memory = flipping(bundle, device(**CHECKED), lambda name, row: (name, row) == ("conv2", 3))
    x = bundle.evaluation.inputs[:4]
    with net:
        before = net.infer(x).tobytes()
        result = net.switch("C2").wait(60)
        assert (result.outcome, result.mode) == (Outcome.ROLLED_BACK, "C1")
        assert "BrokenRow: layer conv2: row 3: found other values than were written, 8 times" in result.reason
        assert memory.flipped == [("conv2", 3)] * 8
        assert net.infer(x).tobytes() == before


def test_without_a_check_nothing_is_read_back(bundle):
    net, memory = flipping(bundle, device(**CHECKED), lambda name, row: False)
    with net:
        memory._most_writes = None
        memory._load = None  # nothing may call it
        assert net.switch("C2").wait(60).outcome is Outcome.COMMITTED


class FlippingTable(RowTable):
    """Writes of its rows leave a bit wrong now and then."""

    rng = np.random.default_rng(1)

    def write(self, tensors, name, rows, values):
        super().write(tensors, name, rows, flipped(values, self.rng))


class FlippingFiles(Files):
    """A mapped file whose bytes come out wrong now and then."""

    rng = np.random.default_rng(2)

    def store(self, target, values):
        super().store(target, flipped(values[None], self.rng)[0])


def flipped(values, rng):
    values = np.array(values)
    values.view(np.int32)[rng.random(len(values)) < 0.3, 0] ^= 1
    return values


@pytest.mark.parametrize("policy", ["shadow", "persistent"])
def test_other_banks_check_their_writes_too(policy, tmp_path):
    rows, chunks, start = table(), some_chunks(), table().dense()
    if policy == "shadow":
        bank = ShadowBank(FlippingTable(rows.layers, rows._base, rows.pool), start, dict, 30)
    else:
        bank = PersistentBank(WeightMemory.create(tmp_path / "w", rows, "b" * 64, start, FlippingFiles()), dict, 30)
    again = 0
    for begin, end, _ in increments(chunks, rows, lambda: 80):
        again += len(bank.write(Increment.gather(rows, chunks, begin, end)))
        expected = rows.tensors(chunks.state_at(start, end))
        with bank.read() as held:
            assert all(held[name].tobytes() == expected[name].tobytes() for name in expected)
    assert again > 0


# Endurance


def test_the_status_says_how_much_of_the_endurance_is_left(bundle):
    # One row is written once each way by the ordered path, so after two walks two writes are spent.
    with made(bundle, writes__endurance_writes=figure(10)) as worn:
        assert worn.status().endurance_left == 1.0
        for mode in ("C2", "C1"):
            worn.switch(mode, who="test")
            settled(worn)
        spent = 2 * bundle.transitions[0].entry.cost.cell_writes
        assert worn.status().endurance_left == pytest.approx(1 - spent / 10)
    with made(bundle) as other:
        assert other.status().endurance_left is None


def test_predicted_watts_and_milliseconds_of_a_mode():
    energy = {"idle_w": figure(2.0), "joules_per_mac": figure(1e-9), "inferences_per_second": 10.0}
    target = {"macs_per_second": figure(1e9), "overhead_ms": figure(0.5)}
    asked = device(energy=energy, target=target)
    assert costs.power_w(10**8, asked) == pytest.approx(3.0)
    assert costs.latency_ms(10**8, asked) == pytest.approx(100.5)
    assert costs.power_w(10**8, device()) is None
    assert costs.latency_ms(10**8, device()) is None
    assert loader.load("generic-x86").trade_off == "bytes"
