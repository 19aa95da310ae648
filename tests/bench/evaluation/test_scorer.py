import pytest
import torch

from bench.core.errors import UserError
from bench.data import datasets
from bench.evaluation.reference import reference_of
from bench.evaluation.scorer import MetricOptions, Scorer
from bench.metrics.frechet import frechet_distance, gaussian_of
from bench.metrics.precision_recall import precision_recall
from bench.nets.base import Activations
from bench.nets.metric_nets import feature_net
from tests.helpers.linear_net import Linear, random_images


def test_one_pass_gives_what_each_metric_gives_alone():
    data = datasets.get("digits").open()
    reference, _ = data.reference()
    nets = [feature_net(name) for name in ("digits-cnn", "random-conv", "pixels")]
    scorer = Scorer(nets, reference)
    samples, asked = data.images[:300], data.labels[:300].clone()
    asked[:30] = (asked[:30] + 1) % 10  # a tenth does not show what was asked for
    for images, labels in zip(samples.split(77), asked.split(77), strict=True):
        scorer.update(images, labels)
    results = scorer.results()
    for net, distance in zip(nets, ("fid", "fd", "fd"), strict=True):
        x, y = net(samples), net(reference)
        truth = frechet_distance(gaussian_of(x.pooled), gaussian_of(y.pooled))
        assert results[f"{distance}[{net.name}]"] == pytest.approx(truth, rel=1e-4)
        shares = precision_recall(x.pooled, y.pooled)
        assert (results[f"precision[{net.name}]"], results[f"recall[{net.name}]"]) == pytest.approx(
            shares, abs=0.01
        )
    assert results["accuracy[digits-cnn]"] == pytest.approx(0.9, abs=0.01)
    assert "accuracy[pixels]" not in results


def test_forgetting_the_samples_keeps_the_reference():
    scorer = Scorer([Linear()], random_images(50, seed=0))
    scorer.update(random_images(40, seed=1))
    before = scorer.results()
    scorer.reset()
    scorer.update(random_images(40, seed=1))
    assert scorer.results() == before


def test_the_options_add_their_metrics():
    options = MetricOptions(kid=True, fid_infinity=True, bootstrap=3)
    scorer = Scorer([Linear()], random_images(50, seed=0), options=options)
    scorer.update(random_images(40, seed=1))
    added = {"kid", "fid_infinity", "fid_std"}
    assert set(scorer.results()) == {"fid", "sfid", "is", "precision", "recall"} | added


def test_fewer_samples_than_dimensions_are_warned_about():
    scorer = Scorer([Linear()], random_images(50, seed=0))
    scorer.update(random_images(5, seed=1))
    with pytest.warns(UserWarning, match="5 samples for the 6 dimensions"):
        scorer.results()


def test_images_of_several_sizes_are_refused_where_their_pixels_are_compared():
    with pytest.raises(UserError, match="give 16 features and others 25"):
        reference_of([feature_net("pixels")], [random_images(4, seed=0), torch.zeros(4, 1, 5, 5).byte()])
    assert reference_of(
        [feature_net("random-conv")], [random_images(4, seed=0), torch.zeros(4, 1, 5, 5).byte()]
    )


def test_features_that_are_not_finite_are_refused():
    class Broken(Linear):
        def __call__(self, images: torch.Tensor) -> Activations:
            return Activations(torch.full((len(images), 6), torch.nan))

    with pytest.raises(UserError, match="images 0 to 9 hold NaN"):
        Scorer([Broken()], random_images(10, seed=0))


def test_a_metric_that_is_not_finite_is_not_recorded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.evaluation.scorer.kernel_distance", lambda *_: float("nan"))
    scorer = Scorer([Linear()], random_images(50, seed=0), options=MetricOptions(kid=True))
    scorer.update(random_images(40, seed=1))
    with pytest.raises(UserError, match="kid came out as NaN"):
        scorer.results()
