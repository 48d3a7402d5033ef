"""A user's pixels: photo, mask, windows, seam, and the published arithmetic. NumPy and Pillow alone."""
