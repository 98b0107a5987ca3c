"""What a plan cost to find, in samples passed through the network."""

from __future__ import annotations

import threading

from device_profiles.errors import GeoshiftError

# A backward pass multiplies by each layer's weights twice (gradient by input, gradient by weight), a forward pass
# once. A training step, forward and backward, is therefore three forward passes; a JVP carries value and tangent
# through each layer, two. Overlapping work and memory traffic make real ratios differ a little.
FORWARD = 1
BACKWARD = 2
JVP = 2


class CostMeter:
    """Counts samples passed through a network, in forward passes of one sample.

    It is changed by whoever is handed it; hand the same one to everything that belongs to one figure, losing
    candidates included. Threads may share it. Across processes, count in each and `add` the results.
    """

    def __init__(self) -> None:
        self._passes = 0
        self._lock = threading.Lock()

    def forward(self, samples: int) -> None:
        """Count samples passed forward."""
        self.add(samples * FORWARD)

    def backward(self, samples: int) -> None:
        """Count samples passed backward through activations that were kept."""
        self.add(samples * BACKWARD)

    def forward_backward(self, samples: int) -> None:
        """Count samples passed forward and then backward, as in training."""
        self.add(samples * (FORWARD + BACKWARD))

    def jvp(self, samples: int) -> None:
        """Count samples whose outputs were differentiated along one direction."""
        self.add(samples * JVP)

    def vjp(self, samples: int) -> None:
        """Count samples whose outputs were pulled back once, forward pass included."""
        self.forward_backward(samples)

    def add(self, forward_passes: int) -> None:
        """Count forward passes, such as another meter's."""
        with self._lock:
            self._passes += forward_passes

    @property
    def forward_passes(self) -> int:
        """Everything counted, in forward passes of one sample."""
        return self._passes

    def epoch_equivalents(self, training_set_size: int) -> float:
        """Everything counted, in passes forward and backward over a training set: what an epoch of training costs.

        Args:
            training_set_size: Samples an epoch.

        Returns:
            Epochs. A sample passed forward only counts a third.

        Raises:
            CostError: the training set is empty.
        """
        if training_set_size < 1:
            raise CostError(f"training_set_size is {training_set_size}: expected the number of samples in an epoch")
        return self._passes / ((FORWARD + BACKWARD) * training_set_size)


def passes_of(epochs: float, training_set_size: int) -> int:
    """Forward passes of one sample that fit into a number of epoch-equivalents."""
    return int(epochs * (FORWARD + BACKWARD) * training_set_size)


class CostError(GeoshiftError):
    """A cost was asked for in a unit that does not exist."""
