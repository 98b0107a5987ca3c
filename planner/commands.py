"""Commands of the desktop side: demo, train, plan."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from device_profiles import loader
from device_profiles.errors import GeoshiftError
from planner.options import FIT, PROVED, SELECTION
from runtime.cli.commands import strategies_table
from runtime.cli.profile_commands import Overrides
from runtime.cli.terminal import err, guarded, out, print_json, stages

if TYPE_CHECKING:
    from planner.datasets import Dataset

ModelDef = Annotated[
    str,
    typer.Option(
        "--model-def",
        "-m",
        help="digits-cnn, lenet5, lenet-300-100, vgg11, vgg11-quarter, resnet8, resnet8-wide, or your own "
        "package.module:function.",
    ),
]
Data = Annotated[
    str,
    typer.Option("--data", "-d", help="digits, mnist, fashion-mnist, cifar10, or your own package.module:function."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random; the same for train and plan.")]
Selection = Annotated[
    int,
    typer.Option(
        min=1,
        help="Training samples put aside to choose on; the same for train and plan. The default suits the digits; "
        "more samples prove smaller drops.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class PlannerUnavailable(GeoshiftError):
    """A planner command was called in an installation without torch."""


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    for command in (demo, train, plan):
        app.command()(guarded(command))


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write to.")] = Path("demo-out"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train, plan, verify, walk and compare on real handwritten digits; writes a report. About a minute."""
    _require_planner()
    from runtime.reporting.report import check_available

    check_available(output)
    from planner.demo import run

    with stages() as bar:
        result = run(output, seed, bar)
    if as_json:
        print_json(result.as_json())
        return
    out.print(result.modes_table())
    out.print(strategies_table(msgspec.to_builtins(result.simulation)))
    out.print(result.story(), soft_wrap=True)


