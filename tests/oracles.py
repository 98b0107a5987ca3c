"""Dense, slow and independent versions of what the planner computes matrix-free. Small networks, float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_bvp
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from planner.configuration import Configuration

Function = Callable[[Tensor], Tensor]
"""Outputs of all probes [N, m] as a function of the moved weights [n]."""


def outputs_function(module: nn.Module, configuration: Configuration, inputs: Tensor) -> Function:
    return lambda point: functional_call(module, configuration.unflatten(point), (inputs,)).flatten(1)


def dense_jacobian(function: Function, point: Tensor) -> Tensor:
    """J of all probes, shape [N, m, n], one backward pass an entry."""
    return torch.autograd.functional.jacobian(function, point)


def dense_metric(function: Function, point: Tensor) -> Tensor:
    """Mean over probes of JᵀJ, shape [n, n]."""
    rows = dense_jacobian(function, point)
    return torch.einsum("Nmi,Nmj->ij", rows, rows) / len(rows)


def dense_fisher(function: Function, point: Tensor) -> Tensor:
    """Mean over probes of Jᵀ (diag p − p pᵀ) J with p = softmax of the outputs, shape [n, n]."""
    rows, shares = dense_jacobian(function, point), torch.softmax(function(point), dim=1)
    inner = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None, :]
    return torch.einsum("Nmi,Nmk,Nkj->ij", rows, inner, rows) / len(rows)


@dataclass(frozen=True)
class DenseTangent:
    tangent: Tensor
    multiplier: float


def dense_tangent(metric: Tensor, direction: Tensor, beta: float, radius: float) -> DenseTangent:
    """Eq. (5) by an eigendecomposition of the whole metric and a bracketed root."""
    values, vectors = np.linalg.eigh(metric.numpy())
    rank = values > 1e-12 * values[-1]
    values = np.where(rank, values, 0.0)
    weights = vectors.T @ (beta / 2 * direction.numpy())
    # Null directions pull only if v has a part in them that is more than rounding.
    weights = np.where(rank | (np.abs(weights) > 1e-10 * np.linalg.norm(weights)), weights, 0.0)
    there = weights != 0.0

    def theta(multiplier: float) -> NDArray[np.float64]:
        result = np.zeros_like(weights)
        result[there] = weights[there] / (values[there] + multiplier)
        return result

    multiplier = 0.0
    if (values[there] == 0.0).any() or np.linalg.norm(theta(0.0)) > radius:
        top = np.linalg.norm(weights) / radius
        multiplier = brentq(lambda m: np.linalg.norm(theta(m)) - radius, 1e-14 * top, top, xtol=1e-300)
    return DenseTangent(torch.from_numpy(vectors @ theta(multiplier)), multiplier)


def damped_metric_at(function: Function, epsilon: float) -> Callable[[Tensor], Tensor]:
    """w ↦ g(w) + εI, differentiable, shape [n, n]."""

    def metric(point: Tensor) -> Tensor:
        rows = jacrev(function)(point)
        return torch.einsum("Nmi,Nmj->ij", rows, rows) / len(rows) + epsilon * torch.eye(len(point), dtype=point.dtype)

    return metric


def christoffel_acceleration(function: Function, epsilon: float, point: Tensor, velocity: Tensor) -> Tensor:
    """ẅ of the geodesic equation (4), −Γ[ẇ, ẇ], from derivatives of the metric."""
    metric = damped_metric_at(function, epsilon)
    slopes = jacrev(metric)(point)  # slopes[i, j, k] = ∂g_ij/∂w_k
    # g_il Γ^l_jk ẇ^j ẇ^k = ½ (∂_k g_ij + ∂_j g_ik − ∂_i g_jk) ẇ^j ẇ^k = (∂_k g_ij − ½ ∂_i g_jk) ẇ^j ẇ^k
    lowered = torch.einsum("ijk,j,k->i", slopes, velocity, velocity)
    lowered = lowered - torch.einsum("jki,j,k->i", slopes, velocity, velocity) / 2
    return -torch.linalg.solve(metric(point), lowered)


def embedded_acceleration(function: Function, epsilon: float, point: Tensor, velocity: Tensor) -> Tensor:
    """The same ẅ from outputs alone: (g + εI) ẅ = −mean Jᵀ ∂²f[ẇ, ẇ]."""
    rows = jacrev(function)(point)
    bend = torch.einsum("Nmjk,j,k->Nm", jacrev(jacrev(function))(point), velocity, velocity)
    pulled = torch.einsum("Nmi,Nm->i", rows, bend) / len(rows)
    return -torch.linalg.solve(damped_metric_at(function, epsilon)(point), pulled)


@dataclass(frozen=True)
class Geodesic:
    points: Tensor  # [T, n] at equal times
    speeds: Tensor  # [T], ⟨ẇ, ẇ⟩ under g + εI; constant on an exact geodesic
    energy: float


def exact_geodesic(function: Function, start: Tensor, end: Tensor, epsilon: float, times: int = 65) -> Geodesic:
    """Geodesic of g + εI between two points: eq. (4) with Christoffel symbols as a boundary value problem."""
    size = len(start)
    acceleration = vmap(lambda point, velocity: christoffel_acceleration(function, epsilon, point, velocity))

    def slope(_: NDArray[np.float64], state: NDArray[np.float64]) -> NDArray[np.float64]:
        points, velocities = torch.from_numpy(state.T.copy()).split(size, dim=1)
        return np.concatenate([velocities.T.numpy(), acceleration(points, velocities).T.numpy()])

    def boundary(first: NDArray[np.float64], last: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([first[:size] - start.numpy(), last[:size] - end.numpy()])

    mesh = np.linspace(0, 1, 17)
    line = start.numpy()[:, None] + (end - start).numpy()[:, None] * mesh
    guess = np.concatenate([line, np.repeat((end - start).numpy()[:, None], len(mesh), axis=1)])
    solution = solve_bvp(slope, boundary, mesh, guess, tol=1e-6, max_nodes=300)
    assert solution.success, solution.message
    points, velocities = torch.from_numpy(solution.sol(np.linspace(0, 1, times)).T.copy()).split(size, dim=1)
    speeds = torch.stack(
        [v @ damped_metric_at(function, epsilon)(w) @ v for w, v in zip(points, velocities, strict=True)]
    )
    return Geodesic(points, speeds, float(speeds.mean()))


@dataclass(frozen=True)
class Toy:
    """A small network in float64 with its probes."""

    module: nn.Module
    configuration: Configuration
    inputs: Tensor
    function: Function
    point: Tensor


def toy(module: nn.Module, inputs: Tensor, names: tuple[str, ...] | None = None) -> Toy:
    module = module.double()
    state = module.state_dict()
    configuration = Configuration.of(state, tuple(state) if names is None else names)
    function = outputs_function(module.requires_grad_(False), configuration, inputs)
    return Toy(module, configuration, inputs, function, configuration.flatten(state).clone())


def curved_toy(hidden: int = 2, probes: int = 6, seed: int = 0) -> Toy:
    """tanh network 2 → hidden → 1 without biases: 3 × hidden weights, curved in all of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(2, hidden, bias=False), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
        return toy(module, torch.randn(probes, 2, dtype=torch.float64))


def convolutional_toy(probes: int = 5, seed: int = 0, names: tuple[str, ...] | None = None) -> Toy:
    """Convolution, batch normalisation, pooling, dropout and a linear layer: what real networks bring along."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Softplus(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(),
            nn.Linear(12, 2),
        ).eval()  # fmt: skip
        everything = tuple(name for name, _ in module.named_parameters())
        return toy(module, torch.randn(probes, 1, 6, 6, dtype=torch.float64), names or everything)


def attentive_toy(probes: int = 3, seed: int = 0) -> Toy:
    """A transformer's layer on five tokens: attention, layer norms, residual sums."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        module = nn.Sequential(layer, nn.Flatten(), nn.Linear(20, 2)).eval()
        return toy(module, torch.randn(probes, 5, 4, dtype=torch.float64))


def random_vector(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_toy(probes: int = 4, seed: int = 0) -> Toy:
    """A network linear in its weights: its metric is constant, its geodesics are straight."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return toy(nn.Linear(3, 2), torch.randn(probes, 3, dtype=torch.float64))
