"""A Slurm cluster of this machine alone, with its own ports and folders, for tests: really Slurm."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.leftovers import Supervised

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
CONFIGURATION = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# At this level slurmd tells when it has forgotten a job, which `Cluster.is_rid_of` reads.
SlurmdDebug=debug
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
# A node that a test takes down stays down until the test resumes it.
ReturnToService=1
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
KillWait=20
OverTimeLimit=0
NodeName=alone NodeHostname={host} NodeAddr=127.0.0.1 Port={daemon} CPUs={cpus} State=UNKNOWN
PartitionName=tests Nodes=alone Default=YES MaxTime=INFINITE State=UP
PartitionName=others Nodes=alone MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [program for program in PROGRAMS if not shutil.which(program, path=_path())]
    if absent:
        return f"Slurm is not installed ({absent[0]} is missing): apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "the daemons of Slurm need root here"


class Cluster:
    """Daemons that run from `start` to `stop`; `environment` leads Slurm's commands to them."""

    def __init__(self, folder: Path, cpus: int) -> None:
        """`folder` must be open to all users, as munge insists on."""
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir()
        controller, daemon = _free_ports(2)
        text = CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            folder=folder,
            controller=controller,
            daemon=daemon,
            cpus=cpus,
        )
        (folder / "slurm.conf").write_text(text)
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        self._daemons: list[Supervised] = []

    def start(self) -> None:
        """Return when the node accepts jobs. Raises RuntimeError with the daemons' logs if it does not."""
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {
            "socket": "munge.socket",
            "pid-file": "munge.pid",
            "log-file": "munge.log",
            "seed-file": "seed",
        }
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *options)
        self._wait_for("munged to open its socket", lambda: (self.folder / "munge.socket").exists())
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D", "-N", "alone")
        self._wait_for(
            "the node to be idle", lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T")
        )

    def stop(self) -> None:
        """End the daemons and all jobs, so that no process is left."""
        for daemon in reversed(self._daemons):
            daemon.end()

    def ask(self, *command: str) -> str:
        """The output of one of Slurm's commands, errors included."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    def is_rid_of(self, job: str) -> bool:
        """Whether the node has ended what it ran of a job; it refuses to start it anew before."""
        return f"completed epilog for jobid {job}\n" in (self.folder / "slurmd.log").read_text()

    def _start(self, *command: str) -> None:
        output = self.folder / f"{command[0]}.out"
        self._daemons.append(Supervised([*command], os.environ | self.environment, output))

    def _wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 200
        while not condition():
            ended = [daemon.command for daemon in self._daemons if not daemon.running()]
            if ended or time.monotonic() > deadline:
                logs = {
                    path.name: path.read_text(errors="replace")[-1000:] for path in self.folder.glob("*.*")
                }
                raise RuntimeError(f"waited in vain for {what}; ended: {ended}; logs: {logs}")
            time.sleep(0.2)


def _path() -> str:
    """Debian keeps daemons in folders that are not on every user's path."""
    return os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
