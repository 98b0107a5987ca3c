import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from safetensors.numpy import save
from torch import nn

import planner
from planner.export import ExportError, export_compact, export_live
from runtime.walking.session import Session
from tests.planner.exported import (
    LOGITS,
    MOVED,
    PRUNED,
    SAMPLE,
    Call,
    inputs,
    masked,
    numpy_state,
    torch_answer,
    traced,
)


@pytest.fixture(scope="module")
def network():
    return traced()


@pytest.fixture(scope="module")
def live(network):
    return export_live(network.module, SAMPLE, MOVED)


@pytest.fixture(scope="module")
def x():
    return inputs()


def test_live_graph_reads_the_moved_tensors_in_the_order_asked_for(network, live):
    graph = onnx.load_model_from_string(live).graph
    assert [value.name for value in graph.input] == ["input", *MOVED]
    assert [value.name for value in graph.output] == ["output"]


def test_every_tensor_keeps_name_shape_and_type_and_none_has_data(network, live):
    graph = onnx.load_model_from_string(live).graph
    state = network.module.state_dict()
    used = {name for name in state if not name.startswith("unused") and not name.endswith("num_batches_tracked")}
    outside = {one.name: one for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL}
    assert used == set(outside) | set(MOVED)
    assert all(tuple(one.dims) == tuple(state[name].shape) for name, one in outside.items())
    assert all(one.data_type == onnx.TensorProto.FLOAT and not one.raw_data for one in outside.values())
    assert len(live) < 6000


@pytest.mark.parametrize("kept", PRUNED)
def test_live_graph_answers_as_torch_does_in_every_state(network, live, x, kept):
    state = masked(network, kept)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    session = Session(live, {name: one for name, one in arrays.items() if name not in MOVED})
    answer = session.run(x.numpy(), session.bind({name: arrays[name] for name in MOVED}))
    np.testing.assert_allclose(answer, torch_answer(network.module, state, x), atol=LOGITS)


def test_live_graph_is_a_standard_model_beside_its_weights(network, x, tmp_path):
    state = numpy_state(network.module)
    raw = save({name: one for name, one in state.items() if name not in MOVED})
    (tmp_path / "base.safetensors").write_bytes(raw)
    (tmp_path / "graph.onnx").write_bytes(export_live(network.module, SAMPLE, MOVED, places(raw)))
    onnx.checker.check_model(tmp_path / "graph.onnx", full_check=True)
    reference = onnx.reference.ReferenceEvaluator(str(tmp_path / "graph.onnx"))
    (answer,) = reference.run(None, {"input": x.numpy(), **{name: state[name] for name in MOVED}})
    np.testing.assert_allclose(answer, torch_answer(network.module, {}, x), atol=LOGITS)


def places(raw):
    """Offset and length of each tensor in a safetensors file."""
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    return {name: (8 + size + one["data_offsets"][0], one["data_offsets"][1] - one["data_offsets"][0])
            for name, one in header.items() if name != "__metadata__"}  # fmt: skip


EXPORT_ELSEWHERE = """
import hashlib
from planner.export import export_compact, export_live
from tests.planner.exported import MOVED, PRUNED, SAMPLE, traced
network = traced()
live = export_live(network.module, SAMPLE, MOVED)
for raw in (live, export_compact(live, PRUNED[-1], network.layers)):
    print(hashlib.sha256(raw).hexdigest())
"""


def test_the_same_network_gives_the_same_bytes_in_another_process(network, live):
    own = [live, export_compact(live, PRUNED[-1], network.layers)]
    root = Path(planner.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", EXPORT_ELSEWHERE], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [hashlib.sha256(raw).hexdigest() for raw in own]


def test_files_hold_no_path_no_stack_and_no_version(network, live):
    for raw in (live, export_compact(live, PRUNED[-1], network.layers)):
        assert not re.search(rb"/\w\w|\.py|torch|forward|self\.", raw)
        model = onnx.load_model_from_string(raw)
        assert not any(part.doc_string or part.metadata_props for part in (model, model.graph, *model.graph.node))


def test_exporting_changes_nothing_and_says_nothing(network, live, capfd):
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    assert export_live(network.module, SAMPLE, MOVED) == live
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.module.state_dict().items())
    assert capfd.readouterr() == ("", "")


def affine(function):
    return nn.Sequential(nn.Linear(4, 3), Call(function)).eval()


@pytest.mark.parametrize(
    ("module", "moved", "text"),
    [
        (nn.Linear(4, 3), [], r"call \.eval\(\)"),
        (nn.Linear(4, 3).eval(), ["odd"], "'odd' is to move.*expected some of weight, bias"),
        (affine(lambda x: x.view(2, 3)), [], "one output whose first dimension is the batch, free in size"),
        (affine(lambda x: torch.linalg.svdvals(x[:, :, None])), [], "cannot be exported.*svd"),
        (affine(lambda x: x + torch.ones(30000, 3).cumsum(0)[-1:]), [], "register it as a buffer"),
    ],
)
def test_networks_that_cannot_be_exported_are_refused(module, moved, text):
    with pytest.raises(ExportError, match=text):
        export_live(module, torch.zeros(1, 4), moved)


def test_a_weight_the_exporter_would_change_is_found(monkeypatch):
    module = nn.Linear(4, 3).eval()
    changed = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    monkeypatch.setattr(module, "state_dict", lambda: changed)
    with pytest.raises(ExportError, match=r"'weight'.*state dict's bits"):
        export_live(module, torch.zeros(1, 4), [])
