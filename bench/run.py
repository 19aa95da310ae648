"""Train, sample and evaluate methods side by side: python -m bench.run --method vrpo --backbone sit-xl

The grid of methods, backbones and seeds is planned, printed with its cost, and run one after the other.
Interrupt it at any time: the same command continues where it stopped, and finished runs cost nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import backbones
import methods
from bench.config import suites
from bench.core.cli import Name, Real, Whole
from bench.core.errors import UserError, exit_code
from bench.data import datasets
from bench.launch.resources import Launcher, LaunchOptions

if TYPE_CHECKING:
    import torch

    from bench.config.spec import InitialWeights, RunSpec


def _listed(help: str, metavar: str) -> object:
    return tyro.conf.arg(help=help, metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True)
class Comparison:
    """What is compared. Options ride in brackets, lists make a grid: --method "repa[weight=[0.5,1.0]]"."""

    method: Annotated[
        tuple[str, ...], _listed(f"methods ({', '.join(methods.names())}) or paths of files", "NAME...")
    ] = ()
    backbone: Annotated[
        tuple[str, ...], _listed(f"backbones: {', '.join(backbones.names())}; /PATCH, default /2", "NAME...")
    ] = ()
    seed: Annotated[tuple[int, ...], _listed("seeds; runs of one seed are paired", "N...")] = ()
    data: Annotated[str | None, _listed(f"data set: {', '.join(datasets.names())}", "NAME")] = None
    suite: Annotated[
        str | None,
        _listed(
            f"a named experiment ({', '.join(suites.names())}) or a TOML file; what is given beside it "
            "overrides it",
            "NAME",
        ),
    ] = None
    scale: Annotated[
        Literal["quick", "full"] | None,
        _listed("of a suite: quick, on the embedded data (default), or full, for a cluster", "SCALE"),
    ] = None


@dataclass(frozen=True)
class TrainingOptions:
    """How backbones are trained. What is not given comes from the suite or the data set's preset."""

    steps: Whole = None
    """training steps"""
    batch_size: Whole = None
    """images a step"""
    learning_rate: Real = None
    """of AdamW, constant"""
    ema_decay: Real = None
    """of the averaged backbone, per step"""
    label_dropout: Real = None
    """share of labels replaced by the null class, for guidance"""
    process: Name = None
    """diffusion process: flow[path=linear,...] (default for sit) or ddpm (for dit)"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: the preset's, else bf16 where the hardware multiplies it natively"""
    evaluate_every: Whole = None
    """steps between evaluations; the last step is always evaluated"""
    checkpoint_every: Whole = None
    """steps between checkpoints"""
    log_every: Whole = None
    """steps between rows of train.jsonl"""


@dataclass(frozen=True)
class WeightsOptions:
    """Weights from a file: this suite's (.safetensors) or an official SiT, REPA or DiT release (.pt)."""

    init_from: Annotated[Path | None, _listed("train from these weights", "FILE")] = None
    evaluate_only: Annotated[
        Path | None, _listed("sample and score these weights, train nothing", "FILE")
    ] = None
    family: Annotated[
        Literal["sit", "repa", "dit"] | None,
        _listed("whose code wrote the .pt file: sit, repa or dit", "NAME"),
    ] = None


@dataclass(frozen=True)
class ProtocolOptions:
    """How samples are made and judged. Tables only compare runs of one protocol."""

    samples: Whole = None
    """images sampled at an evaluation"""
    sampler_sit: Name = None
    """sampler of flow models, e.g. heun[steps=10] or repa-sde-250"""
    sampler_dit: Name = None
    """sampler of DDPM models, e.g. ddim[steps=25] or dit-ddpm-250"""
    guidance_scale: Real = None
    """classifier-free guidance; 1 is none"""
    guidance_interval: Annotated[
        tuple[float, float] | None,
        _listed("guide only for t between these, data t=0 to noise t=1", "LOW HIGH"),
    ] = None
    guidance_channels: Whole = None
    """guide the first N channels only (SiT, DiT: 3); 0 guides all (REPA)"""
    labels: Annotated[
        Literal["balanced", "random"] | None, _listed("classes asked for: balanced or random", "RULE")
    ] = None
    rounding: Annotated[
        Literal["round", "truncate", "adm"] | None,
        _listed("to uint8: round, truncate (REPA) or adm (127.5 x + 128, truncated)", "RULE"),
    ] = None
    weights: Annotated[Literal["ema", "model"] | None, _listed("what samples: ema or model", "WHICH")] = None
    feature_nets: Annotated[tuple[str, ...] | None, _listed("nets that judge", "NAME...")] = None


