"""Deliberately broken methods: each is found out, by the check that is made for it, in plain words."""

import re
import sys
from textwrap import dedent

import pytest

from bench.benchmark.checks.method import CHECKS, check_method
from bench.check import main
from bench.core.errors import exit_code

HEAD = """
import torch
import torch.nn.functional as F
from torch import nn
from methods.base import Context, Loss, Method, Needs


class Broken(Method):
    weight: float = 0.5

    def build(self, backbone, encoder):
        self.map = nn.Linear(backbone.width, 1)

    def needs(self, step, steps):
        return Needs(hidden_depths=(1,))

    def value(self, context):
        return self.map(context.hidden[1]).square().mean((1, 2))

    def losses(self, context):
        return {"own": Loss(self.value(context), self.weight)}
"""

# What is broken -> (its code, the check that finds it, words of the message).
BROKEN = {
    "a mean over the batch": (
        """
        def losses(self, context):
            return {"own": Loss(self.value(context).mean())}
        """,
        "losses",
        r"shape \(\): give one value per sample",
    ),
    "a tensor instead of a dict": (
        """
        def losses(self, context):
            return self.value(context)
        """,
        "losses",
        "return a dict",
    ),
    "not a number": (
        """
        def losses(self, context):
            return {"own": Loss(self.value(context).neg().sqrt())}
        """,
        "losses",
        "diverged|not finite",
    ),
    "a block that is not there": (
        """
        def needs(self, step, steps):
            return Needs(hidden_depths=(9,))

        def losses(self, context):
            return {"own": Loss(context.hidden[9].square().mean((1, 2)))}
        """,
        "losses",
        "9",
    ),
    "all gradients cut off": (
        """
        def losses(self, context):
            return {"own": Loss(self.value(context).detach())}
        """,
        "losses",
        "no loss term has a gradient",
    ),
    "a change in place": (
        """
        def losses(self, context):
            context.prediction.data.add_(1)
            return {"own": Loss(self.value(context))}
        """,
        "losses",
        "context.prediction in place",
    ),
    "the global random stream": (
        """
        def losses(self, context):
            return {"own": Loss(self.value(context) * torch.rand(len(context.x0)))}
        """,
        "repeatable",
        "never from the global stream",
    ),
    "a count that no checkpoint holds": (
        """
        count = 0

        def after_backward(self, total):
            self.count += 1

        def losses(self, context):
            return {"own": Loss(self.value(context) * (1.0 + self.count))}
        """,
        "resume",
        "buffer or parameter",
    ),
    "a parameter that no loss uses": (
        """
        def build(self, backbone, encoder):
            self.map, self.forgotten = nn.Linear(backbone.width, 1), nn.Linear(2, 2)
        """,
        "gradients",
        "forgotten.weight",
    ),
    "work that is not counted": (
        """
        def after_backward(self, total):
            torch.randn(200, 200, generator=torch.Generator()) @ torch.ones(200, 200)
        """,
        "FLOPs",
        "are counted",
    ),
    "draws for the local batch": (
        """
        def losses(self, context):
            weight = torch.rand(len(context.x0), generator=context.generator)
            return {"own": Loss(self.value(context) * weight)}
        """,
        "micro-batches",
        "share.randn",
    ),
    "samples compared without saying so": (
        """
        def losses(self, context):
            value = self.value(context)
            return {"own": Loss((value - value.mean()).square())}
        """,
        "micro-batches",
        "Needs.whole_batch",
    ),
    "samples compared without gathering them": (
        """
        def needs(self, step, steps):
            return Needs(hidden_depths=(1,), whole_batch=True)

        def losses(self, context):
            value = self.value(context)
            return {"own": Loss((value - value.mean()).square())}
        """,
        "processes",
        "share.gather",
    ),
}


def written(tmp_path, code=""):
    path = tmp_path / "broken.py"
    body = dedent(code).strip().replace("\n", "\n    ")
    path.write_text(HEAD + (f"\n    {body}\n" if body else ""))
    return str(path)


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_method_is_found_out(tmp_path, monkeypatch, what):
    code, stage, words = BROKEN[what]
    if stage != "processes":  # slow, and the others are found out before
        monkeypatch.delitem(CHECKS, "processes")
    results = {}
    for result in check_method(written(tmp_path, code), "sit-pico"):
        results[result.stage] = result
        if result.stage == stage:
            break
    assert results[stage].state == "failed" and re.search(words, results[stage].text), results[stage]


def test_a_sound_method_passes_and_the_command_says_what_it_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(CHECKS, "processes")
    monkeypatch.setattr(sys, "argv", ["bench.check", "method", written(tmp_path)])
    assert exit_code(main) == 0
    printed = capsys.readouterr().out
    assert all(stage in printed for stage in CHECKS) and "failed" not in printed


def test_an_error_inside_a_method_names_its_line_and_ends_with_a_status(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, "def losses(self, context):\n    return {}['absent']\n")
    monkeypatch.setattr(sys, "argv", ["bench.check", "method", path])
    assert exit_code(main) == 2
    captured = capsys.readouterr()
    assert "KeyError in broken.py, line" in " ".join(captured.out.split())
    assert "fails in: losses" in captured.err and "not checked" in captured.out
