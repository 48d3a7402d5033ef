"""`moebius export-web` without a browser: what is in the folder, and how it gets there."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import always

from moebius.backends.cpu import CPU
from moebius.backends.webgpu import WebGPU, menu, pack
from moebius.backends.webgpu.caps import DEFAULT_LIMITS, Caps
from moebius.cli import main as cli
from moebius.cli import web
from moebius.errors import MoebiusError, UsageError
from moebius.inpaint.inpainter import Inpainter
from moebius.model import unet, vae
from moebius.model.contract import Precision
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNet, UNetConfig
from moebius.model.vae import VAE, VAEConfig
from moebius.web import edition, serve
from moebius.web import export as exporting
from moebius.web import targets as aims
from moebius.web.bundle import Bundle, edition_file
from moebius.web.edition import ForBrowsers
from moebius.web.export import OPENING, check_target, constants, export, is_page, page_files, publish, record, write_site
from moebius.web.serve import MOST_AT_ONCE, opened
from moebius.web.targets import targets
from moebius.web.witness import sampled


def tiny() -> Inpainter:
    ops, u, v = CPU(), UNetConfig.tiny(), VAEConfig.tiny()
    return Inpainter(UNet(u, synthetic(unet.shapes(u), 0), ops), VAE(v, synthetic(vae.shapes(v), 0), ops), model="synthetic tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("web") / "page"
    size = export(tiny(), made, adapter="llvmpipe")
    assert size == sum(f.stat().st_size for f in made.iterdir())
    return made


@pytest.fixture(scope="module")
def plan(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "plan.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[str, Any]:
    """The edition that every browser can run."""
    return edition_of(folder)


def edition_of(folder: Path, name: str = "plain") -> dict[str, Any]:
    return json.loads(gzip.decompress((folder / edition_file(name)).read_bytes()))


def test_every_size_is_within_webgpus_default_limits(folder: Path, plan: dict[str, Any], plain: dict[str, Any]) -> None:
    assert plan["binary"]["size"] == (folder / "weights.bin").stat().st_size
    sizes = [*plain["buffers"], *reversed([w["size"] for w in plan["weights"]])]  # -1 is the first of the weights
    assert max(sizes) <= DEFAULT_LIMITS["max-buffer-size"]
    for name in ("encoder", "step", "decoder"):
        made = plain["plans"][name]
        for d in made["prologue"] + made["steps"]:
            assert 4 * len(d["params"]) <= 256
            access = plain["pipelines"][d["pipeline"]]["access"]
            assert 3 * (len(access) - 1) == len(d["bind"])
            assert len(access) - 1 <= DEFAULT_LIMITS["max-storage-buffers-per-shader-stage"]
            assert max(d["grid"]) <= DEFAULT_LIMITS["max-compute-workgroups-per-dimension"]
            triples = [d["bind"][i : i + 3] for i in range(0, len(d["bind"]), 3)]
            for buffer, offset, size in triples:
                assert offset % DEFAULT_LIMITS["min-storage-buffer-offset-alignment"] == 0
                assert offset + size <= sizes[buffer]
                assert size <= DEFAULT_LIMITS["max-storage-buffer-binding-size"]
            written = [b for (b, _, _), a in zip(triples, access, strict=False) if a == "read_write"]
            read = [b for (b, _, _), a in zip(triples, access, strict=False) if a == "read"]
            assert not set(written) & set(read)
    assert {tuple(sorted(p)) for p in plain["pipelines"]} == {("access", "entry", "module")}


def test_files_of_editions_are_named_with_their_content(folder: Path, plan: dict[str, Any]) -> None:
    for about in plan["editions"]:
        content = (folder / about["file"]).read_bytes()
        assert about["size"] == len(content)
        assert about["sha256"] == hashlib.sha256(gzip.decompress(content)).hexdigest()
    assert [about["name"] for about in plan["editions"]][-1] == "plain"
    assert plan["editions"][-1]["features"] == []


def test_the_engines_constants_travel(plan: dict[str, Any]) -> None:
    """As they are in Python, to the last bit."""
    assert {name: np.array(value).tolist() for name, value in constants().items()} == plan["constants"]


def test_plans_are_those_that_run_natively(plain: dict[str, Any], minimum: WebGPU) -> None:
    """Dispatch by dispatch: the shader's text, the grid, the sizes."""
    from moebius.backends.webgpu.wgsl import specialise

    made = tiny()
    as_browsers = WebGPU(minimum.gpu, Caps.browser())
    net = VAE(made.vae.config, made.vae.root.root, as_browsers)
    native = as_browsers.record(net.decoder, [(1, 16, 16, 4)]).recording.steps
    exported = plain["plans"]["decoder"]["steps"]
    assert len(exported) == len(native)
    for ours, theirs in zip(exported, native, strict=True):
        pipeline = plain["pipelines"][ours["pipeline"]]
        assert ours["bind"][2::3] == [b.nbytes for b in theirs.bindings]
        assert plain["modules"][pipeline["module"]] == specialise(theirs.shader, theirs.constants, theirs.entry)
        assert ours["grid"] == list(theirs.grid)


