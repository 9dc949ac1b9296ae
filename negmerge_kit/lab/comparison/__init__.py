"""Comparison of unlearning rules: by the paper's protocol, at matched retention, with intervals and costs."""
