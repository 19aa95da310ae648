"""Where nets trained here are kept between runs, so that they are trained once."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def folder() -> Path:
    """The cache folder: $ALIGNMENT_BENCH_CACHE, or the user's cache folder of this system."""
    chosen = os.environ.get("ALIGNMENT_BENCH_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("alignment-bench"))
