"""The app: one page over a pool and its endpoints. The only rooms that import gradio."""

from __future__ import annotations

import os
from typing import Any

# Both are read when gradio is imported, so they are set before the first module of this package that does.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__all__ = ["serve"]


def __getattr__(name: str) -> Any:
    if name == "serve":
        from negmerge_kit.app.launch import serve

        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
