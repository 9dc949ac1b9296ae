"""What `python -m benchmarks` runs in a checkout: each measurement beside its baseline from the same run."""
