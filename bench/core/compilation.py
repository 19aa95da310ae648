"""Compilation of modules one by one, by torch.compile.

A network's blocks are alike, so that one is compiled and all use it: seconds, where the whole network takes
minutes. Every shape is compiled for itself (`dynamic=False`): what is computed depends on the shapes at hand,
never on those that were seen before, so that a resumed run computes what an undisturbed one does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

import torch
from torch import nn

from bench.core.errors import UserError

# Of one function, shapes and modules together; beyond it torch would silently not compile.
MOST_VARIANTS = 256


def refuse_without_compiler(device: torch.device) -> None:
    """Raises UserError if a CPU has no C++ compiler, which torch.compile needs there."""
    compilers = [os.environ.get("CXX", "g++"), "g++", "clang++", "c++"]
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise UserError(
            "--compile and --sampling-compile need a C++ compiler on a CPU, g++ say: install one, or leave "
            "them out."
        )


def compile_each(modules: Iterable[nn.Module]) -> None:
    """Compile modules in place, at their first call; names of weights stay."""
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    torch._dynamo.config.accumulated_recompile_limit = 4 * MOST_VARIANTS
    for module in modules:
        module.compile(dynamic=False)
