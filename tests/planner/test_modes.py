"""From fractions and roles to numbers of units, on a small network with a layer that is fixed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from device_profiles.loader import from_builtins
from device_profiles.schema import Profile
from planner.modes import ModeError, Sparsity, resolve
from planner.network import Network, trace


class Net(nn.Module):
    """Removable: conv1 (10), conv2 (30), fc1 (20). conv3 is fixed by its residual connection, fc2 is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 1)
        self.conv2 = nn.Conv2d(10, 30, 1)
        self.conv3 = nn.Conv2d(30, 7, 1)
        self.fc1 = nn.Linear(7, 20)
        self.fc2 = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        return self.fc2(self.fc1((x + y).flatten(1)))


@pytest.fixture(scope="module")
def network() -> Network:
    return trace(Net(), torch.zeros(1, 1, 1, 1))


def profile(**modes: dict[str, object]) -> Profile:
    """A valid profile with the dense mode C1 and the modes given."""
    return from_builtins(
        {
            "schema": "geoshift.profile/1",
            "name": "bench",
            "description": "",
            "threads": 1,
            "memory": {"weights_bytes": 1},
            "writes": {"bytes_per_increment": 1, "increments_per_second": 1.0, "stall_budget_ms": 1.0},
            "bank": {},
            "guard": {"max_drop_points": 1.0},
            "modes": {**modes, "C1": {}},
            "transitions": [["C1", name] for name in modes],
        },
        "test",
    )


def test_a_chain_of_modes(network: Network) -> None:
    targets = resolve(
        profile(
            C4={
                "from": "C3",
                "remove": [{"layer": {"role": "classifier"}, "fraction": 0.5}],
                "restore": [{"layer": {"name": "conv1"}, "fraction": 0.5}],
            },
            C3={"from": "C2", "remove": [{"layer": {"role": "convolution", "position": -1}, "count": 4}]},
            C2={"from": "C1", "remove": [{"layer": {"role": "convolution", "position": 1}, "fraction": 0.5}]},
        ),
        network,
    )
    assert list(targets) == ["C1", "C2", "C3", "C4"], "every mode after the one it is made from"
    assert targets["C1"].removed == {}
    assert targets["C1"].from_ is None
    assert targets["C2"].removed == {"conv1": 5}
    assert targets["C3"].removed == {"conv1": 5, "conv2": 4}
    assert targets["C4"].removed == {"conv1": 2, "conv2": 4, "fc1": 10}, "half of 5 is 2.5, so 3 come back"
    assert targets["C4"].from_ == "C3"


@pytest.mark.parametrize(
    ("fraction", "units"),
    [(0.001, 1), (0.04, 1), (0.05, 2), (0.35, 11), (0.149999, 4), (0.95, 29)],
    ids=lambda value: f"{value}",
)
def test_fractions_are_rounded_half_up_as_they_are_written(network: Network, fraction: float, units: int) -> None:
    """0.35 of 30 is 10.5, and in binary a little less; 0.05 of 30 is 1.5."""
    change = {"layer": {"name": "conv2"}, "fraction": fraction}
    targets = resolve(profile(C2={"from": "C1", "remove": [change]}), network)
    assert targets["C2"].removed == {"conv2": units}


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, {"conv2": 1}),
        (2, {"conv1": 1, "conv2": 1}),
        (4, {"conv1": 1, "conv2": 3}),
        (6, {"conv1": 2, "conv2": 4}),
        (35, {"conv1": 9, "conv2": 26}),
    ],
)
def test_a_count_over_a_role_is_divided_in_proportion(network: Network, count: int, expected: dict[str, int]) -> None:
    """10 to 30; of equal remainders the first layer gets the unit. The fixed conv3 has no part in it."""
    change = {"layer": {"role": "convolution"}, "count": count}
    targets = resolve(profile(C2={"from": "C1", "remove": [change]}), network)
    assert targets["C2"].removed == expected
    assert sum(expected.values()) == count


def test_restoring_a_role_takes_only_from_what_is_removed(network: Network) -> None:
    removal = {"layer": {"name": "conv2"}, "count": 6}
    for amount, left in (({"count": 6}, {}), ({"count": 1}, {"conv2": 5}), ({"fraction": 0.25}, {"conv2": 4})):
        restored = {"layer": {"role": "convolution"}} | amount
        modes = {"C2": {"from": "C1", "remove": [removal]}, "C3": {"from": "C2", "restore": [restored]}}
        assert resolve(profile(**modes), network)["C3"].removed == left


