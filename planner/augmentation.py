"""Random changes of training images that leave their labels true."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def shifted(images: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Each image [N, C, H, W] moved by up to `largest` pixels each way; its border is repeated into the gap."""
    if largest == 0:
        return images
    count, _, height, width = images.shape
    padded = functional.pad(images, [largest] * 4, mode="replicate")
    down, right = torch.randint(0, 2 * largest + 1, (2, count, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    # indexing puts the channels last: [N, H, W, C]
    moved = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [N, C, H, W], each of them mirrored left to right with probability one half."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)
