"""negmerge-kit: make a fine-tuned model forget by merging the signs its candidates share (arXiv:2410.05583).

Names load when they are used: `import negmerge_kit` itself brings in nothing heavy.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Small models make thousands of short parallel regions. OpenMP's threads spin between them by default, and where a
# core is busy with something else (candidates that train while the page answers) that made a forward pass ten times
# slower here. It only helps before torch loads, which is why it stands at the door.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A few microseconds of spinning (GNU's OpenMP, torch's on Linux) cost a busy machine nothing measurable, and halve the
# time of a merge, whose operations follow each other at once.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"

_HOMES = {
    "Accuracy": "scoring.accuracy",
    "METRICS": "scoring.metrics",
    "RULES": "merging.rules",
    "Recipe": "training.recipe",
    "Workbench": "unlearning.workbench",
    "apply_delta": "merging.negation",
    "audit": "audits.audit",
    "compare_rules": "comparison.compare",
    "evaluate": "unlearning.evaluation",
    "forget": "sweeps.forget",
    "finetune": "training.finetuning",
    "load_model": "models.load",
    "merge": "merging.negation",
    "open_checkpoint": "checkpoints.reader",
    "open_pool": "pools.pool",
    "open_scene": "scenes.find",
    "run_sweep": "sweeps.run",
    "save_checkpoint": "checkpoints.writer",
    "search_scale": "scoring.scale_search",
    "select_scale": "scoring.scale_search",
    "sign_agreement": "merging.agreement",
    "SearchOptions": "pipeline",
    "search_pool": "pipeline",
    "unlearn": "merging.negation",
    "unlearn_pool": "pipeline",
    "why_signs": "analysis.why_signs",
    "wilson": "scoring.intervals",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'negmerge_kit' has no attribute '{name}'; it offers {', '.join(__all__)}")
    value = getattr(import_module(f"negmerge_kit.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, for tab completion."""
    return list(__all__)
