"""Unlearning cards: what was done to which weights with what result, written, read and verified."""
