import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import evaluate
from bench.core.errors import UserError, exit_code
from bench.data import datasets
from bench.data.image_files import open_images, writing
from bench.evaluate import Images, Options
from bench.evaluation import resume
from bench.nets.base import Activations
from tests.helpers import forked

NETS = ("digits-cnn", "random-conv", "pixels")


@pytest.fixture(autouse=True)
def _own_cache_for_unfinished_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "_folder", lambda: tmp_path / "unfinished")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 200 digits as `samples.npz` and `samples`, and 300 others as `reference`."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = datasets.get("digits").open().reference()
    for path, part in (("samples", images[:200]), ("reference", images[200:500])):
        with writing(folder / path, len(part)) as write:
            write(part)
    np.savez(folder / "samples.npz", images[:200].permute(0, 2, 3, 1).numpy(), labels[:200].numpy())
    return folder


def command(*arguments: object) -> subprocess.CompletedProcess:
    return forked.run(arguments, module="bench.evaluate")


def test_an_archive_and_a_folder_of_the_same_images_score_the_same(digits: Path, tmp_path: Path):
    archive, folder = (
        evaluate.score_images(
            Options(digits / name, images=Images(digits / "reference", NETS, batch_size=size))
        )
        for name, size in (("samples.npz", 64), ("samples", 7))
    )
    assert archive.pop("accuracy[digits-cnn]") >= 0.97  # only the archive knows the classes
    assert folder == pytest.approx(archive, rel=1e-4)
    assert {"fid[digits-cnn]", "fd[random-conv]", "fd[pixels]", "recall[pixels]"} <= set(folder)


def test_the_command_scores_writes_and_keeps_the_reference(digits: Path, tmp_path: Path):
    kept, output, copied = tmp_path / "kept.npz", tmp_path / "out.json", tmp_path / "copy.npz"
    first = command(
        *(digits / "samples", "--reference", digits / "reference", "--nets", "pixels"),
        *("--save-reference", kept, "--output", output, "--copy", copied, "--bootstrap", 3),
    )
    assert first.returncode == 0, first.stderr
    assert "fd[pixels]" in first.stdout and "200 images" in first.stdout
    second = command(copied, "--reference", kept, "--nets", "pixels", "--output", tmp_path / "again.json")
    assert second.returncode == 0, second.stderr
    metrics, again = (json.loads(path.read_text())["metrics"] for path in (output, tmp_path / "again.json"))
    assert metrics["fd_std[pixels]"] > 0
    assert again["fd[pixels]"] == pytest.approx(metrics["fd[pixels]"], rel=1e-12)