def test_tiles_are_chosen_for_the_browsers_device() -> None:
    texts = []
    for software in (False, True):
        ((made, _),) = record(tiny(), ForBrowsers("llvmpipe"), targets("f32", software)[-1:]).editions.values()
        texts.append("".join(made.modules))
        assert any(entry == "tiled" for _, entry, _ in made.pipelines) is not software
    assert texts[0] != texts[1]


def test_bytes_are_the_packed_weights(folder: Path, plan: dict[str, Any], plain: dict[str, Any]) -> None:
    """The first layer's weight, by way of its binding."""
    first = plain["plans"]["encoder"]["steps"][0]
    buffer, offset, size = first["bind"][3:6]  # gemm.wgsl binds its input, then its weight
    at = plan["weights"][-1 - buffer]["at"] + offset
    got = np.frombuffer((folder / "weights.bin").read_bytes()[at : at + size], "<f4")
    assert np.array_equal(got, pack.taps(tiny().vae.root["encoder.conv_in.weight"]).reshape(-1))


def test_large_models_take_several_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edition, "SEGMENT", 1 << 20)
    recorder, inpainter = ForBrowsers("llvmpipe"), tiny()
    net = VAE(inpainter.vae.config, inpainter.vae.root.root, recorder)
    made = Bundle()
    made.edition("plain").add("decoder", *recorder.recorded(net.decoder, [(1, 16, 16, 4)]))
    made.write(tmp_path, {})
    plan, plain = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8")), edition_of(tmp_path)
    assert len(plan["weights"]) > 2
    buffer, offset, size = plain["plans"]["decoder"]["steps"][-1]["bind"][3:6]
    at = plan["weights"][-1 - buffer]["at"] + offset
    got = np.frombuffer((tmp_path / "weights.bin").read_bytes()[at : at + size], "<f4")
    assert np.array_equal(got, pack.taps(inpainter.vae.root["decoder.conv_out.weight"]).reshape(-1))


def test_weights_lie_once_and_in_large_buffers(plan: dict[str, Any]) -> None:
    weights = [w["size"] for w in plan["weights"]]
    made = tiny()
    parameters = 4 * sum(a.size for net in (made.unet, made.vae) for k, a in net.root.root.items())
    assert len(weights) == 1
    assert 0.5 * parameters < sum(weights) < 2.5 * parameters  # upsampling weights are kept as phases


def test_arena_is_shared_between_plans() -> None:
    """One plan after another runs: their intermediate tensors take the room of the largest, not of all."""
    inpainter, recorder = tiny(), ForBrowsers("llvmpipe")
    net = VAE(inpainter.vae.config, inpainter.vae.root.root, recorder)
    twice, once = Bundle().edition("twice"), Bundle().edition("once")
    for i, made in enumerate((once, twice)):
        for name in "ab"[: i + 1]:
            made.add(name, *recorder.recorded(net.decoder, [(1, 16, 16, 4)]))
    ends = 4 * 16 * 16 * 4 + 4 * 128 * 128 * 4  # its own input and output
    assert sum(twice.buffers) - sum(once.buffers) == ends


def test_editions_share_the_weights() -> None:
    """Another kernel for every layer, and not one byte more of them."""
    recorder = ForBrowsers("llvmpipe")
    (plain,) = targets("f32", software=True)[-1:]
    other = replace(plain, name="other", choose=always(menu.CPU_THIN))
    made = record(tiny(), recorder, [other, plain])
    (one, _), (two, _) = made.editions.values()
    assert set(one.modules) - set(two.modules)
    assert weights_of(one) == weights_of(two)


def weights_of(made: edition.Edition) -> set[tuple[int, int, int]]:
    """What of them the plans bind: (buffer, offset, bytes)."""
    bound = [d["bind"] for plan in made.plans.values() for d in (*plan["prologue"], *plan["steps"])]
    found = {(b[i], b[i + 1], b[i + 2]) for b in bound for i in range(0, len(b), 3) if b[i] < 0}
    assert len(found) > 100
    return found


