"""WGSL kernels. A data package: `importlib.resources` finds the files in a wheel and in an editable install."""