def test_an_interrupted_scoring_goes_on_where_it_stopped(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from bench.nets.metric_nets import Pixels

    monkeypatch.setattr(resume, "PART", 50)
    options = Options(digits / "samples", images=Images(digits / "reference", ("pixels",), batch_size=26))
    undisturbed = evaluate.score_images(options)
    honest, seen = Pixels.__call__, []

    def interrupted(self: Pixels, images: torch.Tensor):
        if len(seen) == 300 + 130:
            raise KeyboardInterrupt
        seen.extend(images)
        return honest(self, images)

    def counted(self: Pixels, images: torch.Tensor):
        seen.extend(images)
        return honest(self, images)

    monkeypatch.setattr(Pixels, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate.score_images(options)
    seen.clear()
    monkeypatch.setattr(Pixels, "__call__", counted)
    assert evaluate.score_images(options) == pytest.approx(undisturbed, rel=1e-6)
    assert len(seen) == 300 + 200 - 2 * 52  # two parts of two batches were kept
    assert not list((tmp_path / "unfinished").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samples"], "say what to compare with"),
        (["nowhere.npz", "--reference", "reference"], "nothing at"),
        (["samples", "--reference", "reference", "--nets", "pixel"], "Did you mean 'pixels'"),
        (["samples", "--reference", "reference", "--weights", "clean=x"], "write NET=FILE"),
        (["samples", "--reference", "reference", "--device", "cuda"], "no usable CUDA"),
        (["samples", "--guidance", "1.5"], "are for a run"),
        (["samples", "--reference", "reference", "--neighbours", "0"], "--neighbours 0 must be at least 1"),
        (["samples", "--reference", "reference", "--batch-size", "0"], "--batch-size 0 must be at least 1"),
        (["samples", "--reference", "reference", "--bootstrap", "1"], "2 resamples or more"),
        (["samples", "--reference", "reference", "--nets"], "at least one feature net"),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_line(
    arguments: list[str],
    message: str,
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    paths = [digits / text if text in ("samples", "reference", "nowhere.npz") else text for text in arguments]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, paths)])
    assert exit_code(evaluate.main) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1


def test_too_few_images_are_refused(digits: Path, tmp_path: Path):
    with writing(tmp_path / "few", 3) as write:
        write(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(UserError, match="more than 3"):
        evaluate.score_images(Options(tmp_path / "few", images=Images(digits / "reference", ("pixels",))))


def test_names_with_brackets_are_printed_as_they_are(capsys):
    evaluate._print("a[/b] c[red]", {"value": {"fd[x]": 1.0}}, "against d[/red]; k = 3")
    printed = capsys.readouterr().out
    for text in ("a[/b] c[red]", "fd[x]", "against d[/red]; k = 3"):
        assert text in printed


def test_help_needs_no_torch():
    script = "import sys, bench.evaluate; sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert "--reference" in command("--help").stdout


def test_outputs_never_replace_or_mix_with_what_is_read(digits: Path, tmp_path: Path):
    folder = digits / "samples"
    for output in (folder, folder / "copy"):
        with pytest.raises(UserError, match=r"--copy .* lies in .*, which is read"):
            evaluate.score_images(Options(folder, copy=output, images=Images(digits / "reference")))
    kept = Images(digits / "reference", save_reference=tmp_path / "no" / "where.npz")
    with pytest.raises(UserError, match=r"--save-reference .* cannot be written: make the folder"):
        evaluate.score_images(Options(folder, images=kept))
    both = Images(digits / "reference", save_reference=tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"--copy .* lies in --save-reference"):
        evaluate.score_images(Options(folder, copy=tmp_path / "x.npz", images=both))
    with pytest.raises(UserError, match=r"--output .* is a folder: name a file"):
        evaluate.score_images(Options(folder, images=Images(digits / "reference", output=tmp_path)))


def test_a_reference_saved_without_a_suffix_is_read_again(digits: Path, tmp_path: Path, capsys):
    images, nets = digits / "samples", ("random-conv",)
    evaluate.score_images(Options(images, images=Images(None, nets, save_reference=tmp_path / "kept")))
    metrics = evaluate.score_images(Options(images, images=Images(tmp_path / "kept", nets)))
    assert metrics["fd[random-conv]"] == pytest.approx(0, abs=1e-6)
    assert "images: 200, classes: 1" in capsys.readouterr().out


def test_a_folder_of_several_parts_is_scored_when_a_person_says_yes(digits: Path, tmp_path: Path):
    for part in ("train", "test"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        for file in list((digits / "samples").iterdir())[:20]:
            (tmp_path / "parts" / part / file.name).symlink_to(file)
    images = Images(digits / "reference", ("random-conv",))
    with pytest.raises(UserError, match="images of train and of val or test would be taken together"):
        evaluate.score_images(Options(tmp_path / "parts", images=images))
    assert evaluate.score_images(Options(tmp_path / "parts", images=images, yes=True))


def test_work_on_other_images_of_the_same_size_and_age_is_not_taken_up(tmp_path: Path):
    path = tmp_path / "a.npz"

    def write(value: int) -> resume.ActivationCache:
        np.savez(path, np.full((3, 4, 4, 3), value, np.uint8))
        os.utime(path, (0, 0))  # as a copy keeps it
        return resume.ActivationCache(open_images(path), ["net"], ())

    first = write(0)
    first.save(0, [Activations(torch.zeros(3, 2))])
    assert resume.ActivationCache(open_images(path), ["net"], ()).load(0) is not None
    assert write(1).load(0) is None


@pytest.mark.parametrize(
    ("nets", "message"),
    [
        (("inceptoin",), "Did you mean 'inception'"),
        (("pixels", "inception"), "inception"),
        ((), "at least one"),
    ],
)
def test_networks_that_cannot_score_are_refused_before_any_work(
    digits: Path, tmp_path: Path, nets: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ALIGNMENT_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("bench.data.image_files.ImageSet.batches", lambda *_: pytest.fail("read an image"))
    with pytest.raises(UserError, match=message):
        evaluate.score_images(Options(digits / "samples", images=Images(digits / "reference", nets)))


def test_a_network_named_twice_counts_once(digits: Path):
    once, twice = (
        evaluate.score_images(Options(digits / "samples", images=Images(digits / "reference", nets)))
        for nets in (("random-conv",), ("random-conv", "random-conv"))
    )
    assert twice == once
