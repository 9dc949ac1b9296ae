"""Probes of forgetting, one a file: what can still be got out of an unlearned model, and how."""
