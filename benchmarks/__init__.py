"""What `negmerge bench` runs: each measurement beside its baseline from the same run."""
