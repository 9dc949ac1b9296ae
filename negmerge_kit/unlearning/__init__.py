"""One live model over a pool: merged deltas, scales, and how many images are right."""
