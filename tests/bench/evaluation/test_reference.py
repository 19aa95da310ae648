from pathlib import Path

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.data.image_files import writing
from bench.evaluation.reference import read_reference, write_reference
from bench.evaluation.scorer import Scorer
from bench.nets.base import Activations


class Fake:
    """A net of 5 dimensions that calls itself as it is told to; the inception has spatial features too."""

    classifies = True

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, images: torch.Tensor) -> Activations:
        pooled = images.flatten(1)[:, :5].float() / 255
        return Activations(pooled, spatial=pooled[:, :3] if self.name == "inception" else None)


IMAGES = torch.randint(256, (40, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
PIXELS = IMAGES.permute(0, 2, 3, 1).numpy()
RNG = np.random.default_rng(0)
MU, SIGMA = RNG.normal(size=5), np.cov(RNG.normal(size=(5, 50)))
MU_S, SIGMA_S = RNG.normal(size=3), np.cov(RNG.normal(size=(3, 50)))
STATISTICS = {"mu": MU, "sigma": SIGMA, "mu_s": MU_S, "sigma_s": SIGMA_S}


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "reference.npz", **arrays)
    return path / "reference.npz"


def test_statistics_of_an_adm_file_go_before_its_images_which_serve_precision_and_recall(tmp_path: Path):
    path = save(tmp_path, arr_0=PIXELS, **STATISTICS)
    references = read_reference(path, [Fake("inception"), Fake("other")])
    adm, other = references["inception"], references["other"]
    assert np.array_equal(adm.gaussian.covariance, SIGMA)
    assert adm.spatial is not None and np.array_equal(adm.spatial.mean, MU_S)
    features = Fake("other")(IMAGES).pooled
    assert torch.equal(adm.features, features) and torch.equal(other.features, features)
    torch.testing.assert_close(other.gaussian.mean, features.double().mean(0))


def test_a_file_of_statistics_alone_serves_the_one_net_asked_for(tmp_path: Path):
    path = save(tmp_path, mu=MU, sigma=SIGMA)
    reference = read_reference(path, [Fake("clean")])["clean"]
    assert np.array_equal(reference.gaussian.mean, MU)
    assert reference.features is None
    scorer = Scorer([Fake("clean")], {"clean": reference})
    scorer.update(IMAGES)
    assert set(scorer.results()) == {"fid[clean]"}


def test_a_saved_reference_gives_the_same_results_as_its_images(tmp_path: Path):
    nets = [Fake("inception"), Fake("other")]
    folder = tmp_path / "images"
    with writing(folder, len(IMAGES)) as write:
        write(IMAGES)
    from_images = read_reference(folder, nets)
    write_reference(tmp_path / "saved.npz", from_images)
    samples = IMAGES.flip(2)
    results = []
    for reference in (from_images, read_reference(tmp_path / "saved.npz", nets)):
        scorer = Scorer(nets, reference)
        scorer.update(samples)
        results.append(scorer.results())
    assert results[0] == results[1]
    assert {"fid", "sfid", "precision", "recall", "fid[other]"} <= set(results[0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mean": MU}, "neither images .* nor statistics .* it has mean"),
        ({"mu": MU}, "it has mu"),
        ({"mu": MU.astype(int), "sigma": SIGMA}, "mu .* is int64"),
        ({"mu": MU, "sigma": SIGMA * np.nan}, "sigma .* NaN"),
        ({"mu": MU, "sigma": SIGMA[:3]}, r"shapes \(5,\) and \(3, 5\)"),
        ({"mu": np.array([None]), "sigma": SIGMA}, "mu .* cannot be read"),
        ({"arr_0": PIXELS / 255}, "must be uint8"),
        ({"arr_0": PIXELS[:1]}, "at least 2"),
        ({"other/mean": MU, "other/covariance": SIGMA}, "made for other, not for inception"),
        ({"inception/mean": MU}, "cannot be read"),
        ({"mu": MU, "sigma": SIGMA + np.triu(np.ones((5, 5)), 1)}, "sigma .* is not symmetric"),
        (
            {"inception/mean": MU, "inception/covariance": SIGMA, "inception/features": np.ones((9, 4))},
            r"features .* shape \(9, 4\), not \(M, 5\)",
        ),
    ],
)
def test_a_reference_that_does_not_serve_is_refused_in_one_line(arrays, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message) as error:
        read_reference(save(tmp_path, **arrays), [Fake("inception")])
    assert "\n" not in str(error.value)


def test_statistics_of_another_net_are_refused(tmp_path: Path):
    path = save(tmp_path, mu=np.zeros(7), sigma=np.eye(7))
    scorer = Scorer([Fake("clean")], read_reference(path, [Fake("clean")]))
    scorer.update(IMAGES)
    with pytest.raises(UserError, match="5 and 7 dimensions"):
        scorer.results()


def test_statistics_of_one_net_cannot_serve_two(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be used for other"):
        read_reference(save(tmp_path, **STATISTICS), [Fake("inception"), Fake("other")])
