"""Commands as several processes of one machine, as torchrun starts them."""

import os
import subprocess
import sys


def torchrun(count: int, *arguments: object) -> int:
    """Exit status of `python ARGUMENTS` in `count` processes with a single thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *map(str, arguments)], env=environment, check=False).returncode
