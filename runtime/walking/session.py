"""Runs a graph on weights that stay in NumPy arrays. The one file that imports onnxruntime.

A tensor that moves is a graph input bound to the array it lives in, so that what is written to the array is what the
next answer is made of: creating a session again would take a second on VGG-11, and constants are copied, packed and
laid out anew by ONNX Runtime, after which it never looks at the original again. Tensors that never move are given as
constants for exactly that speed. No file that a model names is opened: all memory that runs was handed over here.

On some processors ONNX Runtime lays constant weights out in blocks, which the convolutions of a small network need to
be fast. A session that is *laid out* binds copies of the moved tensors in these blocks; whoever writes to a tensor says
so with ``Weights.refresh``.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from device_profiles.errors import GeoshiftError
from runtime.errors import BundleError
from runtime.plan.onnx_file import Slot, read_slots
from runtime.walking.layout import Layout, NoLayout, Place, observe

log = logging.getLogger("geoshift.session")

Array = NDArray[np.generic]

_DTYPES: Final[Mapping[str, type[np.generic]]] = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8,
}  # fmt: skip
_FATAL: Final = 4
"""ONNX Runtime's log severity; what it has to say about errors comes with its exceptions."""


class InputError(GeoshiftError):
    """An input has the wrong shape or type. Nothing was computed: call again with one that fits."""


class InferenceError(GeoshiftError):
    """ONNX Runtime failed while it computed an answer, for want of memory for instance."""


class Weights:
    """Moved tensors bound to a session; ``Session.bind`` makes them.

    Attributes:
        arrays: The tensors as they were given. What is written to them takes effect with the next run where the
            session is not laid out; otherwise with the next run after ``refresh``.
        copied_bytes: Bytes of the copies that a session that is laid out reads instead.
    """

    def __init__(
        self, session: Session, arrays: Mapping[str, Array], values: Mapping[str, Any], copies: Mapping[str, Array]
    ) -> None:
        self.arrays = dict(arrays)
        self.copied_bytes = sum(copy.nbytes for copy in copies.values())
        self._session = session
        self._values = dict(values)
        self._copies = dict(copies)
        self._idle: deque[_Seat] = deque()
        """Seats nobody sits on: as many as there were callers at once. Taking one is atomic."""

    def refresh(self, names: Iterable[str | None], rows: NDArray[np.integer]) -> None:
        """Take over rows that were written. Nobody may run on these weights meanwhile.

        Args:
            names: Tensors; those that are read where they are, and None, are passed over.
            rows: Indices on the first axis, shape [R].
        """
        for name in names:
            if name is not None and name in self._copies:
                self._session._places[name].copy(self.arrays[name], self._copies[name], rows)


