"""Suites can be run as written, at both scales, and ask for the same runs where they should."""

import json
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import methods
from bench.config import resolve, suites
from bench.config.options import Comparison
from bench.core.errors import UserError
from bench.core.files import read_rows
from bench.data import datasets
from bench.nets import teachers
from bench.nets.rewards.registry import REWARDS
from bench.run import Options, plan
from bench.runs import folder
from bench.runs.formats import EvaluationRow
from methods.base import TEACHER, BackboneInfo, EncoderInfo

FOLDER = Path(__file__).parents[3] / "bench" / "config" / "suites"
EVERY = [
    (name, scale)
    for name in suites.names()
    for scale in suites.SCALES
    if f"[{scale}]" in (FOLDER / f"{name}.toml").read_text()
]

GRID = (16, 16)


def planned(name, scale=None):
    return plan(Options(comparison=Comparison(suite=str(name), scale=scale)), "fp32")


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_every_run_of_a_suite_can_be_built(name, scale):
    specs, folder = planned(name, scale)
    assert folder.name == (name if scale == "quick" else f"{name}-full")
    assert {spec.data for spec in specs} == {"digits" if scale == "quick" else "imagenet256"}
    for method, backbone in {(spec.method, spec.backbone) for spec in specs}:
        architecture, built = resolve.architecture(backbone), resolve.method(method)
        info = BackboneInfo(architecture.family, architecture.depth, 32, GRID)  # narrow: quickly built
        built.build(info, lambda name: EncoderInfo(name, 24, GRID, layers=12, heads=12))
        needs = built.needs(0, 1000)
        assert set(needs.encoders) <= {TEACHER, *teachers.names()}
        assert set(needs.rewards) <= set(REWARDS)
        if scale == "full":  # latents have no pixels, and ImageNet no local reward net
            assert set(needs.rewards) <= {"x0", "velocity", "latent"}


@pytest.mark.parametrize(
    "name", [name for name in suites.names() if name != "quickstart" and "tuning" not in name]
)
def test_tuning_seeds_are_not_reported_on(name):
    specs, _ = planned(name)
    assert not {0, 1} & {spec.seed for spec in specs}
    for backbone in {spec.backbone for spec in specs}:
        assert len({spec.seed for spec in specs if spec.backbone == backbone}) >= 3


def test_settings_of_the_suite_methods_are_published_or_were_tried():
    """Each method has four trials on a seed of their own, and one teacher for all."""
    reported, tried = planned("methods")[0], planned("methods-tuning")[0]
    assert not {spec.seed for spec in reported} & {spec.seed for spec in tried}
    assert {spec.teacher for spec in (*reported, *tried)} == {"digits-vit"}
    name = lambda spec: spec.method.partition("[")[0]  # noqa: E731
    assert {name(spec) for spec in reported} == {name(spec) for spec in tried} == set(methods.names())
    resolved = {spec.resolved_method for spec in tried}
    assert {spec.resolved_method for spec in reported} <= resolved
    counts = Counter(map(name, tried))
    assert {counts.pop("baseline"), *counts.values()} == {1, 4}


def test_what_several_suites_ask_for_is_the_same_run():
    both = set(planned("reward-ablation")[0]) & set(planned("estimator-ablation")[0])
    assert {spec.method for spec in both} == {"baseline", "repa", "vrpo"}
    shared = set(planned("vrpo-vs-repa")[0]) & set(planned("convergence")[0])
    assert {spec.method for spec in shared} == {"baseline", "repa", "vrpo"}


def test_an_entry_of_the_grid_may_have_a_training_of_its_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'seed = [0]\n[[grid]]\nmethod = ["repa"]\nbackbone = ["sit-ti"]\n'
        '[[grid]]\nmethod = ["repa"]\nbackbone = ["dit-ti"]\ntraining = { steps = 9, batch_size = 8 }\n'
        "[quick.training]\nsteps = 7\n"
    )
    sit, dit = (spec.training for spec in planned(path)[0])
    assert (sit.steps, dit.steps, dit.batch_size) == (7, 9, 8) and sit.batch_size != 8
    path.write_text('[[grid]]\nmethod = ["repa"]\ntraining = { step = 9 }\n')
    with pytest.raises(UserError, match="step"):
        planned(path)


def test_tables_of_a_scale_are_laid_over_the_rest(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'seed = [7]\n[[grid]]\nmethod = ["repa"]\n[training]\nbatch_size = 8\nsteps = 9\n'
        '[quick.training]\nsteps = 10\n[full]\nbackbone = ["sit-s"]\ndata = "cifar10"\n'
    )
    (quick,), _ = planned(path, "quick")
    (full,), _ = planned(path, "full")
    assert (quick.backbone, quick.data, quick.seed) == ("sit-ti/2", "digits", 7)
    assert (quick.training.steps, quick.training.batch_size, quick.training.evaluate_every) == (10, 8, 250)
    assert (full.backbone, full.data, full.training.steps) == ("sit-s/2", "cifar10", 9)
    assert planned(path)[0] == [quick]


