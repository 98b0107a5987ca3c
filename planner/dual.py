"""The tangent of eq. (5) found in the space of outputs: one eigendecomposition for every β, damping and radius.

With N probes of m outputs each, g = JᵀJ/N has rank at most N·m, often far less than the number of weights n. In terms
of the sample-space kernel K = JJᵀ/N, with μ = λ + damping,

    θ = (β/2μ) [v − Jᵀ (N μ I + J Jᵀ)⁻¹ J v].

K is decomposed once, K = U diag(s) Uᵀ. With c = Uᵀ J v / √N the part of v that the probes see has the coordinates
c/√s, and p is the part that none of them sees. |θ| is then a sum of N·m + 1 terms, and μ the root of one increasing
function of one variable. K is summed from blocks of J's rows, so that J itself is never held.

Reference:
    Rende et al., "A simple linear algebra identity to optimize large-scale neural network quantum states", Commun.
    Phys. 7 (2024), and Chen & Heyl, "Empowering deep neural quantum states through efficient optimization", Nat. Phys.
    20 (2024), for the same identity in natural-gradient descent.
"""

from __future__ import annotations

import math
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from planner.metric import LocalMetric
from planner.tangent import (
    PAPER_RADIUS,
    SolveStatus,
    TangentSolution,
    check_problem,
    multiplier_of,
    solve,
)

BLOCK_BYTES = 256 * 2**20
"""Rows of J held at once, two blocks of half this size."""
KERNEL_ROWS = 1000
"""Largest N·m for which `Solver.AUTO` takes the dual; its eigendecomposition takes a fraction of a second then."""
KERNEL_PRODUCTS = 20_000_000_000
"""Most products (N·m)²·n for that. Measured on one busy core, one tangent in float32: 320 rows of the 75,456 weights of
VGG-11's first two layers, 8e9, dual 10 s and Lanczos 39 to 79 s; 640 rows of LeNet-300-100's 266,610, 1e11, dual 44 s
and Lanczos 1 to 6 s."""
_REFINEMENTS = 3


class Solver(Enum):
    """Where eq. (5) is solved."""

    AUTO = "auto"
    LANCZOS = "lanczos"
    DUAL = "dual"


class SampleSpace:
    """The metric at one point, decomposed in the space of outputs.

    Memory: the kernel, N·m × N·m in float64, and `block_bytes`. Time: as many backward passes as outputs for each
    probe, once for each block that there is; the kernel's N·m × N·m × n products; its eigendecomposition.

    Args:
        local: The metric at a point.
        block_bytes: Rows of J that may be held at once.
    """

    def __init__(self, local: LocalMetric, *, block_bytes: int = BLOCK_BYTES) -> None:
        self._local = local
        kernel = _kernel(local, block_bytes) / local.probes
        values, vectors = torch.linalg.eigh(kernel)
        # What lies below rounding of the largest eigenvalue is not told from the null space.
        floor = torch.finfo(local.point.dtype).eps * len(values) * float(values[-1])
        seen = values > max(floor, 0.0)
        self._values = values[seen]
        self._vectors = vectors[:, seen]

    @property
    def rank(self) -> int:
        """Dimension of the part of weight space that the probes see."""
        return len(self._values)

    def solve(
        self,
        direction: Tensor,
        *,
        beta: float,
        radius: float = PAPER_RADIUS,
        damping: float = 0.0,
        tolerance: float = 1e-3,
    ) -> TangentSolution:
        """Solve eq. (5) for θ; the arguments are those of `tangent.solve`.

        Returns:
            The solution; its ``iterations`` is the rank. The residual is measured in weight space, with the metric
            itself, and what rounding left of it is taken off by solving for it again.

        Raises:
            TangentError: beta, radius, damping, tolerance or v is out of range.
            ShapeMismatch: v is no vector of the metric's weight space.
        """
        check_problem(direction, beta=beta, radius=radius, damping=damping, tolerance=tolerance)
        half = beta / 2 * direction
        pull = float(torch.linalg.vector_norm(half))
        if pull == 0.0:
            return TangentSolution(torch.zeros_like(direction), 0.0, SolveStatus.CONVERGED, 0.0, 0, False)
        coordinates = self._coordinates(half)
        unseen = half - self._pull(coordinates / self._values)
        rest = float(torch.linalg.vector_norm(unseen))
        if rest <= math.sqrt(torch.finfo(direction.dtype).eps) * pull:
            rest = 0.0  # v lies in what the probes see, up to rounding
        values = np.append(self._values.cpu().numpy(), 0.0) + damping
        weights = np.append((coordinates / self._values.sqrt()).cpu().numpy(), rest)
        multiplier, active = multiplier_of(values, weights, radius)
        shift = multiplier + damping
        tangent = self._pull(coordinates / (self._values * (self._values + shift)))
        if rest > 0.0:
            tangent = tangent + unseen / shift
        residual = half - self._local.apply(tangent) - shift * tangent
        size = float(torch.linalg.vector_norm(residual))
        for _ in range(_REFINEMENTS):
            if size <= tolerance * pull or shift == 0.0:
                break
            correction = residual - self._pull(self._coordinates(residual) / (self._values + shift))
            refined = tangent + correction / shift
            residual = half - self._local.apply(refined) - shift * refined
            before, size = size, float(torch.linalg.vector_norm(residual))
            if not size < before:
                size = before
                break
            tangent = refined
        status = SolveStatus.CONVERGED if size <= tolerance * pull else SolveStatus.BREAKDOWN
        return TangentSolution(tangent, multiplier, status, size / pull, self.rank, active)

    def _coordinates(self, vector: Tensor) -> Tensor:
        """Uᵀ J vector / √N, float64 [rank]."""
        pushed = self._local.push(vector).flatten().to(self._vectors)
        return self._vectors.T @ pushed / math.sqrt(self._local.probes)

    def _pull(self, coordinates: Tensor) -> Tensor:
        """Jᵀ U coordinates / √N, shape [n]."""
        covector = self._vectors @ coordinates / math.sqrt(self._local.probes)
        return self._local.pull(covector.to(self._local.point).view(self._local.outputs.shape))


