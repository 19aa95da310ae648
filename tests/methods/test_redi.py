"""ReDi and REGLUE: principal axes against numpy and closed forms, the map, the loss of the joint state."""

import numpy as np
import pytest
import torch

from methods.base import BackboneInfo, Draw, EncoderInfo
from methods.parts.distances import mean_square
from methods.parts.statistics import PrincipalAxes
from methods.redi import ReDi
from methods.reglue import REGLUE
from tests.helpers.official import NOISE, X0, Returns, T, agree, built, features, r, step

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2), patch=2)
DATA = r((4, 4, 6), 13)


def encoder(name="teacher"):
    return EncoderInfo(name, 6, (2, 2), sample=lambda count: (features(part) for part in DATA.split(3)))


def draw(method, data=DATA[:2]):
    drawn = Draw(X0, NOISE, T, torch.zeros(2), {"teacher": features(data)}, 0, 400, step().share)
    return method.steer(drawn)


def test_scores_of_the_first_axes():
    method = built(ReDi(components=3), BACKBONE, encoder)
    scores = method.axes(DATA).flatten(0, 1)
    agree(scores.square().mean(dim=0), [3.0942003691, 1.6567950434, 0.9564112016])
    rows = DATA.flatten(0, 1).numpy()
    z = (rows - rows.mean(0)) / rows.std(0)
    _, _, axes = np.linalg.svd(z - z.mean(0), full_matrices=False)
    expected = torch.tensor(z @ axes[:3].T)
    agree((scores * expected).sum(dim=0).abs(), expected.square().sum(dim=0))  # up to the sign
    for axis in method.axes.axes:
        assert axis[axis.abs().argmax()] > 0


def test_statistics_are_those_of_float64():
    axes = PrincipalAxes(6, 3)
    axes.fit(DATA.split(1), standardise=True, whiten=False)
    agree(axes(DATA).flatten(0, 1).square().sum(dim=0), [49.5072059049, 26.5087206947, 15.3025792258])


def test_whitened_components_have_unit_variance():
    method = built(ReDi(components=3, whiten=True), BACKBONE, encoder)
    agree(method.axes(DATA).flatten(0, 1).square().mean(dim=0), [1.0] * 3)


def test_the_map_is_brought_to_the_latents_resolution():
    method = built(ReDi(components=3), BACKBONE, encoder)
    method.axes = Returns(r((1, 1, 2, 2), 5).flatten(1)[..., None])  # tokens in row-major order
    agree(
        method.map(features(DATA[:1]))[0, 0],
        [
            [-0.5, -0.4871134021, -0.4613402062, -0.4484536082],
            [-0.4742268041, -0.4613402062, -0.4355670103, -0.4226804124],
            [-0.4226804124, -0.4097938144, -0.3840206186, -0.3711340206],
            [-0.3969072165, -0.3840206186, -0.3582474227, -0.3453608247],
        ],
    )
    method = built(ReDi(components=3), BACKBONE, encoder)
    (extra,) = method.extras()
    assert (extra.name, extra.width, extra.kind, extra.guided) == ("pca", 3, "map", False)
    found = draw(method).extras["pca"]
    scores = method.axes(DATA[:2])  # [B, N, 3]: token 1 is the first row's second
    agree(found[:, :, 0, 3], scores[:, 1])  # a corner is its own token's
    agree(found.mean(dim=(2, 3)), scores.mean(dim=1))


@pytest.mark.parametrize(
    ("weight", "expected"), [(1.0, [0.5013517643, 0.5018134233]), (0.5, [0.3761690934, 0.3774212190])]
)
def test_the_released_loss_of_the_joint_state(weight, expected):
    """The state's channels are four of the image and two of the map, each term a mean over its own.

    Time runs the other way in the released code, so what it predicts has the other sign.
    """
    clean, noise, released = (r((2, 6, 4, 4), p) for p in (5, 7, 11))
    prediction = -released
    squares = lambda part: mean_square(prediction[:, part], (noise - clean)[:, part])  # noqa: E731
    (extra,) = built(ReDi(weight=weight, components=2), BACKBONE, encoder).extras()
    agree(squares(slice(0, 4)) + extra.weight * squares(slice(4, 6)), expected)


def test_a_dropped_step_has_no_components_and_no_loss_of_them():
    method = built(ReDi(components=3, drop=0.999999), BACKBONE, encoder)
    steering = draw(method)
    assert steering.extras["pca"].eq(0).all() and steering.memo
    term = torch.ones(2)
    loss = method.losses(step(memo=True, denoising={"denoise pca": term}))["denoise pca"]
    assert loss.weight == 0 and loss.value is term
    assert (
        method.losses(step(memo=False)) == {}
        and not draw(built(ReDi(), BACKBONE, encoder_8), r((2, 4, 8), 3)).memo
    )


def encoder_8(name="teacher"):
    return EncoderInfo(name, 8, (2, 2))


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"components=8 must lie in 1..6"):
        built(ReDi(), BACKBONE, encoder)
    with pytest.raises(ValueError, match="drop=1"):
        built(ReDi(drop=1.0), BACKBONE, encoder)


def test_reglue_is_reg_and_redi():
    method = built(REGLUE(components=3), BACKBONE, encoder)
    redi = built(ReDi(components=3), BACKBONE, encoder)
    names = [(extra.name, extra.weight) for extra in method.extras()]
    assert names == [("cls", 0.03), ("pca", 1.0)]
    extras = draw(method).extras
    agree(extras["cls"], DATA[:2].mean(dim=1))
    agree(extras["pca"], draw(redi).extras["pca"])
    assert built(REGLUE(components=3), BACKBONE, encoder).weight == 0.5
