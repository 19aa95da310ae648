"""The list of methods, their cards, and method files to start from."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import methods
from bench import methods as command
from bench.benchmark.simulated_runs import write_run
from bench.config import resolve
from bench.core.errors import UserError
from bench.report import Report, write
from bench.reporting.tables.published import load as published_rows
from methods import cards

ROOT = Path(__file__).parents[2]


def test_every_method_has_a_card_that_agrees_with_it():
    found = {card.name: card for card in cards.every()}
    assert tuple(sorted(found)) == methods.names() and len(found) >= 18
    names = set(published_rows()["method"])
    for card in found.values():
        options = {option.name: option for option in cards.options(resolve.method_class(card.name))}
        assert set(options) == {option.name for option in fields(resolve.method_class(card.name))}
        assert [name for name, option in options.items() if not option.text] == [], card.name
        assert set(card.released) <= set(options), card.name
        assert set(card.published) <= names, card.name


def test_a_method_is_a_file_of_at_most_eighty_lines():
    lengths = {
        name: len(Path(sys.modules[resolve.method_class(name).__module__].__file__).read_text().splitlines())
        for name in methods.names()
    }
    assert {name: length for name, length in lengths.items() if length > 80} == {}


def test_published_fids_of_the_cards_are_rows_of_the_table():
    rows = published_rows()
    for card in cards.every():
        if card.fid:
            steps = float(card.fid.steps.removesuffix("K")) * 1000
            same = (rows["fid"] == card.fid.value) & (rows["backbone"] == card.fid.backbone)
            chosen = rows[same & (rows["steps"] == steps) & rows["method"].isin(card.published)]
            assert len(chosen) >= 1, card.name


def test_the_list_needs_no_torch():
    code = "import sys; from bench.methods import listed; listed(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    lines = command.listed().splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(methods.names())]][:2] == ["baseline", "repa"]


def test_a_card_is_printed_with_options_and_where_released_code_differs():
    text = command.described("va_repa")
    assert "arxiv.org/abs/2602.05435" in text and "@misc{va-repa," in text
    assert "schedule" in text and "(released code: hard)" in text
    assert "python -m bench.run --method va-repa" in text
    with pytest.raises(UserError, match="repa"):
        command.described("repaa")


def test_the_bibliography_holds_exactly_the_methods_compared():
    found = cards.bibliography(["irepa[encoder=a+b[c=1]]+layersync", "vrpo", "mine.py[weight=1]"])
    assert [line for line in found.splitlines() if line.startswith("@")] == [
        "@misc{irepa,",
        "@misc{layersync,",
        "@misc{vrpo,",
    ]


def test_a_report_cites_the_methods_it_compares_joined_ones_too(tmp_path):
    for method in ("baseline", "repa[weight=2.0]+layersync"):
        write_run(tmp_path / "runs", method, "sit-ti/2", steps=40, evaluations=2)
    page = write(Report(runs=str(tmp_path / "runs"), output=tmp_path / "report"))
    found = next((tmp_path / "report").rglob("references.bib")).read_text()
    assert [line for line in found.splitlines() if line.startswith("@")] == [
        "@misc{baseline,",
        "@misc{repa,",
        "@misc{layersync,",
    ]
    assert "repa[weight=2.0]+layersync" in page.read_text()


@pytest.mark.parametrize("like", [None, "repa", "va-repa"])
def test_a_new_method_trains_and_passes_its_test(tmp_path, like):
    method, test = command.start(tmp_path / "my_method.py", like)
    assert resolve.method_class(str(method)).__name__ == "MyMethod"
    namespace: dict = {"__file__": str(test), "__name__": "started"}
    exec(compile(test.read_text(), test, "exec"), namespace)
    namespace["test_it_trains"]()
    with pytest.raises(UserError, match="there already"):
        command.start(method, like)


def test_bad_names_for_a_new_method_are_refused(tmp_path):
    with pytest.raises(UserError, match="Python file"):
        command.start(tmp_path / "my-method.py", None)
    with pytest.raises(UserError, match="nothing"):
        command.start(tmp_path / "mine.py", "nothing")


def test_the_page_of_methods_shows_the_table_of_the_cards():
    text = (ROOT / "docs" / "methods.md").read_text()
    between = text.partition("<!-- methods -->\n")[2].partition("<!-- end of methods -->")[0]
    assert between == cards.markdown_table()
