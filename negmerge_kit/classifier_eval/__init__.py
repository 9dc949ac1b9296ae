"""Evaluation of unlearned classifiers: metrics, membership attacks and the gap to a retrained model."""
