"""How a model's result is put back into the picture: pasted as published, compensated, matched, raw; native and scaled."""

import numpy as np
import pytest
from PIL import Image
from windows_cases import blobs, noise, zone

from moebius.errors import UsageError
from moebius.pictures import published
from moebius.pictures.blend import published_picture, put_back
from moebius.pictures.cut import cut_out
from moebius.pictures.pixels import piece, resized
from moebius.pictures.seam import eased
from moebius.pictures.windows import Window, windows


def whole(size: int, box: tuple[int, int, int, int]) -> tuple[Window, published.Prepared, np.ndarray]:
    """A picture of the model's size, as one window and as published."""
    rgb, fill = noise(size, size), blobs(size, size, box)
    (window,) = windows(fill, size)
    return window, published.prepare(Image.fromarray(rgb), Image.fromarray(fill.astype(np.uint8) * 255), size), rgb


def test_a_native_window_shows_the_networks_what_is_published() -> None:
    window, p, rgb = whole(128, (30, 40, 80, 90))
    cut = cut_out(window, rgb)
    np.testing.assert_array_equal(cut.x, p.x)
    np.testing.assert_array_equal(cut.m, p.m)


@pytest.mark.parametrize("blend", ["paste", "compensate"])
def test_pasting_is_as_published_but_for_the_rounding_of_floats(blend: str) -> None:
    """⌊255·(a/255·w + …)⌋ in floats falls below a whole number where the exact value is one: then it is one less."""
    window, p, rgb = whole(128, (30, 40, 80, 90))
    out, into = noise(128, 128, 5) // 2, rgb.copy()
    put_back(into, out, cut_out(window, rgb), blend)
    expected = np.asarray({"paste": published.paste, "compensate": published.compensate}[blend](out, p))
    difference = into.astype(int) - expected
    assert set(np.unique(difference)) <= {0, 1}
    assert (difference != 0).mean() < 0.01


