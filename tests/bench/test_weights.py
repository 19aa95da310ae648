"""Weights from files: what a run saves can be scored and trained on, and is refused where it does not fit."""

import argparse
import sys

import numpy as np
import pytest
import torch

import backbones
from backbones import checkpoints
from bench.config import resolve
from bench.config.spec import InitialWeights
from bench.core.errors import exit_code
from bench.core.files import read_rows
from bench.data.decode_only import DecodeOnly
from bench.diffusion.objectives import FlowMatching
from bench.evaluation.evaluator import evaluate_run, with_guidance
from bench.run import main
from bench.runs import loading
from bench.runs.record import find_runs
from bench.training.trainer import Trainer
from methods.parts.projectors import mlp

SHORT = ["--batch-size", "16", "--samples", "30", "--sampler-flow", "euler[steps=3]"]


@pytest.fixture
def bench_run(tmp_path, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["bench.run", *map(str, arguments), *SHORT, "--output", str(tmp_path)]
        )
        before = set(find_runs(tmp_path / "runs"))
        assert exit_code(main) == 0
        (new,) = set(find_runs(tmp_path / "runs")) - before
        return new

    return run


def test_scoring_saved_weights_gives_the_numbers_of_the_run_that_saved_them(bench_run):
    trained = bench_run("--method", "repa", "--backbone", "sit-pico", "--steps", "4")
    scored = bench_run("--evaluate-only", trained / "ema.safetensors")
    (theirs,), (ours,) = read_rows(trained / "eval.jsonl"), read_rows(scored / "eval.jsonl")
    assert ours["metrics"] == theirs["metrics"] and ours["protocol"] == theirs["protocol"]
    assert ours["step"] == 0 and not read_rows(scored / "train.jsonl")


def test_training_starts_from_the_weights_given(bench_run, tmp_path):
    network = backbones.build(backbones.architecture("sit-ti"), input_size=8, channels=1, num_classes=10)
    path = tmp_path / "start.safetensors"
    checkpoints.save(path, network)
    run = bench_run("--method", "baseline", "--init-from", path, "--steps", "1", "--learning-rate", "1e-12")
    final = checkpoints.load(run / "ema.safetensors").state_dict()
    assert all(torch.allclose(final[key], value, atol=1e-9) for key, value in network.state_dict().items())


def test_an_official_file_is_scored_with_one_command(bench_run, tmp_path):
    """An official SiT file of the data's shape, with time running the other way and variance channels."""
    architecture = backbones.architecture("sit-ti", learned_variance=True)
    network = backbones.build(architecture, input_size=8, channels=1, num_classes=10)
    path = tmp_path / "official.pt"
    torch.save({"ema": network.state_dict(), "model": network.state_dict()}, path)
    run = bench_run("--evaluate-only", path, "--family", "sit")
    assert read_rows(run / "eval.jsonl")[0]["step"] == 0


def write_repa(path, width, path_type="cosine"):
    """A file of REPA's code for digits, with a projector to `width` channels, whose state is returned."""
    network = backbones.build(backbones.architecture("sit-ti"), input_size=8, channels=1, num_classes=10)
    projector = mlp(96, 192, 192, width).state_dict()
    state = network.state_dict() | {f"projectors.0.{key}": value for key, value in projector.items()}
    torch.save({"ema": state, "args": argparse.Namespace(path_type=path_type, prediction="v")}, path)
    return projector


def test_a_file_of_another_path_is_trained_and_scored_on_it(bench_run, tmp_path):
    write_repa(tmp_path / "repa.pt", 64)
    run = bench_run("--evaluate-only", tmp_path / "repa.pt")
    assert loading.load(run, torch.device("cpu")).process == FlowMatching(path="gvp")
    again = bench_run("--evaluate-only", run / "ema.safetensors")  # what a run saves says so, too
    assert loading.load(again, torch.device("cpu")).process == FlowMatching(path="gvp")


def test_the_projector_of_a_repa_file_is_kept_or_said_to_start_anew(tmp_path):
    path, device = tmp_path / "repa.pt", torch.device("cpu")

    def method(width):
        projector = write_repa(path, width)
        weights = InitialWeights.of(path, None)
        spec = resolve.run_spec("repa[projector_width=192]", "sit-ti", "digits", 0, weights=weights)
        return projector, Trainer(spec, device).method.projectors[0].state_dict()

    with pytest.warns(UserWarning, match="start anew"):
        theirs, ours = method(7)
    width = ours["4.weight"].shape[0]
    theirs, ours = method(width)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.fixture
def released(tmp_path, monkeypatch):
    """An official SiT file of ImageNet's shape, a reference file in ADM's layout and a VAE; no store."""
    from diffusers import AutoencoderKL

    monkeypatch.setenv("ALIGNMENT_BENCH_STORES", str(tmp_path / "stores"))
    architecture = backbones.architecture("sit-ti/8", learned_variance=True)
    network = backbones.build(architecture, input_size=32, channels=4, num_classes=1000)
    torch.save({"ema": network.state_dict()}, tmp_path / "official.pt")
    levels = {"down": "DownEncoderBlock2D", "up": "UpDecoderBlock2D"}
    AutoencoderKL(
        block_out_channels=(4,) * 4,
        down_block_types=(levels["down"],) * 4,
        up_block_types=(levels["up"],) * 4,
        latent_channels=4,
        norm_num_groups=2,
    ).save_pretrained(tmp_path / "vae")
    np.savez(tmp_path / "reference.npz", np.random.default_rng(0).integers(0, 256, (5, 256, 256, 3), "uint8"))
    return tmp_path


def test_a_released_checkpoint_is_scored_without_a_store_and_swept_over_guidance(released, bench_run, capfd):
    data = f"imagenet256[reference={released / 'reference.npz'},decoder={released / 'vae'}]"
    run = bench_run(
        *("--evaluate-only", released / "official.pt", "--family", "sit", "--data", data),
        *("--feature-nets", "random-conv"),
    )
    (row,) = read_rows(run / "eval.jsonl")
    assert {"fd[random-conv]", "precision[random-conv]"} <= set(row["metrics"])
    assert "missing" not in capfd.readouterr().out
    found = loading.load(run, torch.device("cpu"))
    assert isinstance(found.data, DecodeOnly) and found.counters.step == 0
    assert found.spec.protocol.reference.startswith("file ")
    assert str(released) not in found.spec.protocol.model_dump_json()  # comparable wherever the files lie
    scored = evaluate_run(run, lambda own: with_guidance(own, (1.5,), None, 4), torch.device("cpu"), None)
    assert scored[0].guidance_scale == 1.5 and len(read_rows(run / "eval.jsonl")) == 2


def test_a_released_checkpoint_finds_its_data_set_and_asks_for_a_reference(released, monkeypatch, capfd):
    arguments = ["bench.run", "--evaluate-only", str(released / "official.pt"), "--family", "sit"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert exit_code(main) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "no store of imagenet256" in line and "--data 'imagenet256[reference=FILE.npz]'" in line


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"input_size": 32, "channels": 4, "num_classes": 1000}, "choose another --backbone or --data"),
        (None, "cannot be read"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, monkeypatch, capfd, sizes, message):
    path = tmp_path / "weights.safetensors"
    if sizes:
        checkpoints.save(path, backbones.build(backbones.architecture("sit-ti"), **sizes))
    arguments = ["bench.run", "--evaluate-only", str(path), "--data", "digits", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert exit_code(main) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
