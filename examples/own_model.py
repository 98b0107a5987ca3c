"""Plans a model of your own on data of your own, and walks it live: ``python examples/own_model.py`` in the root."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential, functional

import geoshift
from device_profiles import load
from planner import datasets, options, plan

DATA, CHOOSE = "examples.own_model:data", 300  # so many training images choose the plan; no model is trained on them


def data() -> tuple[np.ndarray, ...]:
    """Images float32 [N, channels, height, width] and class numbers: to train and plan on, and for the evidence."""
    x, y = load_digits(return_X_y=True)
    x, test = (x / 16).astype("float32").reshape(-1, 1, 8, 8), np.arange(len(y)) % 4 == 0
    return x[~test], y[~test], x[test], y[test]


def model() -> Module:
    """A trained model."""
    torch.manual_seed(0)
    features = Conv2d(1, 12, 3, padding=1), ReLU(), MaxPool2d(2), Flatten()
    module, own = Sequential(*features, Linear(192, 32), ReLU(), Linear(32, 10)), datasets.load(DATA)
    optimizer, (fit, _) = torch.optim.Adam(module.parameters(), 0.01), datasets.split(own, 0, CHOOSE)
    for _ in range(80):
        optimizer.zero_grad()
        functional.cross_entropy(module(torch.tensor(own.train_x[fit])), torch.tensor(own.train_y[fit])).backward()
        optimizer.step()
    return module.eval()


if __name__ == "__main__":
    profile, spend, out = load("examples/own_profile.yaml"), options.Options(selection=CHOOSE), "demo-out/own-plan"
    plan.make_plan(model(), "own model", datasets.load(DATA), profile, out, options=spend, replace=True)
    with geoshift.open(out) as net:
        for mode in ("saving", "full"):
            print(f"{mode}: {net.switch(mode).wait().outcome.value}")
