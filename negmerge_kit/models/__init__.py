"""Models: open_clip and timm networks behind one Classifier."""
