"""How much the CPU device works on at a time."""

BLOCK = 1 << 16  # elements a ufunc works on at a time: with one temporary, half of a 1 MB second-level cache
PIECE = 1 << 14  # elements of a product's block that are gone over at a time, and of a SiLU: several passes, out of the second-level cache
LARGE = 1 << 23  # elements of an array from which on its memory is kept for the next one: 32 MB, where glibc ends to do so
ALONE = 1 << 17  # elements of a pass that do not leave the thread: waking another takes 50 µs, and short calls wait for Python's lock
SLICE = 128  # channels, at most, of a depthwise convolution at a time
BAND = 1 << 15  # elements of such a slice of a band of rows: with its frame and its sums, the second-level cache
TALL = 1024  # rows of the first product of a slice of the feed-forward: BLAS packs both sides anew for every product
LINE = 1 << 10  # elements that einsum goes over in one loop
RUN = 256  # values that a norm adds up one after another in float32: of thousands the sum loses digits that show
COLUMNS = 1 << 20  # elements of gathered convolution columns, or of attention's logits, that a thread works on at a time: 4 MB
ROWS = 8192  # positions at a time in the feed-forward, between its two products: those of a guided step at 64²
PRODUCT = 512  # rows, and columns, of a block of a product: 0.93 of a core's speed for the whole of it
SMALL = 1 << 21  # multiply-adds that do not leave the thread: some 50 µs, a few times what handing over costs
BLOCKS = 8  # of a product, where that leaves none of them small: enough for a slow core to take fewer
FEW = 1 << 19  # multiply-adds of a block of the cross lambda
LAID = 1 << 17  # elements of the logits of the self lambda that are laid out at a time
TILES = 1 << 17  # elements of the tiles of a convolution that are transformed at a time
PLACES = 256  # tiles whose products are made at a time; a quarter of it in a small layer, for the sake of all cores
CHANNELS = 64  # at least, of a convolution by tiles
TWICE = 1 << 16  # elements of a layer's weights that are kept a second time, in another order, where making that takes as long as using it
