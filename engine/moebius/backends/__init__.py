"""Who computes: NumPy by definition, NumPy in float32, WGSL."""
