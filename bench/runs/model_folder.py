"""The folder of a published model: weights, spec, metrics and a model card, made from the folder of a run."""

from __future__ import annotations

import html
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.core.errors import UserError
from bench.core.files import replacing, write_text

if TYPE_CHECKING:
    from bench.config.published import Published
    from bench.runs.formats import EvaluationRow
    from bench.runs.loading import LoadedRun

METRICS, CARD, SAMPLES = "metrics.json", "README.md", "samples.png"


def publish(
    run: Path,
    to: str,
    family: Literal["diffusers"] | None = None,
    license: str | None = None,
    private: bool = False,
) -> str:
    """Write the model of a run to a folder, or upload it to `hf:ORG/REPO`; where it is.

    Raises UserError for a run without checkpoint or evaluation, a place that holds something else, weights
    that the format cannot hold, and where the hub refuses.
    """
    import torch

    from bench.config.published import Published
    from bench.core import hub
    from bench.runs import loading
    from bench.runs.record import RunRecord

    if hub.is_hub(to):
        hub.parsed(to)  # raises
    loaded = loading.load(run, torch.device("cpu"))
    rows = RunRecord(run).evaluations()
    row = next(
        (
            row
            for row in rows
            if (row.step, row.protocol) == (loaded.counters.step, loaded.spec.protocol.hash)
        ),
        None,
    )
    if row is None:
        raise UserError(
            f"{run} has no evaluation of its last checkpoint, step {loaded.counters.step}: finish it first."
        )
    about = Published(spec=loaded.spec, trained_against=_trained_against(loaded, row))
    if hub.is_hub(to):
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), to, loaded, about, rows, row, family, license)
            return hub.upload(Path(folder), to, private)
    target = Path(to).expanduser()
    _refuse_other_contents(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as unfinished:
            unfinished.mkdir()
            _write(unfinished, to, loaded, about, rows, row, family, license)
    except OSError as error:
        raise UserError(f"cannot write to {target}: {error.strerror or error}.") from None
    return str(target)


def _trained_against(loaded: LoadedRun, row: EvaluationRow) -> tuple[str, ...]:
    """Frozen networks of the method, without options; if its file is gone, those that its row knows of."""
    from bench.core import grammar
    from bench.runs import networks

    try:
        found = networks.required(loaded.spec)
    except UserError:
        return row.leaky
    earlier = loaded.spec.weights.trained_against if loaded.spec.weights else ()
    return tuple(dict.fromkeys((*(grammar.split(name)[0] for name in found), *earlier)))


def _refuse_other_contents(target: Path) -> None:
    """Raises UserError unless the folder is absent, empty or an earlier model of this command."""
    from bench.config import published

    if target.is_file() or (
        target.is_dir() and any(target.iterdir()) and not (target / published.FILE).is_file()
    ):
        raise UserError(f"--to {target} holds something else than a published model: choose another place.")


def _write(
    folder: Path,
    to: str,
    loaded: LoadedRun,
    about: Published,
    rows: list[EvaluationRow],
    row: EvaluationRow,
    family: str | None,
    license: str | None,
) -> None:
    from backbones import checkpoints, diffusers_dit
    from bench.runs import sample_grid

    if family == "diffusers":
        try:
            diffusers_dit.write(folder, loaded.model)
        except ValueError as error:
            raise UserError(f"{error}.") from None
    else:
        checkpoints.save(folder / checkpoints.MODEL, loaded.model, loaded.spec.process)
    about.write(folder)
    write_text(folder / METRICS, json.dumps([one.fields() for one in rows], indent=2))
    grid = loaded.folder / "samples" / sample_grid.name(row.step)
    if grid.is_file():
        shutil.copyfile(grid, folder / SAMPLES)
    write_text(folder / CARD, _card(to, loaded, row, family, license, grid.is_file()))


def _card(
    to: str, loaded: LoadedRun, row: EvaluationRow, family: str | None, license: str | None, grid: bool
) -> str:
    """The model card, with the metadata that the hub reads in its head."""
    from huggingface_hub import EvalResult, ModelCardData

    import backbones
    from backbones import diffusers_dit
    from bench.runs.record import RunRecord
    from methods.cards import bibliography

    spec, environment = loaded.spec, RunRecord(loaded.folder).environment()
    results = [
        EvalResult(
            task_type="unconditional-image-generation",
            task_name="class-conditional image generation",
            dataset_type=spec.data.partition("[")[0],
            dataset_name=spec.data.partition("[")[0],
            metric_type=name.partition("[")[0],
            metric_name=name,
            metric_value=value,
            verified=False,
        )
        for name, value in row.metrics.items()
    ]
    data = ModelCardData(
        license=license,
        library_name="diffusers" if family else "alignment-bench",
        pipeline_tag="unconditional-image-generation",
        tags=["alignment-bench", "diffusion", backbones.family(spec.backbone), spec.method],
        model_name=spec.run_id,
        eval_results=results,
    )
    protocol, torch_version = spec.protocol, environment.versions.get("torch", "of unknown version")
    leaky = f" Trained against, so not to be trusted: {', '.join(row.leaky)}." if row.leaky else ""
    guidance = "no guidance" if protocol.guidance_scale == 1 else f"guidance {protocol.guidance_scale:g}"
    table = "\n".join(f"| {name} | {value:.6g} |" for name, value in row.metrics.items())
    if family == "diffusers":
        source = to.removeprefix("hf:")
        name = diffusers_dit.CLASS
        use = f'from diffusers import {name}\n\nnetwork = {name}.from_pretrained("{source}")'
    else:
        use = 'from backbones import checkpoints\n\nnetwork = checkpoints.load("model.safetensors")'
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {html.escape(f'{spec.method} on {spec.backbone}, {spec.data}', quote=False)}",
        f"{row.step} steps of {spec.training.batch_size} images, seed {spec.seed}. Made with "
        "alignment-bench, which compares alignment strategies for diffusion transformers.",
        "![samples](samples.png)" if grid else "",
        f"| metric | value |\n|---|---|\n{table}",
        f"{protocol.samples} samples by `{spec.sampler}`, {guidance}, {protocol.weights} weights; protocol "
        f"`{protocol.hash}`, of which only rows can be compared.{leaky}",
        f"The same row again:\n\n    python -m bench.run --evaluate-only {to}",
        f"In Python:\n\n```python\n{use}\n```",
        "`run.json` has the whole spec, `metrics.json` every evaluation. Trained on "
        f"{environment.hardware or 'unknown hardware'} with torch {torch_version}.",
    ]
    if entries := bibliography([spec.method]).strip():
        parts.append(f"## Citation\n\n```bibtex\n{entries}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"
