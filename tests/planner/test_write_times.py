"""The table of write times speaks of the networks as they are, and says of each device what its profile allows."""

import pytest
from msgspec.structs import replace

from device_profiles import Figure, Profile, Writes, load
from planner import models
from scripts.write_times import NETWORKS, Network, effective_rate, row, table

SMALL = Network("small", 1000, 100)


def with_writes(profile: Profile, **changes: object) -> Profile:
    return replace(profile, writes=replace(profile.writes, **changes))


@pytest.mark.parametrize(("definition", "network"), [("digits-cnn", NETWORKS[0]), ("vgg11", NETWORKS[1])])
def test_the_networks_are_as_large_as_it_says(definition: str, network: Network) -> None:
    module = models.build(definition, seed=0)
    assert sum(parameter.numel() for parameter in module.parameters()) == network.weights
    first, second, *_ = (part for part in module.modules() if hasattr(part, "kernel_size") and hasattr(part, "weight"))
    pair = sum(part.weight.numel() + part.bias.numel() for part in (first, second))
    assert network.moved == (network.weights if definition == "digits-cnn" else pair)


def test_writing_with_verification_is_slower_by_its_mean() -> None:
    crossbar = load("rram-crossbar")
    assert isinstance(crossbar.writes, Writes)
    assert crossbar.writes.bytes_per_second is not None
    assert crossbar.writes.verify is not None
    rate, mean = crossbar.writes.bytes_per_second.value, crossbar.writes.verify.mean_writes.value
    assert effective_rate(crossbar) == rate / mean
    assert effective_rate(with_writes(crossbar, verify=None)) == rate
    assert effective_rate(with_writes(crossbar, bytes_per_second=None)) is None


def test_what_the_answer_is() -> None:
    board, chip = load("raspberry-pi-5"), load("max78000")
    slow = Figure(value=10.0, provenance="assumed", source="a guess")
    assert row(board, SMALL)[2] == "flip"
    assert row(with_writes(board, bytes_per_second=slow), SMALL) == ("400 B", "40 s", "flip")
    assert row(replace(board, memory=replace(board.memory, second_copy=False)), SMALL)[2] == "one pause"
    assert row(chip, SMALL) == ("100 B", "5 µs", "one pause")
    assert row(with_writes(chip, bytes_per_second=slow), SMALL) == ("100 B", "10 s", "**a walk**")
    assert row(with_writes(chip, bytes_per_second=None), SMALL)[2] == "depends on a rate that is not public"
    assert row(chip, replace_moved(500_000))[2] == "does not fit"


def replace_moved(weights: int) -> Network:
    return Network("large", weights, weights)


def test_every_device_has_its_line() -> None:
    lines = table().splitlines()
    assert len(lines) == 2 + 7
    assert len({line.count("|") for line in lines}) == 1
