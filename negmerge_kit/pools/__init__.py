"""Pools: folders of fine-tuned candidates with their base, and the results kept with them."""
