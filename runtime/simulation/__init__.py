"""Plays what happens to a device over time on a virtual clock, with the runtime's own code for writes and decisions."""

from runtime.simulation.latency import latency_of_profile, measure_latency
from runtime.simulation.result import StrategyOutcome, TraceResult, as_json
from runtime.simulation.simulate import Stage, simulate_trace
from runtime.simulation.trace import Arrivals, ByHand, Held, Readings, Trace, TraceError, load_trace, trace_names

__all__ = [
    "Arrivals", "ByHand", "Held", "Readings", "Stage", "StrategyOutcome", "Trace", "TraceError", "TraceResult",
    "as_json", "latency_of_profile", "load_trace", "measure_latency", "simulate_trace", "trace_names",
]  # fmt: skip
