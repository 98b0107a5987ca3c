"""Refit and elimination against solutions computed afresh."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call

from planner.compensation import DAMPING, eliminate, refit
from planner.gram import CompensationError, Statistics, collect, row_matrix
from planner.models import DigitsCNN
from planner.network import trace

# Block updates against fresh solutions, condition numbers up to about 1e4, in float64: 1e-16 × 1e4 with room.
SOLVE = 1e-9
# Normal equations square the condition number of the activations that lstsq works on.
NORMAL_EQUATIONS = 1e-7


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads cost such small problems more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(
    units: int, width: int, *, rows: int = 5, samples: int = 300, bias: bool = True, moved: bool = True, seed: int = 0
) -> tuple[Statistics, Tensor, Tensor]:
    """Correlated rectified activations, dense rows, and targets; `moved` inputs differ from the dense network's."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    columns = units * width
    then = (normal(samples, 3) @ normal(3, columns) + normal(samples, columns)).relu()
    now = (then + 0.2 * normal(samples, columns)).relu() if moved else then
    if bias:
        then, now = (F.pad(read, (0, 1), value=1.0) for read in (then, now))
    original = normal(rows, columns + bias)
    z = then @ original.T
    stats = Statistics(
        "reader", now.T @ now / samples, z.T @ now / samples, z.square().mean(0), original, bias, samples
    )
    return stats, now, z


def columns_of(stats: Statistics, kept: tuple[int, ...], width: int) -> list[int]:
    weights = [unit * width + tap for unit in kept for tap in range(width)]
    return [*weights, stats.columns] if stats.bias else weights


def ridge(stats: Statistics, damping: float) -> Tensor:
    """δ on every weight column, none on the bias."""
    delta = damping * stats.gram.diagonal()[: stats.columns].mean()
    return F.pad(delta.expand(stats.columns), (0, int(stats.bias)))


def objective(stats: Statistics, rows: Tensor, damping: float) -> float:
    """What the refit minimises: squared error and ridge, removed columns included."""
    error = stats.error(rows) * stats.power.sum()
    return float(error + ((rows - stats.original).square() * ridge(stats, damping)).sum())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [1, 4])
def test_an_undamped_refit_is_least_squares_on_the_activations(width: int, bias: bool) -> None:
    stats, now, z = problem(6, width, bias=bias)
    kept = (0, 2, 5)
    columns = columns_of(stats, kept, width)
    rows = refit(stats, kept, width, damping=0.0)
    expected = torch.linalg.lstsq(now[:, columns], z).solution.T
    assert rows.dtype == torch.float64
    assert torch.allclose(rows[:, columns], expected, atol=NORMAL_EQUATIONS)
    residual = (z - now @ rows.T).square().sum() / z.square().sum()
    assert stats.error(rows) == pytest.approx(float(residual), rel=SOLVE)


def test_a_damped_refit_is_least_squares_with_the_original_rows_as_further_samples() -> None:
    stats, now, z = problem(6, 4)
    kept = (1, 2, 4)
    columns = columns_of(stats, kept, 4)
    root = (ridge(stats, 0.03) * len(now)).sqrt().diag()[:, columns]
    expected = torch.linalg.lstsq(
        torch.cat([now[:, columns], root]), torch.cat([z, root @ stats.original[:, columns].T])
    ).solution.T
    assert torch.allclose(refit(stats, kept, 4, damping=0.03)[:, columns], expected, atol=NORMAL_EQUATIONS)


@pytest.mark.parametrize("damping", [1e-6, DAMPING, 10.0])
def test_columns_of_removed_units_are_exactly_zero_and_the_others_are_not(damping: float) -> None:
    stats, _, _ = problem(7, 3)
    rows = refit(stats, [6, 0, 3], 3, damping=damping)
    gone = [unit * 3 + tap for unit in (1, 2, 4, 5) for tap in range(3)]
    assert torch.equal(rows[:, gone], torch.zeros(5, 12, dtype=torch.float64))
    assert (rows[:, columns_of(stats, (0, 3, 6), 3)] != 0).all()


@pytest.mark.parametrize("damping", [DAMPING, 1.0])
def test_with_nothing_removed_and_dense_inputs_the_rows_stay_as_they_are(damping: float) -> None:
    stats, _, _ = problem(6, 4, moved=False)
    assert torch.allclose(refit(stats, range(6), 4, damping=damping), stats.original, atol=SOLVE)
    assert eliminate(stats, 4, 6, 0, damping=damping).start_error < SOLVE


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize(("units", "width"), [(9, 1), (6, 4)])
@pytest.mark.parametrize("damping", [1e-5, 1e-2])
def test_block_updates_equal_a_fresh_solution_per_candidate(
    units: int, width: int, moved: bool, bias: bool, damping: float
) -> None:
    """All units are removed, so that the sweep starts afresh on the way."""
    stats, _, _ = problem(units, width, moved=moved, bias=bias)
    found = eliminate(stats, width, units, units, damping=damping)
    kept, order, errors = tuple(range(units)), [], []
    while kept:
        left = {unit: tuple(other for other in kept if other != unit) for unit in kept}
        rows = {unit: refit(stats, rest, width, damping=damping) for unit, rest in left.items()}
        cheapest = min(kept, key=lambda unit: objective(stats, rows[unit], damping))
        order.append(cheapest)
        errors.append(stats.error(rows[cheapest]))
        kept = left[cheapest]
    assert found.order == tuple(order)
    assert found.errors == pytest.approx(errors, rel=SOLVE)
    everything = refit(stats, range(units), width, damping=damping)
    assert found.start_error == pytest.approx(stats.error(everything), rel=SOLVE, abs=SOLVE)


