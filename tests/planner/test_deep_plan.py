"""Whole plans of a mode that is given as a target for multiply-accumulates: refined, and on every executor."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest
import typer
from distributed import LocalCluster
from typer.testing import CliRunner

from device_profiles import Mode, loader
from planner import assemble, checkpoint
from planner.commands import add_commands
from planner.plan import make_plan
from runtime.plan.bundle import MANIFEST, read
from runtime.plan.verification import verify
from runtime.reporting.findings import proved
from tests.planner import small
from tests.planner.conftest import OPTIONS

pytestmark = pytest.mark.xdist_group("deep plan")

SHARE = 0.35
FEW = replace(OPTIONS, certified=0, landscape=0, fit=300, walked=200, waypoints=3, torn=4)


@pytest.fixture(scope="module")
def device():
    """A desktop with one mode beside the dense one, of a third of its multiply-accumulates."""
    base = loader.load("generic-x86")
    return msgspec.structs.replace(
        base, modes={"C1": Mode(description="dense"), "deep": Mode(description="deep", from_="C1", macs=SHARE)},
        transitions=(("C1", "deep"),), triggers=(), safety=(), default_mode=None, channel_block=1,
        guard=msgspec.structs.replace(base.guard, max_drop_points=30.0),
    )  # fmt: skip


def test_a_refined_end_point_is_nearer_to_the_dense_outputs_and_is_walked_to(digits, trained, device, tmp_path):
    closed, refined = (
        make_plan(trained, "digits-cnn", digits, device, tmp_path / f"{samples}", options=replace(FEW, refine=samples))
        for samples in (0, 800)
    )
    dense, deep = refined.modes
    assert deep.macs <= SHARE * dense.macs
    assert (deep.macs, deep.kept) == (closed.modes[1].macs, closed.modes[1].kept)
    assert deep.divergence < 0.95 * closed.modes[1].divergence
    assert refined.planning.epoch_equivalents >= closed.planning.epoch_equivalents + 3 * 800 / len(digits.train_y)
    bundle = read(tmp_path / "800")
    assert len(bundle.transitions[0].chunks)
    assert all(check.ok for check in verify(bundle, device))


def test_the_command_makes_the_same_bundle_on_every_executor(device, tmp_path):
    # Several candidates are walked; the network is small, and this is a test of the wiring.
    guard = msgspec.structs.replace(device.guard, max_drop_points=60.0)
    accurate = msgspec.structs.replace(device, trade_off="accuracy", guard=guard)
    (tmp_path / "device.yaml").write_text(json.dumps(loader.as_builtins(accurate)))
    checkpoint.save(tmp_path / "model.safetensors", small.network(), {})
    app = typer.Typer()
    add_commands(app)

    def plan(name, *where):
        done = CliRunner().invoke(app, [
            "plan", "--model-def", "tests.planner.small:network", "--data", "tests.planner.small:data",
            "--weights", str(tmp_path / "model.safetensors"), "--profile", str(tmp_path / "device.yaml"),
            "--out", str(tmp_path / name), "--selection", "100", "--fit", "200", "--probes", "4",
            "--certify", "0", "--landscape", "0", *where,
        ])  # fmt: skip
        assert done.exit_code == 0, done.output
        manifest = json.loads((tmp_path / name / MANIFEST).read_text())
        for told in (manifest["planning"], *(one for move in manifest["transitions"] for one in move["candidates"])):
            for key in [key for key in told if key.endswith("seconds")]:
                del told[key]
        files = {
            str(file.relative_to(tmp_path / name)): file.read_bytes()
            for file in (tmp_path / name).rglob("*") if file.is_file() and file.name != MANIFEST
        }  # fmt: skip
        return manifest, files

    alone = plan("alone")
    assert len(alone[0]["transitions"][0]["candidates"]) > 2
    assert plan("two", "--workers", "2") == alone
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster:
        assert plan("cluster", "--cluster", cluster.scheduler_address) == alone


def test_of_a_large_network_nothing_is_proved_and_wrong_states_are_searched_for(device, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "CERTIFIABLE", 1)
    guard = msgspec.structs.replace(device.guard, max_drop_points=60.0)
    options = replace(FEW, selection=100, fit=200, probes=4, certified=None)
    rough = msgspec.structs.replace(device, guard=guard)
    made = make_plan(small.network(), "small", small.data(), rough, tmp_path / "plan", options=options)
    certificate = made.transitions[0].certificate
    assert certificate is not None
    assert "plan with --certify" in certificate.why_not
    assert (certificate.samples, certificate.proved_torn) == (assemble.SEARCHED, 0)
    assert 0 <= certificate.survived_torn <= certificate.survived_whole <= certificate.ends_right
    assert "Not certified" in proved(read(tmp_path / "plan").manifest.transitions[0])
