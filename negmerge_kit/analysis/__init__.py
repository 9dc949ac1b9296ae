"""Analyses of task vectors: why signs disagree, a step along the merge, inner products."""
