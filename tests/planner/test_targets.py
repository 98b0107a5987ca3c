"""Sparse modes and another network, from a profile to a walk in the runtime."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from device_profiles import Bank, Writes
from device_profiles import load as load_profile
from planner import models
from planner.cost import CostMeter
from planner.datasets import split
from planner.endpoint_search import EndPointSearch
from planner.modes import Sparsity, resolve
from planner.network import trace
from planner.plan import make_plan
from planner.progress import Silent
from planner.recipes import recipe_for
from planner.study import GEODESICS
from planner.targets import FEWEST, make_sparse, sparse_samples
from planner.training import train
from runtime.plan.bundle import Bundle, read
from runtime.plan.compact import pack
from runtime.plan.evaluation import Evaluator
from runtime.plan.graphs import live_session
from runtime.plan.verification import verify
from runtime.reporting.inspection import notes, summary
from runtime.reporting.report import write_report
from runtime.simulation.simulator import simulate
from runtime.walking.bank import Increment, InPlaceBank
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from tests.planner.conftest import OPTIONS, SELECTION

pytestmark = pytest.mark.xdist_group("targets")  # what they share takes long: made once, in one process

EXAMPLE = Path(__file__).parents[2] / "examples" / "targets_profile.yaml"
SAMPLES = 12_000
"""13 passes over the digits: enough for 90 %."""


class Planned(NamedTuple):
    """A plan, and the file of the other network."""

    bundle: Bundle
    file: dict[str, np.ndarray]
    sha256: str


@pytest.fixture(scope="module")
def planned(digits, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    fit, selection = split(digits, 0, SELECTION)
    recipe = recipe_for("digits-cnn", "digits")
    train(
        models.build("digits-cnn", seed=1), digits, definition="digits-cnn", epochs=recipe.epochs, seed=1,
        batch_size=recipe.batch_size, learning_rate=recipe.learning_rate, out=folder / "other.safetensors",
        fit_indices=fit, selection_indices=selection, weight_decay=recipe.weight_decay,
    )  # fmt: skip
    # As many probes as `plan` takes: with fewer, no way to the other network is within the guard on every processor.
    options = dataclasses.replace(OPTIONS, sparse=SAMPLES, certified=0, probes=64)
    # At any pace, and from the weights that are written.
    device = msgspec.structs.replace(
        load_profile(EXAMPLE),
        writes=Writes(bytes_per_increment=4096, increments_per_second=1e5, stall_budget_ms=1e3),
        bank=Bank(policy="in-place", snap=False),
    )
    make_plan(
        trained, "digits-cnn", digits, device, folder / "plan", options=options,
        weights={"update": folder / "other.safetensors"},
    )  # fmt: skip
    content = (folder / "other.safetensors").read_bytes()
    return Planned(
        read(folder / "plan"), load_file(folder / "other.safetensors"), hashlib.sha256(content).hexdigest()
    )  # fmt: skip


def weights(bundle, mode):
    """Weights that a device holds at a mode, without biases."""
    held = bundle.table.tensors(bundle.states[mode])
    return {layer.name: held[layer.weight] for layer in bundle.table.layers}


def test_a_sparse_mode_is_as_sparse_as_asked_and_saves_nothing_on_dense_kernels(planned):
    entry, dense = planned.bundle.mode("sparse"), planned.bundle.mode("full")
    found = weights(planned.bundle, "sparse")
    zeros, size = sum(int((one == 0).sum()) for one in found.values()), sum(one.size for one in found.values())
    assert (entry.sparse.zeros, entry.sparse.weights) == (zeros, size)
    assert 0.9 <= zeros / size < 0.9 + 2 / size
    assert entry.sparse.layers == tuple(found) == ("conv1", "conv2", "fc1", "fc2")
    assert (entry.macs, entry.weight_bytes, entry.kept) == (dense.macs, dense.weight_bytes, {})
    assert dense.sparse is None
    assert dense.nonzero_macs == dense.macs
    assert entry.nonzero_macs == sum(
        positions * np.count_nonzero(found[name])
        for name, positions in (("conv1", 64), ("conv2", 16), ("fc1", 1), ("fc2", 1))
    )


def test_no_zero_of_a_sparse_mode_is_negative(planned):
    for one in weights(planned.bundle, "sparse").values():
        assert not np.signbit(one[one == 0]).any()


def test_another_network_is_what_its_file_says_bit_for_bit(planned):
    bundle = planned.bundle
    held = {**bundle.constants, **bundle.table.tensors(bundle.states["update"])}
    assert {name: one.tobytes() for name, one in held.items()} == {
        name: one.tobytes() for name, one in planned.file.items()
    }
    assert bundle.mode("update").source == planned.sha256
    assert bundle.mode("full").source is None


def test_what_is_removed_and_sparse_lacks_the_units_and_counts_zeros_among_the_rest(planned):
    entry, dense = planned.bundle.mode("lean"), planned.bundle.mode("full")
    assert len(entry.kept["conv1"]) == 8
    assert entry.macs < 0.6 * dense.macs
    assert entry.sparse.layers == ("fc1", "fc2")
    compact = pack(planned.bundle, "lean")
    found = [compact["fc1.weight"], compact["fc2.weight"]]
    assert entry.sparse.weights == sum(one.size for one in found)
    assert entry.sparse.zeros == sum(int((one == 0).sum()) for one in found)
    assert 0.8 <= entry.sparse.zeros / entry.sparse.weights < 0.801
    assert (compact["conv2.weight"] != 0).all()


def test_every_path_stays_within_the_guard(planned):
    bundle = planned.bundle
    for move in bundle.manifest.transitions:
        (chosen,) = [one for one in move.candidates if one.chosen]
        assert chosen.feasible
        assert move.worst_drop_points <= bundle.profile.guard.max_drop_points


def test_another_network_is_reached_by_a_geodesic_where_one_pass_would_answer_by_chance(planned):
    (move,) = [one for one in planned.bundle.manifest.transitions if one.to == "update"]
    found = {one.name: one for one in move.candidates}
    assert move.strategy == GEODESICS
    assert {"ordered", "zero-first", "naive", "ramp 4", "linear 4", "linear 10"} <= set(found)
    assert found["ordered"].worst_accuracy < 0.5


def test_walks_end_on_the_planned_weights_and_lead_back_to_the_dense_ones(planned):
    bundle = planned.bundle
    for move in bundle.transitions:
        held: dict[str, np.ndarray] = {}
        bank = InPlaceBank(bundle.table, bundle.states["full"], held.update)
        bank.write(Increment.gather(bundle.table, move.chunks, 0, len(move.chunks)))
        wanted = planned.file if move.ends[1] == "update" else bundle.table.tensors(bundle.states[move.ends[1]])
        assert all(held[name].tobytes() == wanted[name].tobytes() for name in held)
        bank.write(Increment.gather(bundle.table, move.chunks.reversed(), 0, len(move.chunks)))
        assert all(held[name].tobytes() == bundle.tensors[name].tobytes() for name in held)


@pytest.mark.parametrize("snap", [False, True])
def test_the_runtime_walks_there_and_back_and_answers_as_planned(planned, snap):
    bundle = planned.bundle
    samples = bundle.evaluation.take(64)
    device = msgspec.structs.replace(bundle.profile, bank=msgspec.structs.replace(bundle.profile.bank, snap=snap))
    evaluator = Evaluator(live_session(bundle, 1), samples)
    with Net(bundle, device, "in-place") as net:
        for mode in ("sparse", "full", "update", "sparse", "lean", "full"):
            assert net.switch(mode).wait(60).outcome is Outcome.COMMITTED
            wanted = evaluator.at(bundle.table, bundle.states[mode]).outputs
            found = net.infer(samples.inputs)
            if snap:
                assert np.abs(found - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max())
            else:
                assert found.tobytes() == wanted.tobytes()


def test_a_second_look_finds_the_same_and_catches_a_wrong_count_of_zeros(planned):
    bundle = planned.bundle
    checks = verify(bundle, bundle.profile)
    assert [check for check in checks if not check.ok] == []
    assert {"mode sparse: zeros", "mode lean: zeros"} <= {check.name for check in checks}

    def said(entry, **changes):
        one = msgspec.structs.replace(entry, sparse=msgspec.structs.replace(entry.sparse, **changes))
        modes = tuple(one if mode.name == one.name else mode for mode in bundle.manifest.modes)
        return dataclasses.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, modes=modes))

    entry = bundle.mode("sparse")
    for damaged in (said(entry, zeros=entry.sparse.zeros + 1), said(entry, layers=("nowhere",))):
        assert [check.name for check in verify(damaged, bundle.profile) if not check.ok] == ["mode sparse: zeros"]


def test_inspection_and_report_say_what_zeros_do_not_save(planned, tmp_path):
    bundle = planned.bundle
    data = {mode["name"]: mode for mode in summary(bundle)["modes"]}
    assert data["sparse"]["sparse"]["zeros"] == bundle.mode("sparse").sparse.zeros
    assert data["update"]["source"] == planned.sha256
    said = notes(bundle.manifest)
    assert [one.split()[0] for one in said] == ["sparse:", "lean:", "update"]
    assert "90.0% of the weights of conv1, conv2, fc1, fc2 are zero" in said[0]
    assert "save nothing" in said[0]
    share = bundle.mode("sparse").nonzero_macs / bundle.mode("full").macs
    assert f"Hardware that skips zeros would compute {share:.1%} of full's" in said[0]
    simulation = simulate(bundle, bundle.profile, names=("ordered", "plain"), states=3, torn=2)
    assert "does not lead to sparse, lean, update" in simulation.left_out["plain"]
    assert "save nothing" in write_report(tmp_path / "report", bundle, simulation).read_text()


def test_layers_that_are_not_named_stay_bit_for_bit(digits, trained):
    inputs = torch.from_numpy(digits.train_x[:300])
    network = trace(trained, inputs[:2])
    search = EndPointSearch(network, inputs, inputs, CostMeter())
    targets = resolve(load_profile(EXAMPLE), network)
    removed = search.find(targets, Silent().step)["lean"]
    cost = CostMeter()
    end = make_sparse(network, removed, Sparsity(0.5, ("fc2",)), inputs, 3000, seed=0, cost=cost)
    changed = {name for name in end.tensors if not torch.equal(end.tensors[name], removed.tensors[name])}
    assert changed == {"fc2.weight", "fc2.bias"}
    assert end.removed == removed.removed
    assert end.sparse == ("fc2",)
    assert end.free
    assert not removed.free
    assert search.between(removed, end) is None
    assert 0 < cost.epoch_equivalents(3000) <= 1


def test_five_epochs_are_spent_unless_told_otherwise_and_on_few_images_more():
    assert sparse_samples(OPTIONS, 60_000) == 300_000
    assert sparse_samples(OPTIONS, 900) == FEWEST
    assert sparse_samples(dataclasses.replace(OPTIONS, sparse=7), 900) == 7