def test_pasting_truncates_the_exact_blend() -> None:
    window, _, rgb = whole(64, (20, 20, 40, 40))
    out, into, w = noise(64, 64, 5), rgb.copy(), zone(window).astype(int)[..., None]
    put_back(into, out, cut_out(window, rgb))
    np.testing.assert_array_equal(into, (out * w + rgb * (255 - w)) // 255)


def test_large_seams_are_blended_strip_by_strip() -> None:
    fill = np.zeros((1500, 1500), bool)
    fill[::30] = True
    (window,) = windows(fill, 64, "auto", 8, 1)
    rgb, level = noise(1500, 1500), np.full((64, 64, 3), 60, np.uint8)
    into, w = rgb.copy(), zone(window).astype(int)[..., None]
    assert w.size > 2 * 2**20
    put_back(into, level, cut_out(window, rgb))
    np.testing.assert_array_equal(into, (60 * w + rgb * (255 - w)) // 255)


def test_compensation_clips() -> None:
    rgb = np.full((64, 64, 3), (255, 0, 255), np.uint8)
    (window,) = windows(blobs(64, 64, (20, 20, 44, 44)), 64)
    out, into = np.full((64, 64, 3), (200, 50, 255), np.uint8), rgb.copy()
    out[20:44, 20:44] = (250, 10, 255)
    put_back(into, out, cut_out(window, rgb), "compensate")
    assert into[32, 32].tolist() == [255, 0, 255]


def test_compensation_of_a_full_mask_is_the_result() -> None:
    (window,) = windows(np.ones((64, 64), bool), 64)
    rgb, out = noise(64, 64), noise(64, 64, 1)
    into = rgb.copy()
    put_back(into, out, cut_out(window, rgb), "compensate")
    np.testing.assert_array_equal(into, out)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_matching_takes_away_what_a_film_can_take_away(dtype) -> None:
    """A result that is off by a slope comes back as the picture was, with no blur: to a hundredth, but for the two pixels at the rim, where
    less of its own detail shows; beyond the mask nothing changes."""
    y, x = np.mgrid[:64, :64]
    rgb = (np.stack([60 + x, 70 + y, 120 + 20 * np.sin(x / 3)], axis=-1) * np.iinfo(dtype).max / 255).astype(dtype)
    slope = (np.stack([x, y - x, 40 - y], axis=-1) * (np.iinfo(dtype).max / 255) / 4).astype(int)
    (window,) = windows(blobs(64, 64, (20, 16, 44, 50)), 64, "auto", 0)
    into, wrong = rgb.copy(), (rgb.astype(int) + slope).astype(dtype)
    assert np.abs(wrong.astype(int) - rgb).max() > np.iinfo(dtype).max / 20
    put_back(into, wrong, cut_out(window, rgb), "match")
    off, inside = np.abs(into.astype(int) - rgb).max(axis=2), eased(window.islands.fill) == 1
    assert 0.5 < inside.sum() / window.islands.fill.sum() < 1
    assert off[inside].max() <= np.iinfo(dtype).max / 100
    assert off.max() <= np.iinfo(dtype).max / 40
    np.testing.assert_array_equal(into[~window.islands.fill], rgb[~window.islands.fill])


def test_matching_two_windows_asks_neither_for_the_other_s_hole() -> None:
    """What the second window is to fill in is no part of the first one's rim."""
    rgb, fill = np.full((64, 160, 3), 100, np.uint8), blobs(64, 160, (20, 20, 40, 40), (90, 20, 150, 40))
    rgb[fill] = 255
    pair = windows(fill, 64, "auto", 0)
    assert len(pair) == 2
    into = rgb.copy()
    for window in pair:
        cut = cut_out(window, rgb)
        put_back(into, np.full_like(cut.rgb, 30), cut, "match")
    np.testing.assert_array_equal(into, np.full_like(rgb, 100))


@pytest.mark.parametrize(("shape", "rim", "crop"), [((300, 300), 5, "auto"), ((20, 20), 2, "full"), ((3, 300), 8, "auto")])
def test_matching_takes_the_rim_there_is(shape: tuple[int, int], rim: int, crop: str) -> None:
    fill = np.ones(shape, bool)
    fill[:, :rim] = False
    (window,) = windows(fill, 64, crop, 0, 1)
    assert not window.native
    rgb = np.full((*shape, 3), 200, np.uint8)
    into = rgb.copy()
    put_back(into, np.full((64, 64, 3), 100, np.uint8), cut_out(window, rgb), "match")
    np.testing.assert_array_equal(into, rgb)


def test_raw_replaces_the_window() -> None:
    (window,) = windows(blobs(200, 200, (90, 90, 110, 110)), 64)
    rgb = noise(200, 200)
    into = rgb.copy()
    put_back(into, noise(64, 64, 1), cut_out(window, rgb), "raw")
    np.testing.assert_array_equal(into[window.inside()], noise(64, 64, 1))
    into[window.inside()] = rgb[window.inside()]
    np.testing.assert_array_equal(into, rgb)


def test_eight_bit_results_go_into_sixteen_bit_pictures() -> None:
    (window,) = windows(blobs(64, 64, (10, 10, 50, 50)), 64)
    rgb = noise(64, 64, 0, np.uint16)
    into, out = rgb.copy(), noise(64, 64, 1)
    put_back(into, out, cut_out(window, rgb))
    assert into[30, 30].tolist() == (out[30, 30].astype(int) * 257).tolist()


def test_a_scaled_filling_comes_back_in_its_place() -> None:
    """A ramp is the same ramp after it was scaled down and up again."""
    x = np.linspace(20, 230, 900)
    rgb = np.repeat(np.repeat(x.astype(np.uint8)[None], 700, 0)[..., None], 3, axis=2)
    (window,) = windows(blobs(700, 900, (200, 100, 600, 500)), 128)
    assert not window.native
    into = rgb.copy()
    cut = cut_out(window, rgb)
    put_back(into, cut.rgb, cut)
    assert np.abs(into.astype(int) - rgb).max() <= 2
    sixteen = rgb.astype(np.uint16) * 257
    cut = cut_out(window, sixteen)
    into = sixteen.copy()
    put_back(into, cut.rgb, cut)
    assert np.abs(into.astype(int) - sixteen).max() <= 600


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("n", "side"), [(64, 201), (64, 64), (64, 40), (7, 5), (3, 90)])
def test_a_piece_of_the_enlarged_is_the_whole_s(n: int, side: int, dtype: type) -> None:
    rgb = noise(n, n, 2, dtype)
    want = resized(rgb, (side, side))
    for rows, columns in ((slice(0, side), slice(0, side)), (slice(side // 3, side // 2), slice(side - 2, side))):
        off = piece(rgb, (side, side), rows, columns).astype(int) - want[rows, columns]
        assert np.abs(off).max() <= (dtype == np.uint16)  # Pillow's floats have 32 bits


@pytest.mark.parametrize("box", [(20, 150, 380, 153), (60, 40, 330, 260)])
def test_a_scaled_filling_is_joined_where_the_picture_is(box: tuple[int, int, int, int]) -> None:
    """The step at the hole's border is that of the picture itself, though the model saw a seventh of its detail."""
    coarse = Image.fromarray(noise(50, 66))
    rgb, fill = np.asarray(coarse.resize((400, 300), Image.Resampling.BICUBIC)), blobs(300, 400, box)
    (window,) = windows(fill, 64, "auto", 0, 1)
    cut = cut_out(window, rgb)
    assert window.scale > 5
    into = np.where(fill[..., None], np.uint8(0), rgb)
    put_back(into, cut.rgb, cut, "match")
    steps = np.abs(np.diff(into.astype(int), axis=0)).mean(axis=2)
    across = fill[1:] != fill[:-1]
    assert steps[across].mean() < 1.3 * np.abs(np.diff(rgb.astype(int), axis=0)).mean()  # 2 to 3 where the film hangs in what was scaled
    np.testing.assert_array_equal(into[~fill], rgb[~fill])


def test_a_scaled_filling_is_compensated_where_the_picture_is() -> None:
    """What is five darker all over, and thirty darker far away, gets five and a half."""
    rgb, fill = np.full((400, 400, 3), 100, np.uint8), blobs(400, 400, (150, 150, 250, 250))
    (window,) = windows(fill, 64)
    out = np.full((64, 64, 3), 70, np.uint8)
    out[5:-5, 5:-5] = 95
    into = rgb.copy()
    put_back(into, out, cut_out(window, rgb), "compensate")
    assert into[200, 200].tolist() == [100] * 3


def test_feather_is_in_the_pictures_pixels_and_the_published_blur_in_the_models() -> None:
    fill = blobs(900, 900, (200, 200, 700, 700))
    (scaled,) = windows(fill, 128)
    assert scaled.radius == pytest.approx(3 * scaled.width / 128)
    (scaled,) = windows(fill, 128, "auto", 5)
    assert scaled.radius == 5
    assert set(np.unique(zone(windows(fill, 128, "auto", 0)[0]))) == {0, 255}


def test_upstream_is_the_published_program() -> None:
    rgb, fill = noise(150, 150), blobs(150, 150, (40, 30, 90, 77))
    (window,) = windows(fill, 64, "upstream")
    p = published.prepare(Image.fromarray(rgb), Image.fromarray(fill.astype(np.uint8) * 255), 64)
    cut, out = cut_out(window, rgb), noise(64, 64, 3)
    np.testing.assert_array_equal(cut.x, p.x)
    np.testing.assert_array_equal(cut.m, p.m)
    assert published_picture(out, cut).tobytes() == published.paste(out, p).tobytes()
    assert published_picture(out, cut, "compensate").tobytes() == published.compensate(out, p).tobytes()
    assert published_picture(out, cut, "raw").tobytes() == out.tobytes()
    for photo in (rgb, rgb.astype(np.uint16) * 257):
        cut = cut_out(window, photo)
        joined, outside = np.asarray(published_picture(out, cut, "match")), cut.m[0, 0] == 0
        np.testing.assert_array_equal(joined[outside], np.asarray(p.image)[outside])
        assert joined.dtype == np.uint8


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda w, c: windows(np.ones((5, 5), bool), 64, "crop"), "crop is 'crop'"),
        (lambda w, c: windows(np.ones((5, 5)), 64), "float64"),
        (lambda w, c: windows(np.ones((0, 5), bool), 64), r"\(0, 5\)"),
        (lambda w, c: windows(np.ones((5, 5), bool), 64, "auto", -1), "feather is -1"),
        (lambda w, c: windows(np.ones((5, 5), bool), 63, "upstream"), "size is 63"),
        (lambda w, c: windows(np.ones((1, 3000), bool), 512, "upstream"), "1536000×512"),
        (lambda w, c: cut_out(w, noise(65, 64)), r"\(65, 64, 3\)"),
        (lambda w, c: put_back(noise(64, 64), noise(64, 65), c), r"result is \(64, 65, 3\)"),
        (lambda w, c: put_back(noise(64, 65), noise(64, 64), c), r"\(64, 65, 3\) uint8"),
        (lambda w, c: put_back(noise(64, 64, 0, np.uint16), noise(64, 64), c), "uint16"),
        (lambda w, c: put_back(noise(64, 64), noise(64, 64), c, "past"), "blend is 'past'"),
        (lambda w, c: published_picture(noise(64, 64), c), "upstream"),
    ],
)
def test_mistakes_are_named(call, says: str) -> None:
    (window,) = windows(blobs(64, 64, (10, 10, 20, 20)), 64)
    with pytest.raises(UsageError, match=says):
        call(window, cut_out(window, noise(64, 64)))
