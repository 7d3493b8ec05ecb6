"""What a run was made with: the code's commit, the packages, the device."""
import os
import platform
import subprocess
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision


def versions() -> dict[str, str]:
    """What this process runs on."""
    return {
        "code": code_revision(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),           # a subclass of str there, which weights_only refuses
        "torchvision": str(torchvision.__version__),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} x {os.cpu_count()}",
    }


def code_revision() -> str:
    """The commit of this code, with a "+" when files differ from it; "unknown" outside a git checkout."""
    try:
        root = Path(__file__).parent
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