def solve_at(
    local: LocalMetric,
    direction: Tensor,
    *,
    beta: float,
    radius: float = PAPER_RADIUS,
    damping: float = 0.0,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    solver: Solver = Solver.AUTO,
) -> TangentSolution:
    """Solve eq. (5) at a point, by Lanczos or by the dual.

    Args:
        local: The metric at the point.
        direction: v, shape [n].
        beta: As for `tangent.solve`.
        radius: As for `tangent.solve`.
        damping: As for `tangent.solve`.
        tolerance: As for `tangent.solve`.
        max_iterations: As for `tangent.solve`; the dual does not iterate.
        solver: ``AUTO`` takes the dual while the kernel is small, see `KERNEL_ROWS` and `KERNEL_PRODUCTS`, and smaller
            than the metric.
    """
    rows, weights = local.outputs.numel(), len(local.point)
    small = rows <= KERNEL_ROWS and rows < weights and rows * rows * weights <= KERNEL_PRODUCTS
    if solver is Solver.DUAL or (solver is Solver.AUTO and small):
        return SampleSpace(local).solve(direction, beta=beta, radius=radius, damping=damping, tolerance=tolerance)
    return solve(
        local.apply,
        direction,
        beta=beta,
        radius=radius,
        damping=damping,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def _kernel(local: LocalMetric, block_bytes: int) -> Tensor:
    """J Jᵀ, float64 [N·m, N·m], from blocks of rows; each pair of blocks is made once."""
    outputs = local.outputs.shape[1]
    row_bytes = outputs * len(local.point) * local.point.element_size()
    step = max(1, block_bytes // 2 // row_bytes)
    starts = list(range(0, local.probes, step))
    kernel = torch.zeros(local.probes * outputs, local.probes * outputs, dtype=torch.float64, device=local.point.device)
    for place, first in enumerate(starts):
        one = local.jacobian_rows(first, min(first + step, local.probes))
        rows = slice(first * outputs, first * outputs + len(one))
        kernel[rows, rows] = (one @ one.T).double()
        for second in starts[place + 1 :]:
            other = local.jacobian_rows(second, min(second + step, local.probes))
            columns = slice(second * outputs, second * outputs + len(other))
            kernel[rows, columns] = (one @ other.T).double()
            kernel[columns, rows] = kernel[rows, columns].T
    return kernel
