"""A whole plan of a real network: equal to PyTorch, honest about itself, whole or not there."""

import dataclasses
import json

import msgspec
import numpy as np
import pytest
import torch

from device_profiles import Guard, Writes, loader
from planner.candidates import NoSafePath
from planner.plan import make_plan
from planner.progress import Silent
from runtime.errors import BundleError
from runtime.plan import graphs
from runtime.plan.bundle import read
from runtime.plan.compact import pack
from runtime.plan.evaluation import Evaluator
from runtime.plan.verification import verify
from runtime.reporting.inspection import summary
from runtime.simulation.simulator import STRATEGIES, simulate
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from runtime.walking.rows import same_state
from runtime.walking.session import Session
from tests.planner.conftest import EVERY, OPTIONS

pytestmark = pytest.mark.xdist_group("plan")  # what they share takes long: made once, in one process

TOLERANCE = 1e-4  # of the largest output: float32 sums in another order differ by about 1e-6 of it


def torch_outputs(planned, state):
    tensors = {**planned.bundle.tensors, **planned.bundle.table.tensors(state)}
    weights = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
    inputs = torch.from_numpy(np.array(planned.bundle.evaluation.inputs))
    with torch.no_grad():
        return torch.func.functional_call(planned.module, weights, (inputs,)).numpy()


def live_session(bundle):
    return Session(bundle.graph, bundle.constants)


def close(one, other):
    return np.abs(one - other).max() <= TOLERANCE * max(1.0, np.abs(other).max())


def test_onnx_runtime_equals_pytorch_at_every_waypoint(planned):
    evaluator = Evaluator(live_session(planned.bundle), planned.bundle.evaluation)
    for move in planned.bundle.transitions:
        start = planned.bundle.states[move.ends[0]]
        for waypoint in move.entry.waypoints:
            state = move.chunks.state_at(start, waypoint.position)
            assert close(evaluator.at(planned.bundle.table, state).outputs, torch_outputs(planned, state))


def test_compact_graphs_equal_their_masked_dense_network_and_are_smaller(planned):
    dense = planned.bundle.manifest.modes[0]
    for mode in planned.bundle.manifest.modes:
        weights = pack(planned.bundle, mode.name)
        compact = Session(planned.bundle.compact[mode.name], weights)
        outputs = compact.run(planned.bundle.evaluation.inputs, compact.bind({}))
        assert close(outputs, torch_outputs(planned, planned.bundle.states[mode.name]))
        assert sum(tensor.nbytes for tensor in weights.values()) == mode.weight_bytes
        assert (mode.macs < dense.macs) == (mode.name != dense.name)


def test_modes_lack_the_units_their_profile_says(planned):
    lost = {
        mode.name: {name: planned.bundle.table.layer(name).units - len(units) for name, units in mode.kept.items()}
        for mode in planned.bundle.manifest.modes
    }
    assert lost == {"C1": {}, "C2": {"conv1": 8}, "C3": {"conv1": 8, "fc1": 16}, "C4": {"conv1": 4, "fc1": 16}}


def test_restored_filters_are_the_dense_ones_and_c4_keeps_c3s_other_units(planned):
    kept = {mode.name: mode.kept for mode in planned.bundle.manifest.modes}
    assert set(kept["C3"]["conv1"]) < set(kept["C4"]["conv1"])
    assert kept["C3"]["fc1"] == kept["C4"]["fc1"]
    assert (planned.bundle.states["C4"]["conv1"][list(kept["C4"]["conv1"])] == 0).all()


def test_evidence_is_what_a_second_look_finds(planned):
    checks = verify(planned.bundle, planned.profile)
    assert [check for check in checks if not check.ok] == []
    assert len(checks) > 4 * len(planned.bundle.states)


def test_every_candidate_is_reported_with_its_length_and_one_is_chosen(planned):
    for move in planned.bundle.manifest.transitions:
        names = {candidate.name for candidate in move.candidates}
        geometry = {"geodesic flow", "geodesic relaxed-flow", "geodesic relaxed-line"}
        assert {"ordered", "zero-first", "naive", "ramp 4", "linear 4", *geometry} <= names
        (chosen,) = [candidate for candidate in move.candidates if candidate.chosen]
        assert chosen.feasible
        assert chosen.strategy == move.strategy
        assert chosen.bytes_written == min(one.bytes_written for one in move.candidates if one.feasible)


def test_the_tour_is_walked_live_and_forward_backward_and_rebuilt_bits_agree(planned):
    x = planned.bundle.evaluation.inputs[:64]
    device = msgspec.structs.replace(
        planned.profile,
        bank=msgspec.structs.replace(planned.profile.bank, snap=False),
        writes=Writes(bytes_per_increment=2048, increments_per_second=1e5, stall_budget_ms=1e3),
    )
    rebuilt = {
        mode: Evaluator(graphs.live_session(planned.bundle, 1, device), planned.bundle.evaluation.take(64))
        .at(planned.bundle.table, state).outputs.tobytes()
        for mode, state in planned.bundle.states.items()
    }  # fmt: skip
    with Net(planned.bundle, device, "in-place") as net:
        for mode in ("C2", "C3", "C4", "C1", "C4", "C3", "C2", "C1"):
            assert net.switch(mode).wait(60).outcome is Outcome.COMMITTED
            assert net.infer(x).tobytes() == rebuilt[mode]


