"""Starts torchrun with two processes on this machine's CPU, as a user does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def torchrun(*command: str | Path, timeout: float = 300, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a script, or `-m` and a module, with its arguments; the caller checks the exit status."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    address = ["--nnodes=1", f"--nproc-per-node={processes}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *address, *command],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
    )
