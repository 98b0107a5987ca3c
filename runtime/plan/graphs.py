"""The graphs of a bundle, opened and checked against its manifest."""

from __future__ import annotations

from runtime.errors import BundleError
from runtime.plan.bundle import GRAPH, Bundle
from runtime.plan.compact import pack
from runtime.walking.session import Session


def live_session(bundle: Bundle, threads: int) -> Session:
    """The dense network, with the moved tensors as inputs.

    Args:
        bundle: A checked bundle.
        threads: Threads that compute one answer.

    Raises:
        BundleError: ONNX Runtime refuses the graph, or it is not the network that the manifest describes.
    """
    origin = f"{bundle.path}/{GRAPH}"
    session = Session(bundle.graph, bundle.constants, threads=threads, origin=origin)
    return _checked(session, bundle, set(bundle.tensors) - set(bundle.constants), origin)


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
