"""Random changes of training images."""

import torch

from planner.augmentation import mirrored, shifted


def images() -> torch.Tensor:
    return torch.arange(200 * 3 * 4 * 5.0).reshape(200, 3, 4, 5)


def test_about_half_of_the_images_are_mirrored_and_the_rest_left_alone():
    given = images()

    found = mirrored(given, torch.Generator().manual_seed(0))

    turned = torch.tensor([torch.equal(image, own.flip(2)) for image, own in zip(found, given, strict=True)])
    kept = torch.tensor([torch.equal(image, own) for image, own in zip(found, given, strict=True)])
    assert (turned ^ kept).all()
    assert 70 < turned.sum() < 130  # 4 deviations of 7.1 images
    assert torch.equal(given, images())


def test_an_image_is_moved_as_a_whole_and_its_border_repeated():
    given = images()

    found = shifted(given, 1, torch.Generator().manual_seed(0))

    padded = torch.nn.functional.pad(given, [1] * 4, mode="replicate")
    moves = set()
    for image, wide in zip(found, padded, strict=True):
        fits = [(y, x) for y in range(3) for x in range(3) if torch.equal(image, wide[:, y : y + 4, x : x + 5])]
        assert len(fits) == 1
        moves.add(fits[0])
    assert len(moves) == 9
    assert shifted(given, 0, torch.Generator()) is given
