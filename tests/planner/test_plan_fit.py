"""A network that a device does not fit is refused when it is planned, and nothing is written."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from device_profiles import Profile, load
from planner import models
from planner.datasets import Dataset
from planner.options import Options
from planner.plan import make_plan
from runtime.errors import BundleError


class Counted:
    """Notes the stages that planning gets to."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, steps: int) -> None:
        self.stages.append(name)

    def step(self, detail: str) -> None:
        pass


def stages_before(said: str, device: Profile, digits: Dataset, folder: Path) -> list[str]:
    progress = Counted()
    with pytest.raises(BundleError, match=said):
        make_plan(
            models.build("digits-cnn", seed=0), "digits-cnn", digits, device, folder / "plan",
            options=Options(fit=100, refine=0), progress=progress,
        )  # fmt: skip
    assert list(folder.iterdir()) == []
    return progress.stages


def test_memory_is_looked_at_before_anything_is_spent(digits: Dataset, tmp_path: Path) -> None:
    said = (
        "plan for max78000: memory.weights_bytes: found 13705, expected at least 13706 for 13,706 weights of int with 8"
    )
    assert stages_before(said, load("max78000", ["memory.weights_bytes=13705"]), digits, tmp_path) == []


def test_operators_are_looked_at_before_paths_are_sought(digits: Dataset, tmp_path: Path) -> None:
    board = load("generic-x86")
    small = replace(
        board,
        target=replace(board.target, operators=("Conv", "Gemm", "Relu")),
        modes={name: board.modes[name] for name in ("C1", "C2")},
        transitions=(("C1", "C2"),),
    )
    said = r"target\.operators: found .*MaxPool.* in the network, expected only Conv, Gemm, Relu"
    stages = stages_before(said, small, digits, tmp_path)
    assert stages
    assert not any("vidence" in stage or "Paths" in stage for stage in stages)
