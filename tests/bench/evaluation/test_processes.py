"""Several processes that each see a share of the samples."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from bench.evaluation.scorer import MetricOptions, Scorer
from tests.helpers import forked
from tests.helpers.linear_net import Linear, random_images

CHOICE = MetricOptions(kid=True)
SAMPLES, REFERENCE = random_images(200, seed=1), random_images(90, seed=0)


def _score_a_share(rank: int, world: int, folder: str) -> None:
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    scorer = Scorer([Linear()], REFERENCE, options=CHOICE)
    index = torch.arange(rank, len(SAMPLES), world)
    for part in index.split(17):
        scorer.update(SAMPLES[part], index=part)
    scorer.gather()
    torch.save(
        {"results": scorer.results(), "statistics": scorer.samples["inception"].gaussian}, f"{folder}/{rank}"
    )
    distributed.destroy_process_group()


def test_three_processes_find_what_one_finds(tmp_path: Path):
    alone = Scorer([Linear()], REFERENCE, options=CHOICE)
    alone.update(SAMPLES)
    forked.together(3, _score_a_share, (3, str(tmp_path)))
    for rank in range(3):
        together = torch.load(tmp_path / str(rank), weights_only=False)
        torch.testing.assert_close(
            tuple(together["statistics"]), tuple(alone.samples["inception"].gaussian), rtol=1e-10, atol=1e-10
        )
        assert together["results"] == pytest.approx(alone.results(), rel=1e-9)
