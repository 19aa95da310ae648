"""Resources of a job: from the command line, else from the user's file, else the defaults below.

The file is `launch.toml` in the user's configuration folder, or where $ALIGNMENT_BENCH_CONFIG says:

    launcher = "slurm"              # what --launcher auto selects on this machine
    [slurm]                         # options, with underscores
    partition = "gpu"
    hours = 24
    setup = ["module load cuda"]
    [evaluation]                    # different values for the jobs of --evaluate-as separate
    hours = 2
"""

from __future__ import annotations

import math
import os
import shutil
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs

from bench.core.cli import OptionalFloat, OptionalInt, OptionalStr, option
from bench.core.errors import UserError, unknown

Launcher = Literal["inline", "local", "slurm"]
SIGNAL_SHARE, SIGNAL_SECONDS = (
    0.25,
    120,
)  # time of the signal before a time limit: a fraction of it, and at most so long


@dataclass(frozen=True)
class LaunchOptions:
    """Launcher and resources of jobs. Defaults are read from the user's launch.toml."""

    launcher: Literal["auto", "inline", "local", "slurm"] = "auto"
    """inline: in this process; local: as processes on this machine; slurm: as jobs of a cluster; auto: as set
    in launch.toml, else inline"""
    parallel_runs: Annotated[int | Literal["auto"], option(metavar="N|auto")] = "auto"
    """inline: runs at a time, on the CPU, in processes of one thread each; auto: small runs in parallel on
    all cores, others one after the other; 1: all one after the other"""
    detach: bool = False
    """do not wait for the jobs; python -m bench.status shows them"""
    evaluate_as: Literal["here", "separate"] = "here"
    """separate: training only saves the weights; evaluations are jobs of their own, in parallel"""
    nodes: OptionalInt = None
    """machines per job"""
    gpus_per_node: OptionalInt = None
    """0: CPUs only; by default 1 if the cluster has GPUs"""
    tasks_per_node: OptionalInt = None
    """processes per machine that share a run; by default one per GPU"""
    cpus_per_task: OptionalInt = None
    """cores per process"""
    mem_gb: OptionalFloat = None
    """memory per machine, GB"""
    hours: OptionalFloat = None
    """time limit; a job that reaches it saves, is queued again and continues"""
    partition: OptionalStr = None
    """partition of Slurm"""
    account: OptionalStr = None
    """account of Slurm"""
    qos: OptionalStr = None
    """quality of service of Slurm"""
    constraint: OptionalStr = None
    """required features of machines"""
    array_parallelism: OptionalInt = None
    """number of jobs at the same time"""
    setup: Annotated[tuple[str, ...], option(metavar="COMMAND...")] = ()
    """shell commands before Python starts, e.g. 'module load cuda'"""

    @property
    def chosen(self) -> Launcher:
        """The launcher. Raises UserError if launch.toml cannot be read, or Slurm is not available."""
        chosen = self.launcher
        if chosen == "auto":
            wish = _file().get("launcher", "inline")
            if wish not in ("inline", "local", "slurm"):
                raise unknown("launcher", wish, ("inline", "local", "slurm"))
            chosen = "inline" if wish == "slurm" and not shutil.which("sbatch") else wish
        if chosen == "slurm" and not shutil.which("sbatch"):
            raise UserError(
                "--launcher slurm: there is no sbatch on this machine. Start it on a login node of a "
                "cluster, or use --launcher local."
            )
        if chosen != "inline" and self.parallel_runs != "auto":
            raise UserError(
                "--parallel-runs is for --launcher inline; jobs have --array-parallelism: leave it out."
            )
        if chosen == "inline":
            for name in (*_FIELDS, "detach"):
                if getattr(self, name) not in (None, False, ()):
                    flag = name.replace("_", "-")
                    raise UserError(f"--{flag} is for jobs: give --launcher slurm or local, or leave it out.")
        return chosen


