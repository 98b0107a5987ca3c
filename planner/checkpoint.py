"""Weights on disk: safetensors with string metadata, written all at once, checked when read. No pickle."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from device_profiles.errors import GeoshiftError

FORMAT = "geoshift.checkpoint/1"
_OWN_FORMATS = "geoshift."  # other tools use the metadata key "format" too, with words such as "pt"


class CheckpointError(GeoshiftError):
    """A file of weights cannot be written, cannot be read, or does not fit the network."""


def save(path: Path, module: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write a network's weights, so that `path` holds either the former file or the whole new one.

    The same weights and metadata give the same bytes.

    Args:
        path: File to write; its folder has to exist.
        module: Network whose state is written.
        metadata: What the weights are: definition, dataset, accuracy, seed, epochs.

    Raises:
        CheckpointError: A weight is not finite, or the file cannot be written.
    """
    state = module.state_dict()
    for name, tensor in state.items():
        if bad := _not_finite(tensor):
            raise CheckpointError(f"{path}: {name} has {bad} values that are not finite; nothing was written")
    write_tensors(path, state, {**metadata, "format": FORMAT})


def load(path: Path, module: nn.Module) -> dict[str, str]:
    """Read weights into a network; it is changed only if everything in the file fits.

    A safetensors file of another tool is read as well, if the names fit. Half-precision weights are widened.

    Args:
        path: File to read.
        module: Network to fill.

    Returns:
        The file's metadata.

    Raises:
        CheckpointError: The file cannot be read, is of another format, or a tensor is missing, unexpected, of
            another shape or dtype, or not finite.
    """
    return _fill(path, *read_tensors(path), module)


def load_bytes(content: bytes, path: Path, module: nn.Module) -> dict[str, str]:
    """The same from bytes that were read already, for those who need to know that what they saw is what was loaded.

    Args:
        content: A safetensors file.
        path: What to call it in errors.
        module: Network to fill.

    Returns:
        The file's metadata.

    Raises:
        CheckpointError: As for ``load``.
    """
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError) as cause:
        raise CheckpointError(f"{path} is not a whole safetensors file: {cause}") from cause
    return _fill(path, tensors, dict(_header(content).get("__metadata__", {})), module)


def _fill(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str], module: nn.Module) -> dict[str, str]:
    """Give a network the tensors of a file, all or none."""
    found_format = metadata.get("format", "")
    if found_format.startswith(_OWN_FORMATS) and found_format != FORMAT:
        raise CheckpointError(f"{path}: its format is {found_format!r}, expected {FORMAT!r}")
    expected = module.state_dict()
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: missing {', '.join(missing) or 'none'}; unexpected {', '.join(unexpected) or 'none'}; expected "
            f"{_expectation(metadata, module)}"
        )
    for name, own in expected.items():
        if tensors[name].shape != own.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {list(tensors[name].shape)}, expected {list(own.shape)}: "
                f"{_expectation(metadata, module)}"
            )
    module.load_state_dict({name: _fitting(path, name, tensors[name], own) for name, own in expected.items()})
    return metadata


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself; its tensors are not read.

    Raises:
        CheckpointError: There is no such file, or it is no whole safetensors file.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors and metadata as one safetensors file, atomically and reproducibly.

    Raises:
        CheckpointError: The file cannot be written.
    """
    # clones, since safetensors refuses tensors that share memory, as tied weights do
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = _with_sorted_header(safetensors.torch.save(plain, dict(metadata)))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as cause:
        raise CheckpointError(f"{path} cannot be written: {cause.strerror or cause}") from cause


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors and the metadata of a safetensors file.

    Raises:
        CheckpointError: There is no such file, or it is no whole safetensors file.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as cause:
        raise CheckpointError(f"{path}: there is no such file; expected a .safetensors file of weights") from cause
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(f"{path} is not a whole safetensors file: {cause}") from cause


def _fitting(path: Path, name: str, found: Tensor, own: Tensor) -> Tensor:
    """A tensor of the file as the network needs it."""
    half = (torch.float16, torch.bfloat16)
    if found.dtype != own.dtype and not (own.dtype == torch.float32 and found.dtype in half):
        raise CheckpointError(
            f"{path}: {name} is {_word(found.dtype)}, expected {_word(own.dtype)}"
            + (" or a half-precision type" if own.dtype == torch.float32 else "")
        )
    if bad := _not_finite(found):
        raise CheckpointError(f"{path}: {name} has {bad} values that are not finite, expected none")
    return found.to(own.dtype)


def _not_finite(tensor: Tensor) -> int:
    return int((~torch.isfinite(tensor)).sum())


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _expectation(metadata: Mapping[str, str], module: nn.Module) -> str:
    said = f", but the file says it holds {metadata['definition']!r}" if "definition" in metadata else ""
    return f"weights of {type(module).__name__}{said}"


def _with_sorted_header(content: bytes) -> bytes:
    """The same safetensors file with its header's keys in order; the library writes metadata in random order."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(_header(content), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format aligns the data to 8 bytes
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _header(content: bytes) -> dict[str, Any]:
    """Header of a whole safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; only POSIX lets a folder be synchronised."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
