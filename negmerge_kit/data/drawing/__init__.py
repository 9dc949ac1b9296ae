"""Drawing the embedded image families: plain NumPy, exact arithmetic, the same pixels on every machine."""
