"""Second moments of what a layer reads, from one pass over calibration inputs.

With ã the columns one output position of a layer reads (an im2col patch, and a trailing 1 where there is a bias) and z
the pre-activations the *dense* network has there, every least-squares question about the layer's rows W is answered by

    G = mean ã ãᵀ,    C = mean z ãᵀ,    mean |z|²,

because mean |z − W ã|² = mean |z|² − 2⟨C, W⟩ + ⟨W G, W⟩. ã comes from the current network, in which units of earlier
layers may be gone; z always from the dense one, so that errors of successive stages do not add up unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call

from device_profiles.errors import GeoshiftError
from planner.cost import CostMeter
from planner.network import Layer, Network

# Eliminating from a Gram matrix takes about six matrices of its size: 12 GiB in float64 at this many columns.
MAX_COLUMNS = 16_384
# Unfolded patches held at once; 64 MiB is 54 images of VGG-11's second layer, enough for full matrix speed.
_PATCH_BYTES = 64 * 2**20


class CompensationError(GeoshiftError):
    """A layer's rows cannot be refitted from the calibration inputs given."""


@dataclass(frozen=True)
class Statistics:
    """Second moments of one layer's inputs and of the dense pre-activations, all float64.

    n is the layer's columns, plus one if it has a bias; the bias column is the last.

    Attributes:
        layer: Name of the layer.
        gram: G = mean ã ãᵀ, shape [n, n].
        cross: C = mean z ãᵀ, shape [rows, n].
        power: Mean z² of each row, shape [rows].
        original: The dense network's rows, weights then bias, shape [rows, n].
        bias: Whether the last column is the bias.
        patches: How many output positions were averaged.
    """

    layer: str
    gram: Tensor
    cross: Tensor
    power: Tensor
    original: Tensor
    bias: bool
    patches: int

    @property
    def columns(self) -> int:
        """Number of weight columns, without the bias."""
        return len(self.gram) - self.bias

    def only(self, rows: Sequence[int]) -> Statistics:
        """The same inputs, for some of the rows: for a layer that has lost units of its own."""
        chosen = list(rows)
        return replace(self, cross=self.cross[chosen], power=self.power[chosen], original=self.original[chosen])

    def error(self, rows: Tensor) -> float:
        """Relative error mean |z − W ã|² / mean |z|² of rows W, shape [rows, n]."""
        wide = rows.double()
        squares = self.power.sum() - 2 * (self.cross * wide).sum() + (wide @ self.gram * wide).sum()
        return relative(float(squares), self)


def relative(squares: float, stats: Statistics) -> float:
    """A sum of squared pre-activation errors over mean |z|² (as it is where z vanishes), never below 0."""
    return max(squares, 0.0) / (float(stats.power.sum()) or 1.0)


def row_matrix(layer: Layer, state: Mapping[str, Tensor]) -> Tensor:
    """A layer's rows, weights then bias if any, in float64; shape [units, columns (+ 1)]."""
    weights = state[layer.weight].detach().double().flatten(1)
    if layer.bias is None:
        return weights
    return torch.cat([weights, state[layer.bias].detach().double()[:, None]], dim=1)


