"""What Prometheus reads: base units, the prefix ``geoshift_``, few values a label. The one file with its library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from runtime.device.views import ModeView, Status
from runtime.walking.table import Phase

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The format that every Prometheus since 2014 reads."""
BUCKETS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""From a small network on a desktop to VGG-11 on a small board with a queue."""


class Source(Protocol):
    """What metrics need of a device."""

    def status(self) -> Status:
        """The device now."""
        ...

    def modes(self) -> tuple[ModeView, ...]:
        """Its modes."""
        ...


class Metrics:
    """Counters of the service, and the device's own figures as they stand when asked for.

    Args:
        device: The device.
        labels: What does not change while it runs: version, profile, model.
    """

    def __init__(self, device: Source, labels: dict[str, str]) -> None:
        # Of its own: the library's common one would mix with that of a program geoshift is part of.
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_DeviceCollector(device, labels))
        self._requests = Counter(
            "geoshift_http_requests",
            "Requests by route and status.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "geoshift_http_request_duration_seconds",
            "Time from the head of a request to the end of its answer.",
            ("route",),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._refusals = Counter(
            "geoshift_http_unauthorized", "Requests without a valid token.", registry=self._registry
        )

    def saw(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = method if method in {"GET", "HEAD", "POST", "PUT", "DELETE"} else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if status == 401:
            self._refusals.inc()

    def exposition(self) -> bytes:
        """All of it, in the text format."""
        return generate_latest(self._registry)


class _DeviceCollector(Collector):
    def __init__(self, device: Source, labels: dict[str, str]) -> None:
        self._device = device
        self._labels = labels

    def collect(self) -> Iterator[Any]:
        """Read the device once for all of its metrics."""
        status, modes = self._device.status(), self._device.modes()
        yield InfoMetricFamily(
            "geoshift_device",
            "What runs here.",
            {
                **self._labels,
                "device": status.device,
                "bundle": status.bundle,
                "release": str(status.release),
                "policy": status.policy,
            },
        )
        yield from _state(status, modes)
        yield from _counts(status)
        yield from _by_mode(modes)


def _state(status: Status, modes: tuple[ModeView, ...]) -> Iterator[Any]:
    mode = GaugeMetricFamily("geoshift_mode", "1 for the mode reached last.", labels=["mode"])
    for one in modes:
        mode.add_metric([one.name], float(one.name == status.mode))
    yield mode
    phase = GaugeMetricFamily("geoshift_phase", "1 for what the device is doing about its mode.", labels=["phase"])
    for kind in Phase:
        phase.add_metric([kind.value], float(kind.value == status.phase))
    yield phase
    yield GaugeMetricFamily("geoshift_walk_progress_ratio", "Share of the walk that is behind.", status.progress)
    yield GaugeMetricFamily("geoshift_bundle_release", "Release of the bundle at work.", status.release)
    yield GaugeMetricFamily("geoshift_push_in_progress", "1 while a plan is pushed.", float(status.push is not None))
    yield GaugeMetricFamily("geoshift_uptime_seconds", "Since the device was opened.", status.uptime_s)
    yield GaugeMetricFamily("geoshift_weight_memory_bytes", "Memory of the weights that answer.", status.weight_bytes)
    yield GaugeMetricFamily("geoshift_holds", "Holds in force.", len(status.holds))
    triggers = GaugeMetricFamily("geoshift_trigger_active", "1 while a trigger asks for its mode.", labels=["trigger"])
    for trigger in status.triggers:
        triggers.add_metric([trigger.name], float(trigger.active))
    yield triggers
    power = GaugeMetricFamily(
        "geoshift_power_watts",
        "Power now; basis: whether it is measured; assumed: whether a figure in it is.",
        labels=["basis", "assumed"],
    )
    if status.power.power_w is not None:
        power.add_metric(_basis(status.power.provenance, "power_w"), status.power.power_w)
    yield power
    energy = CounterMetricFamily(
        "geoshift_energy_joules", "Energy since the device was opened.", labels=["basis", "assumed"]
    )
    if status.power.energy_j is not None:
        energy.add_metric(_basis(status.power.provenance, "energy_j"), status.power.energy_j)
    yield energy


def _counts(status: Status) -> Iterator[Any]:
    counters = status.counters
    yield CounterMetricFamily("geoshift_answers", "Calls of inference that were answered.", counters.answers)
    yield CounterMetricFamily("geoshift_refusals", "Calls of inference that found the queue full.", counters.refused)
    yield CounterMetricFamily("geoshift_transitions", "Switches that reached their mode.", counters.transitions)
    yield CounterMetricFamily("geoshift_increments", "Increments written.", counters.increments)
    yield CounterMetricFamily("geoshift_written_bytes", "Bytes of weights written.", counters.bytes_written)
    rows = CounterMetricFamily("geoshift_row_writes", "Rows written, by layer: what wears.", labels=["layer"])
    for layer, count in counters.row_writes.items():
        rows.add_metric([layer], count)
    yield rows
    outcomes = CounterMetricFamily("geoshift_operations", "Switches by how they ended.", labels=["outcome"])
    for outcome, count in counters.outcomes.items():
        outcomes.add_metric([outcome], count)
    yield outcomes
    pushes = CounterMetricFamily("geoshift_pushes", "Pushes of plans by how they ended.", labels=["outcome"])
    for end, count in counters.pushes.items():
        pushes.add_metric([end], count)
    yield pushes


def _by_mode(modes: tuple[ModeView, ...]) -> Iterator[Any]:
    accuracy = GaugeMetricFamily("geoshift_mode_accuracy_ratio", "Accuracy on held-out data.", labels=["mode"])
    power = GaugeMetricFamily("geoshift_mode_power_watts", "Power in a mode.", labels=["mode", "basis", "assumed"])
    energy = GaugeMetricFamily(
        "geoshift_mode_inference_energy_joules", "Energy of one inference.", labels=["mode", "basis", "assumed"]
    )
    latency = GaugeMetricFamily(
        "geoshift_mode_inference_latency_seconds", "Median time of one inference.", labels=["mode", "basis", "assumed"]
    )
    for mode in modes:
        accuracy.add_metric([mode.name], mode.accuracy)
        if mode.power_w is not None:
            power.add_metric([mode.name, *_basis(mode.provenance, "power_w")], mode.power_w)
        if mode.energy_j_per_inference is not None:
            energy.add_metric(
                [mode.name, *_basis(mode.provenance, "energy_j_per_inference")], mode.energy_j_per_inference
            )
        if mode.latency_ms is not None:
            latency.add_metric([mode.name, *_basis(mode.provenance, "latency_ms")], mode.latency_ms / 1e3)
    yield from (accuracy, power, energy, latency)


def _basis(provenance: dict[str, Any], field: str) -> list[str]:
    """Whether a figure is measured, and whether an assumed figure of the profile is in it."""
    origin = provenance.get(field)
    return ["unknown", "no"] if origin is None else [str(origin.basis), "yes" if origin.assumed else "no"]
