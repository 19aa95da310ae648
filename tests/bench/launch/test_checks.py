"""Plans that are refused, by a dry run as well as by a run."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.config import resolve
from bench.core.errors import UserError, exit_code
from bench.core.files import refuse_unwritable
from bench.core.parallel import Parallelism
from bench.data import datasets
from bench.launch.assets import missing_assets
from bench.launch.checks import refuse_unusable
from bench.run import main

ROOT = Path(__file__).parents[3]
SHORT = ["--method", "baseline", "--backbone", "sit-pico", "--steps", "2", "--batch-size", "8"]
SHORT += ["--samples", "16", "--feature-nets", "pixels", "--device", "cpu"]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--feature-nets", "inceptoin"), "Did you mean 'inception'"),
        (("--method", "repa[encoder=dinov2-bb]"), "unknown encoder 'dinov2-bb'"),
        (("--method", "repa[depth=9]"), "outside the backbone's blocks"),
        (("--feature-nets",), "at least 1 item"),
        (("--samples", "3"), "need more than 3 samples"),
        (("--batch-size", "1198"), "larger than the data set"),
        (("--backbone", "sit-pico/1", "--batch-size", "0"), "batch_size=0"),
        (("--micro-batch", "-1"), "--micro-batch -1"),
        (("--learning-rate", "-0.1"), "learning_rate=-0.1"),
        (("--label-dropout", "0", "--guidance-scale", "3"), "raise --label-dropout"),
        (("--guidance-channels", "7", "--guidance-scale", "3"), "more than the 1 of digits"),
        (("--guidance-scale", "1", "--guidance-interval", "0:0.7"), "does nothing"),
        (("--family", "sit"), "--init-from FILE"),
        (("--evaluate-only", "weights.pt"), "--method says what to train"),
        (("--partition", "gpu"), "--partition is for jobs"),
        (("--data", "folder[path=~/nowhere]"), "nowhere"),
        (("--results", "pyproject.toml"), "cannot write to"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(monkeypatch, capfd, tmp_path, arguments, message, dry_run):
    results = () if "--results" in arguments else ("--results", str(tmp_path))
    monkeypatch.setattr(
        sys, "argv", ["x", *SHORT, *results, *arguments, *(("--dry-run",) if dry_run else ())]
    )
    assert exit_code(main) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not list(tmp_path.iterdir())


def test_what_can_be_fetched_is_listed_and_keeps_a_run_from_starting(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    words = ["x", *SHORT, "--results", str(tmp_path / "results"), "--feature-nets", "inception"]
    monkeypatch.setattr(sys, "argv", [*words, "--dry-run"])
    assert exit_code(main) == 0
    assert "missing: the weights of inception" in capfd.readouterr().out
    monkeypatch.setattr(sys, "argv", words)
    assert exit_code(main) == 2
    assert "inception" in capfd.readouterr().err and not (tmp_path / "results").exists()


def test_a_cache_that_cannot_be_written_is_found_before_a_network_is_trained(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALIGNMENT_BENCH_CACHE", str(tmp_path / "file"))
    cached = resolve.run_spec("repa[encoder=digits-teacher[cache=true]]", "sit-pico", "digits", 0)
    with pytest.raises(UserError, match=r"ALIGNMENT_BENCH_CACHE"):
        missing_assets([cached])
    assert not missing_assets([resolve.run_spec("repa", "sit-pico", "digits", 0)])  # nothing is kept


def test_a_folder_that_is_not_there_yet_can_be_written(tmp_path):
    refuse_unwritable(tmp_path / "a" / "b", "choose another")
    assert not list(tmp_path.iterdir())


def test_patches_must_divide_the_images(tmp_path):
    spec = resolve.run_spec("baseline", "sit-pico/8", "digits", 0)
    refuse_unusable([spec], tmp_path, Parallelism())
    shape = {"classes": 10, "channels": 1, "size": 12}
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setitem(datasets._preset("digits"), "shape", shape)
        with pytest.raises(UserError, match="do not divide 12 x 12"):
            refuse_unusable([spec], tmp_path, Parallelism())


def test_the_preset_of_the_digits_counts_its_records():
    dataset = datasets.get("digits")
    assert dataset.preset["records"] == len(dataset.open())


def test_the_plan_of_a_large_network_imports_and_builds_none(tmp_path):
    script = (
        "import sys\nfrom bench.run import main\nmain()\nprint({'timm', 'torchvision'} & sys.modules.keys())"
    )
    words = ["--method", "vrpo", "--backbone", "sit-xl", "--results", str(tmp_path), "--dry-run"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "sit-xl/2" in done.stdout and done.stdout.splitlines()[-1] == "set()"
