"""Which device computes: the one place that knows what "auto" means."""

from __future__ import annotations

import torch

from negmerge_kit.errors import DeviceError


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of that name; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises:
        DeviceError: a device that this machine or this build of torch does not have.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, there in present.items() if there))
    kind, index = check_device(device)
    if not present[kind] or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
        raise DeviceError(
            f"device {str(device)!r} is not there: choose auto, or one of "
            f"{', '.join(name for name, there in present.items() if there)}."
        )
    return torch.device(device)


def pick_merge_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device that merges weights: as `pick_device`, but "auto" never takes MPS, which has no float64.

    Raises:
        DeviceError: a device that this machine or this build of torch does not have.

    >>> pick_merge_device("cpu")
    device(type='cpu')
    """
    return pick_device("cpu" if device == "auto" and not torch.cuda.is_available() else device)


def check_device(device: str | torch.device) -> tuple[str, str]:
    """Return the kind and the index of a device's name, whether or not this machine has it: another one may.

    Raises:
        DeviceError: for what no machine has.

    >>> check_device("cuda:1")
    ('cuda', '1')
    """
    kind, _, index = str(device).partition(":")
    if kind not in ("auto", "cuda", "mps", "cpu") or (index and not index.isdigit()) or (kind == "auto" and index):
        raise DeviceError(f"device {str(device)!r} is not known: choose auto, cpu, cuda, cuda:N or mps.")
    return kind, index
