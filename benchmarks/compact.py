"""Compact graphs of a network, as a device runs them at rest: accuracy and latency."""

from __future__ import annotations

import time

import numpy as np
from torch import Tensor

from planner.endpoint import EndPoint
from planner.export import export_compact, export_live
from planner.narrow import narrow
from planner.network import Network
from runtime.plan.evaluation import Answers, Evaluator
from runtime.plan.samples import Samples
from runtime.walking.session import Session


class Graphs:
    """Makes the compact graph of any configuration, weights as constants.

    Args:
        network: The dense network.
        sample: Inputs to trace with.
    """

    def __init__(self, network: Network, sample: Tensor) -> None:
        self.network = network
        self.live = export_live(network.module, sample, [])

    def session(self, end: EndPoint) -> Session:
        """The smaller graph of a configuration, one thread."""
        kept_units = {layer.name: end.kept(layer) for layer in self.network.layers if end.removed.get(layer.name)}
        graph = export_compact(self.live, kept_units, self.network.layers)
        return Session(graph, {k: v.detach().numpy() for k, v in narrow(self.network, end).state_dict().items()})

    def answers(self, end: EndPoint, samples: Samples) -> Answers:
        """What the smaller graph answers."""
        session = self.session(end)
        return Evaluator(session, samples).answers(session.bind({}))

    def latency(self, dense: EndPoint, end: EndPoint, image: np.ndarray, pairs: int) -> dict[str, float]:
        """Median milliseconds at batch 1, and the median ratio of neighbouring runs, which other load spares."""
        sessions = [self.session(one) for one in (dense, end)]
        bound = [session.bind({}) for session in sessions]
        times = np.empty((pairs + 5, 2))
        for row in times:
            for place in (0, 1):
                begun = time.perf_counter()
                sessions[place].run(image, bound[place])
                row[place] = time.perf_counter() - begun
        times = 1000 * times[5:]
        return {
            "dense_ms": float(np.median(times[:, 0])),
            "deep_ms": float(np.median(times[:, 1])),
            "ratio": float(np.median(times[:, 1] / times[:, 0])),
        }
