"""What the benchmarks share: a run in a process of its own, and the words for the machine."""
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch


def figures(python: str, script: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> dict:
    """Run a script and return the JSON of its last line. Ends the benchmark with what it said where it failed."""
    command = [python, str(script), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if process.returncode or not process.stdout.strip():
        raise SystemExit(f"{' '.join(command[1:3])} failed:\n{process.stderr[-2000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def machine(device: str) -> str:
    """Such as "NVIDIA H100, torch 2.11.0" or "2 cores, x86_64, torch 2.11.0, 2 threads"."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