def train(
    model_def: ModelDef = "digits-cnn",
    data: Data = "digits",
    output: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint to write.")] = Path("model.safetensors"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data; default: the model's own.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="Peak rate; default: the model's own.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Default: the model's own.")] = None,
    selection: Selection = SELECTION,
    seed: Seed = 0,
    network_seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the network alone, for another one with the same samples put aside."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a network; an interrupted run goes on with --resume."""
    _require_planner()
    from planner import models
    from planner.datasets import split
    from planner.recipes import recipe_for
    from planner.training import Epoch
    from planner.training import train as run

    dataset = _load(data)
    recipe = recipe_for(model_def, dataset.name)
    fit, held = split(dataset, seed, selection)
    own_seed = seed if network_seed is None else network_seed
    module = models.build(model_def, seed=own_seed)
    with stages() as bar:
        bar.stage("Training", epochs or recipe.epochs)

        def show(epoch: Epoch) -> None:
            bar.step(f"loss {epoch.loss:.3f}, selection {epoch.selection_accuracy:.2%}")

        result = run(
            module,
            dataset,
            definition=model_def,
            epochs=epochs or recipe.epochs,
            seed=own_seed,
            batch_size=batch_size or recipe.batch_size,
            learning_rate=learning_rate or recipe.learning_rate,
            out=output,
            fit_indices=fit,
            selection_indices=held,
            weight_decay=recipe.weight_decay,
            shift=recipe.shift,
            progress=show,
            resume=resume,
        )
    if as_json:
        print_json(
            {
                "path": str(result.path),
                "test_accuracy": result.test_accuracy,
                "selection_accuracy": [epoch.selection_accuracy for epoch in result.epochs],
                "seconds": result.seconds,
                "samples": result.samples,
            }
        )
        return
    out.print(f"{result.path}: {result.test_accuracy:.2%} of the test set right after {len(result.epochs)} epochs")


def plan(
    model_def: ModelDef = "digits-cnn",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="[MODE=]FILE",
            help="Checkpoint, safetensors or ONNX; without it, --model-def gives a trained network. Again, as "
            "MODE=FILE, for each mode that is another network.",
        ),
    ] = None,
    data: Data = "digits",
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="Built-in device profile or YAML file.")
    ] = "generic-x86",
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--out", "-o", help="Directory of the bundle.")] = Path("plan"),
    selection: Selection = SELECTION,
    seed: Seed = 0,
    every_candidate: Annotated[
        bool,
        typer.Option("--every-candidate", help="Walk even paths that cannot be chosen, and keep the best geodesic."),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that walk candidate paths.")] = 1,
    cluster: Annotated[
        str | None, typer.Option(help="Dask scheduler whose workers walk them instead, such as tcp://host:8786.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for finished jobs; an interrupted plan goes on from them.")
    ] = None,
    fit: Annotated[int, typer.Option(min=1, help="Training samples that rows are fitted on, at most.")] = FIT,
    sparse: Annotated[
        int | None,
        typer.Option(min=1, help="Samples that each sparse mode is trained on; default five epochs, at least 20,000."),
    ] = None,
    refine: Annotated[
        int, typer.Option(min=0, help="Samples that fitted rows are trained on afterwards; 0 for least squares alone.")
    ] = 0,
    shift: Annotated[
        int | None,
        typer.Option(min=0, help="For photographs: move these samples by up to so many pixels, and mirror them."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0, help="Epoch-equivalents the plan may cost; longer paths go first. Default 1 for large networks."
        ),
    ] = None,
    study: Annotated[
        str,
        typer.Option(help="Searches of geodesics: small, or wide (each parameter in turn, at several times the cost)."),
    ] = "small",
    beta: Annotated[
        list[float] | None, typer.Option(help="β of the tangents over its natural scale; several are all tried.")
    ] = None,
    damping: Annotated[
        list[float] | None, typer.Option(help="Damping over its natural scale; several are all tried.")
    ] = None,
    solver: Annotated[
        list[str] | None, typer.Option(help="Where tangents are solved for: auto, lanczos, dual.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="What geodesics are short in: outputs, fisher.")] = None,
    probes: Annotated[list[int] | None, typer.Option(min=1, help="Samples that the metric sees.")] = None,
    probe_seed: Annotated[list[int] | None, typer.Option(min=0, help="Which samples these are.")] = None,
    order: Annotated[list[str] | None, typer.Option(help="Order of rows in the one-pass write: unit, steady.")] = None,
    landscape: Annotated[
        int | None,
        typer.Option(min=0, help="Test samples to draw paths over the loss with; default 128, large networks 0."),
    ] = None,
    certify: Annotated[
        int | None,
        typer.Option(min=0, help="Test samples to prove right in every state; default 200, large ones: search on 20."),
    ] = None,
    proved: Annotated[
        float, typer.Option(min=0, max=1, help="Divide paths of which a smaller share is proved right; 0 for none.")
    ] = PROVED,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that stands there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Plan all modes and transitions of a device profile and write the bundle."""
    _require_planner()
    from planner import models, variation
    from planner.options import Options
    from planner.plan import make_plan
    from planner.training import check_selection
    from planner.weight_files import WeightFileError, by_mode, read_dense, said_by
    from runtime.plan.bundle import read
    from runtime.reporting.inspection import summary

    device = loader.load(profile, overrides or ())
    try:
        dense, others = by_mode(weights or (), device)
    except WeightFileError as error:
        raise typer.BadParameter(str(error), param_hint="--weights") from error
    if dense is None and model_def in models.BUILTIN:
        raise typer.BadParameter(
            f"found none, but {model_def} has no weights of its own: train it first with "
            f"`geoshift train --model-def {model_def} --data {data}`",
            param_hint="--weights",
        )
    axes = {
        "beta": beta, "damping": damping, "solver": solver, "metric": metric, "probes": probes, "seed": probe_seed,
        "order": order,
    }  # fmt: skip
    options = Options(
        seed=seed,
        selection=selection,
        every_candidate=every_candidate,
        fit=fit,
        sparse=sparse,
        refine=refine,
        shift=shift,
        budget=budget,
        grid=variation.grid(study, axes),
        landscape=landscape,
        certified=certify,
        proved=proved,
        workers=workers,
        cluster=cluster,
        work=work,
    )
    module = models.build(model_def, seed=seed)
    files = [*others.values(), *([] if dense is None else [dense])]
    said = [said_by(file) for file in files]  # before the data is downloaded
    dataset = _load(data)
    if dense is not None:
        module = read_dense(dense, module, dataset.train_x)
    for known in said:
        check_selection(known, dataset, seed, selection)
    with stages() as bar:
        make_plan(
            module, model_def, dataset, device, output, options=options, progress=bar, replace=force, weights=others
        )
    if as_json:
        print_json(summary(read(output)))
        return
    out.print(f"{output}: planned; look at it with `geoshift inspect {output}`", soft_wrap=True)


def _load(name: str) -> Dataset:
    from planner import datasets

    return datasets.load(name, progress=lambda line: err.print(line, soft_wrap=True))


def _require_planner() -> None:
    missing = [name for name in ("torch", "torchvision", "onnx", "onnxscript", "sklearn", "scipy") if not _has(name)]
    if missing:
        raise PlannerUnavailable(
            f"this command plans on a desktop: found no {', '.join(missing)}, expected the planner's libraries; "
            "install them with: pip install 'geoshift[planner,report]'"
        )


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
