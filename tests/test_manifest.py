"""Manifests of a batch: what their rows say, and what is wrong with them before anything begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from batch_cases import mask

from moebius.errors import UsageError
from moebius.many import batch as many
from moebius.many import manifest
from moebius.many.places import place
from moebius.many.worker import Options


def rows(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    csv = rows(
        tmp_path / "in/list.csv",
        "image,mask,box,output,seed,invert,noise-offset",
        "a.jpg,a.png,,,,,",
        'b.jpg,,"1,2,3,4;5,6,7,8",x/y.png,7,true,0.5',
        "c.webp,alpha,,,,,",
    )
    lines = rows(
        tmp_path / "in/list.jsonl",
        {"image": "a.jpg", "mask": "a.png"},
        "",
        {"image": "b.jpg", "box": [[1, 2, 3, 4], [5, 6, 7, 8]], "output": "x/y.png", "settings": {"seed": 7, "invert": True}}
        | {"noise_offset": 0.5},
        {"image": "c.webp", "mask": "alpha", "box": None},
    )
    listed = list(manifest.jobs(csv, masks, out, {}))
    assert listed == list(manifest.jobs(lines, masks, out, {}))
    assert [(j.image, j.mask, j.out) for j in listed] == [
        (tmp_path / "in/a.jpg", masks / "a.png", out / "a.jpg"),
        (tmp_path / "in/b.jpg", ((1, 2, 3, 4), (5, 6, 7, 8)), out / "x/y.png"),
        (tmp_path / "in/c.webp", "alpha", out / "c.webp"),
    ]
    assert [j.settings for j in listed] == [{}, {"seed": 7, "invert": True, "noise_offset": 0.5}, {}]


def test_one_mask_for_all_rows_and_absolute_places(tmp_path: Path) -> None:
    one = mask(tmp_path / "m.png")
    lines = [{"image": "memory://a/b.png", "output": "memory://c/d.png"}, {"image": str(tmp_path / "e.heic")}]
    first, second = manifest.jobs(rows(tmp_path / "l.jsonl", *lines), one, tmp_path / "out", {})
    assert (first.image, first.mask, first.out) == (place("memory://a/b.png"), one, place("memory://c/d.png"))
    assert (second.image, second.out) == (tmp_path / "e.heic", tmp_path / "out/e.png")


@pytest.mark.parametrize(
    "line",
    [
        *(
            "{",
            "[]",
            "3",
            '{"mask": "a.png"}',
            '{"image": 3, "mask": "a"}',
            '{"image": "a.png"}',
            '{"image": "a.png", "mask": "b", "x": 1}',
        ),
        *('{"image": "a.png", "box": [1, 2, 3]}', '{"image": "a.png", "box": "1,2,3,x"}', '{"image": "a.png", "box": [true, 0, 1, 1]}'),
        *('{"image": "a.png", "mask": "b", "box": [1, 2, 3, 4]}', '{"image": "a.png", "mask": "b", "steps": 0}', "[" * 100_000),
        *('{"image": "a.png", "mask": "b", "settings": {"stepps": 3}}', '{"image": "a.png", "mask": "b", "output": "c.txt"}'),
        *(
            '{"image": "a.png", "mask": "b", "settings": 3}',
            '{"image": "a.png", "mask": "b", "seed": "x"}',
            '{"image": "a\\u0000", "mask": "b"}',
        ),
    ],
    ids=lambda line: line[:40],
)
def test_a_row_that_is_wrong_is_named_before_anything_begins(tmp_path: Path, line: str) -> None:
    (tmp_path / "masks").mkdir()
    listed = rows(tmp_path / "list.jsonl", {"image": "a.png", "mask": "b"}, line)
    with pytest.raises(UsageError, match="line 2"):
        many.listed(listed, tmp_path / "masks", tmp_path / "out", Options())


def test_two_rows_for_one_output_and_a_header_alone_are_no_batch(tmp_path: Path) -> None:
    one = mask(tmp_path / "m.png")
    for lines in (["image", "a/x.png", "b/x.png"], ["image"], ["image,seed", "a.png,1,2"]):
        with pytest.raises(UsageError):
            many.listed(rows(tmp_path / "list.csv", *lines), one, tmp_path / "out", Options())


@pytest.mark.parametrize(
    "lines",
    [
        [{"image": "a.png", "output": "x.png", "num_images": 2}, {"image": "b.png", "output": "x-1.png"}],
        [{"image": "a.png", "output": "x.png"}, {"image": "b.png", "output": "../out/x.png"}],
        [{"image": "a.png", "output": "../b.png"}, {"image": "b.png"}],
        [{"image": "a.png", "output": "../out/../a.png"}],
        [{"image": "a.png"}, {"image": "b.png", "output": "../m.png"}],
    ],
)
def test_no_row_writes_what_another_reads_or_writes(tmp_path: Path, lines: list[Any]) -> None:
    one = mask(tmp_path / "m.png")
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="output"):
        many.listed(rows(tmp_path / "list.jsonl", *lines), one, tmp_path / "out", Options())
    assert many.listed(rows(tmp_path / "list.jsonl", *lines[:1]), one, tmp_path / "other/out", Options()).count == 1
