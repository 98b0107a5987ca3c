"""Finished jobs of a study on disk, so that a plan that was interrupted goes on where it was.

One safetensors file a job, named by a digest of the study and the job: what another study left there is never taken.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from device_profiles.errors import GeoshiftError
from planner.candidates import Candidate
from planner.path_search import Record
from planner.study import Job, Outcome
from planner.variation import Variation
from runtime.plan.manifest import CostEntry
from runtime.walking.chunks import ChunkList
from runtime.walking.strategies import Compiled

_MEASURED = (
    "name", "strategy", "bytes_written", "length", "worst", "bound", "divergence", "complete", "fisher_length",
)  # fmt: skip
_CHUNKS = ("layer", "row", "old", "new")


class StoreError(GeoshiftError):
    """A file of finished work cannot be read."""


class Store:
    """Outcomes by job.

    Args:
        folder: Where the files are, made when the first is written; None to keep nothing.
        study: Digest of the study.
    """

    def __init__(self, folder: Path | None, study: str) -> None:
        self._folder = folder
        self._study = study

    def load(self, job: Job) -> Outcome | None:
        """The outcome of a job that was finished before, if any.

        Raises:
            StoreError: there is a file, but it is damaged.
        """
        path = self._path(job)
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, "numpy") as file:
                said = json.loads(file.metadata()["outcome"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            found = tuple(_candidate(number, one, arrays) for number, one in enumerate(said["candidates"]))
            return Outcome(found, said["forward_passes"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: found a damaged file ({error}), expected a finished job: delete it") from error

    def save(self, job: Job, outcome: Outcome) -> None:
        """Keep an outcome: the whole file or none."""
        path = self._path(job)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{number}/{name}": array
            for number, one in enumerate(outcome.candidates)
            for name, array in {
                **one.path.chunks.arrays(), **{f"rows/{layer}": rows for layer, rows in one.path.rows.items()},
            }.items()
        }  # fmt: skip
        said = {
            "candidates": [
                {
                    **{name: getattr(one, name) for name in _MEASURED},
                    "layers": one.path.chunks.layers,
                    "stops": one.path.stops,
                    "record": None if one.record is None else asdict(one.record),
                    "variation": None if one.variation is None else asdict(one.variation),
                    "cost": None if one.cost is None else msgspec.to_builtins(one.cost),
                }
                for one in outcome.candidates
            ],
            "forward_passes": outcome.forward_passes,
        }
        partial = path.with_suffix(".partial")
        partial.write_bytes(save(arrays, {"outcome": json.dumps(said)}))
        os.replace(partial, path)

    def _path(self, job: Job) -> Path | None:
        if self._folder is None:
            return None
        key = json.dumps([self._study, asdict(job)], sort_keys=True)
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"


def _candidate(number: int, said: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Candidate:
    own = {name.removeprefix(f"{number}/"): array for name, array in arrays.items() if name.startswith(f"{number}/")}
    rows = {name.removeprefix("rows/"): array for name, array in own.items() if name.startswith("rows/")}
    chunks = ChunkList(tuple(said["layers"]), *(own[name] for name in _CHUNKS))
    record = None if said["record"] is None else Record(**said["record"])
    variation = None if said["variation"] is None else Variation(**said["variation"])
    cost = None if said["cost"] is None else msgspec.convert(said["cost"], CostEntry)
    path = Compiled(chunks, rows, tuple(said["stops"]))
    known = {name: said[name] for name in _MEASURED}
    return Candidate(path=path, record=record, variation=variation, cost=cost, **known)
