"""Two ONNX files of one network, dense and pruned, become a plan: ``python examples/onnx_pair.py`` in the root.

A tool of your own stands where `export` and `trained` are; from there on it is one command.
"""

import subprocess
import sys
from pathlib import Path

import torch
from torch.nn import Module, functional

import geoshift
from planner import datasets, models

OUT, SELECTION = Path("demo-out/onnx-pair"), "300"


def trained(module: Module, steps: int, rate: float, gone: torch.Tensor) -> Module:
    """Train a network on the digits while some of its first filters stay zero."""
    digits = datasets.load("digits")
    fit, _ = datasets.split(digits, 0, int(SELECTION))  # the others choose the path, and are not trained on
    x, y = torch.tensor(digits.train_x[fit]), torch.tensor(digits.train_y[fit])
    optimizer = torch.optim.Adam(module.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        batch = torch.randperm(len(x))[:200]
        functional.cross_entropy(module(x[batch]), y[batch]).backward()
        optimizer.step()
        with torch.no_grad():
            module.conv1.weight[gone], module.conv1.bias[gone] = 0.0, 0.0
    return module.eval()


def export(module: Module, name: str) -> str:
    """Write an ONNX file; larger networks get a file of weights beside it, which belongs to it."""
    path, any_batch = str(OUT / name), ({0: torch.export.Dim("batch")},)
    torch.onnx.export(module, (torch.zeros(2, 1, 8, 8),), path, dynamo=True, dynamic_shapes=any_batch, verbose=False)
    return path


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = trained(models.build("digits-cnn"), 150, 0.003, torch.tensor([], dtype=torch.long))
    dense = export(network, "dense.onnx")
    weakest = network.conv1.weight.flatten(1).norm(dim=1).argsort()[:8]  # half of the first filters
    pruned = export(trained(network, 60, 0.001, weakest), "pruned.onnx")

    geoshift_plan = [sys.executable, "-m", "geoshift", "plan", "--model-def", "digits-cnn", "--data", "digits"]
    options = ["--profile", "examples/onnx_pair.yaml", "--selection", SELECTION, "--force", "--out", str(OUT / "plan")]
    options += ["--probes", "16"]  # so that the search takes seconds; leave it out for your own
    subprocess.run([*geoshift_plan, "--weights", dense, "--weights", f"C2={pruned}", *options], check=True)

    with geoshift.open(OUT / "plan") as net:
        for mode in ("C2", "C1"):
            result, entry = net.switch(mode).wait(), net.bundle.mode(mode)
            print(f"{mode}: {result.outcome.value}, {entry.accuracy:.1%} right, {entry.macs:,} multiply-accumulates")
