"""The leaderboard: what is refused, what is merged, and the pages as a browser shows them."""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.config import resolve
from bench.core.errors import UserError, exit_code
from bench.evaluation.evaluator import evaluate_run
from bench.evaluation.rescoring import verify
from bench.leaderboard import main
from bench.reporting.board import earlier, entries, standings
from bench.reporting.tables import published
from tests.helpers import untrained_run
from tests.helpers.browser import opened

FID = {("baseline", 0): 8.0, ("baseline", 1): 9.0, ("repa", 0): 5.0, ("repa", 1): 5.5}


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """The checksum by the words of the schema."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return content | {"checksum": hashlib.sha256(text.encode()).hexdigest()}


def made(method: str, seed: int, backbone: str = "sit-pico", **metrics: float) -> dict[str, Any]:
    """An entry that nobody trained."""
    spec = resolve.run_spec(method, backbone, "digits", seed, training={"steps": 10, "batch_size": 8})
    fid = FID[method, seed]
    row = {
        "step": 10,
        "seconds": 36.0,
        "samples": spec.protocol.samples,
        "protocol": spec.protocol.hash,
        "guidance_scale": 1.0,
        "metrics": {"fid[digits-cnn]": fid, "precision[digits-cnn]": 0.5} | metrics,
    }
    environment = {"device": "cpu", "hardware": "A processor", "git": {"revision": "0123456789abcdef"}}
    spec_fields = spec.model_dump(mode="json")
    return signed({"format": 1, "spec": spec_fields, "environment": environment, "rows": [row]})


@pytest.fixture(scope="module")
def contents() -> list[dict[str, Any]]:
    return [made(method, seed) for method, seed in FID]


@pytest.fixture
def file(tmp_path: Path, contents) -> Path:
    path = tmp_path / "alice" / "entries.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(content) + "\n" for content in contents))
    return path


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bench.leaderboard", *map(str, arguments)])
    return exit_code(main)


def test_an_entry_is_of_the_last_step(contents):
    (row,) = contents[0]["rows"]
    for rows in ([], [row | {"step": 5}]):
        with pytest.raises(UserError, match=r"^here: it has .* last"):
            entries.parse(signed(contents[0] | {"rows": rows}), "here")


def test_a_file_of_entries_that_is_cut_off_is_refused(file):
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"entries\.jsonl:4 is no entry, or damaged"):
        list(entries.read(file))


@pytest.mark.parametrize("junk", ["", "[]", "{}", "null", '{"format": 1}', "\0" * 9, "[" * 100_000])
def test_what_is_no_entry_is_refused(tmp_path, junk):
    (tmp_path / "junk.jsonl").write_text(junk)
    with pytest.raises(UserError, match=r"junk\.jsonl is no entry"):
        list(entries.read(tmp_path / "junk.jsonl"))


def test_names_in_entries_are_text_on_the_pages(monkeypatch, tmp_path):
    evil = [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "../../evil",
        "\\input{x}",
        "{{7*7}}",
    ]
    lines = []
    for name in evil:
        content = made("baseline", 0)
        content["spec"]["method"] = content["spec"]["backbone"] = name
        content["environment"] |= {"hardware": name, "git": {"revision": name}}
        lines.append(json.dumps(signed(content)) + "\n")
    (tmp_path / "evil.jsonl").write_text("".join(lines))
    assert run(monkeypatch, tmp_path / "evil.jsonl", "--output", tmp_path / "site") == 0
    pages = "".join(path.read_text() for path in (tmp_path / "site").glob("*.html"))
    assert "<script>alert" not in pages and "<img" not in pages and "{{7*7}}" in pages
    assert sorted(path.suffix for path in (tmp_path / "site" / "entries").iterdir()) == [".json"] * len(evil)
    assert not list(tmp_path.rglob("evil*.json"))


def test_seeds_are_averaged_and_an_entry_given_twice_counts_once(file, contents):
    found = [("alice", entry) for entry in entries.read(file)]
    again = found[0][1].model_copy(update={"checksum": "evaluated again"})
    (board,) = standings.boards([("alice", again), *found, *found])
    lines = {line.method: line for line in board.standings}
    assert lines["repa"].metrics["fid[digits-cnn]"].mean == statistics.mean([5.0, 5.5])
    assert lines["repa"].metrics["fid[digits-cnn]"].sd == pytest.approx(statistics.stdev([5.0, 5.5]))
    assert lines["repa"].seeds == (0, 1)
    assert sum(lines["baseline"].hours) == pytest.approx(2 * 36 / 3600)
    assert {check for line in lines.values() for check in line.checksums} == {
        content["checksum"] for content in contents
    }


def test_contributors_and_budgets_are_kept_apart(file):
    (first, *rest) = entries.read(file)
    training = first.spec.training.model_copy(update={"steps": 20})
    longer = first.model_copy(
        update={"spec": first.spec.model_copy(update={"training": training}), "checksum": "other"}
    )
    (board,) = standings.boards([("alice", first), ("bob", rest[0]), ("alice", longer)])
    assert len(board.standings) == 3
    assert len(standings.Board.by_budget(board.standings)) == 2


def test_lines_of_one_method_are_told_apart_by_what_differs(file):
    (first, *_) = entries.read(file)
    training = first.spec.training.model_copy(update={"learning_rate": 0.5})
    other = first.model_copy(update={"spec": first.spec.model_copy(update={"training": training})})
    (board,) = standings.boards([("alice", first), ("alice", other)])
    budgets = {line.budget.backbone for line in board.standings}
    assert len(budgets) == 2 and any("learning_rate=0.5" in name for name in budgets)


def broken(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return json.loads(json.dumps(content)) | changes


def test_what_contradicts_itself_is_refused(contents):
    good = contents[0]
    row = good["rows"][0]
    other_net = {"metrics": {"fid": 2.0}}
    infinite = {"metrics": {"fid[digits-cnn]": float("inf")}}
    protocol = good["spec"]["protocol"] | {"checksums": ["digits-cnn@0000000000000000"]}
    cases = {
        "changed since": broken(good, rows=[row | {"seconds": 1.0}]),
        "protocol": signed(broken(good, rows=[row | {"protocol": "00000000"}])),
        "the spec's protocol has the hash": signed(broken(good, spec=good["spec"] | {"protocol": protocol})),
        "does not name": signed(broken(good, rows=[row | other_net])),
        "is inf": signed(broken(good, rows=[row | infinite])),
        "no evaluation": signed(broken(good, rows=[])),
        "no entry of this version": signed(broken(good, format=2)),
    }
    assert entries.parse(good, "here").checksum == good["checksum"]
    for words, content in cases.items():
        with pytest.raises(UserError, match=words):
            entries.parse(content, "here")


def test_one_refused_entry_leaves_no_site(monkeypatch, capsys, file, tmp_path):
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[0].replace('"seconds": 36.0', '"seconds": 1.0')]))
    assert run(monkeypatch, file, "--output", tmp_path / "site") == 2
    assert "entries.jsonl:5 was changed" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


def test_a_folder_that_is_no_site_is_not_replaced(monkeypatch, capsys, file, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for output in (tmp_path / "mine", file.parent, tmp_path):
        assert run(monkeypatch, file, "--output", output) == 2
    assert (tmp_path / "mine" / "thesis.tex").is_file() and file.is_file()


def test_a_run_is_verified_by_its_samples(tmp_path):
    folder, samples = untrained_run.make(tmp_path), tmp_path / "samples.npz"
    evaluate_run(folder, lambda own: [own], torch.device("cpu"), samples)
    with pytest.raises(UserError, match="not finished"):
        entries.of_run(folder)
    (folder / "status.json").write_text(json.dumps({"state": "finished", "step": 5, "steps": 5}))
    (entry,) = entries.read(folder)
    spec, metrics = entry.spec, entry.rows[0].metrics
    found = verify(spec, metrics, samples, torch.device("cpu"))
    assert {row.key for row in found} == set(metrics)
    assert all(row.agrees for row in found)
    better = {key: 0.9 * value for key, value in metrics.items()}
    flattered = verify(spec, better, samples, torch.device("cpu"))
    distances = [row for row in flattered if row.key.startswith("f")]
    assert len(distances) == 3 and not any(row.agrees for row in distances)
    more = spec.model_copy(update={"protocol": spec.protocol.model_copy(update={"samples": 200})})
    with pytest.raises(UserError, match="150 images"):
        verify(more, metrics, samples, torch.device("cpu"))


def test_the_committed_studies_seed_the_board():
    root = Path(__file__).parents[4] / "results"
    lines = list(earlier.lines(root / "quickstart", "ours"))
    if not lines and list(root.rglob(entries.FILE)):
        return  # the study was run again, with entries
    table = (root / "quickstart" / "report" / "main.csv").read_text().splitlines()
    assert len(lines) == len(table) - 1
    first = dict(zip(table[0].split(","), table[1].split(","), strict=True))
    assert lines[0].standing.metrics["fid[digits-cnn]"].mean == float(first["fid[digits-cnn]"])
    assert lines[0].standing.budget.steps == int(first["steps"])


def test_a_line_that_several_studies_report_stands_once():
    root = Path(__file__).parents[4] / "results"
    lines = [line for name in ("controls", "main") for line in earlier.lines(root / name, name)]
    shared = [line for line in lines if line.standing.method == "baseline"]
    assert len(shared) > 2  # SiT in both, DiT in one
    (board,) = standings.boards([], shared)
    assert sorted(line.source for line in board.earlier) == ["controls and 1 more", "main"]


@pytest.fixture
def page(monkeypatch, file, tmp_path) -> Iterator[Any]:
    """A browser on the site of the four entries; errors and requests to elsewhere fail."""
    assert run(monkeypatch, f"alice={file}", "--output", tmp_path / "site") == 0
    with opened((tmp_path / "site" / "index.html").as_uri(), 1400, 900, own=("file:",)) as page:
        yield page


def test_the_pages_in_a_browser(page, contents, tmp_path):
    protocol = contents[0]["rows"][0]["protocol"]
    page.get_by_role("link", name=protocol).click()
    table = page.get_by_role("table", name="sit-pico/2, 10 steps of 8 images")
    methods = [cell.inner_text() for cell in table.get_by_role("rowheader").all()]
    assert methods == ["repa", "baseline"]  # the lower FID first
    table.get_by_role("button", name="Method").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('th[aria-sort]') !== null")
    assert [cell.inner_text() for cell in table.get_by_role("rowheader").all()] == ["baseline", "repa"]
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400  # only tables scroll sideways
    page.get_by_role("link", name="Entry of repa, seed 1").click()
    assert json.loads(page.inner_text("body"))["spec"]["seed"] == 1
    schema = json.loads((tmp_path / "site" / "entry.schema.json").read_text())
    assert set(schema["required"]) == {"spec", "environment", "rows", "checksum"}
    page.goto((tmp_path / "site" / "published.html").as_uri())
    expected = (published.load()["status"] != "U").sum()
    assert page.get_by_role("rowheader").count() == expected


def test_an_entry_of_the_site_is_an_entry(monkeypatch, file, contents, tmp_path):
    assert run(monkeypatch, file, "--output", tmp_path / "site") == 0
    path = tmp_path / "site" / "entries" / f"{contents[0]['checksum']}.json"
    (entry,) = entries.read(path)
    assert entry.checksum == contents[0]["checksum"]
