"""The softmax Fisher metric, written as the pullback of a flat one.

With p = softmax(f(w)) the Fisher metric of a classifier is F(w) = mean over probes of Jᵀ (diag p − p pᵀ) J: for a small
step its square is twice the mean Kullback-Leibler divergence between the answers before and after. The map p ↦ 2√p
puts the probabilities on a sphere of radius 2, and there F is the ordinary flat metric, because
|d(2√p)|² = Σ dp²/p = dfᵀ (diag p − p pᵀ) df. So nothing besides this map is needed: metric, tangent, length and
relaxation take 2√p in place of the outputs. Unlike the outputs themselves it does not see what leaves the answer alone:
a shift of all logits, or a change of scale where the network is sure.

Reference:
    Amari, "Natural gradient works efficiently in learning", Neural Computation 10 (1998); for the sphere, Čencov,
    "Statistical decision rules and optimal inference", 1982.
"""

from __future__ import annotations

import torch
from torch import Tensor


def root_probabilities(logits: Tensor) -> Tensor:
    """2√softmax(logits), shape [..., classes], whose flat metric is the softmax Fisher metric.

    The root is taken of the logarithm, so that its derivative stays finite where a probability vanishes.
    """
    return 2.0 * torch.exp(torch.log_softmax(logits, dim=-1) / 2.0)
