import json
import sys
from pathlib import Path

import pytest
import torch

from bench import probe
from bench.core.errors import UserError, exit_code
from bench.evaluation import probing
from bench.reporting.plots import heat_maps
from bench.runs import loading
from tests.helpers import untrained_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run.make(tmp_path_factory.mktemp("results"))


def test_the_command_writes_a_row_a_depth_and_time_and_the_heat_maps(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    line = ["probe", str(folder), "--images", "60", "--times", "0.1", "0.9"]
    monkeypatch.setattr(sys, "argv", line)
    assert exit_code(probe.main) == 0
    rows = [json.loads(line) for line in (folder / "probe.jsonl").read_text().splitlines()]
    depth = loading.load(folder, CPU).model.architecture.depth
    assert [(row["t"], row["depth"]) for row in rows] == [
        (t, d) for t in (0.1, 0.9) for d in range(1, depth + 1)
    ]
    assert all(set(heat_maps.TITLES) <= set(row) for row in rows)
    assert (folder / "probe.png").stat().st_size > 10_000
    assert "heat maps in" in capsys.readouterr().out


def test_hidden_states_do_not_depend_on_the_class_or_the_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    run = loading.load(folder, CPU)
    x0, noise = (torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    whole = probing.hidden_states(run, x0, noise, t=0.4)
    monkeypatch.setattr(probing, "BATCH_SIZE", 3)
    for depth, tokens in probing.hidden_states(run, x0, noise, t=0.4).items():
        torch.testing.assert_close(tokens, whole[depth], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 10}, "too few"),
        ({"times": (0.0,)}, "above 0"),
        ({"encoder": "digits-teachr"}, "Did you mean 'digits-teacher'"),
    ],
)
def test_what_cannot_be_probed_is_said(arguments: dict, message: str, folder: Path):
    with pytest.raises(UserError, match=message):
        probing.probe_run(folder, CPU, **{"times": (0.5,), "images": 60} | arguments)


def test_what_is_no_run_is_said(tmp_path: Path, folder: Path):
    with pytest.raises(UserError, match=r"no spec\.json"):
        loading.load(tmp_path, CPU)
    (tmp_path / "spec.json").write_text((folder / "spec.json").read_text())
    with pytest.raises(UserError, match="no checkpoint yet"):
        loading.load(tmp_path, CPU)
    (tmp_path / "spec.json").write_text('{"suite": "old"}')
    with pytest.raises(UserError, match="another version"):
        loading.load(tmp_path, CPU)
