"""Resumable scoring: activations of images are kept on disk until the scoring is complete.

Scoring 50,000 images takes an hour on a CPU. Activations are written in parts of PART images; if the same
command is started again, these images are not processed again. The parts are removed at the end.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bench.core.errors import UserError
from bench.core.files import replacing
from bench.core.machine import cache_folder
from bench.core.progress import progress_bar
from bench.data.image_files import ImageSet
from bench.evaluation.accumulator import extract
from bench.evaluation.scorer import Scorer
from bench.nets.base import Activations, join

PART = 1000  # images


def score_resumable(images: ImageSet, scorer: Scorer, batch_size: int, weights: Sequence[str] = ()) -> None:
    """Pass all images to the scorer, continuing an interrupted scoring of the same images.

    `weights`: files of weights of the networks; with other files, scoring starts again.
    """

    def add(seen: list[Activations]) -> int:
        stop = start + len(seen[0].pooled)
        labels = None if images.labels is None else images.labels[start:stop]
        scorer.add(seen, labels, torch.arange(start, stop))
        return stop

    unfinished = ActivationCache(images, [net.name for net in scorer.nets], weights)
    start = 0
    while seen := unfinished.load(start):
        start = add(seen)
    held: list[list[Activations]] = []
    with progress_bar(images.count, start, images.path.name, "img") as bar:
        for batch in images.batches(batch_size, start):
            held.append([extract(net, batch) for net in scorer.nets])
            bar.update(len(batch))
            count = sum(len(seen[0].pooled) for seen in held)
            if count >= PART or start + count == images.count:
                seen = [join(batches) for batches in zip(*held, strict=True)]
                if images.count > PART:
                    unfinished.save(start, seen)
                start, held = add(seen), []
    unfinished.clear()


class ActivationCache:
    """Activations of the first images of a set, part by part."""

    def __init__(self, images: ImageSet, nets: Sequence[str], weights: Sequence[str]) -> None:
        """Work on these images, as they are now, with these nets: of anything else, nothing is taken up."""
        stamps = [
            (str(file.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            for file in images.files
            if (status := file.stat())
        ]
        identity = json.dumps([stamps, list(nets), list(weights)])
        self.folder = _folder() / hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.nets = len(nets)

    def load(self, start: int) -> list[Activations] | None:
        """What each net saw of the part that begins with image `start`; None where there is none."""
        try:
            arrays = load_file(self._path(start))
        except (OSError, SafetensorError):  # not there, or damaged
            return None
        return [
            Activations(*(arrays.get(f"{number}/{field}") for field in Activations._fields))  # type: ignore
            for number in range(self.nets)
        ]

    def save(self, start: int, activations: Sequence[Activations]) -> None:
        """Keep what each net saw of the part that begins with image `start`.

        Raises UserError where it cannot be written.
        """
        arrays = {
            f"{number}/{field}": array.contiguous().cpu()
            for number, seen in enumerate(activations)
            for field, array in seen._asdict().items()
            if array is not None
        }
        path = self._path(start)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as unfinished:
                save_file(arrays, unfinished)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"unfinished work cannot be kept in {self.folder} ({error}): make room there, or let "
                "$ALIGNMENT_BENCH_CACHE name another folder."
            ) from None

    def clear(self) -> None:
        """Forget everything: the work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:06d}.safetensors"


def _folder() -> Path:
    return cache_folder() / "unfinished"
