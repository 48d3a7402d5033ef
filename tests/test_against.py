"""The benchmark of two checkouts: each is the one that it is said to be, and they take turns."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from moebius.errors import MoebiusError, UsageError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import against

TURN = """
import json, sys
from moebius import errors
import moebius.shaders
for line in sys.stdin:
    print(json.dumps({"package": errors.WHICH, "shaders": moebius.shaders.WHICH, "arguments": sys.argv[1:]}), flush=True)
"""


def checkout(folder: Path) -> Path:
    for file in ("engine/moebius/__init__.py", "engine/moebius/errors.py", "shaders/__init__.py"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"WHICH = {folder.name!r}\n")
    return folder


def test_a_process_has_its_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "TURN", tmp_path / "turn.py")
    (tmp_path / "turn.py").write_text(TURN)
    for name in ("before", "after"):
        turns = against.Turns(checkout(tmp_path / name), tmp_path / f"site {name}", ["x", "tiny"])
        assert turns.picture() == {"package": name, "shaders": name, "arguments": ["x", "tiny"]}
        assert turns.picture()["package"] == name
        turns.process.kill()
        with pytest.raises(MoebiusError, match=name):
            turns.picture()
        turns.process.communicate()


def test_they_take_turns_and_ratios_are_of_pairs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []
    seconds = {"this": iter([9.0, 1.0, 3.0, 1.0]), "other": iter([9.0, 2.0, 2.0, 4.0])}

    class Fake:
        def __init__(self, _: Path, site: Path, arguments: list[str]) -> None:
            self.name, self.process = site.name, SimpleNamespace(kill=lambda: order.append("end"), communicate=lambda: None)

        def picture(self) -> dict[str, float]:
            order.append(self.name)
            return dict.fromkeys(against.PARTS, next(seconds[self.name]))

    where = {"adapter": {"name": "a driver"}, "commit": "new", "load_average": 99.0, "cores": 2}
    monkeypatch.setattr(against, "Turns", Fake)
    monkeypatch.setattr(against, "environment", lambda _: where)
    monkeypatch.setattr(against.Device, "open", lambda *_: None)
    result = against.measure((Path("a"), Path("b")), SimpleNamespace(adapter="x", config="tiny", steps=4, runs=3))  # type: ignore[arg-type]
    assert order == ["this", "other", "this", "other", "other", "this", "this", "other", "end", "end"]
    assert [result[f"ratio_{which}"]["step"] for which in ("median", "best", "worst")] == [0.5, 0.25, 1.5]
    against.show(result)
    said = capsys.readouterr().out
    assert json.loads(said.splitlines()[-1]) == dict.fromkeys(against.PARTS, 0.5)
    assert "the machine was busy" in said


def test_what_is_no_checkout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["against.py", str(tmp_path)])
    with pytest.raises(UsageError, match="is no checkout"):
        against.main()
    checkout(tmp_path)
    monkeypatch.setattr(sys, "argv", ["against.py", str(tmp_path), "--steps", "1"])
    with pytest.raises(UsageError, match="--steps is 1"):
        against.main()
