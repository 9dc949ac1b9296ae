"""Results as matplotlib figures, the same in the app, the notebooks and the README."""
