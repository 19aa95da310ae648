"""The command line end to end, in subprocesses: runs, resumes, and what bad input gets told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import backbones
from bench.config import resolve
from bench.core.errors import UserError, exit_code
from bench.core.files import read_rows
from bench.launch.runner import Runner
from bench.run import main
from bench.runs.folder import RunFolder
from bench.runs.formats import Counters
from bench.training.trainer import Trainer
from tests.helpers import forked

ROOT = Path(__file__).parents[2]
SHORT = ["--backbone", "sit-pico", "--steps", "12", "--batch-size", "16", "--checkpoint-every", "4"]
SHORT += ["--evaluate-every", "6", "--log-every", "1", "--samples", "30", "--sampler-flow", "euler[steps=3]"]


def command(*arguments):
    return [sys.executable, "-m", "bench.run", *map(str, arguments)]


def run(*arguments, anew=False, **environment):
    """The command, ended: started anew, as a user's is, or forked, which is faster."""
    if not anew:
        return forked.run(arguments, environment=os.environ | environment)
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)


def only_run(output):
    (folder,) = (output / "runs").iterdir()
    return folder


def numbers(folder):
    """Everything that must not depend on interruptions: all rows but the clock's, the last of each step."""
    timing = {"seconds", "step_seconds", "images_per_second", "evaluation_seconds"}
    return {
        name: {
            row["step"]: {key: value for key, value in row.items() if key not in timing}
            for row in read_rows(folder / f"{name}.jsonl")
        }
        for name in ("train", "eval")
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Rows of a VRPO run that nobody interrupts."""
    output = tmp_path_factory.mktemp("undisturbed")
    done = run("--method", "vrpo", *SHORT, "--output", output)
    assert done.returncode == 0, done.stderr
    return numbers(only_run(output))


def test_a_run_leaves_everything_that_a_report_needs(undisturbed):
    assert sorted(undisturbed["train"]) == list(range(1, 13))
    assert sorted(undisturbed["eval"]) == [6, 12]
    assert set(undisturbed["train"][1]["raw"]) == {"denoise", "repa", "reward"}
    metrics = undisturbed["eval"][12]["metrics"]
    for net in ("digits-cnn", "random-conv", "pixels"):
        assert f"precision[{net}]" in metrics and f"recall[{net}]" in metrics
    assert {"fid[digits-cnn]", "fd[random-conv]", "fd[pixels]", "accuracy[digits-cnn]"} <= set(metrics)


@pytest.mark.parametrize("kill_after_step", [1, 5, 6, 11])
def test_a_killed_run_ends_with_the_numbers_of_an_undisturbed_one(tmp_path, undisturbed, kill_after_step):
    arguments = ["--method", "vrpo", *SHORT, "--output", tmp_path]
    process = forked.Command(arguments)
    while process.poll() is None:
        rows = [row for path in tmp_path.glob("runs/*/train.jsonl") for row in read_rows(path)]
        if any(row["step"] >= kill_after_step for row in rows):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    assert numbers(only_run(tmp_path)) == undisturbed


def test_an_interrupted_run_saves_and_continues(tmp_path, undisturbed):
    arguments = ["--method", "vrpo", *SHORT, "--output", tmp_path]
    process = forked.Command(arguments)
    while not list(tmp_path.glob("runs/*/train.jsonl")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    if process.returncode:  # else it was done before the signal came
        assert process.returncode == 130 and "run the same command again" in stderr
        assert json.loads((only_run(tmp_path) / "status.json").read_text())["state"] == "interrupted"
        assert list(only_run(tmp_path).glob("checkpoints/step-*"))
    assert run(*arguments).returncode == 0
    assert numbers(only_run(tmp_path)) == undisturbed


def test_a_checkpoint_of_another_version_is_refused_in_one_line(tmp_path):
    run_spec = resolve.run_spec("repa", "sit-pico", "digits", 0, training={"steps": 2, "batch_size": 4})
    parts = Trainer(run_spec, torch.device("cpu")).state()
    parts["method"] = {f"renamed.{name}": tensor for name, tensor in parts["method"].items()}
    RunFolder(tmp_path, run_spec).save_checkpoint(parts, Counters(step=1, seconds=1.0, flops=1))
    with pytest.raises(UserError, match=r"another version of the code .* move the folder away"):
        Runner(run_spec, tmp_path, torch.device("cpu")).run()


def test_a_finished_run_costs_nothing_again(tmp_path):
    arguments = ["--method", "baseline", *SHORT, "--output", tmp_path]
    assert run(*arguments, anew=True).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in only_run(tmp_path).rglob("*.jsonl")}
    assert run(*arguments).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in only_run(tmp_path).rglob("*.jsonl")} == before


def test_help_answers_without_importing_torch():
    probe = [sys.executable, "-X", "importtime", "-m", "bench.run", "--help"]
    done = subprocess.run(probe, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tyro" in imported and not {"torch", "pandas", "matplotlib"} & imported
    assert "--method" in done.stdout and "vrpo" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to run"),
        (("--method", "rapa"), "unknown method 'rapa'. Did you mean 'repa'?"),
        (("--method", "repa[wieght=1]"), "Did you mean 'weight'"),
        (("--method", "repa[weight=much]"), "weight=much"),
        (("--method", "repa[depth=9]"), "outside the backbone's blocks"),
        (("--method", "vrpo[estimator=score,group_size=1]"), "at least 2 members"),
        (("--method", "nowhere/method.py"), "there is no method file"),
        (("--method", "repa+layersink"), "unknown method 'layersink'. Did you mean 'layersync'?"),
        (("--method", "repa+layersync+repa"), "has repa twice"),
        (
            ("--method", "repa+layersync[target_depth=9]"),
            "target_depth=9 is outside",
        ),
        (("--method", "haste"), "digits-teacher has no attention to align with"),
        (("--method", "repi"), "digits-teacher has no keys and values"),
        (("--method", "reg"), "digits-teacher has no class token"),
        (
            ("--method", "reg[encoder=digits-vit]", "--backbone", "dit-ti"),
            "takes no extra state: use a SiT",
        ),
        (("--method", "self-flow", "--backbone", "dit-ti"), "use a backbone and a process of flow matching"),
        (
            ("--method", "irepa[encoder=digits-vit]", "--backbone", "sit-ti/4"),
            "the backbone has (2, 2)",
        ),
        (("--method", "repa", "--backbone", "sit-xxl"), "sit-xl"),
        (("--method", "repa", "--backbone", "sit-ti/3"), "3"),
        (("--method", "repa", "--data", "digit"), "Did you mean 'digits'"),
        (("--method", "repa", "--sampler-flow", "hoin"), "unknown sampler 'hoin'"),
        (("--method", "repa", "--process", "flow[path=linaer]"), "path=linaer"),
        (("--suite", "quickstar"), "Did you mean 'quickstart'"),
        (("--method", "repa", "--batch-size", "5000"), "larger than the data set"),
        (("--method", "repa", "--steps", "-1"), "greater than or equal to 0"),
        (("--method", "repa", "--guidance-interval", "0.7", "0.2"), "0 <= low <= high <= 1"),
        (("--method", "repa", "--output", "pyproject.toml"), "cannot write to"),
    ],
)
def test_bad_input_gets_one_clear_line(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(ROOT)
    output = () if "--output" in arguments else ("--output", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench.run", *arguments, *output])
    assert exit_code(main) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


def test_a_failing_command_exits_with_2_and_no_traceback(tmp_path):
    done = run("--method", "repo", "--output", tmp_path, anew=True)
    assert done.returncode == 2 and done.stderr.startswith("error: unknown method 'repo'")


def test_cuda_is_refused_where_there_is_none(tmp_path):
    done = run("--method", "repa", "--device", "cuda", "--output", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and "no usable CUDA device" in done.stderr


def test_dry_run_prints_the_plan_and_runs_nothing(tmp_path):
    done = run("--method", "vrpo", "--backbone", "sit-xl", "--dry-run", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.device("meta"):
        network = backbones.build(backbones.architecture("sit-xl"), input_size=8, channels=1, num_classes=10)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert f"{millions:.1f} M" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_diverging_run_stops_with_its_state_saved(tmp_path):
    done = run("--method", "baseline", *SHORT, "--learning-rate", "1e6", "--output", tmp_path)
    assert done.returncode == 2 and "the loss diverged" in done.stderr
    folder = only_run(tmp_path)
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"
    assert list(folder.glob("checkpoints/step-*"))


def test_out_of_memory_says_what_to_lower(tmp_path, monkeypatch, capfd):
    def step(_trainer, _step):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("bench.launch.cost.estimate_all", lambda *_: [])
    monkeypatch.setattr("bench.launch.cost.show", lambda *_: None)
    monkeypatch.setattr("bench.launch.cost.refuse_what_does_not_fit", lambda *_: None)
    monkeypatch.setattr("bench.training.trainer.Trainer.step", step)
    monkeypatch.setattr(sys, "argv", ["bench.run", "--method", "baseline", *SHORT, "--output", str(tmp_path)])
    assert exit_code(main) == 2
    assert "hold fewer at once with --micro-batch N" in capfd.readouterr().err
    assert json.loads((only_run(tmp_path) / "status.json").read_text())["state"] == "failed"
