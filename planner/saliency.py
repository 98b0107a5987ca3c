"""How much each weight matters to the network's outputs: the diagonal of the pullback metric.

g_ii = mean over probes of |∂f/∂w_i|² is what the paper's eq. (2) charges for a unit step of weight i alone, so that
removing the weight costs w_i² g_ii to second order. For a random covector c of independent standard normal entries
E (cᵀJ)_i² is that sum over the outputs, so one backward pass a probe estimates the whole diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from planner.configuration import ConfigurationError
from planner.cost import CostMeter
from planner.network import Network

# Gradients of single samples held at once: 64 samples of LeNet-300-100.
_GRADIENT_BYTES = 64 * 2**20


def diagonal(
    network: Network,
    state: Mapping[str, Tensor],
    names: Sequence[str],
    inputs: Tensor,
    *,
    seed: int = 0,
    cost: CostMeter | None = None,
) -> dict[str, Tensor]:
    """Estimate the metric's diagonal at a state.

    Args:
        network: The network.
        state: Where: all of the network's tensors.
        names: Keys of the tensors to estimate it for.
        inputs: Probe inputs, shape [N, ...].
        seed: Seed of the covectors.
        cost: Where to count the samples passed forward and backward.

    Returns:
        Key to an estimate of mean |∂f/∂w|², of the tensor's shape, in squared output units by squared weight units.

    Raises:
        ConfigurationError: there are no probe inputs.
    """
    if not len(inputs):
        raise ConfigurationError("no probe inputs to estimate the metric's diagonal from; expected at least one")
    fixed = {key: tensor.detach() for key, tensor in state.items()}
    moved = {key: fixed[key] for key in names}
    generator = torch.Generator().manual_seed(seed)

    def weighed(weights: dict[str, Tensor], sample: Tensor, covector: Tensor) -> Tensor:
        outputs: Tensor = functional_call(network.module, {**fixed, **weights}, (sample[None],))
        return (outputs[0] * covector).sum()

    with torch.no_grad():
        outputs = functional_call(network.module, fixed, (inputs[:1],))
    of_samples = vmap(grad(weighed), in_dims=(None, 0, 0))
    size = 4 * sum(tensor.numel() for tensor in moved.values())
    total = {key: torch.zeros_like(tensor) for key, tensor in moved.items()}
    for batch in inputs.split(max(1, _GRADIENT_BYTES // size)):
        covectors = torch.randn((len(batch), *outputs.shape[1:]), generator=generator).to(outputs)
        for key, slopes in of_samples(moved, batch, covectors).items():
            total[key] += slopes.square().sum(0)
    if cost is not None:
        cost.forward_backward(len(inputs))
    return {key: squares / len(inputs) for key, squares in total.items()}
