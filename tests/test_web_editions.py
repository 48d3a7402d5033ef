"""Which edition of an export a page runs: by what the browser has, by whether it makes the right picture, and what happens where it does
not. The engine's own module in Node, with an export that is a stub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CI
from javascript import Node, ScriptError, Scripts, find_node

from moebius.web.export import write_site

HERE = Path(__file__).parent
UNITS = {"operands": "f16", "sums": "f32", "m": 16, "n": 16, "k": 16}
PLAIN = {"name": "plain", "file": "plan-plain.json.gz", "precision": "f16", "bound": {"mean": 1, "psnr": 45}, "features": []}
WIDE = PLAIN | {"name": "wide", "file": "plan-wide.json.gz", "precision": "f32"}
MATRIX = PLAIN | {"name": "matrix", "file": "plan-matrix.json.gz", "features": ["shader-f16", "subgroups"], "units": UNITS, "lanes": 32}
CONFIG = {"componentType": "f16", "resultComponentType": "f32", "M": 16, "N": 16, "K": 16}
FEATURES = MATRIX["features"]
INFO = {"subgroupMatrixConfigs": [CONFIG | {"K": 8}, CONFIG], "subgroupMinSize": 32, "subgroupMaxSize": 32}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    if not find_node():
        (pytest.fail if CI else pytest.skip)("Node is not installed.")
    folder = tmp_path_factory.mktemp("editions")
    write_site(folder)
    for name in ("exported.js", "check.js", "inpaint.js"):
        shutil.copy(HERE / "editions_stub.js", folder / name)
    node = Node(folder)
    yield node
    node.close()


def possible(scripts: Scripts, info: dict[str, Any], features: list[str]) -> list[str]:
    adapter = f"{{ info: {json.dumps(info)}, features: new Set({features}) }}"
    return scripts.run(f"""
      const {{ possible }} = await import('./editions.js');
      return possible({json.dumps([MATRIX, PLAIN, WIDE])}, {adapter}).map(({{ name }}) => name);""")


def test_a_browser_with_the_units_gets_their_edition(scripts: Scripts) -> None:
    assert possible(scripts, INFO, ["subgroups", "shader-f16", "another"]) == ["matrix", "plain", "wide"]


@pytest.mark.parametrize(
    ("info", "features"),
    [
        ({}, FEATURES),
        (INFO, ["subgroups"]),
        (INFO | {"subgroupMinSize": 16}, FEATURES),
        (INFO | {"subgroupMaxSize": 64}, FEATURES),
        *((INFO | {"subgroupMatrixConfigs": [CONFIG | other]}, FEATURES) for other in ({"M": 8}, {"N": 8}, {"K": 8})),
        *((INFO | {"subgroupMatrixConfigs": [CONFIG | {key: "i8"}]}, FEATURES) for key in ("componentType", "resultComponentType")),
    ],
)
def test_a_browser_without_them_gets_the_plain_one(scripts: Scripts, info: dict[str, Any], features: list[str]) -> None:
    assert possible(scripts, info, features) == ["plain", "wide"]


def opened(scripts: Scripts, script: str, **behaviour: str) -> Any:
    """After `open`: what editions were tried, and what `script` returns. `behaviour` of an edition: "wrong", "refused", "lost", "large"."""
    return scripts.run(f"""
      const [editions, behaviour] = [{json.dumps([MATRIX, PLAIN, WIDE])}, {json.dumps(behaviour)}];
      const stub = (globalThis.stub = {{ editions, behaviour, tried: [], closed: [] }});
      const {{ open }} = await import('./engine_webgpu.js');
      const engine = await open({{}}, () => {{}}), model = engine.model();
      return [stub.tried, await (async () => {{ {script} }})(), stub.closed];""")


def test_the_quickest_edition_is_checked_before_it_is_used(scripts: Scripts) -> None:
    tried, (name, how, note, files, again), closed = opened(
        scripts, "const c = await engine.check(); return [engine.player.about.name, model.how, model.note, model.files, c.run];"
    )
    assert tried == ["matrix", "check matrix"]
    assert (name, how, note, closed) == ("matrix", "half precision on matrix units", "", [])
    assert files == ["plan-matrix.json.gz", "plan-plain.json.gz", "plan-wide.json.gz"]
    assert again == 1, "the check that was made at the beginning"


@pytest.mark.parametrize("how", ["wrong", "refused", "large"])
def test_an_edition_that_does_not_make_the_picture_gives_way(scripts: Scripts, how: str) -> None:
    tried, (name, note), closed = opened(scripts, "return [engine.player.about.name, model.note];", matrix=how)
    assert tried[-1] == name == "plain"
    assert closed == ([] if how == "refused" else ["matrix"]), "its memory is given back"
    assert "matrix units" in note
    assert note.count(". ") == 0
    assert note.endswith("in half precision.")


def test_an_edition_that_loses_the_device_is_left_out_of_the_next(scripts: Scripts) -> None:
    tried, name, _ = opened(scripts, "return engine.player.about.name;", matrix="lost")
    assert tried == ["matrix", "opened without matrix", "plain"]
    assert name == "plain"


def test_the_last_edition_has_nothing_to_give_way_to(scripts: Scripts) -> None:
    with pytest.raises(ScriptError, match="cannot be run"):
        opened(scripts, "return 0;", matrix="refused", plain="refused", wide="refused")


FILL = """
  const heard = [], picture = { data: [1] };
  const out = await engine.fill(picture, null, { seed: 7n }, (told) => heard.push(told)).catch((error) => error.message);
  return [out, heard.filter(({ note }) => note).map(({ note }) => note)];
"""


def test_numbers_that_are_too_large_are_computed_in_the_widest(scripts: Scripts) -> None:
    """For that picture, and with its own settings; then the memory is given back."""
    _, (out, notes), closed = opened(scripts, FILL, plain="large", matrix="wrong")
    assert out == "filled by wide, seed 7"
    assert len(notes) == 1
    assert "half precision" in notes[0]
    assert "single precision" in notes[0]
    assert closed == ["matrix", "wide"]


def test_numbers_that_are_too_large_for_all_are_an_error(scripts: Scripts) -> None:
    _, (out, notes), closed = opened(scripts, FILL, matrix="wrong", plain="large", wide="large")
    assert (out, notes, closed) == ("too large", [], ["matrix", "wide"])
    _, (out, _), _ = opened(scripts, FILL, matrix="wrong", plain="wrong-run")
    assert out == "another error"
