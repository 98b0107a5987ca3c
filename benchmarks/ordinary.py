"""A network as people run it without geoshift: exported whole, its weights constants of an ordinary session."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from runtime.walking.rows import Floats

Runner = Callable[[Floats], Floats]
WARM = 20


def exported(module: nn.Module, x: Floats) -> bytes:
    """PyTorch's own export with its own optimisation, for any batch size."""
    pair = torch.from_numpy(x[:1]).expand(2, *x.shape[1:]).contiguous()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's internals
        program = torch.onnx.export(
            module, (pair,), dynamo=True, verbose=False, input_names=["input"], output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def session(model: bytes, threads: int = 1) -> Any:
    """An ONNX Runtime session with its defaults, but for the threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def paired_seconds(runners: Sequence[Runner], x: Floats, pairs: int, seed: int) -> np.ndarray:
    """Seconds of one answer of each runner, run in turn and in random order, so that other load hits all alike.

    Returns:
        Shape [pairs, runners].
    """
    rng = np.random.default_rng(seed)
    times = np.empty((WARM + pairs, len(runners)))
    for row in times:
        for place in rng.permutation(len(runners)):
            begun = time.perf_counter()
            runners[place](x)
            row[place] = time.perf_counter() - begun
    return times[WARM:]