@dataclass(frozen=True)
class Machine:
    """Where it runs and where results go."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a CUDA device where there is one"""
    output: Path = Path("results")
    """results go to OUTPUT/SUITE/RUN, at full scale to OUTPUT/SUITE-full/RUN"""
    dry_run: bool = False
    """print the plan and its cost, run nothing"""


@dataclass(frozen=True)
class DivisionOptions:
    """How a step is divided: over time, and over processes (torchrun, or --tasks-per-node of a job)."""

    micro_batch: int = 0
    """images that a process holds at once; 0: its whole part of the batch. No result depends on it"""
    shard: bool = False
    """divide weights, EMA and moments over the processes (FSDP2), for models beyond one card"""


@dataclass(frozen=True)
class Options:
    comparison: Comparison = field(default_factory=Comparison)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    weights: WeightsOptions = field(default_factory=WeightsOptions)
    protocol: ProtocolOptions = field(default_factory=ProtocolOptions)
    division: DivisionOptions = field(default_factory=DivisionOptions)
    machine: Machine = field(default_factory=Machine)
    launch: LaunchOptions = field(default_factory=LaunchOptions)


def main() -> None:
    """Parse, plan, print the plan, run it."""
    options = tyro.cli(
        Options,
        prog="python -m bench.run",
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )

    from bench.core import distributed, machine

    launcher = options.launch.chosen
    if launcher != "inline" and not distributed.asked_for():
        launch_jobs(options, launcher)
        return
    with distributed.process_group(options.machine.device):
        device = machine.select_device(options.machine.device)
        specs, folder = plan(options, machine.native_precision(device))
        run_here(specs, folder, device, options)


def launch_jobs(options: Options, launcher: Launcher) -> None:
    """Start the runs as jobs. Raises UserError where they cannot be, or any fails while this waits."""
    from bench.core import machine
    from bench.core.distributed import Parallelism
    from bench.launch import slurm, submit

    device = options.machine.device
    if launcher == "local":
        gpus = int(machine.select_device(device).type == "cuda")
    else:
        gpus = 0 if device == "cpu" else slurm.gpus_per_node(options.launch.partition or "")
    # A cluster's GPUs are not here to be asked; those of the last years multiply bf16 natively.
    here = machine.native_precision(machine.select_device("cpu"))
    specs, folder = plan(options, "bf16" if gpus and launcher == "slurm" else here)
    division = Parallelism(options.division.micro_batch, options.division.shard)
    submit.launch(specs, folder, options.launch, division, device, gpus, options.machine.dry_run)


def run_here(specs: list[RunSpec], folder: Path, device: torch.device, options: Options) -> None:
    """Print what the runs cost, and run them one after the other. Raises UserError where any fails."""
    from bench.core import distributed
    from bench.evaluation.evaluator import evaluate_kept
    from bench.launch.cost import announce, refuse_what_does_not_fit
    from bench.launch.runner import Experiment
    from bench.runs.folder import RunFolder, adopt

    division = distributed.Parallelism(options.division.micro_batch, options.division.shard)
    if not options.machine.dry_run:
        shared = distributed.broadcast_from_rank0(
            lambda: [source for spec in specs if (source := adopt(folder, spec))]
        )
        if shared:
            places = ", ".join(sorted({str(source.parent) for source in shared}))
            print(f"{len(shared)} of {len(specs)} runs were finished in {places} and are copied.")
    costs = announce(specs, folder, device)
    if options.machine.dry_run:
        return
    distributed.broadcast_from_rank0(lambda: refuse_what_does_not_fit(costs, folder, device))
    failures = []
    for number, spec in enumerate(specs, start=1):
        done = distributed.broadcast_from_rank0(lambda spec=spec: RunFolder(folder, spec).finished)
        print(f"[{number}/{len(specs)}] {spec.run_id}{' (finished before)' if done else ''}", flush=True)
        if done:
            continue
        try:
            Experiment(spec, folder, device, division, options.launch.evaluate_as).complete()
            for step in distributed.broadcast_from_rank0(
                lambda spec=spec: RunFolder(folder, spec).record.kept_steps()
            ):
                evaluate_kept(spec, folder, step, device)
        except UserError as error:
            if len(specs) == 1:
                raise
            print(f"error: {error}", file=sys.stderr)
            failures.append(spec.run_id)
    if failures:
        raise UserError(f"{len(failures)} of {len(specs)} runs failed: {', '.join(failures)}.")
    print(f"done: {len(specs)} runs in {folder}. Table and plots: python -m bench.report {folder}")


