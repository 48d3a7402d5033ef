"""The window: paint a hole, watch it fill. `window` is the only module of the package that imports glfw."""