@dataclass(frozen=True)
class Resources:
    """Resources of one job."""

    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int = 0  # 0: one per GPU, at least one
    cpus_per_task: int = 0  # 0: the cluster's default
    mem_gb: float = 0.0  # of a node; 0: the cluster's default
    hours: float = 24.0
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    array_parallelism: int = 0  # jobs at once; 0: all on a cluster, what this machine can carry on local
    setup: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, options: LaunchOptions, launcher: Launcher, *, gpus: int, evaluation: bool = False
    ) -> Resources:
        """`gpus`: default number per node. Raises UserError for an unknown setting or one of another type."""
        tables = _file()
        settings: dict[str, Any] = {"gpus_per_node": gpus}
        settings |= _checked(tables.get(launcher, {}), launcher)
        settings |= {
            key: value for key, value in asdict(options).items() if key in _FIELDS and value not in (None, ())
        }
        if evaluation:
            settings |= _checked(tables.get("evaluation", {}), "evaluation")
        for key, value in settings.items():
            least = _LEAST.get(key, 0)
            if isinstance(value, int | float) and not least <= value < math.inf:
                raise UserError(f"{key} = {value:g} of a job must be {least} at least, and finite.")
        return cls.stored({"setup": ()} | settings)

    @classmethod
    def stored(cls, settings: dict[str, Any]) -> Resources:
        """The resources recorded in a run folder."""
        listed: dict[str, Any] = {"setup": tuple(settings["setup"])}
        return cls(**settings | listed)

    @property
    def tasks(self) -> int:
        """Number of processes per node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def minutes(self) -> int:
        """The time limit in minutes."""
        return max(1, round(60 * self.hours))

    def parameters(self, name: str) -> dict[str, Any]:
        """Parameters for submitit's executors."""
        delay = int(min(SIGNAL_SECONDS, SIGNAL_SHARE * 60 * self.minutes))
        slurm = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "setup": list(self.setup),
            "array_parallelism": self.array_parallelism,
            "signal_delay_s": delay,
            "srun_args": ["--kill-on-bad-exit=1"],
            "additional_parameters": {"requeue": True},
        }
        return {
            "name": name,
            "nodes": self.nodes,
            "tasks_per_node": self.tasks,
            "timeout_min": self.minutes,
            **({"gpus_per_node": self.gpus_per_node} if self.gpus_per_node else {}),
            **({"cpus_per_task": self.cpus_per_task} if self.cpus_per_task else {}),
            **({"mem_gb": self.mem_gb} if self.mem_gb else {}),
            **{f"slurm_{key}": value for key, value in slurm.items() if value},
        }

    def __str__(self) -> str:
        parts = [
            f"{self.nodes} node{'s' * (self.nodes > 1)}",
            f"{self.tasks} process{'es' * (self.tasks > 1)}",
        ]
        parts += [f"{self.gpus_per_node} GPU{'s' * (self.gpus_per_node > 1)}"] if self.gpus_per_node else []
        parts += [f"{self.cpus_per_task} cores a process"] if self.cpus_per_task else []
        parts += [f"{self.mem_gb:g} GB"] if self.mem_gb else []
        parts += [f"{self.hours:g} h"]
        named = ("partition", "account", "qos", "constraint")
        return ", ".join(parts + [f"{name} {getattr(self, name)}" for name in named if getattr(self, name)])


_LEAST = {"nodes": 1, "hours": 0.01}  # of others 0, which leaves the choice to the cluster
_FIELDS = {field: type(getattr(Resources(), field)) for field in Resources.__dataclass_fields__}


def file() -> Path:
    """Path of the user's launch.toml."""
    chosen = os.environ.get("ALIGNMENT_BENCH_CONFIG")
    return Path(chosen) if chosen else platformdirs.user_config_path("alignment-bench") / "launch.toml"


def _file() -> dict[str, Any]:
    path = file()
    try:
        tables = tomllib.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    for name in tables:
        if name not in ("launcher", "local", "slurm", "evaluation"):
            raise unknown(f"entry of {path}", name, ("launcher", "local", "slurm", "evaluation"))
    return tables


def _checked(table: dict[str, Any], name: str) -> dict[str, Any]:
    for key, value in table.items():
        if key not in _FIELDS:
            raise unknown(f"setting in [{name}] of {file()}", key, _FIELDS)
        wanted = {float: (int, float), tuple: list}.get(_FIELDS[key], _FIELDS[key])
        if not isinstance(value, wanted):
            raise UserError(f"{file()}: {key} = {value!r} in [{name}] should be a {_FIELDS[key].__name__}.")
    return table
