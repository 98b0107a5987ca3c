"""Plans a network of your own on data of your own, and walks it live.

Run ``python examples/own_network.py`` in the repository's root; it writes the plan to ``own-plan``. The command line
makes the same plan if told where the two functions are::

    geoshift plan --model-def examples.own_network:network --data examples.own_network:data \
        --profile examples/own_profile.yaml --selection 300 --out own-plan --force
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import geoshift
from device_profiles import load
from planner.datasets import Dataset, split
from planner.plan import Options, make_plan

SEED, SELECTION = 0, 300


def data() -> Dataset:
    """Images float32 [N, channels, height, width] as the network reads them, and class numbers int64 [N]."""
    raw = load_digits()
    x, y = (raw.images[:, None] / 16).astype("float32"), raw.target.astype("int64")
    test = np.arange(len(y)) % 4 == 0  # read for the evidence only
    return Dataset("own", x[~test], y[~test], x[test], y[test], tuple("0123456789"), {"scale": 1 / 16})


def network() -> nn.Module:
    """A trained network. The images that the plan is chosen by must not be among those it is trained on."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # a network this small only waits for more
    head = nn.Sequential(nn.Flatten(), nn.Linear(12 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 10))
    module = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), head)
    own, optimizer = data(), torch.optim.Adam(module.parameters(), 0.01)
    fit, _ = split(own, SEED, SELECTION)
    x, y = torch.from_numpy(own.train_x[fit]), torch.from_numpy(own.train_y[fit])
    for _ in range(10):
        for batch in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    return module.eval()


def main(out: str) -> None:
    """Plan, then switch there and back while asking."""
    profile, options = load(Path(__file__).with_name("own_profile.yaml")), Options(seed=SEED, selection=SELECTION)
    make_plan(network(), "own network", data(), profile, out, options=options, replace=True)
    with geoshift.open(out) as net:
        samples = net.bundle.evaluation
        for mode in ("saving", "full"):
            switch, right = net.switch(mode), []
            while switch.result is None:
                right.append((net.infer(samples.inputs).argmax(1) == samples.labels).mean())
            print(f"{mode}: {switch.result.outcome.value}; {len(right)} times asked, never below {min(right):.1%} right")


if __name__ == "__main__":
    main("own-plan")
