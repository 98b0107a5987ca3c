"""A twin with batch norm, and the way back."""

import torch
from torch import nn

from planner import models
from planner.twin import fold_into, normalised, without_bias


def test_twin_has_a_norm_behind_each_convolution_and_folds_into_the_same_answers():
    module = models.build("digits-cnn")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    twin = normalised(module)
    generator = torch.Generator().manual_seed(0)
    for norm in (twin.conv1[1], twin.conv2[1]):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.data.uniform_(0.5, 2, generator=generator)  # as if it had been trained
    images = torch.rand(20, 1, 8, 8, generator=generator)
    expected = twin.eval()(images)

    assert [type(child) for child in twin.modules()].count(nn.BatchNorm2d) == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    fold_into(module, twin)

    assert module.state_dict().keys() == before.keys()
    difference = (module.eval()(images) - expected).abs().max()
    assert difference < 1e-5 * expected.abs().max()  # float32, in another order
    assert torch.equal(twin(images), expected)


def test_convolutions_without_bias_are_named():
    assert without_bias(models.build("vgg11-quarter")) == []
    assert without_bias(models.build("resnet8"))[:2] == ["stem", "block1.conv1"]
