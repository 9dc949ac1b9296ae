"""Audit probes, one a file: each measures what an unlearned model still knows of the forget set."""
