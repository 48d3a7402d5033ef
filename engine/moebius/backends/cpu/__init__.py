"""The contract in NumPy for speed. `ops` has the ops, `workers` the threads and the memory that they share."""

from moebius.backends.cpu.ops import CPU

__all__ = ["CPU"]
