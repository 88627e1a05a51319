"""What the driver says of a GPU at this moment: its clocks, its limits, what it is kept from."""

from __future__ import annotations

import subprocess

import torch

QUESTIONS = {
    "driver_version": "driver",
    "clocks.sm": "clock",
    "clocks.max.sm": "of at most",
    "clocks.mem": "memory clock",
    "power.draw": "power",
    "power.limit": "of at most",
    "temperature.gpu": "°C",
    "mig.mode.current": "MIG",
}
"""What `nvidia-smi` is asked, and what the answers are called."""


def facts(device: torch.device) -> str:
    """One line about a GPU, empty for a CPU or where `nvidia-smi` is missing.

    Args:
        device: The device. Its clocks rise with work: so ask after some.
    """
    if device.type != "cuda":
        return ""
    identity = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = [
        "nvidia-smi",
        f"--id={identity}",
        f"--query-gpu={','.join(QUESTIONS)}",
        "--format=csv,noheader",
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    answers = [answer.strip() for answer in result.stdout.strip().split(",")]
    return ", ".join(f"{name} {answer}" for name, answer in zip(QUESTIONS.values(), answers))
