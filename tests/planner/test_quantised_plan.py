"""A whole plan for a device whose weights lie on a grid: planned, read, verified, walked."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from device_profiles import loader
from device_profiles.hardware import Weights
from planner.plan import make_plan
from runtime.plan.bundle import read
from runtime.plan.grid_parts import SCALES
from runtime.plan.verification import verify
from runtime.reporting.inspection import summary
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from tests.planner.conftest import EVERY

pytestmark = pytest.mark.xdist_group("quantised plan")  # what they share takes long: made once, in one process


@pytest.fixture(
    scope="module", params=[Weights(format="int", bits=4), Weights(format="float16")], ids=["int4", "float16"]
)
def bundle(request, digits, trained, tmp_path_factory):
    """A plan of the digits network, every candidate walked."""
    profile = msgspec.structs.replace(loader.load("raspberry-pi-5"), weights=request.param)
    path = tmp_path_factory.mktemp("quantised") / "plan"
    options = replace(EVERY, certified=0, landscape=0, fit=150, waypoints=3, torn=4)
    make_plan(trained, "digits-cnn", digits, profile, path, options=options)
    return read(path)


def test_its_evidence_can_be_repeated_and_all_its_values_are_on_the_grid(bundle):
    checks = verify(bundle, bundle.profile)
    assert [check for check in checks if not check.ok] == []
    assert "grid" in {check.name for check in checks}
    assert (SCALES in bundle.files) == (bundle.profile.weights.format == "int")


def test_only_paths_that_write_each_row_once_were_candidates(bundle):
    for move in bundle.transitions:
        assert {one.strategy for one in move.entry.candidates} == {"ordered", "zero-first", "naive"}
        assert not move.entry.alternatives
        assert len({*zip(move.chunks.layer.tolist(), move.chunks.row.tolist(), strict=True)}) == len(move.chunks)


def test_bytes_are_the_devices_and_so_are_the_budgets(bundle):
    bits = bundle.profile.weights.bits or 16
    for move in bundle.transitions:
        wanted = sum(
            -(-bits * bundle.table.layer(name).columns // 8) + 4
            for name in (move.chunks.layers[one] for one in move.chunks.layer)
        )
        assert move.entry.bytes_written == wanted == move.entry.waypoints[-1].bytes


def test_the_dense_mode_is_on_the_grid_too_and_loses_little(bundle):
    told = summary(bundle)["grid"]
    assert told["format"] == bundle.profile.weights.format
    assert told["unquantised_accuracy"] - bundle.manifest.modes[0].accuracy <= 0.01
    assert told["unquantised_accuracy"] > 0.9


def test_a_device_walks_it_there_and_back(bundle):
    inputs = np.array(bundle.evaluation.inputs[:5])
    bank = msgspec.structs.replace(bundle.profile.bank, snap=False)  # a smaller graph sums in another order
    with Net(bundle, msgspec.structs.replace(bundle.profile, bank=bank), "in-place") as net:
        before = net.infer(inputs)
        for mode in ("C2", "C3", "C1"):
            assert net.switch(mode).wait(60).outcome is Outcome.COMMITTED
        assert np.array_equal(net.infer(inputs), before)
