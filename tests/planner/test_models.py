"""Networks that ship with geoshift and the way to a user's own."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import fx, nn

from planner.models import BUILTIN, ModelError, build

SHAPES = {
    "digits-cnn": (1, 8, 8),
    "lenet5": (1, 28, 28),
    "lenet-300-100": (1, 28, 28),
    "resnet8": (3, 32, 32),
    "resnet8-wide": (3, 32, 32),
    "vgg11": (3, 32, 32),
    "vgg11-quarter": (3, 32, 32),
}
WEIGHTS = {
    "digits-cnn": 13_706,
    "lenet5": 431_080,
    "lenet-300-100": 266_610,
    "resnet8": 308_458,
    "resnet8-wide": 1_227_210,
    "vgg11": 28_144_010,
    "vgg11-quarter": 1_769_066,
}


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user whose modules the tests write; what they import is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).is_relative_to(tmp_path):
            del sys.modules[name]


def weights_of(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_every_builtin_network_has_a_known_shape():
    assert BUILTIN.keys() == SHAPES.keys()


@pytest.mark.parametrize("definition", SHAPES)
def test_builtin_network_answers_ten_logits_and_can_be_traced(definition):
    module = build(definition).eval()
    images = torch.zeros(3, *SHAPES[definition])

    logits = module(images)

    assert logits.shape == (3, 10)
    assert weights_of(module).numel() == WEIGHTS[definition]
    assert torch.equal(fx.symbolic_trace(module)(images), logits)


def test_vgg11_has_the_keys_and_convolutions_of_torchvision():
    with torch.device("meta"):
        theirs = torchvision.models.vgg11().state_dict()
    own = build("vgg11").state_dict()

    assert own.keys() == theirs.keys()
    features = [name for name in own if name.startswith("features")]
    assert len(features) == 16
    assert all(own[name].shape == theirs[name].shape for name in features)
    shapes = [list(own[f"classifier.{number}.weight"].shape) for number in (0, 3, 6)]
    assert shapes == [[4096, 512], [4096, 4096], [10, 4096]]


def test_quarter_width_is_a_quarter_of_every_hidden_layer():
    whole, quarter = build("vgg11").state_dict(), build("vgg11-quarter").state_dict()

    assert all(
        4 * len(quarter[name]) == len(tensor) for name, tensor in whole.items() if not name.startswith("classifier.6")
    )


def test_resnet8_halves_the_image_twice_and_adds_what_came_in():
    module = build("resnet8").eval()
    maps = module.block1(torch.ones(2, 32, 32, 32))

    assert maps.shape == (2, 32, 32, 32)
    assert module.block2(maps).shape == (2, 64, 16, 16)
    assert isinstance(module.block1.shortcut, nn.Identity)
    assert isinstance(module.block3.shortcut, nn.Conv2d)
    with torch.no_grad():
        module.block1.norm2.weight.zero_()  # the inner way answers zero now
    passed = torch.rand(1, 32, 8, 8)
    assert torch.equal(module.block1(passed), passed)


def test_same_seed_gives_same_weights_and_leaves_torch_alone():
    state = torch.random.get_rng_state()

    first, again, other = (weights_of(build("digits-cnn", seed=seed)) for seed in (4, 4, 5))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_users_function_class_and_nested_attribute_are_built(user_folder):
    package = user_folder / "my_networks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "width.py").write_text("WIDTH = 3\n")
    (package / "small.py").write_text(
        "from torch import nn\n"
        "class Small(nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(2, 4)\n"
        "class Shelf:\n"
        "    @staticmethod\n"
        "    def make():\n"
        "        from my_networks.width import WIDTH\n"
        "        return nn.Linear(2, WIDTH)\n"
    )
    path_before = list(sys.path)

    assert build("my_networks.small:Small").out_features == 4
    assert build("my_networks.small:Shelf.make").out_features == 3
    assert sys.path == path_before


@pytest.mark.parametrize(
    ("definition", "source", "message"),
    [
        ("lenet6", "", "lenet5, resnet8, resnet8-wide, vgg11, vgg11-quarter, or"),
        ("my_net:", "", "expected package.module:function"),
        ("my net:build", "", "expected package.module:function"),
        ("no_such_module_here:build", "", "module 'no_such_module_here' was not found in"),
        ("my_net.deeper:build", "", "module 'my_net.deeper' was not found"),
        ("my_net:build", "import no_such_library\n", "needs 'no_such_library', which is not installed"),
        ("my_net:build", "1 / 0\n", "importing my_net raised ZeroDivisionError: division by zero"),
        ("my_net:build", "def biuld(): ...\n", "my_net has no 'build'; it offers biuld"),
        ("my_net:build", "build = 3\n", "found 'build' of type int"),
        ("my_net:build", "def build(width): ...\n", "raised TypeError"),
        ("my_net:build", "def build(): raise RuntimeError('no weights')\n", "raised RuntimeError: no weights"),
        ("my_net:build", "def build(): return 'a network'\n", "returned str, expected a torch.nn.Module"),
        ("my_net:build", "def build(: pass\n", "raised SyntaxError"),
    ],
)
def test_wrong_definition_is_named(user_folder, definition, source, message):
    (user_folder / "my_net.py").write_text(source)

    with pytest.raises(ModelError) as caught:
        build(definition)

    assert message in str(caught.value)
    assert definition in str(caught.value)
