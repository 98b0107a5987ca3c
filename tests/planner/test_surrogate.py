from __future__ import annotations

import torch

from planner.surrogate import Collage

MEAN, STD = 0.305, 0.376


def images(digits) -> torch.Tensor:
    return torch.from_numpy(digits.train_x[:64])


def made(given: torch.Tensor, seed: int) -> torch.Tensor:
    return Collage(MEAN, STD)(given, torch.Generator().manual_seed(seed))


def test_images_that_a_camera_could_have_taken(digits):
    given = images(digits)
    before = given.clone()
    found = made(given, 0)
    assert torch.equal(given, before)
    assert found.shape == given.shape
    pixels = found * STD + MEAN
    assert float(pixels.min()) >= -1e-6
    assert float(pixels.max()) <= 1 + 1e-6
    assert float(pixels.flatten(1).std(1).median()) > 0.05  # something is on them


def test_chance_comes_from_the_generator_alone(digits):
    given = images(digits)
    torch.manual_seed(1)
    first = made(given, 0)
    torch.manual_seed(2)
    assert torch.equal(made(given, 0), first)
    assert not torch.equal(made(given, 1), first)


def test_surrogates_are_neither_the_images_nor_alike(digits):
    given = images(digits)
    found = made(given, 0).flatten(1)
    assert float(torch.cdist(found, given.flatten(1)).min()) > 0.1
    apart = torch.cdist(found, found) + torch.eye(len(found)) * 100
    assert float(apart.min(1).values.median()) > 1
