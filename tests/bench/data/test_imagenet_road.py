"""The commands of docs/imagenet.md on a stand-in: plumbing only, no number here means anything."""

import json
import sys

import numpy as np
import pytest

from bench import evaluate, prepare, run
from bench.data import sharded
from tests.helpers import imagenet_stand_in


def command(main, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
    main()


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    imagenet_stand_in.make(folder)  # an image in each of 1,000 classes
    return folder


def test_from_a_folder_of_images_to_scored_samples(stand_in, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sharded, "REFERENCE_IMAGES", 16)
    vae, store = stand_in / "vae", tmp_path / "stores" / "imagenet256"
    networks = ("--vae", vae, "--decoder", vae)
    command(prepare.main, monkeypatch, stand_in / "train", "--output", store, *networks, "--workers", 1)
    command(prepare.main, monkeypatch, "--verify", store)
    assert "1000 records in 1 shards, all intact" in capsys.readouterr().out
    repa = f"repa[encoder=dinov2-s[weights={stand_in / 'dinov2-s'}]]"
    asked = (
        *("--data", f"imagenet256[path={store},vae={vae},decoder={vae}]", "--backbone", "sit-ti/8"),
        *("--method", "baseline", repa, "--steps", 2, "--batch-size", 4, "--precision", "fp32"),
        *("--samples", 4, "--sampler-sit", "repa-sde-250[steps=3]", "--feature-nets", "random-conv"),
        *("--output", tmp_path),
    )
    command(run.main, monkeypatch, *asked, "--dry-run")
    plan = capsys.readouterr().out
    assert "missing: the VAE stabilityai/sd-vae-ft-mse" not in plan
    command(run.main, monkeypatch, *asked)
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    for folder in folders:
        (row,) = map(json.loads, (folder / "eval.jsonl").read_text().splitlines())
        assert row["step"] == 2 and row["metrics"]["fd[random-conv]"] > 0
        assert json.loads((folder / "spec.json").read_text())["protocol"]["data"].startswith("imagenet256@")
    trained = [json.loads((folder / "train.jsonl").read_text().splitlines()[0]) for folder in folders]
    assert trained[0]["raw"]["denoise"] == pytest.approx(trained[1]["raw"]["denoise"])  # paired
    assert -1 <= trained[1]["raw"]["repa"] <= 1
    guided = ("--guidance", 1.8, "--interval", "0:0.7", "--samples", 4, "--copy", tmp_path / "samples.npz")
    command(evaluate.main, monkeypatch, folders[1], *guided)
    assert "1.8" in capsys.readouterr().out
    assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (4, 256, 256, 3)


def test_the_plan_says_what_must_be_fetched_made_and_paid(tmp_path, monkeypatch, capsys):
    """On a machine that has nothing: SiT-XL/2's 675 million parameters, and REPA's 8 H100 for 21 hours."""
    monkeypatch.setenv("ALIGNMENT_BENCH_STORES", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    names = ("--data", "imagenet256", "--backbone", "sit-xl", "--method", "baseline", "repa")
    command(run.main, monkeypatch, *names, "--dry-run", "--output", tmp_path)
    plan = capsys.readouterr().out
    assert plan.count("675.1 M") == 2 and "400000 steps of 256 images" in plan
    hours = int(plan.partition("about ")[2].partition("GPU-hours")[0].split()[-1].replace(",", ""))
    assert 2 * 8 * 21 < hours < 1.5 * 2 * 8 * 21  # and sampling 50,000 images eight times
    for needed in (
        "--vae stabilityai/sd-vae-ft-mse --decoder stabilityai/sd-vae-ft-ema (294 GB)",
        "hf download stabilityai/sd-vae-ft-mse",
        "hf download stabilityai/sd-vae-ft-ema",
        "hf download timm/vit_base_patch14_dinov2.lvd142m",
        "releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ):
        assert plan.count(needed) == 1
