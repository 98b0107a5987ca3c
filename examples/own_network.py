"""Plans a network of your own on data of your own, and walks it live.

Run ``python examples/own_network.py`` in the repository's root; it writes the plan to ``demo-out/own-plan``. The
command line makes the same plan if told where the two functions are::

    geoshift plan --model-def examples.own_network:network --data examples.own_network:data \
        --profile examples/own_profile.yaml --selection 300 --out demo-out/own-plan --force
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import geoshift
from device_profiles import load
from planner import datasets
from planner.options import Options
from planner.plan import make_plan

SEED, SELECTION, DATA = 0, 300, "examples.own_network:data"


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images float32 [N, channels, height, width] as the network reads them, and class numbers: training, then test."""
    raw = load_digits()
    x, y = (raw.images[:, None] / 16).astype("float32"), raw.target
    test = np.arange(len(y)) % 4 == 0  # read for the evidence only
    return x[~test], y[~test], x[test], y[test]


def network() -> nn.Module:
    """A trained network. The images that the plan is chosen by must not be among those it is trained on."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # a network this small only waits for more
    head = nn.Sequential(nn.Flatten(), nn.Linear(12 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 10))
    module = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), head)
    own, optimizer = datasets.load(DATA), torch.optim.Adam(module.parameters(), 0.01)
    fit, _ = datasets.split(own, SEED, SELECTION)
    x, y = torch.from_numpy(own.train_x[fit]), torch.from_numpy(own.train_y[fit])
    for batch in torch.randint(len(x), (300, 50)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
        optimizer.step()
    return module.eval()


def main(out: str) -> None:
    """Plan, then switch there and back while asking."""
    profile, options = load("examples/own_profile.yaml"), Options(seed=SEED, selection=SELECTION)
    make_plan(network(), "own network", datasets.load(DATA), profile, out, options=options, replace=True)
    with geoshift.open(out) as net:
        samples = net.bundle.evaluation
        for mode in ("saving", "full"):
            switch, right = net.switch(mode), []
            while not right or switch.result is None:
                right.append((net.infer(samples.inputs).argmax(1) == samples.labels).mean())
            print(f"{mode}: {switch.result.outcome.value}; asked {len(right)} times, never below {min(right):.1%}")


if __name__ == "__main__":
    main("demo-out/own-plan")
