"""StableVM's target against the released code and its closed form."""

import pytest
import torch

from methods.base import BackboneInfo
from methods.stable_vm import StableVM, posterior_mean
from tests.helpers.official import NOISE, X0, T, agree, built, r, step

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2), patch=2, channels=3, classes=10)
REFERENCES = r((5, 3, 4, 4), 31)


def estimate(sample):
    """u* of a sample of the common tensors, from its posterior mean."""
    mean = posterior_mean(X0[sample], NOISE[sample], T[sample], REFERENCES)
    x_t = (1 - T[sample]) * X0[sample] + T[sample] * NOISE[sample]
    return (x_t - mean) / T[sample]


def test_the_released_target():
    agree(estimate(0).square().sum(), 83.5445740156)
    agree(estimate(1).square().sum(), 4.7330371650)
    agree(estimate(1)[0, 0, 0], 0.2237727990)


def remembering(**options):
    """A method that has seen the references under label 0, and nothing else."""
    method = built(StableVM(bank=8, **options), BACKBONE)
    method.latents = method.latents.double()
    for image in REFERENCES:
        method.remember(image[None], torch.tensor([0]))
    return method


def test_the_released_loss():
    """Below xi the usual target, from xi on the estimate; the label's bank holds the references alone."""
    method = remembering()
    state = step(label=torch.tensor([1, 0]))
    state.share.gather = lambda values, gradient=False: values[:0]  # no other samples of the step
    loss = method.losses(state)["denoise"]
    agree(loss.value, [0.2573112623, 0.1924336950])
    state.share.gather = lambda values, gradient=False: values
    assert loss.weight == 1.0


def test_a_sample_that_is_alone_has_the_usual_target():
    method = built(StableVM(bank=0, xi=0.0), BACKBONE)
    loss = method.losses(step(label=torch.tensor([3, 4])))["denoise"]
    agree(loss.value, [0.2573112623, 0.2487379105])


def test_null_samples_see_all_labels_and_the_bank_forgets_the_oldest():
    method = remembering()
    assert method.kept.tolist() == [5, *[0] * 9, 5]  # label 0 and the row of all labels
    for _ in range(2):
        method.remember(REFERENCES, torch.tensor([1, 2, 2, 10, 10]))
    assert method.kept[[1, 2, 10]].tolist() == [2, 4, 15]
    agree(method.latents[10, 7], REFERENCES[2])  # the 8th of 15
    agree(method.latents[10, 6], REFERENCES[4])  # the 15th took the place of the 7th
    again = built(StableVM(bank=8), BACKBONE)
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.kept, method.kept)


def test_dit_is_refused():
    with pytest.raises(ValueError, match="dit"):
        built(StableVM(), BACKBONE._replace(family="dit"))
