"""How long the weights of a device take to write, and what that costs: a profile's limits as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from device_profiles import Profile
from device_profiles.schema import Writes
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable


@dataclass(frozen=True)
class Pace:
    """The write limits of a profile.

    Attributes:
        writes: The profile's.
        retries: Writes that one row takes on average, checks included; 1 where nothing is checked.
    """

    writes: Writes
    retries: float = field(init=False)

    def __post_init__(self) -> None:
        verify = self.writes.verify
        object.__setattr__(self, "retries", 1.0 if verify is None else verify.mean_writes.value)

    @property
    def interval_s(self) -> float:
        """Seconds from one increment to the next, at the least."""
        return 1.0 / self.writes.increments_per_second

    def seconds(self, physical_bytes: float) -> float:
        """Seconds that the memory takes for so many bytes; 0 where the profile names no limit."""
        rate = self.writes.bytes_per_second
        return 0.0 if rate is None else physical_bytes / rate.value

    def physical(self, size: int) -> float:
        """Bytes that writing ``size`` bytes in one piece takes, whole units of the memory and retries counted."""
        unit = self.writes.granularity_bytes
        return -(-size // unit) * unit * self.retries

    def physical_of(self, chunks: ChunkList, table: RowTable) -> NDArray[np.float64]:
        """The same of each chunk of a list, float64 [C]."""
        unit = self.writes.granularity_bytes
        whole: NDArray[np.float64] = (-(-chunks.chunk_bytes(table) // unit) * unit).astype(np.float64)
        return whole * self.retries


def pace_of(
    profile: Profile, bytes_per_increment: int | None = None, increments_per_second: float | None = None
) -> Pace:
    """A profile's pace, some of it replaced."""
    import msgspec

    writes = profile.writes
    if bytes_per_increment is not None:
        writes = msgspec.structs.replace(writes, bytes_per_increment=bytes_per_increment)
    if increments_per_second is not None:
        writes = msgspec.structs.replace(writes, increments_per_second=increments_per_second)
    return Pace(writes)
