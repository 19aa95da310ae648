"""The library: what it gives is what the commands give, and importing it costs nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bench
from bench.core.errors import UserError
from bench.core.files import read_rows
from bench.evaluation import sampling
from bench.runs import loading
from bench.runs.folder import RunFolder
from bench.runs.formats import EvaluationRow
from tests.helpers import untrained_run

ROOT = Path(__file__).parents[2]


def test_importing_bench_imports_nothing_heavy():
    probe = "import sys, bench; dir(bench); print(*{'torch', 'pandas', 'numpy', 'tyro'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert set(bench.__all__) <= set(dir(bench))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bench.nothing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run.make(tmp_path_factory.mktemp("runs"), "sit-pico")


def test_a_run_is_loaded_and_sampled_as_its_evaluation_does(run):
    loaded = bench.load_run(str(run), device="cpu")
    assert loaded.spec.method == "baseline" and loaded.counters.step == 5
    index = torch.arange(6)
    (expected,) = sampling.stream(loaded.model, loaded.process, loaded.spec, loaded.data, index)
    assert torch.equal(bench.sample(loaded, expected.labels), expected.images)
    labels = expected.labels.tolist()
    labels[3] = (labels[3] + 1) % 10  # another class changes that image alone
    changed = bench.sample(loaded, labels) != expected.images
    assert changed.flatten(1).any(dim=1).tolist() == [False, False, False, True, False, False]
    assert not torch.equal(bench.sample(run, expected.labels, guidance_scale=3.0), expected.images)


@pytest.mark.parametrize("labels", [[], [10], [-1]])
def test_classes_that_the_data_does_not_have_are_refused(run, labels):
    with pytest.raises(UserError, match=r"classes 0\.\.9 of digits"):
        bench.sample(bench.load_run(run, device="cpu"), labels)


def test_results_are_the_rows_of_all_folders_in_one_frame(tmp_path):
    for name, net in (("one", "pixels"), ("two", "random-conv")):
        folder = untrained_run.make(tmp_path / name, "sit-pico")
        spec = loading.load(folder, torch.device("cpu")).spec
        writer = RunFolder(tmp_path / name, spec)
        for step in (1, 5):
            metrics = {f"fd[{net}]": float(step)}
            writer.append(
                EvaluationRow(step=step, seconds=step, protocol=spec.protocol.hash, metrics=metrics)
            )
    table = bench.results(tmp_path / "one", tmp_path / "two")
    assert table["folder"].tolist() == [str(tmp_path / "one")] * 2 + [str(tmp_path / "two")] * 2
    assert table["step"].tolist() == [1, 5, 1, 5] and set(table["method"]) == {"baseline"}
    assert table["fd[pixels]"].tolist()[:2] == [1.0, 5.0] and table["fd[pixels]"].isna().sum() == 2
    with pytest.raises(UserError, match="name one"):
        bench.results()
    with pytest.raises(UserError, match="no run that can be read"):
        bench.results(tmp_path)


def test_a_run_of_the_library_is_the_run_of_the_command(tmp_path):
    from bench.config import resolve

    settings = {"steps": 2, "batch_size": 8, "log_every": 1}
    protocol = {"samples": 10, "sampler_flow": "euler[steps=2]", "feature_nets": ("pixels",)}
    trained = bench.train(
        "repa", "sit-pico", seed=3, device="cpu", results=tmp_path, protocol=protocol, **settings
    )
    spec = resolve.run_spec("repa", "sit-pico", "digits", 3, training=settings, protocol=protocol)
    assert trained.folder.name.rpartition("-")[0] == spec.run_id.rpartition("-")[0]
    first = bench.build("repa", "sit-pico", seed=3, device="cpu", **settings).step(0)
    (row, _) = read_rows(trained.folder / "train.jsonl")
    assert row["raw"] == pytest.approx({name: float(value) for name, value in first["raw"].items()}, rel=1e-5)
    assert len(read_rows(trained.folder / "eval.jsonl")) == 1
    again = bench.train(
        "repa", "sit-pico", seed=3, device="cpu", results=tmp_path, protocol=protocol, **settings
    )
    assert again.counters == trained.counters  # read, not trained again
    with pytest.raises(UserError, match="stands for 2 runs"):
        bench.build("repa[weight=[0.5,1.0]]", "sit-pico")