def collect(
    network: Network,
    layer: Layer,
    inputs: Tensor,
    *,
    current: Mapping[str, Tensor],
    dense: Mapping[str, Tensor] | None = None,
    batch: int = 128,
    positions: int | None = None,
    seed: int = 0,
    cost: CostMeter | None = None,
) -> Statistics:
    """Average a layer's second moments over calibration inputs.

    Only the part of the network before the layer runs, once with the current and, where the two differ, once with
    the dense weights. Neither the network nor a state is changed.

    Args:
        network: The network.
        layer: The layer to be refitted: the reader of the layer that loses units.
        inputs: Calibration inputs, shape [N, ...].
        current: State whose activations the layer will read.
        dense: State whose pre-activations are the target; the network's own weights by default.
        batch: Inputs per forward pass.
        positions: Output positions drawn per input, all of them by default. Neighbouring patches overlap, so that
            a few dozen of a large layer's thousands carry nearly the same information.
        seed: Seed of that draw.
        cost: Where to count the samples passed forward. A partial pass counts as a whole one.

    Returns:
        The statistics.

    Raises:
        CompensationError: there are no inputs, the layer is too wide, or an activation is not finite.
    """
    dense = network.module.state_dict() if dense is None else dense
    size = layer.columns + (layer.bias is not None)
    if not len(inputs):
        raise CompensationError(f"no calibration inputs for layer {layer.name!r}; expected at least one")
    if size > MAX_COLUMNS:
        raise CompensationError(
            f"layer {layer.name!r} has {size} columns; compensation takes at most {MAX_COLUMNS} (memory grows with "
            "the square). Remove units of another layer, or pool before this one"
        )
    inner = network.module.get_submodule(layer.name)
    before = _before(network, layer.name)
    same = all(torch.equal(current[key], dense[key]) for key in before.state_dict())
    target = row_matrix(layer, dense)
    generator = torch.Generator().manual_seed(seed)
    gram = torch.zeros(size, size, dtype=torch.float64, device=inputs.device)
    cross = torch.zeros(layer.units, size, dtype=torch.float64, device=inputs.device)
    power = torch.zeros(layer.units, dtype=torch.float64, device=inputs.device)
    patches = 0
    with torch.no_grad():
        for start in range(0, len(inputs), batch):
            images = inputs[start : start + batch]
            now = _run(before, current, images)
            then = now if same else _run(before, dense, images)
            if cost is not None:
                cost.forward(len(images) * (1 if same else 2))
            for part in _parts(len(images), layer, size):
                drawn = _draw(len(now[part]), layer.positions, positions, generator)
                read = _patches(inner, now[part], drawn, layer.bias is not None)
                gram += read.T @ read
                patches += len(read)
                if not same:
                    z = _patches(inner, then[part], drawn, layer.bias is not None) @ target.T
                    cross += z.T @ read
                    power += z.square().sum(0)
    gram /= patches
    # With one set of inputs C = W G holds exactly: then a refit with nothing removed returns the rows as they are.
    cross = target @ gram if same else cross / patches
    power = (cross * target).sum(1) if same else power / patches
    if not (gram.isfinite().all() and cross.isfinite().all()):
        raise CompensationError(
            f"the inputs of layer {layer.name!r} are not finite on the calibration data; expected finite activations: "
            "check the data for NaN and the weights for overflow"
        )
    return Statistics(layer.name, gram, cross, power, target, layer.bias is not None, patches)


def _before(network: Network, name: str) -> fx.GraphModule:
    """The part of the network that computes the input of a layer."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in network.graph.graph.nodes:
        if node.op == "call_module" and node.target == name:
            graph.output(copies[node.all_input_nodes[0]])
            break
        copies[node] = graph.node_copy(node, copies.__getitem__)
    part = fx.GraphModule(network.module, graph)
    part.graph.eliminate_dead_code()  # branches that lead elsewhere
    part.delete_all_unused_submodules()
    part.recompile()
    return part


def _run(part: fx.GraphModule, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    own = {key: state[key] for key in part.state_dict()}
    result: Tensor = functional_call(part, own, (inputs,))
    return result


def _parts(samples: int, layer: Layer, size: int) -> Iterator[slice]:
    """Slices of a batch whose unfolded patches fit the memory bound."""
    step = max(1, _PATCH_BYTES // (layer.positions * size * 8))
    return (slice(start, min(start + step, samples)) for start in range(0, samples, step))


def _draw(samples: int, there: int, wanted: int | None, generator: torch.Generator) -> Tensor | None:
    """Output positions to use of each sample, shape [samples, wanted]; None for all."""
    if wanted is None or wanted >= there:
        return None
    return torch.rand(samples, there, generator=generator).argsort(dim=1)[:, :wanted]


def _patches(inner: nn.Module, inputs: Tensor, drawn: Tensor | None, bias: bool) -> Tensor:
    """What each output position reads, in the order of the weight's columns, float64; shape [positions, n]."""
    if isinstance(inner, nn.Conv2d):
        padded = F.pad(inputs, _padding(inner), mode=_PAD_MODES.get(inner.padding_mode, inner.padding_mode))
        columns = F.unfold(padded, inner.kernel_size, dilation=inner.dilation, stride=inner.stride).transpose(1, 2)
    else:
        columns = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    if drawn is not None:
        columns = columns.gather(1, drawn.to(columns.device)[:, :, None].expand(-1, -1, columns.shape[2]))
    flat = columns.flatten(0, 1).double()
    return torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1) if bias else flat


_PAD_MODES = {"zeros": "constant"}


def _padding(convolution: nn.Conv2d) -> list[int]:
    """Padding in F.pad's order: left, right, top, bottom."""
    amounts: list[int] = []
    for axis in (1, 0):
        if isinstance(convolution.padding, str):
            total = 0
            if convolution.padding == "same":
                total = convolution.dilation[axis] * (convolution.kernel_size[axis] - 1)
            amounts += [total // 2, total - total // 2]
        else:
            amounts += [int(convolution.padding[axis])] * 2
    return amounts
