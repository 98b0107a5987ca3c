"""Networks that ship with geoshift, and the way to a user's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from device_profiles.errors import GeoshiftError
from planner import reference


class ModelError(GeoshiftError):
    """A network's definition cannot be turned into a `torch.nn.Module`."""


class DigitsCNN(nn.Module):
    """Two convolutions and two linear layers for 8 × 8 digits; 13,706 weights.

    Small enough to plan in seconds, wide enough that halving `conv1` is a real test: its 16 units are all used.

    Shapes: [N, 1, 8, 8] → conv1 [N, 16, 8, 8] → pool1 [N, 16, 4, 4] → conv2 [N, 32, 4, 4] → pool2 [N, 32, 2, 2]
    → fc1 [N, 64] → fc2 [N, 10].
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(32 * 2 * 2, 64)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of images [N, 1, 8, 8]."""
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = self.relu3(self.fc1(x))
        return self.fc2(x)


class LeNet5(nn.Module):
    """LeNet-5 in the form of Caffe's example, which the pruning literature compares on; 431,080 weights.

    Caffe's original has a ReLU after fc1 only; the pruning papers' PyTorch versions have one after each convolution
    too, and so has this one.

    Shapes: [N, 1, 28, 28] → conv1 [N, 20, 24, 24] → pool1 [N, 20, 12, 12] → conv2 [N, 50, 8, 8]
    → pool2 [N, 50, 4, 4] → fc1 [N, 500] → fc2 [N, 10].

    Reference:
        LeCun et al., "Gradient-based learning applied to document recognition", 1998; Caffe's lenet.prototxt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, kernel_size=5)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(20, 50, kernel_size=5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of images [N, 1, 28, 28]."""
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = self.relu3(self.fc1(x))
        return self.fc2(x)


BUILTIN: dict[str, Callable[[], nn.Module]] = {"digits-cnn": DigitsCNN, "lenet5": LeNet5}


def build(definition: str, *, seed: int = 0) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        definition: A name of `BUILTIN`, or `package.module:function` of the user's own, which is called without
            arguments.
        seed: Seed of the fresh weights. PyTorch's global generator is left as it was.

    Returns:
        The network, in training mode.

    Raises:
        ModelError: The name is unknown, or the function is missing, raised, or returned no `torch.nn.Module`.
    """
    if definition not in BUILTIN and not reference.is_reference(definition):
        raise ModelError(
            f"model {definition!r} is not known: expected one of {', '.join(sorted(BUILTIN))}, or "
            f"package.module:function for your own"
        )
    with torch.random.fork_rng(devices=[]):
        # the CPU generator alone: torch.manual_seed would also reseed every accelerator for good
        torch.default_generator.manual_seed(seed)
        if definition in BUILTIN:
            return BUILTIN[definition]()
        found = reference.call(definition, ModelError)
    if not isinstance(found, nn.Module):
        raise ModelError(f"{definition} returned {type(found).__name__}, expected a torch.nn.Module")
    return found
