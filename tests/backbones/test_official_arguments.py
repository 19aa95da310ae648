"""Family, path and prediction of official files, as their arguments and projectors tell them."""

import argparse
import json
import re
import warnings

import pytest
import torch

from backbones import checkpoints
from backbones.official import OFFICIAL
from tests.helpers import official_forward
from tests.helpers.official_files import (
    FAMILIES,
    VARIANCE,
    assert_close,
    official_state,
    random_input,
    refusal,
    write,
)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "arguments", "process"),
    [
        ("repa", {"path_type": "linear", "prediction": "v"}, "flow[path=linear]"),
        ("repa", {"path_type": "cosine", "prediction": "v"}, "flow[path=gvp]"),
        ("sit", {"path_type": "Linear", "prediction": "velocity"}, "flow[path=linear]"),
        ("sit", {"path_type": "GVP"}, "flow[path=gvp]"),
        ("sit", {"path_type": "VP", "prediction": "noise"}, "flow[path=vp,prediction=noise]"),
        ("sit", {"prediction": "noise"}, "flow[path=linear,prediction=noise]"),
    ],
)
def test_path_and_prediction_are_those_of_the_arguments(tmp_path, family, arguments, process):
    state = official_state(variance=VARIANCE[family])
    places = [
        {"args": argparse.Namespace(**arguments)},
        {"config": {"transport": arguments}},
        {"hyper_parameters": {key.replace("_", "-"): value for key, value in arguments.items()}},
        {"history": [{"args": (argparse.Namespace(**arguments),)}]},
        {"a": {"b": {"c": {"d": {"e": {"f": {key.upper(): f" {arguments[key]} " for key in arguments}}}}}}},
        {"config": json.dumps({"transport": arguments})},
        {"config": "".join(f"{key}: {value}\n" for key, value in arguments.items())},
        {"argv": ["train.py", *(f"--{key.replace('_', '-')}={value}" for key, value in arguments.items())]},
        {"command": "train.py " + " ".join(f"--{key} {value}" for key, value in arguments.items())},
    ]
    for place in places:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read = checkpoints.weights(write(tmp_path / "official.pt", {"ema": state} | place), family)
        assert read.process == process
    if family == "sit":  # a noise does not change its sign with the direction of time
        x, t, label = random_input()
        sign = 1 if "noise" in process else -1
        network = read.build().eval()
        official = sign * official_forward.sit(state, x, 1 - t, label, network.architecture.heads)
        assert_close(network(x, t, label).prediction, official)


@pytest.mark.parametrize(
    "places",
    [
        {"args": {"path_type": "linear"}, "config": {"path_type": "GVP"}},
        {"args": {"path_type": "trigonometric"}},
        {"args": {"prediction": "score"}},
    ],
)
def test_paths_that_contradict_or_are_unknown_are_refused(tmp_path, places):
    path = write(tmp_path / "official.pt", {"ema": official_state()} | places)
    assert re.search("was trained with (path_type|prediction) .*; only one of", refusal(path, "repa"))


def test_prose_decides_no_path(tmp_path):
    content = {
        "ema": official_state(),
        "note": "Prediction of vp: see the path type of the paper. A prediction.",
    }
    with pytest.warns(UserWarning, match="does not say on which path"):
        assert checkpoints.weights(write(tmp_path / "a.pt", content), "repa").process == ""


@pytest.mark.parametrize("family", ["sit", "repa"])
def test_files_without_arguments_are_read_with_a_warning(tmp_path, family):
    path = write(tmp_path / "bare.pt", official_state(variance=VARIANCE[family]))
    with pytest.warns(UserWarning, match="does not say on which path"):
        assert checkpoints.weights(path, family).process == ""


REPA_ARGUMENTS = {"enc_type": "dinov2-vit-b", "proj_coeff": 0.5, "model": "SiT-XL/2"}
SIT_ARGUMENTS = {"model": "SiT-XL/2", "train_eps": None, "sample_eps": None}


