"""A compiled training step: blocks and projectors one by one, and FLOPs that do not depend on it."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from backbones.base import Backbone
from backbones.layers import Attention
from bench.core.compilation import compile_each
from methods.base import Method

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


def compile_regions(backbone: Backbone, method: Method, device: torch.device) -> None:
    """Compile the blocks of a backbone and a method's modules, at their first call; names of weights stay.

    On a CPU attention is computed as products and a softmax, which for the few hundred tokens of an image
    is faster, forward and backward, than torch's fused kernel.
    """
    for attention in _attention(backbone):
        attention.fused_attn = device.type != "cpu"
    compile_each((*backbone.blocks, *_called(method)))


@contextmanager
def counted_as_written(backbone: Backbone, compiled: bool, counter: FlopCounterMode) -> Iterator[None]:
    """Count the same FLOPs whether or not a backbone is compiled and its activations are checkpointed.

    Runs without compilation and with fused attention, and leaves out what is computed a second time in the
    backward pass. The compiler is only imported for a backbone that is compiled.
    """
    fused = {attention: attention.fused_attn for attention in _attention(backbone)}
    checkpointed = {block: vars(block)["forward"] for block in backbone.blocks if "forward" in vars(block)}
    try:
        for attention in fused:
            attention.fused_attn = True
        for block, forward in checkpointed.items():
            block.forward = partial(forward, context_fn=lambda: (nullcontext(), _uncounted(counter)))
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        for attention, before in fused.items():
            attention.fused_attn = before
        for block, forward in checkpointed.items():
            block.forward = forward


@contextmanager
def _uncounted(counter: FlopCounterMode) -> Iterator[None]:
    before = copy.deepcopy(counter.flop_counts)
    try:
        yield
    finally:
        counter.flop_counts = before
        gc.collect()  # the counter's hooks form cycles that hold what was computed again


def _attention(backbone: Backbone) -> list[Attention]:
    return [module for module in backbone.modules() if isinstance(module, Attention)]


def _called(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules of a method that are called: not itself, methods in it, nor lists of modules."""
    for child in module.children():
        if isinstance(child, Method | nn.ModuleList | nn.ModuleDict):
            yield from _called(child)
        else:
            yield child
