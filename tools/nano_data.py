"""What nano is trained and measured on: made pictures, photographs out of Python packages, and masks. NumPy and Pillow only.

Every picture and mask is a function of a `numpy.random.Generator`, so a seed names a set. Training draws from TRAINING_SEED and the
photographs of TRAINING_PHOTOS; the measurements of benchmarks/bench_nano.py from HELD_OUT_SEED and HELD_OUT_PHOTOS, which share
neither a stream nor a photograph with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 128
TRAINING_SEED, HELD_OUT_SEED = 20_000, 70_000

# (package, file inside it, source and licence). Nothing here is shipped: only weights learned from it are.
TRAINING_PHOTOS = (
    ("skimage", "data/astronaut.png", "Eileen Collins, NASA: public domain"),
    ("skimage", "data/rocket.jpg", "launch of DSCOVR, SpaceX: public domain"),
    ("skimage", "data/hubble_deep_field.jpg", "NASA and ESA: public domain"),
    ("skimage", "data/ihc.png", "stained tissue, CMMI: no known copyright restrictions"),
    ("skimage", "data/retina.jpg", "retina, Wikimedia Commons: CC0"),
    ("skimage", "data/camera.png", "Lav Varshney: CC0"),
    ("skimage", "data/brick.png", "CC0Textures: CC0"),
    ("skimage", "data/grass.png", "CC0Textures: CC0"),
    ("skimage", "data/gravel.png", "CC0Textures: CC0"),
    ("skimage", "data/coins.png", "Brooklyn Museum: no known copyright restrictions"),
    ("sklearn", "datasets/images/china.jpg", "danielbuechele: CC BY 2.0"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "US Navy: public domain"),
)
HELD_OUT_PHOTOS = (
    ("skimage", "data/chelsea.png", "Stefan van der Walt: CC0"),
    ("skimage", "data/coffee.png", "Rachel Michetti: CC0"),
    ("sklearn", "datasets/images/flower.jpg", "vultilion: CC BY 2.0"),
)

Rng = np.random.Generator
Array = np.ndarray


# --- pieces of pictures: float colours in [0, 1], coordinates in pixels ---------------------------------------------------------


def plane(size: int) -> tuple[Array, Array]:
    """x, y of every pixel's centre, from the picture's middle."""
    axis = np.arange(size) + 0.5 - size / 2
    return np.broadcast_to(axis, (size, size)), np.broadcast_to(axis[:, None], (size, size))


def rotated(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y, c * y - s * x


def colour(rng: Rng) -> Array:
    """Any colour, half of the time a muted one."""
    c = rng.random(3)
    return c if rng.random() < 0.5 else c.mean() + (c - c.mean()) * rng.uniform(0, 0.5)


def two_colours(rng: Rng) -> tuple[Array, Array]:
    """Two that can be told apart."""
    while True:
        a, b = colour(rng), colour(rng)
        if np.abs(a - b).max() > 0.25:
            return a, b


def cover(distance: Array) -> Array:
    """How much of a pixel lies inside, from its signed distance to the border in pixels (negative inside): an antialiased edge."""
    return np.clip(0.5 - distance, 0, 1)


def paint(picture: Array, coverage: Array, paint: Array) -> Array:
    return picture + (paint - picture) * coverage[..., None]


def gradient(rng: Rng, size: int) -> Array:
    """Two or four colours across the picture, or from a point outwards."""
    x, y = plane(size)
    if rng.random() < 0.3:
        r = np.hypot(x - rng.uniform(-0.6, 0.6) * size, y - rng.uniform(-0.6, 0.6) * size)
        t = np.clip(r / (size * rng.uniform(0.5, 1.2)), 0, 1)
    else:
        t = np.clip(rotated(x, y, rng.uniform(0, 2 * np.pi))[0] / size * rng.uniform(0.7, 1.4) + 0.5, 0, 1)
    return colour(rng) * (1 - t[..., None]) + colour(rng) * t[..., None]


def flat_or_gradient(rng: Rng, size: int) -> Array:
    return gradient(rng, size) if rng.random() < 0.6 else np.broadcast_to(colour(rng), (size, size, 3)).copy()


def noise(rng: Rng, size: int, power: float, stretch: float = 1.0, angle: float = 0.0) -> Array:
    """Noise with a spectrum of f^-power, in [0, 1]; `stretch` draws it out along `angle`."""
    f = np.fft.fftfreq(size) * size
    u, v = rotated(f[None, :], f[:, None], angle)
    radius = np.hypot(u * stretch, v)
    radius[0, 0] = 1
    spectrum = np.fft.fft2(rng.standard_normal((size, size))) * radius ** (-power)
    spectrum[0, 0] = 0
    field = np.fft.ifft2(spectrum).real
    return np.clip(0.5 + field / (5 * field.std()), 0, 1)


def ramp(rng: Rng, t: Array) -> Array:
    """t in [0, 1] through three colours."""
    (a, b), c = two_colours(rng), colour(rng)
    t = t[..., None]
    return np.where(t < 0.5, a + (b - a) * 2 * t, b + (c - b) * (2 * t - 1))


def waves(rng: Rng, t: Array, period: float) -> Array:
    """0 to 1 along t (pixels): a square wave with soft edges, or a sine."""
    phase = t / period + rng.random()
    if rng.random() < 0.4:
        return 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    duty = rng.uniform(0.3, 0.7)
    p = phase % 1
    return cover((np.abs(p - 0.5) - duty / 2) * period)


def shape(rng: Rng, size: int, radius: float, x0: float, y0: float) -> Array:
    """The coverage of a disc, ellipse, ring, rectangle or polygon."""
    x, y = plane(size)
    x, y = rotated(x - x0, y - y0, rng.uniform(0, 2 * np.pi))
    kind = rng.integers(5)
    if kind == 0:
        return cover(np.hypot(x, y) - radius)
    if kind == 1:
        e = rng.uniform(0.4, 0.9)
        return cover((np.hypot(x, y / e) - radius) * e)
    if kind == 2:
        return cover(np.abs(np.hypot(x, y) - radius * 0.75) - radius * rng.uniform(0.12, 0.25))
    if kind == 3:
        return cover(np.maximum(np.abs(x) - radius, np.abs(y) - radius * rng.uniform(0.3, 1)))
    corners = rng.integers(3, 7)
    turn = np.arange(corners) * 2 * np.pi / corners
    return cover(np.max([rotated(x, y, a)[0] for a in turn], axis=0) - radius * 0.8)


# --- pictures ---------------------------------------------------------------------------------------------------------------------


def edge(rng: Rng, size: int) -> Array:
    """Two areas meeting in a straight or bent line."""
    x, y = rotated(*plane(size), rng.uniform(0, 2 * np.pi))
    bend = rng.uniform(-1, 1) / size if rng.random() < 0.4 else 0.0
    return paint(flat_or_gradient(rng, size), cover(x - rng.uniform(-0.25, 0.25) * size + bend * y * y), flat_or_gradient(rng, size))


def stripes(rng: Rng, size: int) -> Array:
    a, b = two_colours(rng)
    wave = waves(rng, rotated(*plane(size), rng.uniform(0, np.pi))[0], rng.uniform(12, 56))
    return a + (b - a) * wave[..., None]


def checks(rng: Rng, size: int) -> Array:
    a, b = two_colours(rng)
    x, y = rotated(*plane(size), rng.uniform(0, np.pi / 2))
    period = rng.uniform(24, 72)
    u, v = (np.clip(np.sin(2 * np.pi * (t / period + rng.random())) * period / 6, -1, 1) for t in (x, y))
    return a + (b - a) * (0.5 + 0.5 * u * v)[..., None]


def shapes(rng: Rng, size: int) -> Array:
    picture = flat_or_gradient(rng, size)
    for _ in range(rng.integers(2, 7)):
        x0, y0 = rng.uniform(-0.5, 0.5, 2) * size
        picture = paint(picture, shape(rng, size, rng.uniform(0.12, 0.4) * size, x0, y0), flat_or_gradient(rng, size))
    return picture


def rings(rng: Rng, size: int) -> Array:
    a, b = two_colours(rng)
    x, y = plane(size)
    wave = waves(rng, np.hypot(x - rng.uniform(-0.5, 0.5) * size, y - rng.uniform(-0.5, 0.5) * size), rng.uniform(16, 56))
    return a + (b - a) * wave[..., None]


def leaves(rng: Rng, size: int) -> Array:
    """Dead leaves: shapes of all sizes, each hiding what was there."""
    picture = gradient(rng, size)
    base = colour(rng)
    for _ in range(rng.integers(30, 90)):
        radius = size * min(0.05 / rng.uniform(0.1, 1) ** 0.8, 0.4)
        tone = base + (colour(rng) - base) * 0.8
        picture = paint(picture, shape(rng, size, radius, *(rng.uniform(-0.6, 0.6, 2) * size)), tone)
    return picture


def clouds(rng: Rng, size: int) -> Array:
    return ramp(rng, noise(rng, size, rng.uniform(1.4, 2.4)))


def grain(rng: Rng, size: int) -> Array:
    """Wood, brushed metal, hair: noise drawn out in one direction."""
    return ramp(rng, noise(rng, size, rng.uniform(1.2, 2.0), rng.uniform(4, 12), rng.uniform(0, np.pi)))


def bricks(rng: Rng, size: int) -> Array:
    x, y = rotated(*plane(size), rng.choice([0.0, np.pi / 2]) + rng.uniform(-0.1, 0.1))
    height = rng.uniform(14, 36)
    width, joint = height * rng.uniform(1.5, 2.5), rng.uniform(1, 3)
    row = np.floor(y / height)
    column = np.floor(x / width + 0.5 * (row % 2))
    mortar, brick = two_colours(rng)
    tone = np.sin(row * 12.9898 + column * 78.233 + rng.random()) * 43758.5453 % 1  # a number of its own for every brick
    picture = brick + (tone[..., None] - 0.5) * rng.uniform(0, 0.4)
    u, v = (x / width + 0.5 * (row % 2)) % 1, (y / height) % 1
    inside = np.maximum((np.abs(u - 0.5) - 0.5) * width, (np.abs(v - 0.5) - 0.5) * height) + joint
    return paint(np.broadcast_to(mortar, picture.shape), cover(inside), picture)


def sky(rng: Rng, size: int) -> Array:
    """From top to horizon, often with clouds."""
    _, y = plane(size)
    top, low = np.array([0.2, 0.4, 0.8]) + rng.normal(0, 0.15, 3), np.array([0.8, 0.8, 0.85]) + rng.normal(0, 0.15, 3)
    picture = top + (low - top) * np.clip(y / size + 0.5, 0, 1)[..., None]
    if rng.random() < 0.6:
        picture = paint(picture, np.clip(noise(rng, size, 1.8, 0.6) * 2 - 1, 0, 1), np.array([0.95, 0.95, 0.95]))
    return picture


def floor(rng: Rng, size: int) -> Array:
    """Tiles in perspective under a sky."""
    x, y = plane(size)
    horizon = rng.uniform(-0.3, 0.1) * size
    depth = np.maximum(y - horizon, 1)
    u, v = rotated(x * 40 / depth, 40 * size / depth, rng.uniform(0, np.pi / 2))
    tile = rng.uniform(16, 40)
    a, b = two_colours(rng)
    frequency = 40 * size / (depth**2 * tile)  # cycles a pixel, downwards; far tiles melt into each other
    p, q = (np.clip(np.sin(2 * np.pi * t / tile) * np.clip(0.3 / frequency, 1, 4), -1, 1) for t in (u, v))
    wave = p * q * np.clip(2 - 8 * frequency, 0, 1)
    return paint(a + (b - a) * (0.5 + 0.5 * wave)[..., None], cover(y - horizon), sky(rng, size))


def landscape(rng: Rng, size: int) -> Array:
    """Sky, perhaps a sun, ridges one before the other, ground."""
    x, _ = plane(size)
    y = plane(size)[1]
    picture = sky(rng, size)
    if rng.random() < 0.4:
        disc = np.hypot(x - rng.uniform(-0.4, 0.4) * size, y - rng.uniform(-0.4, 0) * size) - rng.uniform(4, 14)
        picture = paint(picture, cover(disc), np.array([1.0, 0.95, 0.7]))
    tone = rng.uniform(0.1, 0.6, 3)
    height = rng.uniform(-0.2, 0.1) * size
    for _ in range(rng.integers(1, 4)):
        ridge = height + (noise(rng, size, 2.2)[0] - 0.5) * rng.uniform(0, 0.7) * size
        ground = tone + (noise(rng, size, 1.5, 0.4)[..., None] - 0.5) * rng.uniform(0, 0.3)
        picture = paint(picture, cover(ridge - y), ground)
        height, tone = height + rng.uniform(0.08, 0.25) * size, tone * rng.uniform(0.6, 0.95)
    return picture


PICTURES: dict[str, Callable[[Rng, int], Array]] = {
    f.__name__: f for f in (edge, stripes, checks, shapes, rings, leaves, gradient, clouds, grain, bricks, floor, landscape)
}
STRUCTURED = ("edge", "stripes", "checks", "shapes")


def to_bytes(picture: Array) -> Array:
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def picture(rng: Rng, kind: str, size: int = SIZE) -> Array:
    """(size, size, 3) uint8."""
    return to_bytes(PICTURES[kind](rng, size))


# --- masks ------------------------------------------------------------------------------------------------------------------------


def brush(rng: Rng, size: int) -> Array:
    """A stroke of a round brush that changes its direction as it goes."""
    x, y = plane(size)
    at, angle = rng.uniform(-0.4, 0.4, 2) * size, rng.uniform(0, 2 * np.pi)
    radius, inside = rng.uniform(0.04, 0.12) * size, np.zeros((size, size), bool)
    for _ in range(rng.integers(2, 8)):
        to = at + rng.uniform(0.1, 0.3) * size * np.array([np.cos(angle), np.sin(angle)])
        d = to - at
        t = np.clip(((x - at[0]) * d[0] + (y - at[1]) * d[1]) / (d @ d), 0, 1)
        inside |= np.hypot(x - at[0] - t * d[0], y - at[1] - t * d[1]) < radius
        at, angle = np.clip(to, -size / 2, size / 2), angle + rng.normal(0, 0.8)
    return inside


def box(rng: Rng, size: int) -> Array:
    w, h = rng.uniform(0.15, 0.55, 2) * size
    x, y = plane(size)
    return (np.abs(x - rng.uniform(-0.4, 0.4) * size) < w / 2) & (np.abs(y - rng.uniform(-0.4, 0.4) * size) < h / 2)


def blob(rng: Rng, size: int) -> Array:
    return shape(rng, size, rng.uniform(0.12, 0.3) * size, *(rng.uniform(-0.3, 0.3, 2) * size)) > 0.5


def mask(rng: Rng, size: int = SIZE, low: float = 0.05, high: float = 0.30) -> Array:
    """(size, size) bool, True where to fill: one to three strokes, boxes or blobs that cover between `low` and `high` of the area."""
    while True:
        inside = np.zeros((size, size), bool)
        for _ in range(rng.integers(1, 4)):
            inside |= (brush, box, blob)[rng.choice(3, p=[0.45, 0.3, 0.25])](rng, size)
        if low <= inside.mean() <= high:
            return inside


def with_object(rng: Rng, picture: Array, inside: Array) -> Array:
    """The picture (uint8) with something put into the hole: what a fill without a condition may also be."""
    ys, xs = np.nonzero(inside)
    out = picture / 255.0
    for _ in range(rng.integers(1, 3)):
        i, size = rng.integers(len(xs)), len(inside)
        thing = shape(rng, size, rng.uniform(0.06, 0.2) * size, xs[i] - size / 2, ys[i] - size / 2) * inside
        out = paint(out, thing, colour(rng))
    return to_bytes(out)


# --- photographs ------------------------------------------------------------------------------------------------------------------


def photo(package: str, name: str) -> Image.Image:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"The photographs come inside scikit-image, scikit-learn and matplotlib: pip install them ({package} is missing).")
    return Image.open(Path(spec.origin).parent / name).convert("RGB")


def photo_crop(rng: Rng, photos: list[Image.Image], size: int = SIZE) -> Array:
    """A square of one of the photographs at a random scale, from the native one to the whole picture."""
    image = photos[rng.integers(len(photos))]
    side = int(np.exp(rng.uniform(np.log(size), np.log(min(image.size)))))
    x, y = rng.integers(image.width - side + 1), rng.integers(image.height - side + 1)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX, (x, y, x + side, y + side)))


def held_out_crops(size: int = SIZE) -> Iterator[tuple[str, Array]]:
    """(name, picture) of fixed squares of the photographs that training never saw: twelve of each, at two scales."""
    for package, name, _ in HELD_OUT_PHOTOS:
        image = photo(package, name)
        for side, columns, rows in ((size, 3, 2), (min(2 * size, min(image.size)), 3, 2)):
            for i in range(columns * rows):
                x = (image.width - side) * (i % columns) // (columns - 1)
                y = (image.height - side) * (i // columns) // (rows - 1)
                crop = image.resize((size, size), Image.Resampling.BOX, (x, y, x + side, y + side))
                yield f"{Path(name).stem} {side} at {x},{y}", np.asarray(crop)