class Session:
    """A graph that is ready to run; any number of threads may run it at once.

    Args:
        model: ONNX file as bytes. Its first input is the sample; all others are weights that move.
        constants: Arrays for the initializers without data, by name. They are copied: later writes to them have no
            effect, and their memory may be released. Names the graph does not use are ignored.
        threads: Threads that compute one answer.
        origin: What to call the graph in errors.
        layout: How to lay it out, from ``lay_out``; None to run it as it is. The answers of the two differ in the last
            bits.

    Attributes:
        laid_out: Whether bound tensors are laid out.
        input_name: Name of the sample.
        input_shape: Its shape; None where the size is free, as in the batch.
        input_dtype: Its type.
        output_name: Name of the answer.
        output_shape: Its shape, with None as above.
        weight_names: Names of the tensors that move, in the graph's order.
        constant_bytes: Bytes of the constants supplied, and of the graph that is laid out, which has them in it.

    Raises:
        BundleError: The graph is damaged, not allowed, or its constants are missing or do not fit.
    """

    def __init__(
        self,
        model: bytes,
        constants: Mapping[str, Array],
        *,
        threads: int = 1,
        origin: str = "graph",
        layout: Layout | None = None,
    ) -> None:
        slots = read_slots(model, origin)
        supplied = {name: _checked(name, slot, constants, origin) for name, slot in slots.items()}
        self.constant_bytes = sum(array.nbytes for array in supplied.values())
        self._session, inputs, outputs = _create(model, supplied, threads, origin)
        if not inputs or len(outputs) != 1 or outputs[0].dtype(origin) != np.float32:
            raise BundleError(
                f"{origin}: found inputs {[str(one) for one in inputs]} and outputs {[str(one) for one in outputs]}, "
                "expected a sample, the weights that move, and one answer of tensor(float)"
            )
        sample, *moved = inputs
        self.input_name = sample.name
        self.input_shape = sample.sizes
        self.input_dtype = sample.dtype(origin)
        self.output_name = outputs[0].name
        self.output_shape = outputs[0].sizes
        self._slots = {one.name: one.slot(origin) for one in moved}
        self.weight_names = tuple(self._slots)
        self._one = (_one_sample(self.input_shape), _one_sample(self.output_shape))
        self._places: Mapping[str, Place] = {}
        if layout is not None:
            self._lay_out(layout, threads, origin)
        self.laid_out = bool(self._places)

    def _lay_out(self, layout: Layout, threads: int, origin: str) -> None:
        """Run the graph that is laid out in place of the one that was given."""
        places = layout.places
        if {name: prod(slot.shape) for name, slot in self._slots.items()} != {
            name: len(place.rows) * len(place.columns) for name, place in places.items()
        }:
            raise BundleError(f"{origin}: layout: found one of {list(places)}, expected one of {list(self._slots)}")
        session, inputs, outputs = _create(layout.model, {}, threads, origin, optimise=False)
        found = [one.name for one in (*inputs, *outputs)]
        expected = [self.input_name, *(place.name for place in places.values()), self.output_name]
        if found != expected:
            raise BundleError(f"{origin}: layout: found inputs and outputs {found}, expected {expected}")
        self._session, self._places = session, places
        self.constant_bytes += len(layout.model)

    def bind(self, arrays: Mapping[str, Array]) -> Weights:
        """Bind the tensors that move, without copying them where the session is not laid out.

        Args:
            arrays: Every tensor of ``weight_names``, C-contiguous.

        Returns:
            What ``run`` needs. It keeps the arrays alive.

        Raises:
            BundleError: A tensor is missing, unknown, or does not fit.
        """
        if set(arrays) != set(self._slots):
            raise BundleError(f"moved tensors: found {sorted(arrays)}, expected {sorted(self._slots)}")
        values, copies = {}, {}
        for name, slot in self._slots.items():
            array = arrays[name]
            if not slot.fits(array):
                raise BundleError(f"moved tensor {name!r}: found {array.dtype}{list(array.shape)}, expected {slot}")
            # of any other array ONNX Runtime would take a copy and miss all later writes
            if not array.flags.c_contiguous or not array.dtype.isnative:
                raise BundleError(f"moved tensor {name!r}: found a strided array, expected C order: copy it first")
            read, bound = name, array
            if (place := self._places.get(name)) is not None:
                read = place.name
                if place.same:
                    bound = array.reshape(place.shape)
                else:
                    bound = copies[name] = place.fresh(array)
            values[read] = _ort().OrtValue.ortvalue_from_numpy(bound)
            assert values[read].data_ptr() == bound.ctypes.data, f"{name}: ONNX Runtime copied an array it must share"
        return Weights(self, arrays, values, copies)

    def run(self, x: Array, weights: Weights) -> NDArray[np.float32]:
        """Compute the answers to a batch.

        The same batch on the same weights gives the same bits in every session of the graph, whatever the threads and
        callers. Another batch size may differ in the last bits where the weight of a linear layer moves.

        Args:
            x: Sample in ``input_shape`` and ``input_dtype``.
            weights: What this session's ``bind`` returned.

        Returns:
            Fresh array that belongs to the caller.

        Raises:
            InputError: The sample does not fit.
            InferenceError: ONNX Runtime failed.
        """
        self._check_input(x)
        assert weights._session is self, "weights are bound to another session"
        answer: NDArray[np.float32]
        try:
            if None not in self._one and x.shape == self._one[0]:
                answer = self._run_one(x, weights)
            else:
                # an OrtValue among the feeds is taken as it is; run_with_ort_values takes three times as long
                answer = self._session.run([self.output_name], {self.input_name: x, **weights._values})[0]
        except _ort_errors() as error:
            raise InferenceError(f"input {list(x.shape)}: ONNX Runtime failed: {error}") from error
        return answer

    def _run_one(self, x: Array, weights: Weights) -> NDArray[np.float32]:
        """The answer to a single sample, from memory that is bound once.

        Binding eight moved tensors anew with every call doubles what a network of 12 µs takes.
        """
        try:
            seat = weights._idle.pop()
        except IndexError:
            seat = _Seat(self, weights)
        seat.x[...] = x
        self._session.run_with_iobinding(seat.binding)
        answer = seat.answer.copy()
        # not after an error: what a run that failed left of the binding is nobody's business
        weights._idle.append(seat)
        return answer

    def _check_input(self, x: Array) -> None:
        """Refuse what ONNX Runtime would refuse in its own words, or convert."""
        if not isinstance(x, np.ndarray) or x.dtype != self.input_dtype:
            found = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise InputError(f"input: found {found}, expected a NumPy array of {self.input_dtype}: use x.astype")
        if x.shape == self._one[0]:
            return
        expected = self.input_shape
        fits = x.ndim == len(expected) and all(
            own == size or (size is None and own > 0) for own, size in zip(x.shape, expected, strict=True)
        )
        if not fits:
            shape = ", ".join("any" if size is None else str(size) for size in expected)
            raise InputError(f"input: found shape {list(x.shape)}, expected [{shape}] with at least one sample")


