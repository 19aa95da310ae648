"""What `import bench` offers; docs/library.md and examples/tour.ipynb show it at work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from bench.config.spec import RunSpec
    from bench.runs.loading import LoadedRun
    from bench.training.trainer import Trainer

Device = Literal["auto", "cpu", "cuda"]


def build(
    method: str,
    backbone: str,
    *,
    data: str = "digits",
    seed: int = 0,
    device: Device = "auto",
    **training: Any,
) -> Trainer:
    """Method, backbone, EMA and optimiser before the first step, with no folder of results.

    Names are those of the command line, `"repa[weight=1.0]"` or a Python file; `training` are fields of
    `bench.config.spec.Training`, such as `batch_size=64`. `build(...).step(0)` trains on batch 0 and returns
    its losses. Raises UserError for names and values that cannot be used.
    """
    from bench.core import machine
    from bench.training.trainer import Trainer

    chosen = machine.select_device(device)
    spec = _spec(method, backbone, data, seed, training, {}, machine.native_precision(chosen))
    return Trainer(spec, chosen)


def train(
    method: str,
    backbone: str,
    *,
    data: str = "digits",
    seed: int = 0,
    device: Device = "auto",
    results: str | Path = "results/runs",
    protocol: dict[str, Any] | None = None,
    track: Sequence[str] = (),
    **training: Any,
) -> LoadedRun:
    """Train, sample and evaluate like `python -m bench.run`, in a folder of `results`; returns the run.

    A run that is there already is continued, or read if it is finished.

    Arguments as for `build`; `protocol` are fields of `bench.config.spec.Protocol`, such as `samples`;
    `track` as `--track`. Raises UserError for what cannot be run.
    """
    from bench.core import machine
    from bench.core.parallel import UNDIVIDED
    from bench.launch import assets, checks
    from bench.launch.runner import Runner
    from bench.runs import trackers
    from bench.runs.folder import RunFolder

    chosen, root = machine.select_device(device), Path(results).expanduser()
    spec = _spec(method, backbone, data, seed, training, protocol or {}, machine.native_precision(chosen))
    checks.refuse_unusable([spec], root, UNDIVIDED)
    if missing := assets.missing_assets([spec]):
        raise UserError(f"this machine lacks what the run needs: {missing[0]}")
    (spec,) = assets.with_trained_networks([spec])
    if not RunFolder(root, spec).finished:
        Runner(spec, root, chosen, track=trackers.usable(track)).run()
    return load_run(root / spec.run_id, device=device)


def load_run(folder: str | Path, *, device: Device = "auto") -> LoadedRun:
    """A run at its last checkpoint: its spec, the weights that its protocol samples from, data and process.

    Raises UserError if the folder is no run of this version, or has no checkpoint.
    """
    from bench.core import machine
    from bench.runs import loading

    return loading.load(Path(folder).expanduser(), machine.select_device(device))


def results(*folders: str | Path) -> pd.DataFrame:
    """Every evaluation in these folders of runs, a row each.

    Columns: folder, run, method, backbone, seed, step, seconds, flops, device_hours, samples, protocol,
    guidance_scale, guidance_interval, and one per metric, NaN where a row lacks it. Only rows of one
    `protocol` can be compared. Raises UserError for a folder without a run.
    """
    import pandas as pd

    from bench.reporting import results as reporting

    if not folders:
        raise UserError("bench.results() reads folders of runs: name one, such as 'results/quickstart'.")
    found = [reporting.load(Path(folder).expanduser()).evaluations for folder in folders]
    for folder, rows in zip(folders, found, strict=True):
        rows.insert(0, "folder", str(folder))
    return pd.concat(found, ignore_index=True)


def sample(
    run: LoadedRun | str | Path, labels: Sequence[int] | Tensor, *, guidance_scale: float | None = None
) -> Tensor:
    """Images of these classes, [N, C, R, R] uint8, drawn by the run's own protocol.

    Image i depends on the run's seed, i and its label alone. `guidance_scale` replaces the protocol's; 1 is
    no guidance. Raises UserError for a class that the data set does not have.
    """
    import torch

    from bench.config.grid import refuse_idle_guidance
    from bench.evaluation import sampling
    from bench.evaluation.evaluator import with_guidance

    found = load_run(run) if isinstance(run, str | Path) else run
    wanted = torch.as_tensor(labels if isinstance(labels, torch.Tensor) else list(labels), dtype=torch.long)
    classes = found.data.classes
    if not len(wanted) or wanted.min() < 0 or wanted.max() >= classes:
        raise UserError(f"labels must be one or more classes 0..{classes - 1} of {found.spec.data}.")
    spec = found.spec
    if guidance_scale is not None:
        (protocol,) = with_guidance(spec.protocol, (guidance_scale,), None, None)
        spec = spec.model_copy(update={"protocol": protocol})
        refuse_idle_guidance(spec, found.data.channels)
    index = torch.arange(len(wanted))
    parts = sampling.stream(found.model, found.process, spec, found.data, index, labels=wanted)
    return torch.cat([part.images for part in parts])


def _spec(
    method: str,
    backbone: str,
    data: str,
    seed: int,
    training: dict[str, Any],
    protocol: dict[str, Any],
    native_precision: str,
) -> RunSpec:
    """Raises UserError unless the names stand for one run."""
    from bench.config import grid
    from bench.config.options import Comparison, WeightsOptions

    asked = Comparison(method=(method,), backbone=(backbone,), seed=(seed,), data=data)
    specs = grid.plan(asked, WeightsOptions(), training, protocol, native_precision)
    if len(specs) != 1:
        raise UserError(f"{method} with {backbone} stands for {len(specs)} runs: name one at a time.")
    return specs[0]
