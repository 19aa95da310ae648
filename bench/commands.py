"""All commands under one name: `alignment-bench run ...` is `python -m bench.run ...`.

alignment-bench --tyro-print-completion bash     completion for bash; or zsh, tcsh, fish
alignment-bench COMMAND --help                   the options of a command
"""

from __future__ import annotations

import importlib
import sys

from bench.core.cli import CONSOLE, write_completion
from bench.core.errors import exit_code, unknown

COMMANDS = {
    "run": "train, sample and evaluate methods side by side",
    "report": "turn a folder of runs into tables, plots and one page",
    "evaluate": "score images, or a run under other guidance",
    "probe": "compare hidden states with an encoder, by depth and noise level",
    "leaderboard": "merge the results of several people, and verify them",
    "publish": "write the model of a run, with a card, to a folder or the Hugging Face hub",
    "prepare": "make a store of images or latents",
    "status": "show, cancel and resubmit runs",
    "methods": "list the methods, describe one, or start one of your own",
    "check": "check the protocol, a method, a backbone, or this machine",
}
OPTIONS = {"report": "Report"}  # the class of a command's options, where it is not called Options


def main() -> None:
    """The console script."""
    sys.exit(exit_code(_main))


def _main() -> None:
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
    elif name.startswith("--tyro-"):
        modules = {command: importlib.import_module(f"bench.{command}") for command in COMMANDS}
        kinds = {command: getattr(modules[command], OPTIONS.get(command, "Options")) for command in COMMANDS}
        write_completion(kinds, [name, *words])
    elif name in COMMANDS:
        sys.argv = [f"{CONSOLE} {name}", *words]
        importlib.import_module(f"bench.{name}").main()
    else:
        raise unknown("command", name, COMMANDS)


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    listed = "\n".join(f"    {name:<{width}}{line}" for name, line in COMMANDS.items())
    return f"usage: {CONSOLE} COMMAND ...\n\n{listed}\n\n{(__doc__ or '').strip()}"


if __name__ == "__main__":
    main()
