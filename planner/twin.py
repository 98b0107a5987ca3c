"""A twin with batch norm to train, for a network that is to have none.

Plain VGG variants train slowly or not at all; with a batch norm behind each convolution they train well, and in eval
mode each norm is a fixed scale and shift that its convolution can take over.
"""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils import fusion


def normalised(module: nn.Module) -> nn.Module:
    """A copy with a batch norm behind each `Conv2d`; `conv` becomes `conv.0`, its norm is `conv.1`."""
    twin = copy.deepcopy(module)
    for name in _convolutions(module):
        conv = twin.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        twin.set_submodule(name, nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels)))
    return twin


def fold_into(module: nn.Module, twin: nn.Module) -> None:
    """Put a twin's weights into the network it was made from, with its norms, as they are in eval mode, folded in.

    Args:
        module: Network that is changed.
        twin: What `normalised` made of it, trained.
    """
    plain = copy.deepcopy(twin).eval()
    for name in _convolutions(module):
        conv, norm = plain.get_submodule(f"{name}.0"), plain.get_submodule(f"{name}.1")
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        # in float64, rounded once
        plain.set_submodule(name, fusion.fuse_conv_bn_eval(conv.double(), norm.double()).float())
    module.load_state_dict(plain.state_dict())


def without_bias(module: nn.Module) -> list[str]:
    """Names of the convolutions that have no bias, so that no norm can be folded into them."""
    return [name for name in _convolutions(module) if module.get_submodule(name).bias is None]


def _convolutions(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_modules() if isinstance(child, nn.Conv2d)]
