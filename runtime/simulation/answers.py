"""What the network answers in a state, asked of ONNX Runtime once and remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from runtime.plan.samples import Samples
from runtime.simulation.paths import Place
from runtime.walking.rows import Floats

Labels = NDArray[np.int32]
MOST_BYTES: Final = 256 * 1024 * 1024
_UNKNOWN: Final = -1


class AnswerBook:
    """The answers to fixed samples, by state. What is not known is asked for one sample at a time.

    One at a time as a device is asked: another batch size may differ in the last bits, and then what is remembered
    would depend on who asked first.

    Args:
        samples: Inputs and labels.
        most_bytes: Memory for answers; the states that were asked about longest ago are forgotten first.

    Attributes:
        asked: Answers that ONNX Runtime was asked for.
    """

    def __init__(self, samples: Samples, most_bytes: int = MOST_BYTES) -> None:
        self.samples = samples
        self.asked = 0
        self._pages: OrderedDict[tuple[str, Place], Labels] = OrderedDict()
        self._most = max(1, most_bytes // (4 * len(samples)))

    def __len__(self) -> int:
        return len(self._pages)

    def answers(self, family: str, place: Place, wanted: NDArray[np.int64], run: Callable[[Floats], Floats]) -> Labels:
        """Label of each wanted sample in a state.

        Args:
            family: Paths that the place is on.
            place: Name of the state.
            wanted: Indices of samples, some of them maybe more than once, shape [N].
            run: Outputs for a batch of inputs in that state.

        Returns:
            int32 [N].
        """
        page = self._pages.get((family, place))
        if page is None:
            page = self._pages[family, place] = np.full(len(self.samples), _UNKNOWN, np.int32)
            if len(self._pages) > self._most:
                self._pages.popitem(last=False)
        self._pages.move_to_end((family, place))
        found = page[wanted]
        if (missing := found == _UNKNOWN).any():
            for index in np.unique(wanted[missing]).tolist():
                page[index] = int(np.argmax(run(self.samples.inputs[index : index + 1])))
                self.asked += 1
            found = page[wanted]
        return found
