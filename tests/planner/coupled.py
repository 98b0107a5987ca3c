"""Networks whose layers are coupled, with batch norms that are not trivial, for 8 × 8 images of one channel."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (1, 8, 8)


def norm_of(convolution: nn.Conv2d) -> nn.Sequential:
    """The convolution and a batch norm behind it."""
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))


class Block(nn.Module):
    """Two convolutions and a way around them, as in ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else norm_of(nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Residual(nn.Module):
    """A stem, two blocks on its stream, one that begins a second stream, and a classifier."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.block1 = Block(width, width)
        self.block2 = Block(width, width)
        self.block3 = Block(width, 2 * width, 2)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(F.relu(self.bn(self.stem(x))))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Inception(nn.Module):
    """Two branches side by side, twice; the second time flattened together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = norm_of(nn.Conv2d(1, 6, 3, padding=1))
        self.narrow = norm_of(nn.Conv2d(6, 4, 1))
        self.wide = norm_of(nn.Conv2d(6, 5, 3, padding=1))
        self.left = nn.Conv2d(9, 4, 3, padding=1, stride=2)
        self.right = nn.Conv2d(9, 3, 1, stride=2)
        self.fc1 = nn.Linear(7 * 16, 12)
        self.fc2 = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(torch.cat([self.narrow(x), self.wide(x)], 1))
        x = torch.cat((torch.tanh(self.left(x)), F.relu(self.right(x))), dim=1)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Dense(nn.Module):
    """DenseNet's growth: each layer reads all before it, and the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 5, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(10, 4, 3, padding=1)
        self.fc = nn.Linear(14, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.conv1, self.conv2, self.conv3):
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.fc(x.mean((2, 3)))


class Growth(nn.Module):
    """The same without the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = norm_of(nn.Conv2d(1, 5, 3, padding=1))
        self.conv2 = norm_of(nn.Conv2d(5, 4, 3, padding=1))
        self.conv3 = norm_of(nn.Conv2d(9, 4, 3, padding=1))
        self.fc = nn.Linear(13, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        for layer in (self.conv2, self.conv3):
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.fc(x.mean((2, 3)))


class Mobile(nn.Module):
    """MobileNet's inverted residual: expand, depthwise, gate (squeeze and excite), project, add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = norm_of(nn.Conv2d(1, 6, 3, padding=1))
        self.expand = norm_of(nn.Conv2d(6, 10, 1, bias=False))
        self.depthwise = norm_of(nn.Conv2d(10, 10, 3, padding=1, groups=10, bias=False))
        self.squeeze = nn.Conv2d(10, 3, 1)
        self.excite = nn.Conv2d(3, 10, 1)
        self.project = norm_of(nn.Conv2d(10, 6, 1, bias=False))
        self.fc = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        y = F.relu6(self.depthwise(F.relu6(self.expand(x))))
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        x = x + self.project(y * torch.sigmoid(gate))
        return self.fc(x.mean((2, 3)))


class PreActivation(nn.Module):
    """Norms before the convolutions, as in the second ResNet: none has a convolution before it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv1(F.relu(self.bn1(x)))
        return self.fc(F.relu(self.bn2(x)).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "inception": Inception,
    "dense": Dense,
    "growth": Growth,
    "mobile": Mobile,
    "pre-activation": PreActivation,
}

GROUPS = {
    "residual": [
        {"stem", "block1.conv2", "block2.conv2"}, {"block1.conv1"}, {"block2.conv1"}, {"block3.conv1"},
        {"block3.conv2", "block3.shortcut.0"},
    ],
    "inception": [{"stem.0"}, {"narrow.0"}, {"wide.0"}, {"left"}, {"right"}, {"fc1"}],
    "dense": [{"conv1"}, {"conv2"}, {"conv3"}],
    "growth": [{"conv1.0"}, {"conv2.0"}, {"conv3.0"}],
    "mobile": [{"stem.0", "project.0"}, {"expand.0", "depthwise.0", "excite"}, {"squeeze"}],
    "pre-activation": [{"stem", "bn1", "conv1", "bn2"}],
}  # fmt: skip
"""Layers whose units are tied, of each network, those that can be removed."""


def build(name: str) -> nn.Module:
    """A network in eval mode, its batch norms with statistics and scales of their own."""
    torch.manual_seed(0)
    module = NETWORKS[name]()
    for one in module.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.running_mean.uniform_(-0.5, 0.5)
            one.running_var.uniform_(0.5, 2)
            nn.init.uniform_(one.weight, 0.5, 1.5)
            nn.init.uniform_(one.bias, -0.5, 0.5)
    return module.eval()


def images(count: int = 5) -> Tensor:
    """Inputs."""
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))