@pytest.mark.parametrize(
    ("told", "content"),
    [
        ("repa", {"ema": official_state(projectors=(768,))}),
        ("repa", {"model": official_state(projectors=(768,)), "ema": official_state()}),
        ("repa", {"ema": official_state(), "args": argparse.Namespace(**REPA_ARGUMENTS)}),
        ("sit", {"ema": official_state(variance=True), "args": SIT_ARGUMENTS}),
        ("dit", {"ema": official_state(variance=True), "args": argparse.Namespace(model="DiT-XL/2")}),
    ],
    ids=["projectors", "projectors of the other", "arguments", "sit", "dit"],
)
def test_a_family_that_contradicts_the_file_is_refused(tmp_path, told, content):
    path = write(tmp_path / "official.pt", content)
    for family in set(FAMILIES) - {told}:
        assert f"say '{told}'" in refusal(path, family)
    assert OFFICIAL[told] in checkpoints.weights(path).found


@pytest.mark.parametrize("arguments", [{"model": "SiT-S/2"}, {"config": {"model": {"name": "SiT-XL"}}}])
def test_what_dit_never_stores_is_no_dit(tmp_path, arguments):
    path = write(tmp_path / "official.pt", {"ema": official_state(variance=True), "args": arguments})
    assert "not of 'dit'" in refusal(path, "dit")
    assert "family: 'sit' (SiT's official code), 'repa' (REPA's code or a fork)." in refusal(path, None)


def test_a_path_beside_dit_is_told(tmp_path):
    content = {"ema": official_state(variance=True), "args": {"path_type": "Linear"}}
    path = write(tmp_path / "official.pt", content)
    assert "family: 'sit' (SiT's official code), 'repa' (REPA's code or a fork)." in refusal(path, None)
    with pytest.warns(UserWarning, match="path_type, which DiT's official code does not have"):
        checkpoints.weights(path, "dit")


def test_projectors_tell_repa_and_are_set_apart(tmp_path):
    state = official_state(projectors=(768, 1024))
    read = checkpoints.weights(write(tmp_path / "repa.pt", {"ema": state}))
    assert read.projectors.keys() == {
        f"{i}.{j}.{kind}" for i in (0, 1) for j in (0, 2, 4) for kind in ("weight", "bias")
    }
    assert torch.equal(read.projectors["1.4.weight"], state["projectors.1.4.weight"])
    assert not any(key.startswith("projectors") for key in read.state)
    assert torch.equal(read.state["final_layer.linear.weight"], state["final_layer.linear.weight"])
    assert "repa" in read.found.lower() and "2 projectors" in read.found and "EMA" in read.found


@pytest.mark.parametrize("aligned", [1, 3])
def test_first_files_of_repa_count_the_blocks_after_the_aligned_one_anew(tmp_path, aligned):
    state = official_state(projectors=(768,))
    legacy = {}
    for key, value in state.items():
        if key.startswith("blocks.") and int(key.split(".")[1]) >= aligned:
            _, number, rest = key.split(".", 2)
            key = f"decoder_blocks.{int(number) - aligned}.{rest}"
        legacy[key] = value
    read = checkpoints.weights(write(tmp_path / "last.pt", {"ema": legacy}))
    assert all(torch.equal(value, state[key]) for key, value in read.state.items())


def test_a_family_that_cannot_be_told_is_asked_for(tmp_path):
    message = refusal(write(tmp_path / "official.pt", official_state(variance=True)))
    assert all(f"'{family}'" in message for family in FAMILIES)
    assert "'mmdit'" in refusal(write(tmp_path / "official.pt", official_state()), "mmdit")


def test_a_sit_file_is_not_taken_for_repas(tmp_path):
    """It would be read with time and velocity the wrong way round."""
    path = write(tmp_path / "sit.pt", official_state(variance=True))
    assert "say 'sit'" in refusal(path, "repa")