@pytest.mark.parametrize(
    ("text", "scale", "message"),
    [
        ('[[grid]]\nmethod = ["repa"]\nbackbones = ["sit-ti"]', None, r"\[grid\].*'backbones'.*Did you mean"),
        ('[grid]\nmethod = ["repa"]', None, r"write \[\[grid\]\]"),
        ('seed = 0\n[[grid]]\nmethod = ["repa"]', None, "seed = 0 cannot be used: .* list"),
        ('seed = [true]\n[[grid]]\nmethod = ["repa"]', None, "True cannot be used"),
        ('seed = []\n[[grid]]\nmethod = ["repa"]', None, "seed = .* at least 1"),
        ('[[grid]]\nmethod = "repa"', None, "method = 'repa' cannot be used"),
        ("[[grid]]\nmethod = []", None, "method = .* at least 1"),
        ('[[grid]]\nmethod = ["repa", 3]', None, "3 cannot be used"),
        ("grid = []", None, "grid = .* at least 1"),
        ('training = 3\n[[grid]]\nmethod = ["repa"]', None, "training = 3 cannot be used"),
        ('[[grid]]\nmethod = ["repa"]\n[training]\nstep = 1', None, r"\[training\].*Did you mean 'steps'"),
        ('[[grid]]\nmethod = ["repa"]\n[training]\nsteps = "5"', None, "steps = '5' cannot be used"),
        ('[[grid]]\nmethod = ["repa"]\n[training]\nlearning_rate = nan', None, "learning_rate = nan"),
        ('[[grid]]\nmethod = ["repa"]\n[quick.protocol]\nfeature_nets = []', None, "feature_nets"),
        ('data = 7\n[[grid]]\nmethod = ["repa"]', None, "data = 7"),
        ('seeds = [1]\n[[grid]]\nmethod = ["repa"]', None, "unknown key of the suite .* Did you mean 'seed'"),
        ("[quick]\nstep = 1", None, "'step'"),
        ("seed = [1]", None, r"give it a \[\[grid\]\]"),
        ('[[grid]]\nbackbone = ["sit-ti"]', None, "has no method"),
        ('[[grid]]\nmethod = ["repa"]', "full", "has no scale full: it has none"),
        ('[quick]\n[[grid]]\nmethod = ["repa"]', "full", "has no scale full: it has quick"),
        ('reference = "rep"\n[[grid]]\nmethod = ["repa"]', None, "unknown reference .* Did you mean 'repa'"),
        ("seed = ", None, "cannot be read"),
    ],
)
def test_a_suite_that_cannot_be_run_says_why(tmp_path, text, scale, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        planned(path, scale)


def test_a_suite_file_may_come_from_an_editor_that_marks_its_encoding(tmp_path, monkeypatch):
    """And have an upper-case suffix, lie in the home folder, and hold names of an earlier version."""
    text = '[[grid]]\nmethod = ["repa"]\n[training]\nsteps = 1e3\n[protocol]\nsampler_sit = "heun[steps=3]"\n'
    (tmp_path / "MINE.TOML").write_text("\ufeff" + text, encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    (spec,), folder = planned("~/MINE.TOML")
    assert (spec.training.steps, spec.protocol.sampler_flow, folder.name) == (1000, "heun[steps=3]", "MINE")


def test_a_suite_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no suite file .*nowhere"):
        planned(tmp_path / "nowhere.toml")


def test_a_plan_reads_each_preset_and_suite_file_once(monkeypatch):
    read, loads = [], tomllib.loads
    monkeypatch.setattr(tomllib, "loads", lambda text: read.append(text) or loads(text))
    datasets._preset.cache_clear()
    planned("quickstart")
    assert len(read) == len(set(read)) == 3  # the suite, its scale and the data set


@pytest.mark.parametrize(
    ("suite", "method", "seed"),
    [
        (None, ("repa", "repa", "repa[weight=0.50]"), (1, 0, 1)),
        ("quickstart", ("repa",), (0, 0)),
    ],
)
def test_what_is_named_twice_is_run_once(suite, method, seed):
    asked = Comparison(suite=suite, method=method, seed=seed, backbone=("sit-ti", "sit-ti/2"))
    specs = plan(Options(comparison=asked), "fp32")[0]
    assert [spec.seed for spec in specs] == list(dict.fromkeys(seed))
    assert {spec.method for spec in specs} == {"repa"}


def test_a_scale_without_a_suite_is_refused():
    with pytest.raises(UserError, match="give --suite"):
        plan(Options(comparison=Comparison(method=("repa",), scale="full")), "fp32")


@pytest.fixture
def finished(tmp_path):
    """A finished run of suite `one`."""
    run = folder.RunFolder(tmp_path / "one", planned("main")[0][0])
    row = EvaluationRow(step=500, seconds=1.0, protocol=run.spec.protocol.hash, metrics={})
    run.append(row)
    (run.folder / "ema.safetensors").write_bytes(b"weights")
    run.set_status("finished", 500)
    return run


def test_a_run_that_another_suite_has_finished_is_copied(finished, tmp_path):
    assert folder.adopt(tmp_path / "two", finished.spec) == finished.folder
    copy = folder.RunFolder(tmp_path / "two", finished.spec)
    assert copy.finished and copy.evaluated(500)
    assert copy.folder.joinpath("ema.safetensors").samefile(finished.folder / "ema.safetensors")
    assert f"copied from {finished.folder}" in (copy.folder / "log.txt").read_text()
    assert list((tmp_path / "two").iterdir()) == [copy.folder]
    row = EvaluationRow(step=500, seconds=1.0, protocol="guided", guidance_scale=2, metrics={})
    copy.append(row)  # what one suite adds is not the other's
    assert len(read_rows(finished.folder / "eval.jsonl")) == 1


def test_what_is_unfinished_elsewhere_or_begun_here_is_not_copied(finished, tmp_path):
    assert folder.adopt(tmp_path / "one", finished.spec) is None
    finished.set_status("interrupted", 250)
    assert folder.adopt(tmp_path / "two", finished.spec) is None
    finished.set_status("finished", 500)
    folder.RunFolder(tmp_path / "two", finished.spec).set_status("running", 3)
    assert folder.adopt(tmp_path / "two", finished.spec) is None
    assert json.loads((tmp_path / "two" / finished.spec.run_id / "status.json").read_text())["step"] == 3
