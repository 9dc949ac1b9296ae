"""Experiments: fine-tune candidates, score them, merge them live on a workbench, compare and audit."""
