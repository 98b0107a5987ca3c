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


class LeNet300(nn.Module):
    """LeNet-300-100, the perceptron of the pruning literature; 266,610 weights.

    Shapes: [N, 1, 28, 28] → fc1 [N, 300] → fc2 [N, 100] → fc3 [N, 10].

    Reference:
        LeCun et al., "Gradient-based learning applied to document recognition", 1998.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(28 * 28, 300)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(300, 100)
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of images [N, 1, 28, 28]."""
        x = torch.flatten(x, 1)
        x = self.relu1(self.fc1(x))
        x = self.relu2(self.fc2(x))
        return self.fc3(x)


class VGG11(nn.Module):
    """VGG-11 for 32 × 32 images: torchvision's convolutions, a classifier of three linear layers.

    Keys are those of torchvision's `vgg11`, `features.N` and `classifier.N`, where 512 channels of one pixel reach the
    classifier. 28,144,010 weights at full width, 1,769,066 at a quarter of it.

    Shapes at full width: [N, 3, 32, 32] → features [N, 512, 1, 1] → classifier.0 [N, 4096] → classifier.3 [N, 4096]
    → classifier.6 [N, 10].

    Args:
        divisor: All widths but the last are divided by it; of 64.
        dropout: Share of classifier activations that training leaves out.

    Reference:
        Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015, net A.
    """

    FILTERS = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)  # 0: pooling

    def __init__(self, divisor: int = 1, dropout: float = 0.3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for filters in self.FILTERS:
            if filters:
                layers += [nn.Conv2d(channels, filters // divisor, kernel_size=3, padding=1), nn.ReLU()]
                channels = filters // divisor
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = 4096 // divisor
        self.classifier = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of images [N, 3, 32, 32]."""
        return self.classifier(torch.flatten(self.features(x), 1))


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions with batch norm, added to what came in.

    Args:
        channels: Channels that come in.
        filters: Channels that go out.
        stride: Of the first convolution; where it or the width changes, a 1 × 1 convolution makes the shortcut fit.
    """

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        fits = stride == 1 and channels == filters
        self.shortcut = nn.Identity() if fits else nn.Conv2d(channels, filters, kernel_size=1, stride=stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, filters, height / stride, width / stride] of maps [N, channels, height, width]."""
        inner = self.relu1(self.norm1(self.conv1(x)))
        inner = self.norm2(self.conv2(inner))
        return self.relu2(inner + self.shortcut(x))


class ResNet8(nn.Module):
    """The residual network of MLPerf Tiny at twice its width: 0.31 million weights, 50 million multiply-adds.

    Shapes: [N, 3, 32, 32] → stem [N, 32, 32, 32] → block1 [N, 32, 32, 32] → block2 [N, 64, 16, 16]
    → block3 [N, 128, 8, 8] → pool [N, 128, 1, 1] → fc [N, 10]. With width 64 and stride 2 every map has half the side
    and twice the channels: as many multiply-adds with four times the weights.

    Args:
        width: Channels of the stem.
        stride: Of the stem.

    Reference:
        Banbury et al., "MLPerf Tiny benchmark", 2021: image classification.
    """

    def __init__(self, width: int = 32, stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.block1 = ResidualBlock(width, width, stride=1)
        self.block2 = ResidualBlock(width, 2 * width, stride=2)
        self.block3 = ResidualBlock(2 * width, 4 * width, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10] of images [N, 3, 32, 32]."""
        x = self.relu(self.norm(self.stem(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


BUILTIN: dict[str, Callable[[], nn.Module]] = {
    "digits-cnn": DigitsCNN,
    "lenet-300-100": LeNet300,
    "lenet5": LeNet5,
    "resnet8": ResNet8,
    "resnet8-wide": lambda: ResNet8(width=64, stride=2),
    "vgg11": VGG11,
    "vgg11-quarter": lambda: VGG11(divisor=4),
}


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
