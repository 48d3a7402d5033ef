"""One run, in the order it happens."""
