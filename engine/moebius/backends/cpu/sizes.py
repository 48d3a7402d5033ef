"""How much the CPU device works on at a time."""

BLOCK = 1 << 16  # elements a ufunc works on at a time: with one temporary, half of a 1 MB second-level cache
COLUMNS = 1 << 21  # elements of gathered convolution columns, or of logits, at a time: 8 MB, in the third-level cache
ROWS = 4096  # positions at a time in the feed-forward: with five times the channels, what lies between its ops is its largest tensor
ALONE = 500_000  # multiply-adds: OpenBLAS does a product below 2·2¹⁸ on the thread that asks, so that our own threads can ask for many
