"""The hash of a run depends on everything that determines its numbers, and on nothing else."""

import json

import pytest

from bench.config import resolve
from bench.config.options import TrainingOptions, given
from bench.config.spec import Protocol, RunSpec, protocol_hash
from bench.core.errors import UserError
from bench.diffusion import samplers
from bench.runs.folder import RunFolder, adopt, older_runs
from methods.cfm import CFM
from methods.repa import REPA

# As version 0.1 wrote it, and the name that it gave the folder.
OLD = {
    "method": "repa[weight=2.0]",
    "backbone": "sit-ti/2",
    "data": "digits",
    "seed": 3,
    "process": "flow",
    "teacher": "digits-teacher",
    "reward_net": "digits-teacher",
    "training": {
        "steps": 1000,
        "batch_size": 64,
        "learning_rate": 0.002,
        "weight_decay": 0.0,
        "gradient_clip": 1.0,
        "ema_decay": 0.99,
        "label_dropout": 0.1,
        "precision": "fp32",
        "evaluate_every": 200,
        "checkpoint_every": 200,
        "log_every": 25,
    },
    "protocol": {
        "data": "digits",
        "reference": "digits, 600 held-out images",
        "feature_nets": ["digits-cnn", "random-conv", "pixels"],
        "samples": 1000,
        "labels": "balanced",
        "sampler_sit": "heun[steps=10]",
        "sampler_dit": "ddim[steps=25]",
        "guidance_scale": 1.0,
        "guidance_interval": [0.0, 1.0],
        "guidance_channels": 0,
        "rounding": "round",
        "weights": "ema",
        "neighbours": 3,
    },
    "method_source": "",
    "weights": None,
}
OLD_RUN, OLD_PROTOCOL = "repa-weight-2.0-sit-ti-2-seed3-3123626c", "2103cf00"


def spec(method="repa[weight=2.0]", **settings):
    return resolve.run_spec(method, "sit-ti", "digits", 3, **settings)


def test_a_run_of_before_keeps_its_name_and_its_protocols_hash():
    old = RunSpec.model_validate_json(json.dumps(OLD))
    assert old.run_id == OLD_RUN and old.protocol.sampler_flow == "heun[steps=10]"
    assert old.protocol.hash == protocol_hash(OLD["protocol"]) == OLD_PROTOCOL
    again = RunSpec.model_validate_json(old.model_dump_json())
    assert again == old and again.run_id == OLD_RUN and again.protocol.hash == OLD_PROTOCOL


def test_a_run_of_today_is_another_than_the_same_of_before():
    assert spec().readable_id == RunSpec.model_validate(OLD).readable_id
    assert spec().hash != RunSpec.model_validate(OLD).hash
    assert spec().protocol.hash != OLD_PROTOCOL


def test_a_changed_default_and_a_raised_version_make_other_runs(monkeypatch):
    before = spec("repa")
    monkeypatch.setattr(REPA, "version", REPA.version + 1)
    assert spec("repa").hash != before.hash
    monkeypatch.undo()
    monkeypatch.setattr(
        REPA.__init__,
        "__defaults__",
        tuple(0.25 if value == 0.5 else value for value in REPA.__init__.__defaults__),
    )
    assert spec("repa").hash != before.hash


def test_each_of_several_methods_counts_with_its_own_version(monkeypatch):
    found = {spec("repa+cfm").hash}
    for raised in (REPA, CFM):
        with monkeypatch.context() as patch:
            patch.setattr(raised, "version", raised.version + 1)
            found.add(spec("repa+cfm").hash)
    assert len(found) == 3