def test_no_rows_with_the_same_zeros_are_better_and_no_set_is_better_than_the_best() -> None:
    stats, _, _ = problem(8, 2, seed=1)
    found = eliminate(stats, 2, 8, 7, damping=1e-9)
    assert list(found.errors) == sorted(found.errors)
    generator = torch.Generator().manual_seed(0)
    for removed in range(1, 8):
        kept = found.kept(removed)
        assert set(kept) < set(found.kept(removed - 1)), "every set holds the next"
        rows = refit(stats, kept, 2, damping=1e-9)
        error = stats.error(rows)
        assert found.errors[removed - 1] == pytest.approx(error, rel=1e-6)  # the ridge's own share
        for size in (1e-3, 1e-1):
            other = rows.clone()
            columns = columns_of(stats, kept, 2)
            other[:, columns] += size * torch.randn(5, len(columns), generator=generator, dtype=torch.float64)
            assert stats.error(other) > error
        best = min(stats.error(refit(stats, some, 2, damping=1e-9)) for some in combinations(range(8), len(kept)))
        assert error >= best * (1 - SOLVE)


def test_restoring_is_undoing_the_last_removals() -> None:
    stats, _, _ = problem(9, 2)
    whole = eliminate(stats, 2, 9, 7)
    first = eliminate(stats, 2, 9, 3)
    rest = eliminate(stats, 2, 9, 4, start_kept=first.kept(3))
    assert first.order + rest.order == whole.order
    assert rest.start_error == pytest.approx(first.errors[-1], rel=SOLVE)
    assert rest.errors == pytest.approx(whole.errors[3:], rel=SOLVE)
    assert whole.kept(0) == tuple(range(9))
    assert whole.kept(3) == first.kept(3) == rest.start


def test_a_limit_stops_before_it_is_passed() -> None:
    stats, _, _ = problem(9, 2, moved=False)
    whole = eliminate(stats, 2, 9, 9)
    limit = (whole.errors[3] + whole.errors[4]) / 2
    some = eliminate(stats, 2, 9, 9, limit=limit)
    assert some.order == whole.order[:4]
    assert some.errors == whole.errors[:4]