@pytest.mark.parametrize("precision", ["f16", "f32"])
def test_matrix_units_have_editions_of_their_own(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Dawn's dialect, within the default limits, of the same weights; f32 by splitting where layers are large, and else none."""
    monkeypatch.setattr(aims, "SHAPES", aims.SHAPES[:1])
    if precision == "f32":
        assert list(record(tiny(), ForBrowsers("llvmpipe"), targets("f32", software=False)).editions) == ["plain"]
        monkeypatch.setattr(aims, "LARGE", 2**16)
    made = record(tiny(), ForBrowsers("llvmpipe", stored=precision), targets(precision, software=False))
    units, about = made.editions["units-16x16x16"]
    assert next(iter(made.editions)) == "units-16x16x16"
    assert about["features"] == ["chromium-experimental-subgroup-matrix", "shader-f16", "subgroups"]
    assert about["units"] == {"operands": "f16", "sums": "f32", "m": 16, "n": 16, "k": 16}
    assert (about["precision"], about["lanes"]) == (precision, 32)
    assert any("enable chromium_experimental_subgroup_matrix;" in text for text in units.modules)
    plain, _ = made.editions["plain"]
    assert not any("subgroup" in text for text in plain.modules)
    assert weights_of(units) == weights_of(plain)


def test_half_precision_is_half_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of dense layers, in all editions; what the last computes with them is f32."""
    monkeypatch.setattr(aims, "SHAPES", aims.SHAPES[:1])
    whole = record(tiny(), ForBrowsers("llvmpipe"), targets("f32", software=False)[-1:])
    half = record(tiny(), ForBrowsers("llvmpipe", stored="f16"), targets("f16", software=False))
    assert list(half.editions)[-2:] == ["plain", "wide"]
    assert sum(half.weights.sizes) < 0.55 * sum(whole.weights.sizes)
    arenas = {name: sum(edition.buffers) for name, (edition, _) in (*half.editions.items(), ("whole", whole.editions["plain"]))}
    assert arenas["plain"] < 0.9 * arenas["whole"]
    assert arenas["wide"] == arenas["whole"]
    for name, precision in (("plain", "f16"), ("wide", "f32")):
        assert half.editions[name][1] == {"precision": precision, "bound": {"mean": 1, "psnr": 45}, "features": []}
    assert all(about["features"] for name, (_, about) in half.editions.items() if name not in ("plain", "wide"))
    unpacked = ["unpack2x16float" in "".join(edition.modules) for edition, _ in (*half.editions.values(), whole.editions["plain"])]
    assert unpacked[-3:] == [True, True, False]


def test_samples_are_of_the_kernels_layout() -> None:
    """From the first value to the last, channels padded to four; of small tensors all."""
    x = np.arange(1, 3 * 40 * 40 + 1, dtype=np.float32).reshape(1, 40, 40, 3)
    got = sampled(x)
    assert got[:5].tolist() == [1, 2, 3, 0, 4]
    assert got[-4:].tolist() == [4798, 4799, 4800, 0]
    assert len(got) == 2048
    assert np.count_nonzero(got == 0) == 512
    assert sampled(x[:, :1, :2]).tolist() == [1, 2, 3, 0, 4, 5, 6, 0]


# the folder ----------------------------------------------------------------------------------------------------------
def test_only_a_page_of_its_own_is_replaced(tmp_path: Path) -> None:
    page, other, file = tmp_path / "page", tmp_path / "other", tmp_path / "file"
    for made in (page, other):
        made.mkdir()
    check_target(page)  # empty
    (page / "plan.json").write_bytes(OPENING + b'"moebius":""}')
    check_target(page)
    assert is_page(page)
    (page / "letters").mkdir()
    with pytest.raises(UsageError, match=r"\(letters\)"):
        check_target(page)
    (page / "letters").rmdir()
    (page / "plan.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=r"no plan\.json of one"):
        check_target(page)
    (other / "diary.json").write_text("{}")
    with pytest.raises(UsageError, match=r"\(diary\.json\)"):
        check_target(other)
    file.write_text("")
    with pytest.raises(UsageError, match="is a file"):
        check_target(file)
    with pytest.raises(UsageError, match="there is no folder"):
        check_target(tmp_path / "a" / "b")
    assert sorted(os.listdir(tmp_path)) == ["file", "other", "page"]


@pytest.mark.parametrize(("trouble", "said"), [(OSError(5, "Input/output error"), MoebiusError), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_a_failed_export_leaves_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: BaseException, said: type[BaseException]
) -> None:
    page = tmp_path / "page"
    publish(page, lambda folder: (folder / "plan.json").write_bytes(OPENING + b"old"))

    def fails(folder: Path) -> int:
        (folder / "plan.json").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(MoebiusError, match="No space left on device"):
        publish(page, fails)
    rename = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise trouble
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(said, match="Input/output error" if said is MoebiusError else None):
        publish(page, lambda folder: (folder / "plan.json").write_text("new"))
    assert (page / "plan.json").read_bytes() == OPENING + b"old"
    assert os.listdir(tmp_path) == ["page"]
    monkeypatch.undo()
    assert publish(page, lambda folder: (folder / "plan.json").write_text("newer")) == 5
    assert (page / "plan.json").read_text() == "newer"
    assert os.listdir(tmp_path) == ["page"]


def test_page_has_no_foreign_addresses(tmp_path: Path) -> None:
    """It works offline, and tells nobody."""
    write_site(tmp_path)
    texts = [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()]
    addresses = {a for text in texts for a in re.findall(r"https?://[\w.]+|[\"'(]//\w[\w.]*", text)}
    assert addresses == {"http://www.w3.org", "http://localhost"}  # the icon's namespace, and advice


# the command ---------------------------------------------------------------------------------------------------------
def test_command(tmp_path: Path) -> None:
    def moebius(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "moebius", *args], cwd=tmp_path, capture_output=True, text=True)

    done = moebius("export-web", "page", "--synthetic", "tiny")
    assert done.returncode == 0, done.stderr
    assert "python -m http.server -d page" in done.stderr
    assert {"index.html", "page.js", "plan.json", "weights.bin"} <= set(os.listdir(tmp_path / "page"))
    assert json.loads((tmp_path / "page/plan.json").read_text())["defaults"]["blend"] == "paste"
    assert {edition_file("plain")} <= set(os.listdir(tmp_path / "page")) <= page_files()
    again = moebius("export-web", "page", "--synthetic", "tiny")
    assert again.returncode == 0, again.stderr


def answer_of(port: int, path: str) -> tuple[int, bytes, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers["Content-Type"]


def test_serving(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "page.js").write_text("1")
    (tmp_path / "diary.txt").write_text("secret")
    (page / "link.txt").symlink_to(tmp_path / "diary.txt")
    (page / "out").symlink_to(tmp_path)
    with opened(page, 0) as serving:
        thread = threading.Thread(target=serve.serve, args=(serving, lambda text: None), daemon=True)
        thread.start()
        port = serving.server_port
        assert answer_of(port, "/page.js")[:2] == (200, b"1")
        assert answer_of(port, "/page.js")[2].startswith("text/javascript")
        for path in ("/link.txt", "/out/diary.txt", "/out/", "/../diary.txt"):
            status, body, _ = answer_of(port, path)
            assert status == 404
            assert b"secret" not in body
        for _ in range(MOST_AT_ONCE + 4):  # no thread is kept
            assert answer_of(port, "/page.js")[0] == 200
        with pytest.raises(MoebiusError, match="choose another with --port"):
            opened(page, port)
        serving.shutdown()


def test_serve_alone_serves_the_page_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, done = tmp_path / "page", []
    page.mkdir()
    (page / "plan.json").write_bytes(OPENING + b'"moebius":""}')
    monkeypatch.setattr(serve, "serve", lambda serving, tell: done.append("serve"))
    monkeypatch.setattr(web, "export_page", lambda args, tell: done.append("export"))
    assert cli.run(["export-web", str(page), "--serve", "--port", "0"]) == 0
    assert done == ["serve"]
    assert cli.run(["export-web", str(page), "--serve", "--port", "0", "--synthetic", "tiny"]) == 0
    assert done == ["serve", "export", "serve"]
    assert cli.run(["export-web", str(tmp_path / "new"), "--serve", "--port", "0"]) == 0
    assert done[3:] == ["export", "serve"]


@pytest.mark.parametrize(("given", "precision"), [([], "f32"), (["--precision", "auto"], "f32"), (["--precision", "f16"], "f16")])
def test_the_precision_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], precision: str) -> None:
    """Is the page's alone: the run that it is checked against is as ever."""
    asked = []
    monkeypatch.setattr(web, "load_model", lambda args, tell: asked.append(args.precision))
    monkeypatch.setattr(exporting, "export", lambda model, folder, **options: asked.append(options["precision"]) or 0)
    assert cli.run(["export-web", str(tmp_path / "page"), *given]) == 0
    assert asked == ["f32", precision]
    with pytest.raises(UsageError, match="precision is 'f8'"):
        export(tiny(), tmp_path / "page", precision="f8")


def test_a_port_that_is_taken_is_found_out_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "export_page", lambda args, tell: pytest.fail("exported first"))
    with opened(tmp_path, 0) as other:
        assert cli.run(["export-web", str(tmp_path / "page"), "--serve", "--port", str(other.server_port)]) == 1
    for port in ("70000", "-1", "http"):
        assert cli.run(["export-web", str(tmp_path / "page"), "--serve", "--port", port]) == 2
    assert not (tmp_path / "page").exists()
