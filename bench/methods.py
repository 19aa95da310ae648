"""List the methods: python -m bench.methods; describe one: python -m bench.methods repa

The list is made from the methods' cards, methods/NAME.toml. --new writes a new method and its test:
python -m bench.methods --new my_method.py --like repa
"""

from __future__ import annotations

import csv
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import methods
from bench.core.cli import OptionalPath, OptionalStr, option, parse
from bench.core.errors import UserError, exit_code, unknown
from methods import cards

PUBLISHED = Path(__file__).parent / "reporting" / "tables" / "published.csv"


@dataclass(frozen=True)
class Options:
    name: Annotated[tyro.conf.Positional[str | None], option(metavar="NAME")] = None
    """a method, to print its card"""
    new: OptionalPath = None
    """write a new method file and its test"""
    like: OptionalStr = None
    """the method that is copied; by default a minimal one"""


def main() -> None:
    """Print the list or a card, or write the files."""
    options = parse(Options, __doc__)
    if options.new:
        if options.name:
            raise UserError(f"--new writes a file, {options.name} asks for a card: choose one.")
        written = start(options.new, options.like)
        print(f"wrote {written[0]} and {written[1]}. Try it: python -m bench.run --method {written[0]}")
        return
    if options.like:
        raise UserError("--like names the method to copy: give --new FILE.py with it.")
    if options.name is None:
        print(listed())
        return
    print(described(options.name))


def listed() -> str:
    """One line per method, and methods without a card at the end."""
    rows = [("method", "kind", "year", "FID of SiT", "needs", "")]
    for card in cards.every():
        fid = card.fid
        number = f"{fid.value:g} {fid.backbone.removeprefix('SiT-')} {fid.steps}" if fid else "-"
        rows.append((card.name, card.kind, str(card.paper.year), number, card.needs, card.line))
    others = set(methods.names()) - {row[0] for row in rows}
    rows += [(name, "?", "-", "-", "", "a file without a card") for name in sorted(others)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip()
        for row in rows
    ]
    return "\n".join(
        [*lines, "", "FID: published, without guidance; python -m bench.methods NAME has the source."]
    )


def described(name: str) -> str:
    """The card of a method: equation, options, deviations, published numbers and how to cite it."""
    if methods.shown(name) not in methods.names():
        raise unknown("method", name, methods.names())
    card = cards.load(name)
    if card is None:
        return f"{methods.shown(name)}: a file without a card\n\n{_options(name, {})}"
    paper = card.paper
    links = [f"arxiv.org/abs/{paper.arxiv}"] * bool(paper.arxiv) + [paper.code] * bool(paper.code)
    parts = [
        f"{card.name}: {card.line}",
        f"{paper.title}, {paper.year}" + "".join(f"\n{link}" for link in links),
        "\n".join(f"{key:<12}{getattr(card, key)}" for key in ("equation", "kind", "needs", "cost")),
        _options(name, card.released),
    ]
    if card.deviations:
        parts.append("Deviations from the publication\n" + "\n".join(f"  {text}" for text in card.deviations))
    if card.fid:
        parts.append(
            f"FID {card.fid.value:g} published for {card.fid.backbone} at {card.fid.steps} steps "
            f"({card.fid.source})"
        )
    if rows := published(card):
        parts.append("Published numbers (table, not run here)\n" + "\n".join(f"  {row}" for row in rows))
    parts += [card.bibtex, f"python -m bench.run --method {card.name} --backbone sit-ti"]
    return "\n\n".join(parts)


def published(card: cards.Card) -> list[str]:
    """Its rows of the table of published numbers, doubtful ones left out."""
    with open(PUBLISHED, encoding="utf-8", newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row["method"] in card.published and row["status"] != "U"
        ]
    return [
        f"{row['method']:<18} {row['backbone']:<9} {row['steps_k'] + 'K':<7} FID {row['fid']:<6} "
        f"{row['sampler']}, guidance {row['guidance']}; {row['source']}"
        for row in rows
    ]


def start(path: Path, like: str | None) -> tuple[Path, Path]:
    """Write a method file and its test; never over an existing file."""
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise UserError(f"--new {path}: name a Python file, such as my_method.py.")
    test = path.with_name(f"test_{path.stem}.py")
    for file in (path, test):
        if file.exists():
            raise UserError(f"{file} is there already: choose another name, or remove it.")
    name = "".join(word.capitalize() for word in path.stem.split("_"))
    if like is None:
        source = _MINIMAL.format(name=name, term=methods.shown(path.stem))
    else:
        from bench.config import resolve

        found = resolve.method_class(like).__name__
        original = Path(methods.__file__).parent / f"{like.replace('-', '_')}.py"
        source = original.read_text(encoding="utf-8")
        classes = re.findall(r"^class (\w+)\(", source, re.MULTILINE)
        source = re.sub(rf"\b{found if len(classes) > 1 else classes[0]}\b(?=[(.:])", name, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    test.write_text(_TEST.format(file=path.name, stem=path.stem), encoding="utf-8")
    return path, test


def _options(name: str, released: dict[str, Any] | Any) -> str:
    from bench.config import resolve

    lines = ["Options and their defaults"]
    for found in cards.options(resolve.method_class(name)):
        differs = f"   (released code: {released[found.name]})" if found.name in released else ""
        lines.append(f"  {found.name} = {found.default!r}{differs}")
        lines += textwrap.wrap(found.text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines if lines[1:] else [*lines, "  none"])


_MINIMAL = '''"""What the method does, its equation and its source."""

from __future__ import annotations

from methods.base import BackboneInfo, Context, GetEncoder, Loss, Method, Needs


class {name}(Method):
    """Options:
    weight: of the loss.
    depth: the block it acts on, 1-based.
    """

    weight: float = 0.1
    depth: int = 1

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        if not 1 <= self.depth <= backbone.depth:
            raise ValueError(f"depth={{self.depth}} is outside the backbone's blocks 1..{{backbone.depth}}")

    def needs(self, step: int, steps: int) -> Needs:
        return Needs(hidden_depths=(self.depth,))

    def losses(self, context: Context) -> dict[str, Loss]:
        tokens = context.hidden[self.depth].float()  # [B, N, D], with gradient
        return {{"{term}": Loss(tokens.square().mean(dim=(1, 2)), self.weight)}}
'''

_TEST = '''"""{stem} trains for a few steps and its losses are finite."""

import math
from pathlib import Path

import torch

from bench.config import resolve
from bench.training.trainer import Trainer

FILE = Path(__file__).with_name("{file}")


def test_it_trains() -> None:
    training = {{"steps": 3, "batch_size": 8, "log_every": 1}}
    spec = resolve.run_spec(str(FILE), "sit-ti", "digits", 0, training=training)
    trainer = Trainer(spec, torch.device("cpu"))
    for step in range(3):
        assert all(math.isfinite(value) for value in trainer.step(step)["raw"].values())
'''


if __name__ == "__main__":
    sys.exit(exit_code(main))