def test_alternatives_lead_between_the_same_modes(planned):
    for move in planned.bundle.transitions:
        table, chunks = planned.bundle.alternative(move, "geodesic")
        start, end = (planned.bundle.states[mode] for mode in move.ends)
        assert same_state(chunks.state_at(start, len(chunks)), end)
        assert chunks.total_bytes(table) > move.entry.bytes_written


def test_all_strategies_can_be_simulated(planned):
    result = simulate(planned.bundle, planned.profile, states=3, torn=2)
    assert set(result.strategies) == set(STRATEGIES)
    assert not result.left_out
    assert result.strategies["flip"].min_accuracy >= result.strategies["plain"].min_accuracy
    for name, one in result.strategies.items():
        assert 0 < one.min_accuracy <= one.mean_accuracy <= 1, name
        assert one.requests > 0
        assert one.peak_weight_bytes > 0
    assert result.strategies["ordered"].peak_weight_bytes < result.strategies["flip"].peak_weight_bytes


def without_seconds(path):
    """The manifest without what differs between two runs by nature."""
    manifest = json.loads((path / "plan.json").read_text())
    manifest["planning"] |= {"seconds": 0, "evidence_seconds": 0}
    return manifest


def test_the_same_seed_gives_the_same_plan_whatever_the_test_set_says(planned, tmp_path):
    """Planned again on a test set whose labels are wrong: evidence, eval.npz and pictures change, no choice does."""
    dataset = planned.dataset
    wrong = dataclasses.replace(dataset, test_y=(dataset.test_y + 1) % 10)
    make_plan(planned.module, "digits-cnn", wrong, planned.profile, tmp_path / "plan", options=EVERY)
    one, other = without_seconds(planned.path), without_seconds(tmp_path / "plan")
    differing = {name for name in one["files"] if one["files"][name] != other["files"][name]}
    assert differing == {"eval.npz", *(move["landscape"] for move in one["transitions"])}
    assert [move["candidates"] for move in one["transitions"]] == [move["candidates"] for move in other["transitions"]]
    assert other["modes"][0]["accuracy"] < 0.2


def test_a_guard_that_no_path_meets_is_refused_with_the_best_found(planned, tmp_path):
    strict = msgspec.structs.replace(planned.profile, guard=Guard(max_drop_points=0.1))
    with pytest.raises(NoSafePath, match=r"C1 → C2: found at best .* expected a lower bound of at least .*--selection"):
        make_plan(planned.module, "digits-cnn", planned.dataset, strict, tmp_path / "plan", options=OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_does_not_fit_an_increment_is_refused(planned, tmp_path):
    writes = msgspec.structs.replace(planned.profile.writes, bytes_per_increment=64)
    small = msgspec.structs.replace(planned.profile, writes=writes)
    with pytest.raises(BundleError, match="bytes_per_increment: found 64, expected at least"):
        make_plan(planned.module, "digits-cnn", planned.dataset, small, tmp_path / "plan", options=OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_what_stands_at_the_target_is_not_overwritten(planned, tmp_path):
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "thesis.tex").write_text("ten years")
    with pytest.raises(BundleError, match="no bundle"):
        make_plan(planned.module, "digits-cnn", planned.dataset, planned.profile, tmp_path / "plan", replace=True)
    assert (tmp_path / "plan" / "thesis.tex").read_text() == "ten years"


class Interrupting(Silent):
    """Stops the work when a stage begins, as Ctrl-C does."""

    def __init__(self, stage):
        self._stage = stage

    def stage(self, name, steps):
        if name.startswith(self._stage):
            raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["End points", "ONNX graphs", "Paths, round 1", "Evidence"])
def test_an_interrupted_plan_leaves_nothing_and_keeps_what_stood_there(planned, tmp_path, stage):
    path = tmp_path / "plan"
    before = read(planned.path)
    with pytest.raises(KeyboardInterrupt):
        make_plan(
            planned.module, "digits-cnn", planned.dataset, planned.profile, path, options=OPTIONS,
            progress=Interrupting(stage),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    assert read(planned.path).files == before.files


def test_inspection_has_the_keys_that_other_tools_rely_on(planned):
    data = json.loads(json.dumps(summary(planned.bundle)))
    assert {"size_bytes", "dense_bytes", "dense_accuracy", "epoch_equivalents", "seconds"} <= set(data)
    assert all({"name", "accuracy", "macs", "weight_bytes"} <= set(mode) for mode in data["modes"])
    for move in data["transitions"]:
        assert {"from", "to", "strategy", "min_accuracy", "bytes_written", "functional_length"} <= set(move)
        assert all({"accuracy", "functional_length", "bytes"} <= set(point) for point in move["waypoints"])
        lengths = [point["functional_length"] for point in move["waypoints"]]
        assert lengths == sorted(lengths)
        assert lengths[-1] == move["functional_length"]
        assert move["waypoints"][-1]["bytes"] == move["bytes_written"]
    assert loader.from_builtins(planned.bundle.manifest.profile, "manifest") == planned.profile


def test_what_is_proved_holds_in_the_states_that_were_measured(planned):
    """Whatever is proved right in every state is right in each state that was looked at."""
    for move in planned.bundle.manifest.transitions:
        proof = move.certificate
        assert proof is not None
        assert proof.samples == EVERY.certified
        assert proof.proved_torn <= proof.proved_whole <= proof.ends_right <= proof.samples
        assert proof.proved_whole <= proof.survived_whole
        assert proof.proved_torn <= proof.survived_torn
    assert sum(move.certificate.proved_whole for move in planned.bundle.manifest.transitions) > 0
