"""Vision: the embedded scenes, and open_clip models behind one Classifier."""