def lay_out(model: bytes, constants: Mapping[str, Array], *, origin: str = "graph") -> Layout | None:
    """Have ONNX Runtime lay a graph out for this processor.

    Args:
        model: As for ``Session``.
        constants: As for ``Session``.
        origin: What to call the graph in errors and in the log.

    Returns:
        What ``Session`` needs to run it; None where it cannot be told what moves where, or nothing does.

    Raises:
        BundleError: As for ``Session``.
    """
    plain = Session(model, constants, origin=origin)
    used = {name: constants[name] for name in read_slots(model, origin)}
    slots = plain._slots
    try:
        if odd := [f"{name}: {slot}" for name, slot in slots.items() if slot.dtype != np.float32]:
            raise NoLayout(f"found {odd[0]}, expected moved tensors of float32")
        with tempfile.TemporaryDirectory(prefix="geoshift-layout-") as folder:

            def optimised(filled: bytes) -> bytes:
                place = Path(folder, "graph.onnx")
                _create(filled, {}, 1, origin, save_to=place)
                return place.read_bytes()

            layout = observe(model, used, {name: slot.shape for name, slot in slots.items()}, optimised)
        # that ONNX Runtime takes back what it saved
        Session(model, constants, origin=origin, layout=layout)
        return layout
    except NoLayout as reason:
        log.debug("%s: runs as it is: %s", origin, reason)
    except (OSError, BundleError) as error:
        # as where no temporary folder can be written: the answers are the same but for their last bits
        log.warning("%s: runs as it is, perhaps slower than it could: it was not laid out: %s", origin, error)
    return None


class _Seat:
    """Memory of one sample and its answer, bound to a session together with the weights; for one caller at a time."""

    def __init__(self, session: Session, weights: Weights) -> None:
        one, answer = session._one
        assert one is not None
        assert answer is not None
        self.x: Array = np.empty(one, session.input_dtype)
        self.answer: NDArray[np.float32] = np.empty(answer, np.float32)
        self.binding = session._session.io_binding()
        values = {**weights._values, session.input_name: _ort().OrtValue.ortvalue_from_numpy(self.x)}
        for name, value in values.items():
            self.binding.bind_ortvalue_input(name, value)
        output = _ort().OrtValue.ortvalue_from_numpy(self.answer)
        self.binding.bind_ortvalue_output(session.output_name, output)
        shared = (values[session.input_name].data_ptr(), output.data_ptr())
        assert shared == (self.x.ctypes.data, self.answer.ctypes.data), "ONNX Runtime copied an array it must share"


def _one_sample(shape: tuple[int | None, ...]) -> tuple[int, ...] | None:
    """A shape with a batch of one; None where another size is free, or the batch is not."""
    rest = tuple(size for size in shape[1:] if size is not None)
    return (1, *rest) if shape and shape[0] is None and len(rest) == len(shape) - 1 else None


def _checked(name: str, slot: Slot, constants: Mapping[str, Array], origin: str) -> Array:
    if name not in constants:
        raise BundleError(f"{origin}: tensor {name!r}: found none, expected {slot}; the bundle is incomplete")
    array = constants[name]
    if not slot.fits(array):
        raise BundleError(f"{origin}: tensor {name!r}: found {array.dtype}{list(array.shape)}, expected {slot}")
    return np.ascontiguousarray(array)


@dataclass(frozen=True)
class _Port:
    """An input or output as ONNX Runtime describes it."""

    name: str
    kind: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}"

    @property
    def sizes(self) -> tuple[int | None, ...]:
        return tuple(size if isinstance(size, int) else None for size in self.shape)

    def dtype(self, origin: str) -> np.dtype[np.generic]:
        if self.kind not in _DTYPES:
            raise BundleError(f"{origin}: {self.name!r}: found {self.kind}, expected one of {', '.join(_DTYPES)}")
        return np.dtype(_DTYPES[self.kind])

    def slot(self, origin: str) -> Slot:
        fixed = tuple(size for size in self.shape if isinstance(size, int))
        if len(fixed) != len(self.shape):
            raise BundleError(f"{origin}: moved tensor {self.name!r}: found shape {self.shape}, expected fixed sizes")
        return Slot(fixed, self.dtype(origin))


def _create(
    model: bytes,
    constants: Mapping[str, Array],
    threads: int,
    origin: str,
    *,
    optimise: bool = True,
    save_to: Path | None = None,
) -> tuple[Any, list[_Port], list[_Port]]:
    """The session with its inputs and outputs; ``save_to`` gets the graph as it was optimised."""
    ort = _ort()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
        options.add_session_config_entry("session.disable_prepacking", "1")
    # a thread that spins between two requests costs 78 % of a core at 20 requests a second, one that sleeps 4 %
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in constants.values()]
    try:
        if values:
            options.add_external_initializers(list(constants), values)
        # the CPU alone: others copy weights that lie in host memory on every run, or want them constant;
        # falling back would print, and build another session behind our back
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        ports = [
            [_Port(one.name, one.type, tuple(one.shape)) for one in values]
            for values in (session.get_inputs(), session.get_outputs())
        ]
    except _ort_errors() as error:
        raise BundleError(f"{origin}: ONNX Runtime refuses it: {error}") from error
    return session, *ports


@functools.cache
def _ort() -> Any:
    """ONNX Runtime, loaded when it is first needed: reading a plan must not cost its start-up."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)  # it warns of missing GPUs as soon as it is loaded
    return onnxruntime


@functools.cache
def _ort_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its own exceptions share no base class but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception)]
    return (*own, RuntimeError, ValueError, TypeError)