def test_a_preset_that_stands_for_another_sampler_makes_another_protocol(monkeypatch):
    chosen = {"protocol": {"sampler_flow": "ode-heun-50"}}
    before = spec(**chosen)
    monkeypatch.setitem(samplers.PRESETS, "ode-heun-50", "heun[steps=26]")
    after = spec(**chosen)
    assert after.hash != before.hash and after.protocol.hash != before.protocol.hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"method": "repa"}, {"method": "repa[weight=0.50]"}),
        ({"protocol": {"sampler_flow": "ode-heun-50"}}, {"protocol": {"sampler_flow": "heun[steps=25]"}}),
        ({"process": "flow"}, {"process": "flow[path=linear]"}),
        ({}, {"protocol": {"feature_nets": ["digits-cnn", "random-conv", "digits-cnn", "pixels"]}}),
    ],
)
def test_two_spellings_of_one_thing_are_one_run(one, other):
    assert spec(**one).hash == spec(**other).hash
    assert spec(**one).protocol.hash == spec(**other).protocol.hash


@pytest.mark.parametrize(
    "changed",
    [
        {"training": {"steps": 999}},
        {"protocol": {"samples": 999}},
        {"protocol": {"sampler_ddpm": "ddim[steps=26]"}},
        {"process": "flow[path=gvp]"},
        {"method": "repa[weight=2.0,depth=1]"},
    ],
)
def test_whatever_decides_a_number_changes_the_hash(changed):
    assert spec(**changed).hash != spec().hash


def test_weights_that_an_option_names_count_by_their_content(tmp_path):
    file = tmp_path / "vit.safetensors"
    hashes = []
    for content in (b"one", b"other, longer", b"one"):
        file.write_bytes(content)
        hashes.append(spec(f"repa[encoder=dinov2-b[weights={file}]]").hash)
    assert hashes[0] == hashes[2] != hashes[1]
    file.unlink()
    spec(f"repa[encoder=dinov2-b[weights={file}]]")  # what is absent, the plan refuses


def test_a_folder_is_reopened_by_its_own_run_only(tmp_path):
    one = spec(protocol={"sampler_flow": "ode-heun-50"})
    folder = RunFolder(tmp_path, one).folder
    assert RunFolder(tmp_path, spec(protocol={"sampler_flow": "heun[steps=25]"})).folder == folder
    content = json.loads((folder / "spec.json").read_text())
    content["training"]["steps"] += 1
    (folder / "spec.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="another spec"):
        RunFolder(tmp_path, one)


def test_a_protocol_is_written_and_read_back():
    found = spec().protocol
    assert Protocol.model_validate_json(found.model_dump_json()) == found
    assert protocol_hash(json.loads(found.model_dump_json())) == found.hash


def test_a_run_of_before_is_named_and_neither_continued_nor_copied(tmp_path):
    folder = tmp_path / "runs" / OLD_RUN
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(OLD))
    (folder / "status.json").write_text('{"state": "finished", "step": 1000}')
    line = older_runs(tmp_path / "runs", [spec()])
    assert OLD_RUN in line and "older identity" in line and "\n" not in line
    assert not older_runs(tmp_path / "runs", [spec("repa")])
    assert not RunFolder(tmp_path / "runs", spec()).finished
    assert adopt(tmp_path / "elsewhere", spec()) is None
    assert not older_runs(tmp_path / "elsewhere", [spec()])


def test_options_that_came_later_make_other_runs_and_change_no_hash_when_left_out():
    run = spec()
    written = run.model_dump(mode="json")  # as before there were these options
    del written["training"]["compile"]
    del written["protocol"]["sampling_precision"], written["protocol"]["sampling_compile"]
    assert RunSpec.model_validate(written).hash == run.hash
    assert protocol_hash(written["protocol"]) == run.protocol.hash
    assert spec(training={"compile": True}).hash != run.hash
    for option in (
        {"sampling_precision": "tf32"},
        {"sampling_precision": "bf16"},
        {"sampling_compile": True},
    ):
        changed = spec(protocol=option)
        assert changed.hash != run.hash and changed.protocol.hash != run.protocol.hash


def test_a_flag_that_is_left_out_is_not_given():
    assert given(TrainingOptions()) == {}
    assert given(TrainingOptions(compile=True)) == {"compile": True}