def test_changes_within_a_mode_add_up(network: Network) -> None:
    twice = [{"layer": {"name": "conv1"}, "fraction": 0.3}, {"layer": {"role": "convolution"}, "fraction": 0.2}]
    targets = resolve(profile(C2={"from": "C1", "remove": twice}), network)
    assert targets["C2"].removed == {"conv1": 5, "conv2": 6}


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("remove", {"layer": {"name": "conv9"}, "count": 1}, ["no layer 'conv9'", "conv1, conv2, fc1"]),
        ("remove", {"layer": {"name": "conv3"}, "count": 1}, ["'conv3' cannot be removed", "residual connection"]),
        ("remove", {"layer": {"name": "fc2"}, "count": 1}, ["'fc2' cannot be removed", "output layer"]),
        ("remove", {"layer": {"name": "conv1"}, "count": 10}, ["10 units", "at most 9", "10 of its 10"]),
        ("remove", {"layer": {"name": "conv1"}, "fraction": 1.0}, ["10 units", "at most 9"]),
        (
            "remove",
            {"layer": {"role": "convolution", "position": 3}, "count": 1},
            ["convolution layer 3", "expected 1 to 2", "conv1, conv2"],
        ),
        ("remove", {"layer": {"role": "classifier", "position": -2}, "count": 1}, ["expected 1 to 1", "fc1"]),
        ("restore", {"layer": {"name": "conv1"}, "count": 1}, ["1 unit of conv1", "at most the 0"]),
        ("restore", {"layer": {"role": "classifier"}, "fraction": 0.5}, ["a fraction 0.5", "at most the 0"]),
    ],
)
def test_what_does_not_fit_is_named(network: Network, kind: str, change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ModeError) as caught:
        resolve(profile(C2={"from": "C1", kind: [change]}), network)
    message = str(caught.value)
    assert message.startswith(f"profile 'bench', mode 'C2', {kind}[0]: ")
    for word in words:
        assert word in message


def test_one_unit_must_stay_over_a_chain_of_modes(network: Network) -> None:
    half = {"layer": {"name": "conv1"}, "fraction": 0.5}
    modes = {"C2": {"from": "C1", "remove": [half]}, "C3": {"from": "C2", "remove": [half]}}
    with pytest.raises(ModeError, match=r"mode 'C3'.*5 units.*at most 4, as 5 of its 10 are there"):
        resolve(profile(**modes), network)


def test_a_role_without_removable_layers() -> None:
    single = trace(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2))
    change = {"layer": {"role": "classifier"}, "count": 1}
    with pytest.raises(ModeError, match="no classifier layer whose units can be removed"):
        resolve(profile(C2={"from": "C1", "remove": [change]}), single)


def test_modes_built_without_the_loader_may_not_run_in_circles(network: Network) -> None:
    sound = profile(C2={"from": "C1", "remove": [{"layer": {"name": "conv1"}, "count": 1}]})
    loop = {"C1": sound.modes["C1"], "C2": type(sound.modes["C2"])(from_="C2")}
    fields = {name: getattr(sound, name) for name in sound.__struct_fields__}
    with pytest.raises(ModeError, match="modes C2 do not lead back to the dense mode"):
        resolve(Profile(**fields | {"modes": loop}), network)


def test_sparsity_is_of_all_layers_or_of_those_selected_fixed_ones_and_the_output_too(network: Network) -> None:
    last = {"role": "classifier", "position": -1}
    targets = resolve(
        profile(
            S={"from": "C1", "sparsity": 0.9},
            P={"from": "C1", "sparsity": 0.5, "sparse_layers": [last, {"name": "conv3"}, last]},
            R={"from": "C1", "remove": [{"layer": {"name": "fc1"}, "count": 5}], "sparsity": 0.25,
               "sparse_layers": [{"role": "convolution"}]},
            N={"from": "C1", "weights": "given"},
        ),
        network,
    )  # fmt: skip
    assert targets["S"].sparsity == Sparsity(0.9, ("conv1", "conv2", "conv3", "fc1", "fc2"))
    assert targets["P"].sparsity == Sparsity(0.5, ("conv3", "fc2"))
    assert targets["R"].sparsity == Sparsity(0.25, ("conv1", "conv2", "conv3"))
    assert {name: target.removed for name, target in targets.items()} == {
        "C1": {}, "S": {}, "P": {}, "R": {"fc1": 5}, "N": {},
    }  # fmt: skip
    assert {name for name, target in targets.items() if target.given} == {"N"}
    assert targets["C1"].sparsity is None


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ({"name": "conv9"}, r"sparse_layers\[0\]: no layer 'conv9'; expected one of conv1, conv2, conv3, fc1, fc2"),
        ({"role": "convolution", "position": 4}, "convolution layer 4 does not exist; expected 1 to 3, or -1"),
    ],
)
def test_a_layer_to_make_sparse_that_is_not_there_is_named(network: Network, selector: object, said: str) -> None:
    with pytest.raises(ModeError, match=said):
        resolve(profile(S={"from": "C1", "sparsity": 0.9, "sparse_layers": [selector]}), network)
