"""What every kept result depends on besides its own inputs: the version of our results, torch, the kind of device."""

from __future__ import annotations

import torch

from negmerge_kit.types import Json

RESULTS_VERSION = 1
"""Raise it with every change after which a merge, a score, a search or a training can give another number, or a kept
result has other entries.

Results that pools keep from before are then computed again. A change of wording or speed leaves it as it is.
`tests/lab/test_results_version.py` fails where numbers changed and this did not.
"""


def made_with(device: torch.device) -> Json:
    """Return the environment part of a result's key: results version, torch version, device type.

    >>> sorted(made_with(torch.device("cpu")))
    ['device', 'results', 'torch']
    """
    return {"results": RESULTS_VERSION, "torch": torch.__version__, "device": device.type}
