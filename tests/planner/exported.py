"""A small network and its states, for tests of the exported graphs."""

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from planner.network import trace

LOGITS = 1e-4
"""torch and ONNX Runtime sum the same float32 products in another order; 2e-6 was seen on these networks."""
SAMPLE = torch.zeros(1, 1, 8, 8)


class Net(nn.Module):
    """Three convolutions, the first with a batch norm, the second without bias, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(8, 5, 3)
        self.fc1 = nn.Linear(20, 12)
        self.fc2 = nn.Linear(12, 4)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.conv1(x))), 2)
        x = torch.relu(self.conv3(nn.functional.silu(self.conv2(x))))
        return self.fc2(torch.sigmoid(self.fc1(torch.flatten(x, 1))))


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


MOVED = ["conv3.weight", "conv2.weight", "conv3.bias", "fc1.bias", "fc1.weight"]
PRUNED = [
    {},
    {"conv2": [1, 4]},
    {"conv3": [0, 1, 4]},
    {"conv1": [5, 2], "conv2": [0, 1, 2]},
    {"conv2": [5], "conv3": [3], "fc1": [2]},
    {"conv2": range(1, 8, 2), "conv3": [0, 2, 3], "fc1": range(11)},
]


def traced():
    """The network with weights and statistics of its own."""
    torch.manual_seed(0)
    net = Net()
    net.norm.running_mean.uniform_(-1, 1)
    net.norm.running_var.uniform_(0.5, 2)
    return trace(net.eval(), SAMPLE)


def inputs():
    """Five samples."""
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def numpy_state(module):
    """Its tensors as arrays."""
    return numpy_state_of(module.state_dict())


def numpy_state_of(state):
    """Tensors as arrays."""
    return {name: tensor.numpy() for name, tensor in state.items()}


def masked(network, kept):
    """State dict with removed units' rows and their readers' columns at zero."""
    state = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    for name, units in kept.items():
        layer = network.layer(name)
        removed = [unit for unit in range(layer.units) if unit not in units]
        state[layer.weight][removed] = 0
        if layer.bias is not None:
            state[layer.bias][removed] = 0
        for reader in map(network.layer, layer.readers):
            state[reader.weight].view(reader.units, -1)[:, reader.columns_of(layer.group, removed)] = 0
    return state


def cut(network, kept, state):
    """Tensors of the smaller network, as arrays."""
    tensors = numpy_state_of(state)
    for layer in network.layers:
        rows = list(kept.get(layer.name, range(layer.units)))
        gone = {
            column
            for group in {source.group for source in layer.sources} & set(kept)
            for column in layer.columns_of(group, set(range(network.layer(group).units)) - set(kept[group]))
        }
        matrix = tensors[layer.weight].reshape(layer.units, -1)[rows]
        # in the order of the kept units, where only one layer's are read
        columns = (
            layer.columns_of(layer.reads, kept[layer.reads])
            if layer.reads in kept
            else ([column for column in range(layer.columns) if column not in gone])
        )
        shape = tensors[layer.weight].shape[2:]
        tensors[layer.weight] = np.ascontiguousarray(matrix[:, columns]).reshape(len(rows), -1, *shape)
        if layer.bias is not None:
            tensors[layer.bias] = tensors[layer.bias][rows]
    return tensors


def torch_answer(module, state, x):
    """What torch computes with other weights."""
    with torch.no_grad():
        return functional_call(module, state, (x,)).numpy()
