"""Brings persistent weight memory to a state that is known: at a start, and after a write that failed."""

from __future__ import annotations

import numpy as np

from runtime.errors import StateError
from runtime.memory.journal import Standing
from runtime.memory.recorder import Recorder
from runtime.memory.recovery import Place
from runtime.memory.state_directory import StateDirectory
from runtime.memory.weight_memory import WeightMemory
from runtime.walking.rows import RowTable, State


def open_memory(home: StateDirectory, table: RowTable, standing: Standing, place: Place) -> WeightMemory:
    """The weight memory, standing on the state that the journal speaks of.

    A row that was being written is written again, from the bundle. Then every row is compared, bit for bit. A file
    that is missing, or that the journal has not spoken of, is made anew.

    Args:
        home: The state directory.
        table: Row versions.
        standing: The last record.
        place: What it says of this bundle.

    Raises:
        StateError: A row is of no version that the journal allows, or the file is not of this bundle.
    """
    path = home.weights(standing.bundle)
    if not standing.persistent or not path.exists():
        return WeightMemory.create(path, table, standing.bundle, place.state, home.files)
    memory = WeightMemory(path, table, standing.bundle, home.files)
    try:
        if standing.restoring:
            memory.rewrite(place.state, memory.differing(place.state))
        elif place.way is not None and place.walk is not None:
            memory.repair(place.way.chunks, place.walk.position, place.walk.intended)
    except OSError as error:
        raise StateError(f"{path}: cannot be repaired: {error.strerror}; replace the disk") from error
    memory.check(place.state)
    return memory


class Restorer:
    """Has persistent weight memory stand at a mode.

    Args:
        memory: The memory.
        recorder: Is told before anything is written.
    """

    def __init__(self, memory: WeightMemory, recorder: Recorder) -> None:
        self._memory = memory
        self._recorder = recorder

    def stand(self, mode: str, state: State) -> WeightMemory:
        """The memory, with every row as the mode has it; rows that are so already are not written.

        Raises:
            JournalError: Rows differ, and it cannot be recorded that they are rewritten: then none was. Or they may not
                last: then they are rewritten at the next start.
        """
        rows = self._memory.differing(state)
        if rows:
            self._recorder.restoring(mode)
            size = self._memory.rewrite(state, rows)
            self._recorder.restored({name: int(np.size(which)) for name, which in rows.items()}, size)
        return self._memory
