"""Images made up from those of one task, to ask a network of another task what it answers.

A small grey image of one thing on a dark ground is, whatever the thing, a filled shape with a texture. `Collage` makes
such shapes of strokes: they are enlarged, turned, laid over one another, blurred and brightened until they fill, made
symmetric, textured with another image, and sometimes inverted. No image of the other task is looked at; that its
images are of this kind is all that is assumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_BLUR_WIDTHS = (1, 3, 5, 7, 11)  # pixels, of images 28 wide


@dataclass(frozen=True)
class Collage:
    """Makes surrogates of one-channel images; `planner.other_network.approach` takes one.

    Attributes:
        mean: What was taken off the pixels, which lay in [0, 1] before.
        std: What they were divided by.
    """

    mean: float
    std: float

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """As many made-up images as there are images.

        Args:
            images: One channel, preprocessed, shape [N, 1, H, W].
            generator: Source of chance, on the CPU.

        Returns:
            Preprocessed likewise, same shape; pixels that stood for 0 to 1 before still do.
        """
        count = len(images)
        pixels = images * self.std + self.mean

        def uniform(low: float, high: float) -> Tensor:
            drawn = torch.rand(count, 1, 1, 1, generator=generator) * (high - low) + low
            return drawn.to(images)

        def other() -> Tensor:
            return pixels[torch.randperm(count, generator=generator).to(images.device)]

        shape, second = (_moved(source, (0.8, 3.0), generator) for source in (pixels, other()))
        shape = torch.where(uniform(0, 1) < 0.6, torch.maximum(shape, second), shape)
        shape = (_blurred(shape, generator) * uniform(0, 2.5).exp()).clamp(0, 1)
        shape = torch.where(uniform(0, 1) < 0.5, torch.maximum(shape, shape.flip(3)), shape)
        texture = _blurred(_moved(other(), (0.8, 4.0), generator), generator)
        texture = torch.where(uniform(0, 1) < 0.5, 1 - texture, texture)
        even = uniform(0, 1)
        made = shape * (even + (1 - even) * texture) * uniform(0.3, 1)
        made = torch.where(uniform(0, 1) < 0.1, 1 - made, made)
        grain = torch.randn(made.shape, generator=generator).to(made) * uniform(0, 0.15) * (uniform(0, 1) < 0.5)
        return ((made + grain * (made > 0.02)).clamp(0, 1) - self.mean) / self.std


def _moved(images: Tensor, zoom: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Each image enlarged, stretched, turned and shifted by its own amounts; dark where nothing is left."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    tall = uniform(math.log(zoom[0]), math.log(zoom[1])).exp()
    wide = tall * uniform(0.6, 1.6)
    angle = uniform(-0.6, 0.6) + (uniform(0, 1) < 0.2) * (math.pi / 2)
    across = torch.stack([angle.cos() / wide, -angle.sin() / wide, uniform(-0.4, 0.4) / tall], dim=1)
    down = torch.stack([angle.sin() / tall, angle.cos() / tall, uniform(-0.4, 0.4) / tall], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1).to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image averaged over a window of its own width."""
    chosen = torch.randint(len(_BLUR_WIDTHS), (len(images),), generator=generator).to(images.device)
    blurred = images.clone()
    for place, width in enumerate(_BLUR_WIDTHS):
        mine = chosen == place
        if width > 1 and bool(mine.any()):
            window = F.avg_pool2d(images[mine], width, stride=1, padding=width // 2)
            blurred[mine] = F.avg_pool2d(window, 3, stride=1, padding=1)
    return blurred
