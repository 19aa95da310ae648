"""Comparison of hidden states of a trained backbone with features of an encoder, by depth and noise level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.progress import progress_bar
from bench.core.seeding import data_order, generator
from bench.metrics import representation
from bench.nets import teachers
from bench.runs import loading
from bench.runs.formats import ProbeRow
from bench.runs.loading import LoadedRun

BATCH_SIZE = 100  # images per pass; results do not depend on it
FEWEST_IMAGES = 50


def probe_run(
    folder: Path, device: torch.device, times: Sequence[float], images: int, encoder: str | None = None
) -> list[ProbeRow]:
    """A row for every depth and time, with the measures of `bench.metrics.representation`.

    The network is given the null class.

    Args:
        folder: a run with a checkpoint; the last one is probed.
        device: where it is.
        times: noise levels in (0, 1].
        images: number of training images.
        encoder: name of an encoder; None: the teacher of the run.

    Raises:
        UserError: no checkpoint, too few images, a time out of range, or an encoder whose grid is not the
            backbone's.
    """
    run = loading.load(folder, device)
    count = min(images, len(run.data))
    if count < FEWEST_IMAGES:
        raise UserError(f"{count} images are too few to compare representations: {FEWEST_IMAGES} or more.")
    if not times or not all(0 < t <= 1 for t in times):
        raise UserError(f"times {' '.join(map(str, times))} must be above 0 (data) and at most 1 (noise).")
    seed = run.spec.seed
    batch = run.data.batch(data_order(seed, len(run.data), 0, count), generator(seed, "probe data"))
    grid = run.model.grid
    encoder_net = teachers.load(encoder or run.spec.teacher, batch.image.shape[-1], device, grid=grid)
    if encoder_net.info.grid != grid:
        raise UserError(
            f"{encoder_net.info.name} gives {encoder_net.info.grid} tokens, the backbone has {grid}."
        )
    teacher = torch.cat([encoder_net(part.to(device)).patch_tokens for part in batch.image.split(BATCH_SIZE)])
    noise = torch.randn(batch.x0.shape, generator=generator(seed, "probe noise"))
    rows = []
    with progress_bar(len(times), 0, "noise levels", "level") as bar:
        for t in times:
            for depth, tokens in hidden_states(run, batch.x0, noise, t).items():
                measures = _measures(tokens, teacher, batch.label, grid)
                rows.append(ProbeRow(step=run.counters.step, t=t, depth=depth, **measures))
            bar.update()
    return rows


@torch.no_grad()
def hidden_states(run: LoadedRun, x0: Tensor, noise: Tensor, t: float) -> dict[int, Tensor]:
    """Tokens [B, N, D] after every block (from 1) for x0 [B, C, H, W] at time t, with the null class.

    Extra parts of the state are noise without signal, since their clean values are not available.
    """
    device = next(run.model.parameters()).device
    depths = tuple(range(1, run.model.architecture.depth + 1))
    extras = _noise_of_extras(run, len(x0))
    parts = []
    for start in range(0, len(x0), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        clean, drawn = x0[rows].to(device), noise[rows].to(device)
        time = torch.full((len(clean),), t, device=device)
        x_t = run.process.corrupt(clean, drawn, time)
        no_class = torch.full((len(clean),), run.data.classes, device=device)
        noised = {}
        for name, value in extras.items():
            value = value[rows].to(device)
            noised[name] = run.process.corrupt(torch.zeros_like(value), value, time)
        joint = {"extras": noised} if noised else {}
        parts.append(run.model(x_t, time, no_class, hidden_depths=depths, **joint).hidden)
    return {depth: torch.cat([part[depth] for part in parts]) for depth in depths}


def _noise_of_extras(run: LoadedRun, images: int) -> dict[str, Tensor]:
    found = {}
    for extra in run.model.extras:
        shape = (images, *extra.shape(run.model.input_size))
        stream = generator(run.spec.seed, f"probe noise of {extra.name}")
        found[extra.name] = torch.randn(shape, generator=stream)
    return found


def _measures(tokens: Tensor, teacher: Tensor, labels: Tensor, grid: tuple[int, int]) -> dict[str, float]:
    pooled, teacher_pooled = tokens.mean(dim=1), teacher.mean(dim=1)
    return {
        "cknna": representation.cknna(pooled, teacher_pooled),
        "cka": representation.cka(pooled, teacher_pooled),
        "linear_probe": representation.linear_probe(pooled, labels),
        "token_cosine": representation.token_cosine(tokens, teacher),
        "local_vs_distant": representation.local_vs_distant(tokens, grid),
        "effective_rank": representation.effective_rank(pooled),
    }
