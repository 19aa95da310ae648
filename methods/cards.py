"""Cards of the methods: description, source and cost, in a small TOML file next to each Python file.

Cards are read by `python -m bench.methods`, by reports (`bibliography`) and by docs/methods.md. Nothing
here imports torch.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import methods

Kind = Literal["none", "loss", "hooks", "state"]


@dataclass(frozen=True)
class Paper:
    """The paper to cite."""

    title: str
    year: int
    authors: str = ""  # joined by " and "; empty: see the paper
    arxiv: str = ""
    code: str = ""  # the authors' repository


@dataclass(frozen=True)
class PublishedFID:
    """FID of SiT with the method, 50,000 samples without guidance."""

    value: float
    backbone: str
    source: str
    steps: str = "400K"


@dataclass(frozen=True)
class Card:
    """Description of a method."""

    name: str  # as shown
    line: str
    kind: Kind
    needs: str
    equation: str
    cost: str  # additional cost of training, compared with the baseline
    paper: Paper
    fid: PublishedFID | None = None
    deviations: tuple[str, ...] = ()
    published: tuple[str, ...] = ()  # names in the table of published numbers
    released: Mapping[str, Any] = field(
        default_factory=dict[str, Any]
    )  # defaults of the released code that differ

    @property
    def bibtex(self) -> str:
        """Its BibTeX entry."""
        paper = self.paper
        fields = {"title": f"{{{paper.title}}}", "author": paper.authors, "year": str(paper.year)}
        if paper.arxiv:
            fields |= {"eprint": paper.arxiv, "archivePrefix": "arXiv"}
        lines = [f"  {key} = {{{value}}}," for key, value in fields.items() if value]
        return "\n".join([f"@misc{{{self.name},", *lines, "}"])


@dataclass(frozen=True)
class Option:
    """An option of a method."""

    name: str
    default: Any
    text: str  # its description, from the docstring of the class that defines it


def options(method: type) -> list[Option]:
    """The options of a method's class."""
    described: dict[str, str] = {}
    for cls in method.__mro__:
        described = _described(cls.__dict__.get("__doc__") or "") | described
    return [Option(option.name, option.default, described.get(option.name, "")) for option in fields(method)]


def _described(docstring: str) -> dict[str, str]:
    """Option -> description, of a docstring with a section "Options"."""
    _, _, section = inspect.cleandoc(docstring).partition("Options")
    entries = re.findall(r"^ {4}([a-z_]+(?:, [a-z_]+)*): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def load(name: str) -> Card | None:
    """The card of a method; None if it has none, such as a file of the user.

    Raises:
        ValueError: if the card cannot be read.
    """
    path = Path(__file__).parent / f"{name.replace('-', '_')}.toml"
    if not path.is_file():
        return None
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        fid = PublishedFID(**found.pop("fid")) if "fid" in found else None
        lists = {key: tuple(found.pop(key, ())) for key in ("deviations", "published")}
        return Card(methods.shown(name), paper=Paper(**found.pop("paper")), fid=fid, **lists, **found)
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"the card {path} cannot be read: {error}") from None


def every() -> list[Card]:
    """All cards: the baseline, then losses, hooks and state, each by year and name."""
    cards = [card for name in methods.names() if (card := load(name))]
    kinds = ("none", "loss", "hooks", "state")
    return sorted(cards, key=lambda card: (kinds.index(card.kind), card.paper.year, card.name))


def bibliography(texts: Iterable[str]) -> str:
    """The BibTeX entries of the methods in names such as `repa[weight=1.0]+layersync`."""
    names = {methods.shown(name) for text in texts for name in _names(text)}
    return "\n\n".join(card.bibtex for card in every() if card.name in names) + "\n"


def markdown_table() -> str:
    """The table of docs/methods.md."""
    rows = ["| method | | kind | paper | FID of SiT |", "|---|---|---|---|---|"]
    for card in every():
        paper, fid = card.paper, card.fid
        source = f"[{paper.year}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else str(paper.year)
        number = f"{fid.value:g} ({fid.backbone.removeprefix('SiT-')}, {fid.steps})" if fid else ""
        rows.append(f"| `{card.name}` | {card.line} | {card.kind} | {source} | {number} |")
    return "\n".join(rows) + "\n"


def _names(text: str) -> list[str]:
    """The names of methods in a name with options: the text outside brackets, split at "+"."""
    while "[" in text:
        shorter = re.sub(r"\[[^\[\]]*\]", "", text)
        if shorter == text:
            break
        text = shorter
    return [name.strip() for name in text.split("+")]