def test_dead_and_doubled_units_go_first_and_cost_nothing() -> None:
    stats, now, _ = problem(8, 3, moved=False)
    read = now.clone()
    read[:, 6:9] = 0  # unit 2 is dead
    read[:, 15:18] = read[:, 0:3]  # unit 5 doubles unit 0
    z = read @ stats.original.T
    gram, cross = read.T @ read / len(read), z.T @ read / len(read)
    stats = Statistics("reader", gram, cross, z.square().mean(0), stats.original, True, len(read))
    found = eliminate(stats, 3, 8, 4, damping=1e-9)
    assert set(found.order[:2]) in ({2, 5}, {2, 0})
    assert found.errors[1] < 1e-8
    assert found.errors[2] > 1e-4
    assert refit(stats, found.kept(4), 3, damping=1e-9).isfinite().all()
    with pytest.raises(CompensationError, match="linearly dependent and damping is 0; expected a positive damping"):
        eliminate(stats, 3, 8, 4, damping=0.0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_network_that_is_dead_keeps_its_rows(bias: bool) -> None:
    stats, _, _ = problem(4, 2, bias=bias)
    dead = torch.zeros_like(stats.gram)
    if bias:
        dead[-1, -1] = 1
    power = stats.original[:, -1].square() * bias  # what the bias alone answers
    silent = Statistics("reader", dead, stats.original @ dead, power, stats.original, bias, 1)
    found = eliminate(silent, 2, 4, 4)
    assert sorted(found.order) == [0, 1, 2, 3]
    assert max(found.errors) < SOLVE
    kept = refit(silent, [1, 3], 2)
    columns = columns_of(silent, (1, 3), 2)
    assert torch.allclose(kept[:, columns], stats.original[:, columns])


def test_the_order_is_determined_and_arguments_are_left_alone() -> None:
    stats, _, _ = problem(9, 2)
    before = [stats.gram.clone(), stats.cross.clone(), stats.original.clone()]
    assert eliminate(stats, 2, 9, 8) == eliminate(stats, 2, 9, 8)
    refit(stats, [0, 1], 2)
    assert all(torch.equal(a, b) for a, b in zip(before, (stats.gram, stats.cross, stats.original), strict=True))


def test_hundreds_of_units_stay_exact() -> None:
    """Three fresh starts and 300 updates later, the errors are still those of fresh solutions."""
    stats, _, _ = problem(320, 1, rows=40, samples=1000)
    found = eliminate(stats, 1, 320, 300, damping=1e-6)
    for removed in (1, 150, 250, 300):
        fresh = stats.error(refit(stats, found.kept(removed), 1, damping=1e-6))
        assert found.errors[removed - 1] == pytest.approx(fresh, rel=SOLVE)


def test_what_cannot_be_done_says_so() -> None:
    stats, _, _ = problem(6, 4)
    with pytest.raises(CompensationError, match=r"24 columns; expected 6 units × 3 columns"):
        eliminate(stats, 3, 6, 1)
    with pytest.raises(CompensationError, match=r"cannot remove 3 units .* 2 are there"):
        eliminate(stats, 4, 6, 3, start_kept=[1, 2])
    with pytest.raises(CompensationError, match="expected 0 to 5"):
        refit(stats, [3, 6], 4)


Digits = tuple[nn.Module, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def digits() -> Digits:
    """A small convolutional network trained on scikit-learn's digits; training images, test images and their labels."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        split = torch.randperm(len(x))
        module = DigitsCNN()
        optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
        train, test = split[:1200], split[1200:]
        for _ in range(8):
            for batch in torch.randperm(1200).split(64):
                optimizer.zero_grad()
                F.cross_entropy(module(x[train[batch]]), y[train[batch]]).backward()
                optimizer.step()
    return module, x[train], x[test], y[test]


@pytest.mark.parametrize(("name", "remove"), [("conv1", 12), ("conv2", 24), ("fc1", 56)])
def test_on_digits_greedy_refits_beat_plain_removal(digits: Digits, name: str, remove: int) -> None:
    """Three quarters and more of a layer's units. Bounds leave room for networks that other machines train."""
    module, train_x, test_x, test_y = digits
    network = trace(module, train_x[:1])
    layer = network.layer(name)
    reader = network.layer(layer.reader or "")
    width, dense = reader.columns_per_unit, network.module.state_dict()
    fit = collect(network, reader, train_x, current=dense)
    held_out = collect(network, reader, test_x, current=dense)

    def state(rows: Tensor) -> dict[str, Tensor]:
        weight = rows[:, : reader.columns].reshape(dense[reader.weight].shape).float()
        return dense | {reader.weight: weight, reader.bias: rows[:, -1].float()}

    def answers(weights: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return functional_call(network.module, weights, (test_x,))

    def accuracy(weights: dict[str, Tensor]) -> float:
        return float((answers(weights).argmax(1) == test_y).float().mean())

    found = eliminate(fit, width, layer.units, remove)
    greedy = refit(fit, found.kept(remove), width)
    smallest = row_matrix(layer, dense).norm(dim=1).argsort().tolist()[:remove]
    plain = fit.original.clone()
    plain[:, [unit * width + tap for unit in smallest for tap in range(width)]] = 0
    assert held_out.error(greedy) < 0.1 * held_out.error(plain)
    assert accuracy(dense) > 0.9
    assert accuracy(state(greedy)) > accuracy(dense) - 0.06
    assert accuracy(state(greedy)) > accuracy(state(plain)) + 0.1

    # Removed units feed nothing now, so that zeroing them changes not one bit of an answer.
    zeroed = state(greedy)
    for key in (layer.weight, layer.bias):
        zeroed[key] = zeroed[key].clone()
        zeroed[key][list(found.order)] = 0
    assert torch.equal(answers(zeroed), answers(state(greedy)))


def test_a_convolution_is_refitted_as_least_squares_over_its_patches_would() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, (2, 3), stride=2, padding=(1, 0))).double()
    x = torch.randn(12, 2, 9, 9, dtype=torch.float64)
    network = trace(module, x)
    layer, kept = network.layer("2"), (0, 1, 4)
    rows = refit(collect(network, layer, x, current=module.state_dict()), kept, 6, damping=0.0)
    with torch.no_grad():
        read = F.pad(network.module[:2](x), (0, 0, 1, 1))
        z = network.module(x)
    patches = torch.stack(
        [
            F.pad(read[n, list(kept), 2 * i : 2 * i + 2, 2 * j : 2 * j + 3].flatten(), (0, 1), value=1.0)
            for n in range(len(x))
            for i in range(z.shape[2])
            for j in range(z.shape[3])
        ]
    )
    expected = torch.linalg.lstsq(patches, z.permute(0, 2, 3, 1).flatten(0, 2)).solution.T
    columns = [unit * 6 + tap for unit in kept for tap in range(6)]
    assert torch.allclose(rows[:, [*columns, 30]], expected, atol=NORMAL_EQUATIONS)
    assert torch.equal(rows[:, 12:24], torch.zeros(3, 12, dtype=torch.float64))
