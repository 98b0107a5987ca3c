"""The graphs of a bundle, opened and checked against its manifest."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import numpy as np

from device_profiles import Profile
from runtime.errors import BundleError
from runtime.plan.bundle import GRAPH, Bundle
from runtime.plan.compact import pack
from runtime.plan.fit import affords_comfort
from runtime.walking.layout import Layout
from runtime.walking.rows import Floats
from runtime.walking.session import Session, lay_out

_KNOWN_LAYOUTS: Final = 2
_layouts: OrderedDict[bytes, Layout | None] = OrderedDict()
"""Layouts that were made, the last one used last: leaving a mode's compact graph must not take a tenth of a second."""
_lock = threading.Lock()


def live_session(bundle: Bundle, threads: int, profile: Profile | None = None, *, aliased: bool = False) -> Session:
    """The dense network, with the moved tensors as inputs.

    Whoever asks it what the network answers in a state gets the same bits, under one profile and on one machine:
    whether it is laid out for the processor does not depend on who asks.

    Args:
        bundle: A checked bundle.
        threads: Threads that compute one answer.
        profile: Device to run as; the plan's own by default.
        aliased: Whether the moved tensors must be read where they are, as those in persistent memory.

    Raises:
        BundleError: ONNX Runtime refuses the graph, or it is not the network that the manifest describes.
    """
    origin = f"{bundle.path}/{GRAPH}"
    constants = bundle.constants
    layout = None
    if not aliased and _has_room(bundle, bundle.profile if profile is None else profile):
        layout = _layout(bundle.graph, constants, origin)
    session = Session(bundle.graph, constants, threads=threads, origin=origin, layout=layout)
    return _checked(session, bundle, set(bundle.tensors) - set(constants), origin)


def _has_room(bundle: Bundle, profile: Profile) -> bool:
    """Whether a network is small, and its layout fits the device's memory under any policy."""
    return affords_comfort(bundle.manifest, profile) and profile.bank.policy != "persistent"


def _layout(graph: bytes, constants: Mapping[str, Floats], origin: str) -> Layout | None:
    """The layout of a live graph, made once."""
    digest = hashlib.blake2b(graph)
    for name, array in sorted(constants.items()):
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    key = digest.digest()
    with _lock:
        if key not in _layouts:
            _layouts[key] = lay_out(graph, constants, origin=origin)
        _layouts.move_to_end(key)
        while len(_layouts) > _KNOWN_LAYOUTS:
            _layouts.popitem(last=False)
        return _layouts[key]


def compact_session(bundle: Bundle, mode: str, threads: int) -> Session:
    """A mode's smaller network, all weights constant.

    Args:
        bundle: A checked bundle.
        mode: Name of a mode.
        threads: Threads that compute one answer.

    Raises:
        BundleError: As for the dense network.
        UnknownMode: The plan has no such mode.
    """
    origin = f"{bundle.path}/{bundle.mode(mode).graph}"
    session = Session(bundle.compact[mode], pack(bundle, mode), threads=threads, origin=origin)
    return _checked(session, bundle, set(), origin)


def _checked(session: Session, bundle: Bundle, moved: set[str], origin: str) -> Session:
    """Refuse a graph whose callers would have to change with it; a size that it leaves open is no difference."""
    model = bundle.manifest.model
    if set(session.weight_names) != moved:
        names = [", ".join(sorted(one)) or "none" for one in (set(session.weight_names), moved)]
        raise BundleError(f"{origin}: found inputs {names[0]}, expected beside the sample {names[1]}; plan again")
    for what, found, expected in (
        ("input", session.input_shape, (None, *model.input_shape)),
        ("output", session.output_shape, (None, model.outputs)),
    ):
        if len(found) != len(expected) or any(a is not None and a != b for a, b in zip(found, expected, strict=True)):
            shapes = [["any" if size is None else size for size in shape] for shape in (found, expected)]
            raise BundleError(f"{origin}: {what}: found shape {shapes[0]}, expected {shapes[1]}; plan again")
    return session
