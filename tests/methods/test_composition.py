"""Methods joined by "+": sums of their parts, streams of their own, and what is refused."""

import pytest
import torch

from bench.config import resolve
from bench.core import grammar
from bench.core.errors import UserError
from bench.training.trainer import Trainer
from methods.base import BackboneInfo, EncoderLayers, Needs
from methods.composition import united
from tests.helpers.official import Y, Z, built, features, step

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2), classes=10)
STATE = {"hidden": {4: Z, 8: Y, 3: Y}, "features": {"teacher": features(Y)}}
OFF = "perceptual=0,semantic=0"


def losses(text):
    return built(resolve.method(text), BACKBONE).losses(step(**STATE))


def test_a_sum_is_read_and_printed_in_the_same_grammar():
    text = "repa[encoder=a+b[c=1]]+layersync"
    assert grammar.summands(text) == ["repa[encoder=a+b[c=1]]", "layersync"]
    assert grammar.expand("repa[weight=[0.5,1.0]]+layersync[weight=[1,2]]") == [
        f"repa[weight={a}]+layersync[weight={b}]" for a in ("0.5", "1.0") for b in (1, 2)
    ]
    name, options = grammar.split(text)
    assert (grammar.join(name, options), options) == (text, {})
    for broken in ("repa+", "+repa", "repa++sra"):
        with pytest.raises(UserError, match=r"both sides of every \+"):
            resolve.method(broken)
    spec = resolve.run_spec("va_repa+layersync", "sit-ti", "digits", 0)
    assert spec.hash == resolve.run_spec("va-repa+layersync", "sit-ti", "digits", 0).hash
    assert spec.hash != resolve.run_spec("va-repa", "sit-ti", "digits", 0).hash


def test_losses_are_those_of_the_parts():
    both = losses("repa+layersync")
    assert list(both) == ["repa", "layersync"]
    assert torch.equal(both["layersync"].value, losses("layersync")["layersync"].value)
    assert torch.equal(both["repa"].value, losses("repa")["repa"].value)  # the first starts as it does alone
    assert list(losses("repa+sara")) == ["repa", "repa (sara)", "structure", "fool", "discriminate"]


def test_needs_are_united():
    first = Needs(
        hidden_depths=(4, 8), encoders=("a",), ema=True, encoder_layers={"a": EncoderLayers(hidden=(1,))}
    )
    second = Needs(
        hidden_depths=(8, 2),
        encoders=("b", "a"),
        rewards=("tokens",),
        reward_net="net",
        whole_batch=True,
        encoder_layers={"a": EncoderLayers(hidden=(1, 2), attention=(-1,))},
    )
    found = united(first, second)
    assert found.hidden_depths == (4, 8, 2) and found.encoders == ("a", "b")
    assert found.ema and found.whole_batch and found.rewards == ("tokens",) and found.reward_net == "net"
    assert found.encoder_layers == {"a": EncoderLayers(hidden=(1, 2), attention=(-1,))}
    with pytest.raises(ValueError, match="two networks"):
        united(second, Needs(rewards=("features",), reward_net="other"))


def test_adding_a_part_changes_no_draw_of_another():
    draws = {}
    for text in ("cfm+dispersive", "cfm+layersync", "cfm"):
        method = resolve.method(text)
        cfm = method.parts[0] if hasattr(method, "parts") else method
        cfm.partners = lambda labels, generator, text=text: draws.setdefault(
            text, torch.randperm(2, generator=generator)
        )
        built(method, BACKBONE).losses(step(**STATE))
    assert torch.equal(draws["cfm+dispersive"], draws["cfm"])
    assert torch.equal(draws["cfm+layersync"], draws["cfm"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repa+repa[weight=1.0]", "has repa twice"),
        ("va-repa+va_repa", "has va-repa twice"),
        ("reed+stable-vm", "reed and stable-vm cannot be combined: both replace 'denoise'"),
        ("self-flow+sra-dts-as", "both steer 't'"),
        ("repa+vrpo[weight=1.0]", "weight is an option of vrpo's own REPA"),
        ("repa+nothing", "nothing"),
    ],
)
def test_contradictions_are_refused_in_one_line(text, message):
    with pytest.raises(UserError, match=message) as error:
        resolve.method(text)
    assert "\n" not in str(error.value)


def test_extras_of_one_name_are_refused():
    with pytest.raises(ValueError, match="reg and reglue cannot be combined: both declare 'cls'"):
        built(resolve.method("reg+reglue[components=2]"), BACKBONE)


@pytest.mark.parametrize("alignment", ["repa", "irepa", "layersync", "va-repa+layersync"])
def test_vrpo_without_rewards_is_the_alignment_it_rides_on(alignment):
    """Losses, gradients and weights after two steps, to the last bit."""
    training = {"steps": 20, "batch_size": 8, "log_every": 1}

    def trained(method):
        spec = resolve.run_spec(method, "sit-ti", "digits", 0, training=training)
        trainer = Trainer(spec, torch.device("cpu"))
        return [trainer.step(now)["weighted"] for now in range(2)], trainer.state()["backbone"]

    rows, weights = trained(alignment)
    theirs, their_weights = trained(f"{alignment}+vrpo[{OFF}]")
    assert rows == theirs
    assert all(torch.equal(weights[name], their_weights[name]) for name in weights)


def test_vrpo_adds_its_reward_and_its_gate_to_any_alignment():
    training = {"steps": 20, "batch_size": 8, "log_every": 1}
    spec = resolve.run_spec(
        "layersync+vrpo[estimator=pathwise+counterfactual]", "sit-ti", "digits", 0, training=training
    )
    trainer = Trainer(spec, torch.device("cpu"))
    row = trainer.step(0)
    assert {"layersync", "reward", "denoise"} == set(row["raw"])
    assert "alignment_cosine" in row["logs"] and trainer.method.gate.sums.abs().sum() > 0
