import numpy as np
import pytest
import torch

from bench.metrics import inception_score
from bench.metrics.inception_score import InceptionScore


def score_of(logits: torch.Tensor) -> float:
    score = InceptionScore()
    score.update(logits, torch.arange(len(logits)))
    return score.score


def test_score_is_one_for_images_that_all_look_alike():
    assert score_of(torch.randn(1, 10).repeat(50, 1)) == pytest.approx(1, abs=1e-12)


def test_score_is_the_number_of_classes_for_sure_and_balanced_predictions():
    assert score_of(1e4 * torch.eye(10).repeat(5, 1)) == pytest.approx(10, abs=1e-9)


def test_score_matches_its_definition_over_splits_in_order_however_batches_come(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(inception_score, "SPLIT", 40)
    logits = 3 * torch.randn(100, 7, generator=torch.Generator().manual_seed(0))
    p = logits.double().softmax(dim=1).numpy()
    scores = []
    for part in (p[:40], p[40:80], p[80:]):
        kl = part * (np.log(part) - np.log(part.mean(axis=0)))
        scores.append(np.exp(kl.sum(axis=1).mean()))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    first, second = InceptionScore(), InceptionScore()
    for score, index in ((first, order[:30]), (second, order[30:77]), (first, order[77:])):
        score.update(logits[index], index)
    first.merge(second)
    assert first.score == pytest.approx(np.mean(scores), rel=1e-12)
