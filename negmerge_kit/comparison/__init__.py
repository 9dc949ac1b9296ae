"""Comparison of unlearning methods: by the paper's protocol, at matched retention, with intervals and costs."""
