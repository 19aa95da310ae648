"""A published model gives its row again, to the last bit, from a folder and from the hub's cache.

The hub itself is not reached: its cache is laid out by hand, and uploading is watched.
"""

import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from bench.config import grid
from bench.config.options import Comparison, WeightsOptions
from bench.core import hub
from bench.core.errors import UserError, exit_code
from bench.core.files import read_json, read_rows
from bench.publish import main as publish_main
from bench.publish import publish
from bench.run import main as run_main
from bench.runs import networks
from bench.runs.record import RunRecord
from tests.helpers import untrained_run

SHORT = "--steps 2 --batch-size 8 --seed 7 --samples 30 --sampler-flow euler[steps=3] --guidance-scale 1.5"
SHORT += " --sampler-ddpm ddim[steps=2] --label-dropout 0.2 --feature-nets pixels random-conv"


def call(monkeypatch, main, *words):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    assert exit_code(main) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        words = ("--backbone", "sit-pico", *SHORT.split(), "--results", root)
        call(patch, run_main, "--method", "repa", *words)
    (run,) = (root / "runs").iterdir()
    return run


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    assert publish(trained, str(folder), license="mit") == str(folder)
    return folder


def row_of(run):
    """The row of a run, but for the clock and what its training cost."""
    (row,) = read_rows(run / "eval.jsonl")
    return {key: row[key] for key in row.keys() - {"step", "seconds", "flops", "evaluation_seconds"}}


def test_a_published_folder_gives_its_row_again(trained, model, tmp_path, monkeypatch):
    call(monkeypatch, run_main, "--evaluate-only", model, "--results", tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    assert row_of(run) == row_of(trained)
    spec = RunRecord(run).spec()
    assert (spec.seed, spec.protocol) == (7, RunRecord(trained).spec().protocol)


def test_the_card_has_what_the_hub_reads(trained, model):
    card = ModelCard.load(model / "README.md")
    assert card.data.license == "mit" and card.data.library_name == "alignment-bench"
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found == row_of(trained)["metrics"]
    assert card.data.model_name == trained.name and "repa" in card.data.tags
    assert "@" in card.text and f"--evaluate-only {model}" in card.text
    assert {path.name for path in model.iterdir()} == {
        *("README.md", "model.safetensors", "run.json", "metrics.json", "samples.png")
    }


def test_metrics_by_networks_that_the_weights_were_trained_against_stay_marked(model):
    assert read_json(model / "run.json")["trained_against"]
    (spec,) = grid.plan(Comparison(), WeightsOptions(evaluate_only=model), {}, {}, "fp32")
    assert networks.leaky(spec) == ()
    against = spec.weights.model_copy(update={"trained_against": ("random-conv",)})
    assert networks.leaky(spec.model_copy(update={"weights": against})) == ("random-conv",)
    assert spec.model_copy(update={"weights": against}).hash == spec.hash


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the hub, without a connection; a function that puts a folder there as a repository."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(folder, name):
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        commit = "0123456789abcdef0123456789abcdef01234567"
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(commit)
        return place / "snapshots" / commit

    return put


@pytest.mark.parametrize("file", ["", "/model.safetensors", "@main/model.safetensors"])
def test_weights_are_named_on_the_hub(model, cache, file):
    snapshot = cache(model, "org/name")
    text = f"hf:org/name{file}"
    assert hub.fetch(text) == (snapshot / "model.safetensors" if file else snapshot)
    plans = [
        grid.plan(Comparison(), WeightsOptions(evaluate_only=Path(path)), {}, {}, "fp32")
        for path in (text, model)
    ]
    assert plans[0][0].hash == plans[1][0].hash
    (from_hub,) = grid.plan(
        Comparison(method=("baseline",)), WeightsOptions(init_from=Path(text)), {"steps": 1}, {}, "fp32"
    )
    assert from_hub.weights.sha256 == plans[0][0].weights.sha256 and from_hub.backbone == "sit-pico/2"


@pytest.mark.parametrize("text", ["hf:name", "hf:org/name/absent.safetensors", "hf:org/absent", "hf:"])
def test_what_is_not_there_is_one_line(model, cache, text):
    cache(model, "org/name")
    with pytest.raises(UserError) as caught:
        hub.fetch(text)
    assert str(caught.value).startswith(text) and "\n" not in str(caught.value)


def test_a_model_is_uploaded_as_the_folder_would_be(trained, model, monkeypatch):
    seen = {}

    class Api:
        def create_repo(self, name, private, exist_ok):
            seen["repository"] = name, private
            return f"address of {name}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            seen["files"] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert publish(trained, "hf:org/name", license="mit", private=True) == "address of org/name"
    assert seen["repository"] == ("org/name", True)
    expected = {path.name: path.read_bytes() for path in model.iterdir()}
    expected["README.md"] = expected["README.md"].replace(str(model).encode(), b"hf:org/name")
    assert seen["files"] == expected


def test_what_cannot_be_published_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match="no evaluation of its last checkpoint, step 5"):
        publish(untrained_run.make(tmp_path, "sit-pico"), str(tmp_path / "model"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="holds something else"):
        publish(trained, str(tmp_path / "other"))
    assert (tmp_path / "other" / "thesis.tex").read_text() == "years"
    with pytest.raises(UserError, match="no network of diffusers"):
        publish(trained, str(tmp_path / "model"), family="diffusers")
    assert not (tmp_path / "model").exists()


def test_a_diffusers_model_is_published_and_scored_again(tmp_path, monkeypatch):
    words = ("--backbone", "diffusers_dit[depth=1,width=16,heads=2]", *SHORT.split(), "--results", tmp_path)
    call(monkeypatch, run_main, "--method", "baseline", *words)
    (run,) = (tmp_path / "runs").iterdir()
    call(monkeypatch, publish_main, run, "--to", tmp_path / "model", "--family", "diffusers")
    assert (tmp_path / "model" / "diffusion_pytorch_model.safetensors").is_file()
    call(monkeypatch, run_main, "--evaluate-only", tmp_path / "model", "--results", tmp_path / "again")
    (again,) = (tmp_path / "again" / "runs").iterdir()
    assert row_of(again) == row_of(run)
