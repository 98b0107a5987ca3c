"""Structure of networks: who reads whom, and why some layers are fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.func import functional_call

from planner.network import TraceError, UnknownLayer, removable, trace


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads cost such small networks more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Plain(nn.Module):
    """Methods and functions between the layers, as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1,), 0.5))
        self.conv1 = nn.Conv2d(1, 4, 3, stride=2, bias=False)
        self.conv2 = nn.Conv2d(4, 6, (1, 3), padding="same", dilation=2)
        self.fc1 = nn.Linear(6 * 3 * 3, 8)
        self.fc2 = nn.Linear(8, 5)
        self.fc3 = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.25
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = self.conv2(x)
        x = x * torch.sigmoid(x)
        x = x.view(x.size(0), -1)
        x = F.dropout(F.hardtanh(self.fc1(x)) + 1, training=self.training)
        x = self.fc2(x).tanh().reshape(x.shape[0], 5, 1).squeeze(2)
        return F.log_softmax(self.fc3(x), dim=1)


class Vgg(nn.Module):
    """torchvision's VGG in small: the same names, its own feature builder, a pooling to a fixed size."""

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        self.features = torchvision.models.vgg.make_layers([4, "M", 6, 6, "M"], batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(
            nn.Linear(6 * 9, 12), nn.ReLU(True), nn.Dropout(), nn.Linear(12, 7), nn.ReLU(True), nn.Linear(7, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Pooled(nn.Module):
    """Global average pooling by `mean`, and one-by-one convolutions behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.squeeze = nn.Conv2d(5, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu_().mean(dim=(2, 3), keepdim=True)
        return self.head(torch.flatten(self.squeeze(x), 1))


NETWORKS = [(Plain, (1, 14, 14)), (Vgg, (3, 12, 12)), (Pooled, (1, 6, 6))]


def test_every_field_of_a_layer() -> None:
    network = trace(Plain(), torch.zeros(1, 1, 14, 14))
    assert [layer.name for layer in network.layers] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    conv1, conv2, fc1, _, fc3 = network.layers
    assert (conv1.role, conv1.weight, conv1.bias) == ("convolution", "conv1.weight", None)
    assert (conv1.units, conv1.columns, conv1.positions, conv1.macs) == (4, 9, 36, 4 * 9 * 36)
    assert (conv1.reads, conv1.reader, conv1.why_fixed) == (None, "conv2", None)
    assert (conv2.reads, conv2.columns_per_unit, conv2.columns, conv2.positions) == ("conv1", 3, 12, 9)
    assert (fc1.role, fc1.bias, fc1.reads, fc1.columns_per_unit) == ("classifier", "fc1.bias", "conv2", 9)
    assert (fc1.positions, fc1.macs) == (1, 54 * 8)
    assert fc3.reader is None
    assert fc3.why_fixed is not None
    assert "output layer" in fc3.why_fixed
    assert [layer.name for layer in removable(network)] == ["conv1", "conv2", "fc1", "fc2"]
    assert network.input_shape == (1, 14, 14)


def test_sequential_names_and_a_pooling_to_a_fixed_size() -> None:
    network = trace(Vgg(), torch.zeros(2, 3, 12, 12))
    names = ["features.0", "features.3", "features.5", "classifier.0", "classifier.3", "classifier.5"]
    assert [layer.name for layer in network.layers] == names
    assert [layer.reads for layer in network.layers] == [None, *names[:-1]]
    assert network.layer("classifier.0").columns_per_unit == 9
    assert [layer.name for layer in removable(network)] == names[:-1]


@pytest.mark.parametrize(("build", "shape"), NETWORKS)
def test_units_without_columns_can_be_zeroed_and_no_output_changes(
    build: type[nn.Module], shape: tuple[int, ...]
) -> None:
    """What `reads` and `columns_per_unit` promise, for every other unit of every layer that is not fixed."""
    torch.manual_seed(0)
    network = trace(build(), torch.zeros(1, *shape))
    x = torch.randn(3, *shape)
    state = network.module.state_dict()
    for layer in removable(network):
        reader = network.layer(layer.reader or "")
        assert reader.reads == layer.name
        assert reader.columns_per_unit * layer.units == reader.columns
        odd = torch.arange(layer.units) % 2 == 1
        cut = {key: value.clone() for key, value in state.items()}
        cut[reader.weight].flatten(1)[:, odd.repeat_interleave(reader.columns_per_unit)] = 0
        gone = {key: value.clone() for key, value in cut.items()}
        for key in (layer.weight, layer.bias):
            if key:
                gone[key][odd] = 0
        wrong = {key: value.clone() for key, value in gone.items()}
        wrong[layer.weight][0] = 0
        with torch.no_grad():
            answers = [functional_call(network.module, weights, (x,)) for weights in (cut, gone, wrong)]
        assert torch.equal(answers[0], answers[1])
        assert not torch.equal(answers[1], answers[2])


def test_the_users_module_is_left_alone() -> None:
    module = Vgg(batch_norm=True).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    network = trace(module, torch.randn(2, 3, 12, 12))
    assert module.training
    assert not network.module.training
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


class Wired(nn.Module):
    """A convolution whose units go wherever `wire` leads them."""

    def __init__(self, wire: str) -> None:
        super().__init__()
        self.wire = WIRES[wire]
        width = 4 if wire == "grouped reader" else 2
        self.a = nn.Conv2d(2, width, 1)
        self.b = nn.Conv2d(width, width, 1, groups=width // 2)
        self.c = nn.Conv2d(width, 2, 1)
        self.prelu = nn.PReLU(2)
        self.depthwise, self.deep = nn.Conv2d(2, 2, 1, groups=2), nn.Conv2d(4, 4, 1, groups=4)
        self.wide = nn.Linear(4, 2)
        if wire == "tied":
            self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        return self.wire(self, self.a(x))


WIRES: dict[str, Callable[[Wired, Tensor], Tensor]] = {
    "member of the output": lambda self, a: a + self.b(a),
    "reader tied to the output": lambda self, a: self.b(a) * self.c(a),
    "residual": lambda self, a: self.c(a + self.x),
    "otherwise divided": lambda self, a: self.c(torch.cat([a[:, :1], a[:, 1:]], 1) + a),
    "other concat": lambda self, a: self.c(torch.cat([a, self.b(a)], 2)),
    "quotient": lambda self, a: self.c(a / self.b(a)),
    "depthwise image": lambda self, a: self.c(a * self.depthwise(self.x)),
    "depthwise of two": lambda self, a: self.wide(self.deep(torch.cat([a, self.b(a)], 1)).mean((2, 3))),
    "output": lambda self, a: a,
    "early output": lambda self, a: (a, self.c(a)),
    "softmax": lambda self, a: self.c(a.softmax(1)),
    "prelu": lambda self, a: self.c(self.prelu(a)),
    "permute": lambda self, a: self.c(a.permute(0, 1, 3, 2)),
    "dropout": lambda self, a: self.c(F.dropout(a)),
    "wrong axis": lambda self, a: self.wide(a),
    "chunk": lambda self, a: self.c(a.chunk(2, 2)[0]),
    "shared reader": lambda self, a: self.c(self.c(a)),
    "shared": lambda self, a: self.c(self.a(a)),
    "grouped reader": lambda self, a: self.c(self.b(a)),
    "tied": lambda self, a: self.c(self.b(a)),
    "nobody": lambda self, a: self.c(torch.zeros_like(a)),
}


@pytest.mark.parametrize(
    ("wire", "layer", "reason"),
    [
        ("member of the output", "a", "output layer"),
        ("reader tied to the output", "b", "output layer"),
        ("residual", "a", "added to another branch at 'add' (a residual connection to other units or none)"),
        ("otherwise divided", "a", "operation 'getitem'"),
        ("other concat", "a", "concatenated with another branch at 'cat'"),
        ("other concat", "b", "concatenated with another branch at 'cat'"),
        ("quotient", "a", "combined with another branch at 'truediv'"),
        ("depthwise image", "a", "its units are those of 'depthwise' too, which cannot lose any: it is a depthwise"),
        ("depthwise image", "depthwise", "it is a depthwise convolution whose inputs are not the units of one layer"),
        ("depthwise of two", "a", "depthwise convolution 'deep' reads units of several layers"),
        ("output", "a", "output layer"),
        ("early output", "a", "output layer"),
        ("softmax", "a", "operation 'softmax', which geoshift cannot follow"),
        ("prelu", "a", "module 'prelu' (PReLU), which geoshift cannot follow"),
        ("permute", "a", "operation 'permute'"),
        ("dropout", "a", "operation 'dropout'"),
        ("wrong axis", "a", "'wide' reads its units together"),
        ("nobody", "a", "operation 'zeros_like'"),
        ("chunk", "a", "operation 'chunk' makes of its units something other than one tensor"),
        ("shared reader", "a", "its reader 'c' is a module that is called 2 times"),
        ("shared", "a", "it is a module that is called 2 times"),
        ("grouped reader", "a", "its reader 'b' is a grouped convolution (groups=2)"),
        ("grouped reader", "b", "it is a grouped convolution (groups=2)"),
        ("tied", "a", "its reader 'b' is a layer that shares its weights with 'c'"),
        ("tied", "b", "it is a layer that shares its weights with 'c'"),
    ],
)
def test_why_a_layer_is_fixed(wire: str, layer: str, reason: str) -> None:
    fixed = trace(Wired(wire), torch.zeros(1, 2, 4, 4)).layer(layer)
    assert fixed.why_fixed is not None
    assert reason in fixed.why_fixed


def test_a_residual_network_and_its_streams() -> None:
    network = trace(torchvision.models.resnet18(num_classes=3), torch.zeros(1, 3, 32, 32))
    assert len(network.layers) == 21
    groups = {layer.name: [one.name for one in network.members(layer.name)] for layer in removable(network)}
    assert groups["conv1"] == ["conv1", "layer1.0.conv2", "layer1.1.conv2"]
    assert groups["layer4.0.conv2"] == ["layer4.0.conv2", "layer4.0.downsample.0", "layer4.1.conv2"]
    assert len(groups) == 4 + 8
    assert network.layer("layer1.1.conv2").readers == (
        "layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.downsample.0"
    )  # fmt: skip
    assert network.layer("layer2.0.downsample.0").reads == "conv1"
    assert network.layer("fc").reads == "layer4.0.conv2"


def test_linear_layers_on_sequences() -> None:
    network = trace(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)), torch.zeros(1, 5, 4))
    first, second = network.layers
    assert (first.positions, first.macs, first.reader, first.why_fixed) == (5, 5 * 24, "2", None)
    assert (second.reads, second.columns_per_unit) == ("0", 1)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.fc(x + y)


class Branches(TwoInputs):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


class BatchOfOne(TwoInputs):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(1, 2))


@pytest.mark.parametrize(
    ("module", "sample", "message"),
    [
        (TwoInputs(), torch.zeros(1, 2), "takes 2 inputs (x, y); expected one"),
        (Branches(), torch.zeros(1, 2), "cannot be traced"),
        (BatchOfOne(), torch.zeros(1, 2), "expected a network that takes batches of any size"),
        (nn.Sequential(nn.Linear(3, 2)), torch.zeros(1, 2), "fails on a batch of shape [2, 2]"),
        (nn.Sequential(nn.ReLU()), torch.zeros(1, 2), "calls no Conv2d or Linear"),
        (nn.Sequential(nn.Linear(2, 2)), torch.zeros(2), "expected a batch of inputs"),
        (nn.Sequential(nn.Linear(2, 2)), torch.zeros(0, 2), "expected a batch of inputs"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))),
            torch.zeros(1, 2),
            "remove_parametrizations",
        ),
    ],
)
def test_what_cannot_be_traced_says_so(module: nn.Module, sample: Tensor, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        trace(module, sample)
    assert message.lower() in str(caught.value).lower()


def test_an_unknown_layer_lists_the_known() -> None:
    network = trace(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.zeros(1, 2))
    with pytest.raises(UnknownLayer, match="'fc' is not in the network; expected one of: 0, 1"):
        network.layer("fc")
