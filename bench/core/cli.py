"""Types of command-line options that have no default of their own: the help shows no "default: None"."""

from __future__ import annotations

from typing import Annotated

import tyro

Name = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
Whole = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
Real = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
