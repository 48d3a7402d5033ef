"""Is it right? Bounds, lock-step validation, comparison of adapters."""
