"""REED against its released loss: sums over teachers, weights per sample and as released, the warm-up."""

import pytest
import torch

from methods.base import BackboneInfo
from methods.reed import REED
from tests.helpers.official import Returns, Y, Z, agree, built, features, r, step, weighted

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2))
DENOISING = {"denoise": torch.tensor([0.3, 0.1], dtype=torch.float64)}


def losses(*, now=399, **options):
    method = built(REED(weight=1.0, pooled_weight=0.5, **options), BACKBONE)
    method.projectors[0], method.pooled = Returns(Z), Returns(r((2, 7), 59))
    seen = {"teacher": features(Y, cls_token=r((2, 7), 53))}
    hidden = {4: Z, 8: Z}
    return method.losses(step(hidden=hidden, features=seen, step=now, denoising=DENOISING))


def test_the_released_terms():
    found = losses()
    agree(found["repa"].value, [-0.1407100551, -0.0412506604])
    agree(found["pooled"].value, [-0.4491940250, 0.5943278044])
    agree(found["pooled"].value.mean(), 0.0725668897)
    agree(sum(map(weighted, found.values())), -0.0546969129)


@pytest.mark.parametrize(
    ("schedule", "per_sample"),
    [("linear", -0.1050009951), ("cosine", -0.1371657298), ("cutoff", -0.1826535338)],
)
def test_weights_by_noise_level(schedule, per_sample):
    agree(sum(map(weighted, losses(schedule=schedule).values())), per_sample)
    released = losses(schedule=schedule, batch_mean_weight=True)
    agree(sum(map(weighted, released.values())), -0.0273484564)


@pytest.mark.parametrize(("now", "ramp"), [(0, 0.0), (25, 0.5), (50, None)])
def test_the_denoising_loss_is_faded_in(now, ramp):
    """50 of 400 steps; its raw value stays what it is."""
    found = losses(now=now)
    if ramp is None:
        assert "denoise" not in found
    else:
        assert found["denoise"].weight == ramp and torch.equal(found["denoise"].value, DENOISING["denoise"])


def test_the_mean_over_tokens_comes_before_the_projector():
    method = built(REED(), BACKBONE)
    seen = {"teacher": features(Y, cls_token=Y[:, 0])}
    found = method.losses(step(hidden={4: Z, 8: Y}, features=seen, step=399, denoising=DENOISING))["pooled"]
    agree(found.value, -torch.cosine_similarity(method.pooled(Y.mean(dim=1)), Y[:, 0]))
    assert found.weight[0] == 0.25


def test_blocks_and_encoders():
    method = built(REED(), BACKBONE._replace(depth=28))
    needs = method.needs(0, 10)
    assert needs.hidden_depths == (8, 16) and needs.encoders == ("teacher",)
    assert built(REED(pooled_encoder="other"), BACKBONE).needs(0, 10).encoders == ("teacher", "other")
    assert built(REED(weight=0.0, warm_up=0.0), BACKBONE).losses(step()) == {}
