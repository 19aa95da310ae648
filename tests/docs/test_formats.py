"""The pages that are generated are current."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_formats_is_what_the_records_say():
    tool = runpy.run_path(str(DOCS / "tools" / "formats.py"))
    said = "run python docs/tools/formats.py"
    assert (DOCS / "formats.md").read_text(encoding="utf-8") == tool["page"](), said
