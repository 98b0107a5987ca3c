"""Weight space: the tensors of a network that move, as one flat vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from device_profiles.errors import GeoshiftError


class ConfigurationError(GeoshiftError):
    """The tensors named do not span a weight space."""


class ShapeMismatch(GeoshiftError):
    """A tensor or vector does not have the shape or element type its place in weight space asks for."""


@dataclass(frozen=True)
class Configuration:
    """Coordinates of a weight space W = Rⁿ: which tensors move, in which order, with which shapes.

    It holds no weights. A point or a tangent vector is a tensor of shape [n]; a state dict gives a point through
    `flatten`, and `unflatten` gives back the tensors that `torch.func.functional_call` takes.

    Attributes:
        names: Keys of the moved tensors in the state dict, in the order of the vector.
        shapes: Their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, state: Mapping[str, Tensor], names: Sequence[str]) -> Configuration:
        """The weight space of some tensors of a network.

        Args:
            state: The network's state dict; only shapes are read.
            names: Keys of the tensors that move.

        Returns:
            The configuration.

        Raises:
            ConfigurationError: no name is given, one is unknown or given twice, two are the same tensor, or one is
                not floating point.
        """
        if not names:
            raise ConfigurationError("no tensors are named: expected at least one key of the state dict")
        places: dict[tuple[str, int], str] = {}
        for name in names:
            if name not in state:
                known = ", ".join(state)
                raise ConfigurationError(f"tensor {name!r} is not in the state dict; expected one of: {known}")
            tensor = state[name]
            if not tensor.is_floating_point():
                raise ConfigurationError(
                    f"tensor {name!r} has element type {tensor.dtype}: expected floating point; leave it out, it "
                    "stays as it is"
                )
            # Tied tensors share their storage: as two coordinates they could be asked to differ.
            other = places.setdefault((str(tensor.device), tensor.data_ptr()), name)
            if other != name or list(names).count(name) > 1:
                raise ConfigurationError(f"{other!r} and {name!r} are one tensor: name it once")
        return cls(tuple(names), tuple(state[name].shape for name in names))

    @property
    def size(self) -> int:
        """Dimension n of the weight space."""
        return sum(shape.numel() for shape in self.shapes)

    @property
    def slices(self) -> dict[str, slice]:
        """Which entries of the vector belong to which tensor."""
        ends = list(accumulate(shape.numel() for shape in self.shapes))
        return {name: slice(a, b) for name, a, b in zip(self.names, [0, *ends], ends, strict=False)}

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The point with these weights.

        Args:
            tensors: At least the moved tensors, all of one floating-point type on one device; others are ignored,
                so that a whole state dict will do.

        Returns:
            A new vector, shape [n].

        Raises:
            ShapeMismatch: a tensor is missing, or has another shape or element type.
        """
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in tensors:
                raise ShapeMismatch(f"tensor {name!r} is missing: expected shape {list(shape)}")
            if tensors[name].shape != shape:
                raise ShapeMismatch(f"tensor {name!r} has shape {list(tensors[name].shape)}: expected {list(shape)}")
        moved = [tensors[name] for name in self.names]
        kinds = {(str(tensor.dtype), str(tensor.device)) for tensor in moved}
        if len(kinds) > 1 or not moved[0].is_floating_point():
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise ShapeMismatch(f"the moved tensors are {found}: expected one floating-point type on one device")
        return torch.cat([tensor.reshape(-1) for tensor in moved])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """The moved tensors of a point or tangent vector.

        Args:
            vector: Shape [n].

        Returns:
            A view of the vector for each name: clone one before you write into it.

        Raises:
            ShapeMismatch: the vector does not have n floating-point entries.
        """
        self.check(vector)
        shapes = zip(self.slices.items(), self.shapes, strict=True)
        return {name: vector[entries].view(shape) for (name, entries), shape in shapes}

    def check(self, vector: Tensor, like: Tensor | None = None) -> None:
        """Refuse a vector that does not lie in this weight space.

        Args:
            vector: A point or tangent vector.
            like: A tensor whose element type and device it has to share, if any.

        Raises:
            ShapeMismatch: it does not have n floating-point entries of the type and on the device expected.
        """
        if vector.shape != (self.size,) or not vector.is_floating_point():
            raise ShapeMismatch(
                f"vector has shape {list(vector.shape)} and element type {vector.dtype}: expected "
                f"{[self.size]} floating-point entries, as Configuration.flatten makes them"
            )
        if like is not None and (vector.dtype, vector.device) != (like.dtype, like.device):
            raise ShapeMismatch(
                f"vector is {vector.dtype} on {vector.device}: expected {like.dtype} on {like.device}, as the probe "
                "inputs are; convert one of them"
            )
