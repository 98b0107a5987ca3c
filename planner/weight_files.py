"""Files of weights that a plan is given: which mode each is for, and what they hold.

A profile says that a mode is another network, not where its file lies: it is written once for a kind of device and
copied into every bundle, and a path of the machine that planned would mean nothing there. So files come with the
command, ``--weights MODE=FILE``.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from device_profiles import GeoshiftError, Profile
from device_profiles.schema import nearest
from planner import checkpoint, onnx_weights
from planner.endpoint import Removed
from planner.network import Network, trace

HEADER_BYTES = 16 << 20
"""What a file may hold beside its tensors: names, shapes and metadata."""
_MODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class WeightFileError(GeoshiftError):
    """A file of weights is missing, is for a mode that takes none, or does not fit."""


@dataclass(frozen=True)
class Given:
    """Another network's weights.

    Attributes:
        tensors: By state-dict key of the traced network, batch norms folded.
        sha256: Digest of the file, and of external data after it, in hexadecimal.
        removed: Units that hold nothing, by layer; the network can do without them.
    """

    tensors: Mapping[str, Tensor]
    sha256: str
    removed: Removed = field(default_factory=dict)


def by_mode(arguments: Sequence[str], profile: Profile) -> tuple[Path | None, dict[str, Path]]:
    """Take ``--weights`` apart: the dense network's file, and those of other networks by mode.

    ``MODE=FILE`` is for a mode; anything else is the dense network's. A file whose own name looks like that is written
    with its folder, ``./lr=0.1.safetensors``.

    Args:
        arguments: What stands behind each ``--weights``.
        profile: Has the modes.

    Raises:
        WeightFileError: A mode is unknown or takes no file, or one is named twice.
    """
    dense = next(name for name, mode in profile.modes.items() if mode.from_ is None)
    found: dict[str, Path] = {}
    for argument in arguments:
        mode, equals, file = argument.partition("=")
        if not equals or not _MODE_NAME.fullmatch(mode):
            mode, file = dense, argument
        _check_takes_file(profile, mode, argument, also=dense)
        if mode in found:
            raise WeightFileError(
                f"{argument}: found a second file for mode {mode!r}, after {found[mode]}; expected one: drop the other"
            )
        if not file:
            raise WeightFileError(f"{argument}: found no file, expected one behind '=': name the checkpoint")
        found[mode] = Path(file)
    return found.pop(dense, None), found


def said_by(path: Path) -> dict[str, str]:
    """What a file says about its weights; nothing in an ONNX file, which says no more than is checked anyway.

    Raises:
        CheckpointError: There is no such file, or it is no whole safetensors file.
    """
    return {} if onnx_weights.is_onnx(path) else checkpoint.read_metadata(path)


def read_dense(path: Path, module: nn.Module, inputs: np.ndarray) -> nn.Module:
    """The dense network with the weights of a file.

    Args:
        path: A safetensors or ONNX file.
        module: The network; changed, or left alone and another one returned.
        inputs: Samples to compare an ONNX file's answers with, float32 [any, ...].

    Raises:
        CheckpointError: A safetensors file does not fit.
        GeoshiftError: An ONNX file does not fit; see `planner.onnx_weights`.
    """
    if onnx_weights.is_onnx(path):
        return onnx_weights.load(path, module, torch.from_numpy(inputs[: onnx_weights.SAMPLES])).module
    checkpoint.load(path, module)
    return module


def read_given(
    files: Mapping[str, str | os.PathLike[str]], profile: Profile, module: nn.Module, network: Network, sample: Tensor
) -> dict[str, Given]:
    """Read the weights of all modes that are another network.

    Args:
        files: Mode name to checkpoint.
        profile: Says which modes need one.
        module: The dense network as its author wrote it; not changed.
        network: The same, traced.
        sample: Inputs to trace with, [any, ...].

    Raises:
        WeightFileError: A mode has no file, or a file is for none of the modes, too large, of the dense network itself,
            or differs in tensors that no path writes.
        CheckpointError: A file is not safetensors, or its names, shapes, types or values do not fit.
        GeoshiftError: An ONNX file does not fit; see `planner.onnx_weights`.
    """
    for mode in files:
        _check_takes_file(profile, mode, f"weights of mode {mode!r}")
    for name, one in profile.modes.items():
        if one.weights is not None and name not in files:
            raise WeightFileError(
                f"mode {name!r}: found no file, expected one, as the profile says `weights: given`: add "
                f"--weights {name}=FILE"
            )
    return {mode: _read(Path(path), module, network, sample) for mode, path in files.items()}


def _read(path: Path, module: nn.Module, network: Network, sample: Tensor) -> Given:
    if onnx_weights.is_onnx(path):
        loaded = onnx_weights.load(path, module, sample, network)
        own, sha256 = loaded.module, loaded.sha256
    else:
        own = copy.deepcopy(module)
        content = _content(path, sum(one.numel() * one.element_size() for one in own.state_dict().values()))
        checkpoint.load_bytes(content, path, own)
        sha256 = hashlib.sha256(content).hexdigest()
    other = trace(own, sample).module.state_dict()
    dense = network.module.state_dict()
    moved = {key for layer in network.layers for key in (layer.weight, layer.bias) if key is not None}
    for key in network.graph.state_dict():
        if key in moved and not torch.isfinite(other[key]).all():
            raise WeightFileError(
                f"{path}: {key} is not finite once its batch norm is folded in; expected finite weights"
            )
        if key not in moved and not torch.equal(other[key], dense[key]):
            raise WeightFileError(
                f"{path}: {key} differs from the dense network's; expected the same, since a device rewrites only the "
                "weights and biases of convolutions and linear layers: train the other network with this tensor frozen"
            )
    if all(torch.equal(other[key], dense[key]) for key in moved):
        raise WeightFileError(f"{path}: found the dense network's own weights, expected another's: give its file")
    tensors = {key: (other[key] if key in moved else tensor).detach().clone() for key, tensor in dense.items()}
    tensors, removed = onnx_weights.without_dead(network, tensors, sample)
    return Given(tensors, sha256, removed)


def _content(path: Path, tensor_bytes: int) -> bytes:
    """A file's bytes, read once: what is hashed is what is parsed."""
    if not path.is_file():
        raise WeightFileError(f"{path}: there is no such file; expected a .safetensors file of weights")
    limit = tensor_bytes + HEADER_BYTES
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise WeightFileError(
            f"{path}: found {path.stat().st_size} bytes, expected at most {limit}, as the network's tensors take "
            f"{tensor_bytes}; give a checkpoint of the same network"
        )
    return content


def _check_takes_file(profile: Profile, mode: str, what: str, also: str | None = None) -> None:
    """Refuse a mode that there is not, or that needs no file; ``also`` is one that may have one."""
    takers = [name for name, one in profile.modes.items() if one.weights is not None or name == also]
    if mode in takers:
        return
    how = f"mode {mode!r}, which is no other network" if mode in profile.modes else f"the unknown mode {mode!r}"
    remedy = "" if also is None else f"; for a file of that name write ./{what}"
    raise WeightFileError(
        f"{what}: found {how}, expected one of {', '.join(takers) or 'none'}: "
        f"{nearest(mode, takers)}correct the name, or give the mode `weights: given` in the profile{remedy}"
    )
