"""The GPU campaign at toy size: each piece once; what is there is kept, what failed is tried again."""

import json
import sys

import pytest
import torch

from bench.benchmark import gpu, gpu_pieces, gpu_sizes, gpu_study, gpu_throughput
from bench.core.errors import UserError
from bench.launch.stopping import AGAIN, Stopped
from tests.helpers import official_checkout

CPU = torch.device("cpu")


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["gpu", "--toy", "--device", "cpu", *map(str, words)])
    gpu.main()


def test_the_campaign_runs_and_is_not_run_again(tmp_path, monkeypatch, capsys):
    checkout = official_checkout.write(tmp_path / "checkout", "repa")
    words = ["--output", tmp_path / "out", "--against", checkout]
    run(monkeypatch, *words)
    page, found = (
        (tmp_path / "out/results.md").read_text(),
        json.loads((tmp_path / "out/results.json").read_text()),
    )
    assert "No figure here says anything of a GPU" in page
    for section in ("Goals", "Card against CPU", "Training", "Sampling", "Official code", "Study"):
        assert f"## {section}" in page
    assert "## Failed" not in page
    assert "600 images a second or more; not measured" in page
    # A CPU agrees with itself to the last bit.
    assert found["check vrpo sit-pico/4"].items() >= {"losses": 0, "gradient": 0, "sample_levels": 0}.items()
    assert found["train repa sit-pico/4"]["images_per_second"] > 0
    assert max(found["official repa sit-pico/4"]["differences"].values()) < 1e-4
    assert [row["step"] for row in found["study: vrpo"]["evaluations"]] == [2]

    capsys.readouterr()
    (tmp_path / "out/pieces/train-repa-sit-pico-4.json").unlink()
    run(monkeypatch, *words)
    made = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(made) == 1 and made[0].endswith("train repa sit-pico/4")


def test_a_piece_that_fails_keeps_nothing_back_and_is_tried_again(tmp_path, capsys):
    def broken(device):
        raise UserError("the disk is on fire.")

    assert gpu.make("a piece", broken, tmp_path, CPU) == {"failed": "the disk is on fire."}
    assert not gpu.finished(gpu.result_of(tmp_path, "a piece"))
    gpu.make("a piece", lambda device: {"value": 1}, tmp_path, CPU)
    assert gpu.finished(gpu.result_of(tmp_path, "a piece"))


def test_a_run_of_the_study_is_cut_into_pieces(tmp_path, monkeypatch):
    def stop(runner, signals):
        raise Stopped(AGAIN)

    monkeypatch.setattr(gpu_study.Runner, "run", stop)
    found = gpu.make(
        "study",
        lambda device: gpu_study.train_run(gpu_sizes.TOY, "baseline", tmp_path, device),
        tmp_path,
        CPU,
    )
    assert found is None and gpu.result_of(tmp_path, "study") is None


def test_the_batch_is_halved_until_it_fits():
    tried = []

    def attempt(size):
        tried.append(size)
        if size > 3:
            raise torch.OutOfMemoryError
        return {"batch_size": size}

    assert gpu_throughput._largest_that_fits(attempt, 16, CPU) == {"batch_size": 2}
    assert tried == [16, 8, 4, 2]


def test_a_cpu_and_an_old_torch_are_refused(monkeypatch):
    with pytest.raises(UserError, match="needs a CUDA card; --toy --device cpu tries all of it"):
        gpu.refuse_unfit(CPU, toy=False)
    monkeypatch.setattr(torch, "__version__", "2.10.3+cu126")
    with pytest.raises(UserError, match=r"torch 2.10.3\+cu126 is older than 2.11"):
        gpu.refuse_unfit(CPU, toy=True)


def test_the_full_campaign_has_every_size_and_method():
    names = list(gpu_pieces.plan(gpu_sizes.FULL, gpu.Options().output, "cifar10", None))
    for wanted in (
        "train repa sit-xl",
        "train vrpo sit-xl compiled",
        "train baseline dit-xl",
        "sample sit-l bf16",
    ):
        assert wanted in names
    assert [name for name in names if name.startswith("study")] == [
        "study: images",
        "study: network cifar10-teacher",
        "study: network cifar10-cnn",
        "study: baseline",
        "study: repa[align_until=0.5,weight=2.0]",
        "study: vrpo",
    ]
