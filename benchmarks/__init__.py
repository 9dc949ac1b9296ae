"""Measurements that `python -m benchmarks` runs in a checkout, each with its baseline from the same run."""