def plan(options: Options, native_precision: str) -> tuple[list[RunSpec], Path]:
    """The runs that the options ask for, in the order written, and the folder they go to.

    Raises UserError for whatever cannot be run, before anything is.
    """
    from bench.config import resolve

    what = options.comparison
    if what.scale and not what.suite:
        raise UserError(f"--scale {what.scale} is of a suite: give --suite {'|'.join(suites.names())}.")
    suite = suites.load(what.suite, what.scale) if what.suite else {}
    grids: list[dict[str, Any]] = suite.get("grid", [])
    weights, architecture, fitting = _weights(options.weights)
    data = what.data or suite.get("data") or fitting
    if options.weights.evaluate_only:
        grids = [{"method": ["baseline"], "backbone": [architecture]}]
    elif what.method or what.backbone or not grids:
        names = {key: getattr(what, key) or _union(grids, key) for key in ("method", "backbone")}
        grids = [{"method": names["method"], "backbone": names["backbone"] or [architecture or "sit-ti"]}]
    if not any(grid["method"] for grid in grids):
        raise UserError("say what to run: --suite quickstart, or --method NAME... --backbone NAME...")

    training = suite.get("training", {}) | _given(options.training, but=("process", "precision"))
    if options.training.precision != "auto":
        training["precision"] = options.training.precision
    if options.weights.evaluate_only:
        training["steps"] = 0
        _refuse_without_reference(data)
    protocol = suite.get("protocol", {}) | _given(options.protocol)
    specs = [
        resolve.run_spec(
            method,
            backbone,
            data,
            seed,
            native_precision=native_precision,
            process=options.training.process or suite.get("process"),
            training=training,
            protocol=protocol,
            method_source=resolve.method_source(method),
            weights=weights,
        )
        for grid in grids
        for backbone in _expanded(grid["backbone"])
        for method in _expanded(grid["method"])
        for seed in what.seed or suite.get("seed", [0])
    ]
    for method in {run.method for run in specs}:
        resolve.method(method)  # unknown or ill-typed options are found before anything runs
    folder = Path(what.suite).stem if what.suite else "runs"
    folder += "-full" if what.scale == "full" else ""
    return list(dict.fromkeys(specs)), options.machine.output / folder


def _refuse_without_reference(data: str) -> None:
    """Raises UserError where samples of the data set could be compared with nothing that is here."""
    dataset = datasets.get(data)
    if not dataset.available and not dataset.reference_file:
        name = dataset.name
        raise UserError(
            f"there is no store of {name} here to compare samples with: name a file of reference statistics "
            f"or images, --data '{name}[reference=FILE.npz]', or make the store, python -m bench.prepare"
        )


def _weights(options: WeightsOptions) -> tuple[InitialWeights | None, str, str]:
    """The weights to start from, the backbone that they are of and a data set that they fit.

    (None, "", "digits") where none are given.
    """
    path = options.evaluate_only or options.init_from
    if path is None:
        return None, "", "digits"
    if options.evaluate_only and options.init_from:
        raise UserError("--init-from trains and --evaluate-only does not: give one of them.")

    from backbones import checkpoints
    from bench.config.spec import InitialWeights
    from bench.data.base import Shape

    try:
        found = checkpoints.weights(path, options.family)
    except ValueError as error:
        raise UserError(str(error)) from None
    print(f"{path}: {found.found}")
    shape = Shape(found.num_classes, found.channels, found.input_size)
    weights = InitialWeights.of(path, options.family)
    fitting = datasets.of_shape(shape)
    return weights, found.architecture.name, fitting.name if fitting else "digits"


def _expanded(texts: Iterable[str]) -> list[str]:
    from bench.core import grammar

    return [name for text in texts for name in grammar.expand(text)]


def _union(grids: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(name for grid in grids for name in grid[key]))


def _given(options: TrainingOptions | ProtocolOptions, but: tuple[str, ...] = ()) -> dict[str, Any]:
    return {key: value for key, value in asdict(options).items() if value is not None and key not in but}


if __name__ == "__main__":
    sys.exit(exit_code(main))
