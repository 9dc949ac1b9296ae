"""Scenes: a model with what it should forget and what it should keep, image by image."""
