"""Hooks of MkDocs: pages that are made at build time, and links out of docs/ to them.

Made are the cards of the methods (methods/*.toml), the published numbers (published.csv), the commands (their
--help) and the Python reference. Reports of results/ and two pages of the root are taken as they are.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench.config import resolve  # noqa: E402
from bench.methods import published as published_rows  # noqa: E402
from bench.reporting.tables import published  # noqa: E402
from methods import cards  # noqa: E402

REFERENCE = {  # page -> modules
    "library": "bench.library",
    "methods": "methods.base methods.composition methods.cards",
    "backbones": "backbones.base backbones.blocks backbones.extras backbones.checkpoints",
    "diffusion": "bench.diffusion.objectives bench.diffusion.paths bench.diffusion.conversions "
    "bench.diffusion.samplers bench.diffusion.guidance bench.diffusion.pixels",
    "metrics": "bench.metrics.names bench.metrics.frechet bench.metrics.kid bench.metrics.precision_recall "
    "bench.metrics.inception_score bench.metrics.uncertainty bench.metrics.representation",
    "evaluation": "bench.evaluation.evaluator bench.evaluation.sampling bench.evaluation.scorer "
    "bench.evaluation.reference",
    "rewards": "bench.nets.rewards.base bench.nets.rewards.registry",
    "data": "bench.data.base bench.data.datasets bench.data.shards",
    "runs": "bench.config.spec bench.config.grid bench.runs.formats bench.runs.record bench.runs.loading",
    "reporting": "bench.reporting.results bench.reporting.comparison bench.reporting.statistics "
    "bench.reporting.time_to_target bench.reporting.board.entries",
}
COMMANDS = [
    "run",
    "report",
    "status",
    "evaluate",
    "probe",
    "prepare",
    "methods",
    "check",
    "publish",
    "leaderboard",
]
PUBLISHED = """# Published numbers

