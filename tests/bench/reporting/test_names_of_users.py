"""Names that come with a results folder, whoever wrote them, neither run nor break any part of a report."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.benchmark.simulated_runs import write_run
from bench.report import Report, write

HTML = "</script><script>document.title='run'</script><img src=x onerror=alert(1)>"
LATEX = r"\input{/etc/passwd}%$\frac{"
MARKDOWN = "a|b `c`\n# h[d=[e](javascript:alert(1))]"
HOSTILE = (HTML, LATEX, MARKDOWN)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results") / "hostile"
    for number, name in enumerate(("baseline", *HOSTILE)):
        for seed in range(2):
            run = write_run(root / f"written-{number}", "repa", seed=seed)
            spec = json.loads((run / "spec.json").read_text()) | {"method": f"{name}", "seed": seed}
            env = json.loads((run / "env.json").read_text()) | {"hardware": name}
            status = json.loads((run / "status.json").read_text()) | {"message": name}
            for file, content in (("spec", spec), ("env", env), ("status", status)):
                (run / f"{file}.json").write_text(json.dumps(content))
            run.rename(root / f"run-{number}-{seed}")
        (root / f"written-{number}").rmdir()
    failed = root / "failed"
    write_run(root / "written", "repa", state="failed").rename(failed)
    (root / "written").rmdir()
    status = json.loads((failed / "status.json").read_text()) | {"message": MARKDOWN + HTML}
    (failed / "status.json").write_text(json.dumps(status))
    broken = json.loads((failed / "spec.json").read_text()) | {"method": "open[bracket"}
    (root / "unreadable").mkdir()
    (root / "unreadable" / "spec.json").write_text(json.dumps(broken))
    return write(Report(str(root))).parent


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.handlers, self.images = 0, 0, []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.handlers += any(name.startswith("on") for name, _ in attrs)
        self.images += [value for name, value in attrs if tag == "img" and name == "src"]


def test_no_name_becomes_an_element_of_the_web_page(report: Path) -> None:
    page = Elements()
    page.feed((report / "report.html").read_text())
    assert page.scripts == 4 and page.handlers == 0
    assert all(source and source.startswith("data:image/") for source in page.images)


def test_no_name_becomes_a_command_of_latex(report: Path) -> None:
    for path in (report / "more").glob("*.tex"):
        text = path.read_text()
        assert r"\input" not in text and r"\frac" not in text, path
        math = re.sub(r"\\[\\$%{}_&#]", "", text)
        assert math.count("$") % 2 == 0 and math.count("{") == math.count("}"), path
        assert "%" not in math.replace("{%", ""), path  # the line end of the resized box


def test_no_name_becomes_html_a_link_or_a_column_of_markdown(report: Path) -> None:
    text = (report / "report.md").read_text()
    assert not re.search(r"<(script|img|/script)", text)
    assert re.findall(r"(?<!\\)!\[[^\]]*\]\(([^)]*)\)", text) == re.findall(r"\(([\w-]+\.png)\)", text)
    assert "](javascript" not in text and not re.search(r"^# h\W", text, re.MULTILINE)
    for table in re.split(r"\n\n", text):
        rows = [line for line in table.splitlines() if line.startswith("| ")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1, table


def test_a_name_that_cannot_be_parsed_is_listed_and_stops_nothing(report: Path) -> None:
    text = (report / "report.md").read_text()
    assert "`unreadable`: " in text and "8 of 10 runs are finished" in text


def test_no_file_leaves_the_report_folder(report: Path) -> None:
    assert {path.parent for path in report.rglob("*") if path.is_file()} == {report, report / "more"}
    assert {path.name for path in report.parent.iterdir()} == {
        *(f"run-{number}-{seed}" for number in range(4) for seed in range(2)),
        *("failed", "unreadable", "report"),
    }
