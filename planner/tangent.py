"""The tangent vector of the paper's eq. (5): minimise ⟨θ, θ⟩_g − β θ·v subject to |θ| ≤ Δ.

g ⪰ 0 makes this convex. θ is optimal exactly if, with one λ ≥ 0,

    (g + λ I) θ = (β/2) v,        |θ| ≤ Δ,        λ (|θ|² − Δ²) = 0.

Generalised Lanczos: k applications of g give an orthonormal basis Q of span{v, gv, …, gᵏ⁻¹v} with Qᵀ g Q = T
tridiagonal and v = |v| Q e₁. There the problem is again of the same kind, but small: it is solved exactly by an
eigendecomposition of T and a root of one increasing function of λ. The best point of the *whole* Krylov space comes
out, on the boundary too, where Steihaug's conjugate gradients stop at the first point that leaves the ball.

Reference:
    Raghavan & Thomson, "Sparsifying networks by traversing geodesics", eq. (5); Gould, Lucidi, Roma & Toint,
    "Solving the trust-region subproblem using the Lanczos method", SIAM J. Optim. 9 (1999); Moré & Sorensen,
    "Computing a trust region step", SIAM J. Sci. Stat. Comput. 4 (1983).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from device_profiles.errors import GeoshiftError
from planner.configuration import ShapeMismatch

PAPER_RADIUS = 0.1
"""Δ of eq. (5), whose constraint reads θᵀθ ≤ 0.01."""

# Off-diagonal entries of T below this many units of rounding of |T| are rounding: the Krylov space is exhausted.
_ROUNDING_UNITS = 50
# The monotone Newton iteration below converges quadratically: nine steps were the most in 20,000 random problems with
# values over 18 orders of magnitude.
_NEWTON_STEPS = 100


class TangentError(GeoshiftError):
    """The tangent problem is not one that can be solved: an argument is out of range, or the operator is no metric."""


class SolveStatus(Enum):
    """How a solve ended; the value says what to do."""

    CONVERGED = "the optimality conditions hold to the tolerance"
    BREAKDOWN = (
        "the Krylov space is exhausted at the operator's precision before the tolerance is met: use float64 probe "
        "inputs, more damping, a smaller radius, or a looser tolerance"
    )
    MAX_ITERATIONS = (
        "the iterations ran out before the tolerance was met: allow more, or make the problem easier by damping or a "
        "smaller radius"
    )


@dataclass(frozen=True)
class TangentSolution:
    """A tangent vector and how well it solves eq. (5).

    Attributes:
        tangent: θ, shape [n].
        multiplier: λ ≥ 0, the constraint's price; 0 in the interior. It does not include the damping.
        status: How the solve ended.
        kkt_residual: |(g + damping I + λ I) θ − (β/2) v| / |(β/2) v|, measured in weight space.
        iterations: Dimension of the space it was found in: the Krylov space's, which is one less than the applications
            of g, or, from `dual`, the metric's rank.
        active: Whether |θ| = Δ.
    """

    tangent: Tensor
    multiplier: float
    status: SolveStatus
    kkt_residual: float
    iterations: int
    active: bool


def solve(
    operator: Callable[[Tensor], Tensor],
    direction: Tensor,
    *,
    beta: float,
    radius: float = PAPER_RADIUS,
    damping: float = 0.0,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
) -> TangentSolution:
    """Solve eq. (5) for θ.

    Args:
        operator: θ ↦ gθ, symmetric and positive semi-definite; `metric.at(point).apply`.
        direction: v, shape [n]. The paper's is a unit vector.
        beta: Weight of progress along v against functional change.
        radius: Δ.
        damping: Added to g on the diagonal. While the constraint is active only (λ + damping)/β acts on the
            direction of θ.
        tolerance: Relative residual at which to stop. A tangent is used for one step of a curve, where a thousandth
            is far below the error of the step; float32 reaches it unless λ is below about 1e-4 of g's largest
            eigenvalue.
        max_iterations: Largest Krylov space. Its basis is held: max_iterations × n numbers at most.

    Returns:
        The solution. If the status is not CONVERGED it is still the best point of the Krylov space.

    Raises:
        TangentError: beta, radius, damping, tolerance, max_iterations or v is out of range, or the operator is
            not finite or has a negative eigenvalue.
        ShapeMismatch: v is no vector, or the operator does not return one of the same kind.
    """
    check_problem(
        direction, beta=beta, radius=radius, damping=damping, tolerance=tolerance, max_iterations=max_iterations
    )
    size = float(torch.linalg.vector_norm(direction))
    pull = beta / 2 * size  # |(β/2) v|
    if pull == 0.0:
        return TangentSolution(torch.zeros_like(direction), 0.0, SolveStatus.CONVERGED, 0.0, 0, False)

    krylov = _Krylov(operator, direction / size)
    next_check = 1
    while True:
        krylov.extend()
        done = krylov.exhausted or krylov.dimension == max_iterations
        if not done and krylov.dimension < next_check:
            continue
        next_check = krylov.dimension + 1 + krylov.dimension // 8  # the small problem is cheap, but not free
        small = _solve_small(krylov, pull, radius, damping)
        # (g + λ) Qh − (β/2) v = (next off-diagonal) h_k q_{k+1}
        estimate = krylov.off_diagonal[-1] * abs(small.coordinates[-1]) / pull
        if done or estimate <= tolerance / 2:
            break

    coordinates = torch.as_tensor(small.coordinates, dtype=direction.dtype, device=direction.device)
    tangent = coordinates @ krylov.basis
    residual = operator(tangent) + (damping + small.multiplier) * tangent - beta / 2 * direction
    kkt_residual = float(torch.linalg.vector_norm(residual)) / pull
    if kkt_residual <= tolerance:
        status = SolveStatus.CONVERGED
    elif krylov.exhausted or estimate <= tolerance / 2:
        status = SolveStatus.BREAKDOWN
    else:
        status = SolveStatus.MAX_ITERATIONS
    return TangentSolution(tangent, small.multiplier, status, kkt_residual, krylov.dimension, small.active)


class _Krylov:
    """Lanczos basis Q and tridiagonal T = Qᵀ g Q, with full reorthogonalisation."""

    def __init__(self, operator: Callable[[Tensor], Tensor], first: Tensor) -> None:
        self._operator = operator
        self._next = first
        self.basis = first.new_empty(0, len(first))  # rows are q₁ … q_k
        self.diagonal: list[float] = []
        self.off_diagonal: list[float] = []  # entry k couples q_k to q_{k+1}; the last one to what is not yet there
        self.exhausted = False

    @property
    def dimension(self) -> int:
        return len(self.diagonal)

    def extend(self) -> None:
        self.basis = torch.cat([self.basis, self._next[None]])
        product = self._operator(self._next)
        if product.shape != self._next.shape or product.dtype != self._next.dtype:
            raise ShapeMismatch(
                f"operator returned {product.dtype} of shape {list(product.shape)}: expected {self._next.dtype} of "
                f"shape {list(self._next.shape)}, as the direction is"
            )
        self.diagonal.append(float(self._next @ product))
        rest = product
        for _ in range(2):  # twice is enough: what rounding leaves after the first pass, the second takes
            rest = rest - (self.basis @ rest) @ self.basis
        norm = float(torch.linalg.vector_norm(rest))
        if not math.isfinite(norm + self.diagonal[-1]):
            raise TangentError(
                "operator returned a value that is not finite: expected a finite metric; check the weights and probe "
                "inputs at this point"
            )
        scale = max(map(abs, [*self.diagonal, *self.off_diagonal, norm]))
        rounding = _ROUNDING_UNITS * torch.finfo(rest.dtype).eps * scale
        self.exhausted = norm <= rounding or self.dimension == len(rest)
        self.off_diagonal.append(norm)
        if not self.exhausted:
            self._next = rest / norm


@dataclass(frozen=True)
class _Small:
    coordinates: NDArray[np.float64]  # h, so that θ = Σ h_i q_i
    multiplier: float
    active: bool


def _solve_small(krylov: _Krylov, pull: float, radius: float, damping: float) -> _Small:
    """Minimise hᵀ(T + damping I)h − 2 pull h₁ under |h| ≤ radius, exactly."""
    values, vectors = eigh_tridiagonal(np.array(krylov.diagonal), np.array(krylov.off_diagonal[:-1]))
    floor = math.sqrt(torch.finfo(krylov.basis.dtype).eps) * max(abs(values[0]), abs(values[-1]))
    if values[0] < -floor:
        raise TangentError(
            f"operator has a negative eigenvalue, {values[0]:.3g} beside {values[-1]:.3g}: expected a positive "
            "semi-definite one; a pullback metric is, its difference with something need not be"
        )
    values = np.maximum(values, 0.0) + damping  # what is negative here is rounding
    weights = pull * vectors[0]
    multiplier, active = multiplier_of(values, weights, radius)
    shifted = values + multiplier
    scaled = np.divide(weights, shifted, out=np.zeros_like(weights), where=shifted > 0)
    return _Small(vectors @ scaled, multiplier, active)


def multiplier_of(values: NDArray[np.float64], weights: NDArray[np.float64], radius: float) -> tuple[float, bool]:
    """The multiplier of min Σ values h² − 2 Σ weights h under |h| ≤ radius.

    h_i(λ) = weights_i / (values_i + λ). Where |h(0)| > radius, λ is the root of 1/|h(λ)| − 1/radius, which increases
    and is concave: Newton's iteration from below climbs to it without ever passing it.

    Args:
        values: Eigenvalues, none negative, shape [k].
        weights: Linear term in the eigenbasis, shape [k].
        radius: Radius of the ball, positive.

    Returns:
        λ ≥ 0, and whether the constraint is active.
    """
    present = weights != 0.0
    values, weights = values[present], np.abs(weights[present])
    if not len(values) or (values.min() > 0.0 and np.linalg.norm(weights / values) <= radius):
        return 0.0, False
    # Each |h_i| ≤ |h| = radius bounds λ from below, and so does |h| ≥ |weights| / (largest value + λ).
    low = max(0.0, float(np.max(weights / radius - values)), float(np.linalg.norm(weights) / radius - values.max()))
    multiplier = low
    for _ in range(_NEWTON_STEPS):
        h = weights / (values + multiplier)
        norm = float(np.linalg.norm(h))
        slope = float(np.sum(h * h / (values + multiplier)))  # −|h| d|h|/dλ
        step = (norm / radius - 1.0) * norm * norm / slope
        if not step > np.finfo(float).eps * multiplier:
            break
        multiplier += step
    return multiplier, True


def check_problem(
    direction: Tensor,
    *,
    beta: float,
    radius: float,
    damping: float,
    tolerance: float,
    max_iterations: int = 1,
) -> None:
    """Refuse arguments of eq. (5) that are out of range.

    Raises:
        TangentError: a number is out of range, or v is not finite.
        ShapeMismatch: v is no vector.
    """
    if direction.ndim != 1 or not len(direction) or not direction.is_floating_point():
        raise ShapeMismatch(
            f"direction is {direction.dtype} of shape {list(direction.shape)}: expected a floating-point vector"
        )
    if not bool(torch.isfinite(direction).all()):
        raise TangentError("direction has entries that are not finite: expected a finite vector")
    for name, value, positive in (
        ("beta", beta, False),
        ("radius", radius, True),
        ("damping", damping, False),
        ("tolerance", tolerance, True),
        ("max_iterations", max_iterations, True),
    ):
        if not math.isfinite(value) or value < 0 or (positive and value == 0):
            expected = "a positive number" if positive else "a number of at least 0"
            raise TangentError(f"{name} is {value}: expected {expected}")