Numbers of ImageNet-256 as printed in papers and repositories, not run here; steps are thousands at batch
size 256. Samplers, guidance, labels and encoders differ from row to row: compare only rows that agree in
all of them. Status P: the authors' own numbers; R: another group's run; S: a secondary copy. Rows whose
source is in doubt are left out. `python -m bench.report --with-published` adds to a report the rows made
under its protocol."""
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s#]+)(?P<anchor>#[^()\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the sections of the navigation that are folders of made pages, and add pages that it lacks."""
    folders = {
        "methods/": [{card.name: f"methods/{card.name}.md"} for card in cards.every()],
        "reference/": [{name: f"reference/{name}.md"} for name in REFERENCE],
        "results/": [{_report_name(path): path} for path in _reports()],
    }

    def filled(item: Any) -> Any:
        if isinstance(item, list):
            return [filled(part) for part in item]
        if isinstance(item, dict):
            return {title: filled(content) for title, content in item.items()}
        return folders.get(item, item)

    pages = [path.relative_to(ROOT / "docs").as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    listed = str(config.nav)
    others = [page for page in pages if f"'{page}'" not in listed]
    config.nav = filled(config.nav) + [{"More": others}] * bool(others)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    made = {f"methods/{card.name}.md": _card(card) for card in cards.every()}
    made |= {f"reference/{name}.md": _reference(name, modules.split()) for name, modules in REFERENCE.items()}
    made |= {"published.md": _published(), "reference/commands.md": _commands()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    for path in _taken():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they work on GitHub, made to work here; what the site does not have is text without a link."""
    name = page.file.src_uri
    at_home = (ROOT / "docs" / name).is_file()
    folder = posixpath.dirname(f"docs/{name}" if at_home else name)

    def link(match: re.Match[str]) -> str:
        target, text = match["target"], match["text"]
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        there = path.removeprefix("docs/")
        if not at_home and files.get_file_from_path(posixpath.join(folder, target)):
            there = path
        if files.get_file_from_path(there) is None:
            if not (ROOT / path).exists():
                return match[0]  # broken: MkDocs says so
            return text
        relative = posixpath.relpath(there, posixpath.dirname(name) or ".")
        return f"{match['image']}[{text}]({relative}{match['anchor'] or ''})"

    markdown = _LINK.sub(link, markdown)
    if name == "methods.md":
        markdown = re.sub(r"^\| `([\w-]+)` \|", r"| [`\1`](methods/\1.md) |", markdown, flags=re.MULTILINE)
    return markdown


def _reports() -> list[str]:
    found = (ROOT / "results").glob("*/report/**/report.md")
    return [str(path.relative_to(ROOT)) for path in sorted(found, key=lambda path: path.parent)]


def _report_name(path: str) -> str:
    parts = path.split("/")
    return " ".join([parts[1], *parts[3:-1]])


def _taken() -> Iterator[str]:
    """Files outside docs/ that are published as they are, by path below the root."""
    yield from ("CONTRIBUTING.md", "CHANGELOG.md")
    for report in _reports():
        yield report
        folder = ROOT / posixpath.dirname(report)
        yield from (str(path.relative_to(ROOT)) for path in folder.glob("*.png"))
        yield from (str(path.relative_to(ROOT)) for path in folder.glob("*.csv"))


def _card(card: cards.Card) -> str:
    paper = card.paper
    links = [f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"] * bool(paper.arxiv)
    links += [f"[code](https://{paper.code.removeprefix('https://')})"] * bool(paper.code)
    lines = [f"# {card.name}", f"{card.line}.", f"> {paper.title}, {paper.year}. {', '.join(links)}"]
    lines.append("\n".join(f"- {key}: {getattr(card, key)}" for key in ("kind", "needs", "cost")))
    lines.append(f"```text\n{card.equation}\n```")
    lines.append(f"    python -m bench.run --method {card.name} --backbone sit-ti")
    options = ["## Options", "", "| option | default | released code | |", "|---|---|---|---|"]
    for option in cards.options(resolve.method_class(card.name)):
        released, text = card.released.get(option.name, ""), option.text.replace("|", "\\|")
        options.append(f"| `{option.name}` | `{option.default!r}` | {released} | {text} |")
    lines += ["\n".join(options)] if len(options) > 4 else []
    if card.deviations:
        lines.append(
            "## Deviations from the publication\n\n" + "\n".join(f"- {text}" for text in card.deviations)
        )
    if rows := published_rows(card):
        lines.append("## Published numbers\n\nNot run here.\n\n```text\n" + "\n".join(rows) + "\n```")
    lines.append(f"## Citation\n\n```bibtex\n{card.bibtex}\n```")
    return "\n\n".join(lines) + "\n"


def _published() -> str:
    """The table of published numbers, one section a group."""
    rows = published.load()
    rows = rows[rows["status"] != "U"]
    columns = ["method", "encoder", "backbone", "steps_k", "sampler", "labels", "guidance"]
    columns += [*published.METRICS, "source", "status"]
    parts = [PUBLISHED]
    for group, own in rows.groupby("group", sort=False):
        lines = [f"## {group}", "", "| " + " | ".join(name.removesuffix("_k") for name in columns) + " |"]
        lines.append("|---" * len(columns) + "|")
        for row in own[columns].astype(object).fillna("").to_dict("records"):
            cells = [f"{value:g}" if isinstance(value, float) else str(value) for value in row.values()]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _reference(name: str, modules: list[str]) -> str:
    return "\n\n".join([f"# {name.capitalize()}", *(f"::: {module}" for module in modules)]) + "\n"


def _commands() -> str:
    """What each command prints for --help."""
    parts = ["# Commands", "What each command prints for `--help`."]
    environment = os.environ | {"COLUMNS": "96", "NO_COLOR": "1"}
    for name in COMMANDS:
        command = [sys.executable, "-m", f"bench.{name}", "--help"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        parts.append(f"## bench.{name}\n\n```text\n{done.stdout.strip()}\n```")
    return "\n\n".join(parts) + "\n"
