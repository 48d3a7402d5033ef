"""The cases of fuzz.py: a kind is a function that makes one in a folder, of a random generator alone."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import socket
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from torch_files import torch_file

from moebius.cli.main import run
from moebius.model import unet, vae
from moebius.model.synthetic import synthetic
from moebius.model.unet import UNetConfig
from moebius.model.vae import VAEConfig
from moebius.weights.bundle import write_bundle

UNET = UNetConfig(8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, encoder_hid_dim=24)
CODER = VAEConfig((32, 64), 1)
STEM = "diffusion_pytorch_model"
BOX = (0, 0, 9, 9)
QUICK = ["--steps", "2", "--device", "cpu", "--blend", "paste", "--feather", "0"]
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


@dataclass
class Case:
    """A command in a folder. `writes` are the files that it writes when it ends with 0; all others stay as they are."""

    folder: Path
    words: list[str]
    writes: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    check: Callable[[], int] | None = None  # of the result; raises where it is wrong
    kill: tuple[int, float] | None = None
    afresh: bool = False
    before: Callable[[], object] | None = None  # done in the process, before the command
    silent: bool = False  # its error stream is closed or full
    streamed: bool = False  # a picture goes to its standard output
    free: tuple[str, ...] | None = ("home", "cache", "hf")  # where more may be written; None for anywhere

    def __post_init__(self) -> None:
        folders = {"HOME": "home", "MOEBIUS_CACHE": "cache", "HF_HOME": "hf"}
        given = {name: str(self.folder / at) for name, at in folders.items()} | self.variables
        fixed = {"OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path[1:])}
        self.variables = fixed | {name: value for name, value in given.items() if value}


def prepare(base: Path) -> int:
    """What cases begin with: a model of two forms, one of them with its cache, and the picture that it makes."""
    unet_weights, vae_weights = synthetic(unet.shapes(UNET), 0), synthetic(vae.shapes(CODER), 0)
    write_bundle(base / "small.safetensors", UNET, unet_weights, CODER, vae_weights)
    (base / "model/vae").mkdir(parents=True)
    (base / f"model/{STEM}.bin").write_bytes(torch_file(unet_weights, "BF16"))
    (base / f"model/vae/{STEM}.bin").write_bytes(torch_file(vae_weights, "BF16"))
    (base / "model/vae/config.json").write_text(
        json.dumps({"scaling_factor": 0.25, "norm_num_groups": 32, "act_fn": "silu"}), encoding="utf-8"
    )
    picture(random.Random(0), (40, 32), "RGB").save(base / "photo.png")
    mask = Image.new("L", (40, 32))
    mask.paste(255, BOX)
    mask.save(base / "mask.png")
    os.environ["MOEBIUS_CACHE"] = str(base / "cache")
    words = [str(base / "photo.png"), str(base / "mask.png"), "--model", str(base / "model"), "-o", str(base / "made.png"), *QUICK]
    return run(["inpaint", *words])


# bytes ---------------------------------------------------------------------------------------------------------------


def picture(rng: random.Random, size: tuple[int, int], mode: str) -> Image.Image:
    image = Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))
    if mode == "I;16":
        return Image.fromarray(np.frombuffer(rng.randbytes(2 * size[0] * size[1]), np.uint16).reshape(size[1], size[0]))
    return image.convert(mode)


def picture_bytes(rng: random.Random, size: tuple[int, int] | None = None) -> tuple[bytes, str]:
    """A sound file of some format, with what may come with a picture, and its ending; of any size where none is given."""
    kind = rng.choice(["PNG", "PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
    modes = {"PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"], "JPEG": ["L", "RGB", "CMYK"], "TIFF": ["L", "RGB", "CMYK", "F", "LAB"]}
    mode = rng.choice(modes.get(kind, ["RGB"]))
    size = size or (rng.randint(1, 80), rng.randint(1, 80))
    image = picture(rng, size, mode) if mode != "LAB" else picture(rng, size, "RGB").convert("RGB").convert("L").convert("RGB")
    options: dict[str, Any] = {}
    if rng.random() < 0.4 and kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = rng.randint(1, 8), "a picture\x1b[31m"
        options |= {"exif": exif}
    if rng.random() < 0.3 and kind in ("PNG", "JPEG", "WEBP"):
        options |= {"icc_profile": rng.randbytes(rng.choice([4, 128, 3000]))}
    if kind == "PNG" and rng.random() < 0.3:
        info = PngImagePlugin.PngInfo()
        info.add_text("moebius", json.dumps(strange(rng)), zip=rng.random() < 0.5)
        options |= {"pnginfo": info}
    if kind in ("GIF", "WEBP", "TIFF", "PNG") and rng.random() < 0.2:
        options |= {"save_all": True, "append_images": [picture(rng, size, mode) for _ in range(2)]}
    if kind == "TIFF":
        options |= {"compression": rng.choice([None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])}
    if mode == "P" or kind == "GIF":
        options |= {"transparency": rng.randint(0, 255)}
    out = io.BytesIO()
    try:
        image.save(out, kind, **options)
    except Exception:  # a choice that does not go together
        image.convert("RGB").save(out := io.BytesIO(), kind)
    return out.getvalue(), f".{kind.lower()}"


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Some bytes made others, at one to four places."""
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        at = rng.randrange(len(data) + 1) if rng.random() < 0.5 else rng.randrange(min(len(data), 200) + 1)
        size = rng.choice([1, 2, 4, 8, 64])
        match rng.randrange(7):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + rng.randbytes(size) + data[at + size :]
            case 2:
                data = data[:at] + data[at + size :]
            case 3:
                data = data[:at] + data[max(0, at - size) :]
            case 4:
                number = struct.pack(rng.choice(["<I", ">I", "<H", ">H", "<Q"]), rng.choice(NUMBERS) & 0xFFFF)
                data = data[:at] + number + data[at + len(number) :]
            case 5:
                number = struct.pack(rng.choice(["<I", ">I"]), rng.choice(NUMBERS))
                data = data[:at] + number + data[at + len(number) :]
            case 6 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    return data


def with_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them, so that damage gets past the first look."""
    at, out = 8, png[:8]
    while at + 12 <= len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        if at + 12 + size > len(png):
            break
        body = png[at + 4 : at + 8 + size]
        out += png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return out + png[at:]


def damaged_picture(rng: random.Random, path: Path, size: tuple[int, int] | None = None) -> Path:
    data, ending = picture_bytes(rng, size)
    data = damaged(rng, data)
    if ending == ".png" and rng.random() < 0.7:
        data = with_checksums(data)
    path = path.with_suffix(ending if rng.random() < 0.9 else rng.choice([".png", ".tif", ".jpg", ".gif"]))
    path.write_bytes(data)
    return path


def strange(rng: random.Random, depth: int = 0) -> Any:
    """A value of JSON that nobody expects."""
    if depth < 3 and rng.random() < 0.25:
        return {strange_text(rng): strange(rng, depth + 1) for _ in range(rng.randrange(4))}
    if depth < 3 and rng.random() < 0.2:
        return [strange(rng, depth + 1) for _ in range(rng.randrange(4))]
    numbers = [0, -1, 3, 2**31, 2**63, 2**64, 10**400, 1e308, -1e-320, 0.1, float("nan"), float("inf"), 65536, True, None]
    return rng.choice([*numbers, strange_text(rng)])


def strange_text(rng: random.Random) -> str:
    return rng.choice(
        [
            "",
            "nano",
            "numpy",
            "torch",
            "\x1b[2J\x07",
            "\ud800",
            "日本",
            "a" * 5000,
            "../..",
            "/etc/passwd",
            "%s%n",
            "\x00",
            "1e400",
            "\u202e",
            "\n",
        ]
    )


def strange_file(rng: random.Random, path: Path) -> Path:
    """Something of a name, and not always a file."""
    match rng.randrange(9):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(rng.choice(["/dev/zero", "/dev/random", "/dev/tty", "/dev/full"]))
        case 3:
            path.symlink_to(path.name)
        case 4:
            path.symlink_to("nothing")
        case 5:
            path.touch()
        case 6:
            path.write_bytes(rng.randbytes(rng.choice([1, 8, 100, 5000])))
        case 7:
            with socket.socket(socket.AF_UNIX) as made, Inside(path.parent):
                made.bind(path.name[:80])
        case _:
            path.write_bytes(bytes(rng.choice([1, 4096, 1 << 20])))
    return path


class Inside:
    """A folder to be in: the whole path of a socket may be too long."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, Path.cwd()

    def __enter__(self) -> None:
        os.chdir(self.folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self.before)


# kinds ---------------------------------------------------------------------------------------------------------------


def photo(rng: random.Random, base: Path, at: Path) -> Case:
    path = strange_file(rng, at / "photo.png") if rng.random() < 0.1 else damaged_picture(rng, at / "photo.png")
    out = f"out{rng.choice(['.png', '.png', '.tif', '.webp', '.bmp', '.gif', '.jpg'])}"
    words = ["inpaint", path.name, "-o", out, "--box", ",".join(map(str, BOX)), "--model", str(base / "small.safetensors"), *QUICK]
    lossless = out.endswith((".png", ".tif", ".bmp"))
    check = (lambda: same_outside(path, at / out, BOX)) if lossless else (lambda: same_outside(at / out, at / out, BOX))
    return Case(at, words, (out,), check=check)


def mask(rng: random.Random, base: Path, at: Path) -> Case:
    size = rng.choice([(40, 32), (40, 32), (20, 16), (80, 64), None])  # the photo's; those that are brought to it; any
    path = strange_file(rng, at / "mask.png") if rng.random() < 0.1 else damaged_picture(rng, at / "mask.png", size)
    words = ["inpaint", str(base / "photo.png"), path.name, "-o", "out.png", "--model", str(base / "small.safetensors"), *QUICK]
    words += rng.choice([[], ["--invert"], ["--grow", rng.choice(["1", "-3", "1e9", "nan"])]])
    words += rng.choice([[], ["--yes"], ["--yes"]])  # though it looks like a photograph
    return Case(at, words, ("out.png",), check=lambda: same_outside(at / "out.png", at / "out.png", BOX))


def weights(rng: random.Random, base: Path, at: Path) -> Case:
    """A bundle: its header, its data."""
    data = (base / "small.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    path = at / "model.safetensors"
    if rng.random() < 0.1:
        strange_file(rng, path)
    elif rng.random() < 0.6:
        header = json.loads(data[8 : 8 + size])
        for _ in range(rng.choice([1, 1, 2])):
            part = header
            key = rng.choice(list(part))
            while isinstance(part[key], dict) and part[key] and rng.random() < 0.8:
                part = part[key]
                key = rng.choice(list(part))
            part[key if rng.random() < 0.8 else strange_text(rng)] = strange(rng)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    else:
        path.write_bytes(damaged(rng, data))
    return inpaint_with(base, at, path.name)


def inpaint_with(base: Path, at: Path, model: str, *more: str) -> Case:
    words = ["inpaint", str(base / "photo.png"), str(base / "mask.png"), "-o", "out.png", "--model", model, *QUICK, *more]
    return Case(at, words, ("out.png",), check=lambda: same_outside(base / "photo.png", at / "out.png", BOX))


def torch(rng: random.Random, base: Path, at: Path) -> Case:
    """A .bin of torch.save: the zip, the pickle in it, members that are not there or there twice."""
    path = at / "model" / rng.choice(["", "vae"]) / f"{STEM}.bin"
    shutil.copytree(base / "model", at / "model")
    data = path.read_bytes()
    if rng.random() < 0.1:
        path.unlink()
        strange_file(rng, path)
    elif rng.random() < 0.5:
        path.write_bytes(damaged(rng, data))
    else:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        where = rng.choice([0, 0, 0, rng.randrange(len(members))])
        name, content = members[where]
        if where == 0 and rng.random() < 0.3:
            content = hostile_pickle(rng)
        members[where] = (
            name if rng.random() < 0.9 else rng.choice(["../x", "archive/../../x", "", "archive/data/0"]),
            damaged(rng, content),
        )
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", rng.choice([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED])) as archive:
            for name, content in dict(members).items() if rng.random() < 0.9 else members:
                archive.writestr(zipfile.ZipInfo(name), content)
        path.write_bytes(out.getvalue())
    return inpaint_with(base, at, "model")


def hostile_pickle(rng: random.Random) -> bytes:
    """A program of a pickle: one that calls, one that grows, one of any opcodes."""
    calls = [b"cos\nsystem\n(S'touch called'\ntR.", b'cbuiltins\neval\n(S\'open("called","w")\'\ntR.', b"cmoebius\nInpainter\n)R."]
    grows = [b"\x80\x02]" + b"2" * 5000 + b".", b"(" * 100_000 + b".", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x."]
    grows += [b"\x80\x02](" + b"(" * 30 + b"t" * 20 + b".", b"\x80\x02]q\x00" + b"h\x00a" * 3000 + b".", b"I" + b"9" * 100_000 + b"\n."]
    return rng.choice([*calls, *grows, b"\x80\x02" + rng.randbytes(rng.randrange(200)) + b"."])


def config(rng: random.Random, base: Path, at: Path) -> Case:
    shutil.copytree(base / "model", at / "model")
    path = at / "model" / rng.choice(["config.json", "vae/config.json"])
    fields = ["layers_per_block", "norm_num_groups", "block_out_channels", "scaling_factor", "sample_size", "act_fn", "latent_channels"]
    fields += ["cross_attention_dim", "encoder_hid_dim", "attention_head_dim", "in_channels", "out_channels", "mix_mlp_ratio"]
    sound = json.loads((base / "model/vae/config.json").read_text(encoding="utf-8")) if rng.random() < 0.7 else {}
    text = json.dumps(sound | {rng.choice(fields): strange(rng) for _ in range(rng.randint(1, 4))})
    match rng.randrange(6):
        case 0:
            path.unlink(missing_ok=True)
            strange_file(rng, path)
        case 1:
            path.write_text(
                rng.choice(["[" * 100_000, "{" * 1000, '{"a":' * 50_000, "null", "1" * 100_000, '"' + "x" * (2 << 20)]), encoding="utf-8"
            )
        case 2:
            path.write_bytes(damaged(rng, text.encode()))
        case _:
            path.write_text(text, encoding="utf-8")
    return inpaint_with(base, at, "model")


def cache(rng: random.Random, base: Path, at: Path) -> Case:
    """Bits of the converted copy, or of what leads to it, turned over: it is noticed, or changes nothing."""
    shutil.copytree(base / "cache", at / "cache")
    paths = sorted(p for p in (at / "cache").rglob("*") if p.is_file())
    path = rng.choice([p for p in paths if p.suffix == ".safetensors"] if rng.random() < 0.8 else paths)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 3])):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data if rng.random() < 0.9 else data[: rng.randrange(len(data) + 1)])
    case = inpaint_with(base, at, str(base / "model"))
    case.check = lambda: same_picture(base / "made.png", at / "out.png")
    return case


def metadata(rng: random.Random, base: Path, at: Path) -> Case:
    """A picture that says strange things of itself: printed, or taken for settings."""
    settings = ["model", "revision", "steps", "seed", "guidance", "strength", "noise_offset", "rng", "crop", "blend", "grow", "feather"]
    record: Any = {rng.choice([*settings, "num_images", "device", "x"]): strange(rng) for _ in range(rng.randint(0, 5))}
    text = rng.choice([json.dumps(record)] * 5 + [json.dumps(strange(rng)), "[" * 100_000, '{"a":' * 3000, "1" * 10_000, "{"])
    image, name = picture(rng, (20, 20), "RGB"), rng.choice(["a.png", "a.jpg"])
    if name == "a.png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("moebius", text.encode("utf-8", "replace").decode(), zip=rng.random() < 0.5)
        image.save(at / name, pnginfo=info)
    else:
        exif = Image.Exif()
        exif[0x8769] = {0x9286: (b"ASCII\0\0\0" + f'{{"moebius": {text}}}'.encode("utf-8", "replace"))[:60_000]}
        image.save(at / name, exif=exif)
    if rng.random() < 0.5:
        return Case(at, ["info", name, *rng.choice([[], ["--json"]])])
    words = ["inpaint", str(base / "photo.png"), str(base / "mask.png"), "-o", "out.png", "--like", name, "--device", "cpu", "--steps", "2"]
    return Case(at, [*words, "--model", str(base / "small.safetensors"), "-n", "1"], ("out.png",))


def names(rng: random.Random, base: Path, at: Path) -> Case:
    """Names that are no good: as a photo's, a mask's, a model's, an output's."""
    values = ["", ".", "/", "..", "-", "--", "~nosuch/a.png", "a\nb.png", "\x1b[31m.png", "x" * 300 + ".png", "é" * 130 + ".png", "a\0.png"]
    values += [
        "\udcff\udcfe.png",
        "/proc/self/mem",
        "/dev/null",
        "/dev/stdin",
        "nosuch/a.png",
        "http://127.0.0.1:1/a.png",
        "a.png/",
        "a" * 251 + ".png",
    ]
    values += [
        "strange.png",
        str(base / "photo.png") + "/a",
        "NUL.png",
        ".png",
        "a.",
        "$HOME",
        "data:image/png;base64,AAAA",
        "nano",
        "alpha",
    ]
    strange_file(rng, at / "strange.png")
    value = rng.choice(values)
    words = {"photo": str(base / "photo.png"), "mask": str(base / "mask.png"), "-o": "out.png", "--model": str(base / "small.safetensors")}
    where = rng.choice([*words, "--like", "--vae"])
    words[where] = value
    extra = [word for name, text in words.items() if name.startswith("--") for word in (name, text)]
    command = ["inpaint", words["photo"], words["mask"], "-o", words["-o"], *extra, *QUICK]
    # What cannot be written is known before the work; `--` and the like are the parser's.
    streamed = words["-o"] == "-"
    return Case(at, command, () if streamed else (str(Path(words["-o"])),), streamed=streamed)


def environment(rng: random.Random, base: Path, at: Path) -> Case:
    """Variables and streams that are not as they should be."""
    values = ["", "nosuch", "/dev/null", "/proc/nosuch", "x" * 5000, "\udcff", "~nosuch", str(at / "strange"), "/", "."]
    strange_file(rng, at / "strange")
    names = ["HOME", "MOEBIUS_CACHE", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR", "LANG", "LC_ALL", "COLUMNS", "HF_ENDPOINT", "HF_TOKEN", "TERM"]
    variables = {rng.choice(names): rng.choice(values) for _ in range(rng.randint(0, 3))}
    if rng.random() < 0.3:
        variables["PYTHONIOENCODING"] = rng.choice(["ascii", "latin-1", "cp437", "ascii:strict"])
    case = inpaint_with(base, at, rng.choice([str(base / "small.safetensors"), str(base / "model")]))
    if rng.random() < 0.4:
        case.words, case.writes, case.check = (
            rng.choice([["cache"], ["adapters"], ["info", str(base / "made.png")], ["--version"]]),
            (),
            None,
        )

    def streams() -> None:
        for number in (0, 1, 2):
            if rng.random() < 0.2:
                os.close(number)
            elif rng.random() < 0.1:
                os.dup2(os.open("/dev/full", os.O_WRONLY), number)
        if rng.random() < 0.1:
            shutil.rmtree(at)

    return Case(at, case.words, case.writes, variables, case.check, afresh=True, before=streams, silent=True, free=None)


def killed(rng: random.Random, base: Path, at: Path) -> Case:
    """Stopped by a signal while it runs or writes: what was there is there, whole, and nothing else."""
    shutil.copy(base / "photo.png", at / "photo.png")
    inside = ["photo.png", "-o", "photo.png", "--overwrite"] if rng.random() < 0.5 else ["photo.png", "-o", "out.png"]
    words = [
        "inpaint",
        *inside,
        "--box",
        ",".join(map(str, BOX)),
        "--model",
        str(base / rng.choice(["small.safetensors", "model"])),
        *QUICK,
    ]
    number = rng.choice([signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGINT])
    return Case(
        at, words, (inside[2],), kill=(number, rng.uniform(0.1, 1)), check=lambda: same_outside(base / "photo.png", at / inside[2], BOX)
    )


KINDS: dict[str, Callable[[random.Random, Path, Path], Case]] = {
    "photo": photo,
    "mask": mask,
    "weights": weights,
    "torch": torch,
    "config": config,
    "cache": cache,
    "metadata": metadata,
    "names": names,
    "environment": environment,
    "killed": killed,
}


# results -------------------------------------------------------------------------------------------------------------


def same_outside(photo: Path, output: Path, box: tuple[int, int, int, int]) -> int:
    """0 where the output is whole, of the photo's size, and in modes that are kept as they are equal to it outside the box."""
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(output) as opened:
        opened.load()
        new = opened
    with Image.open(photo) as opened:
        opened.load()
        old = ImageOps.exif_transpose(opened)
    if new.size != old.size:
        raise ValueError(f"its size is {new.size} instead of {old.size}")
    if new.mode == old.mode and new.mode in ("L", "RGB", "RGBA") and "transparency" not in old.info:
        for picture in (new, old):
            picture.paste(0 if new.mode == "L" else (0,) * len(new.mode), (box[0], box[1], box[0] + box[2], box[1] + box[3]))
        if new.tobytes() != old.tobytes():
            raise ValueError("pixels outside the mask have changed")
    return 0


def same_picture(one: Path, other: Path) -> int:
    """0 where two files hold the same pixels."""
    with Image.open(one) as a, Image.open(other) as b:
        if a.mode != b.mode or a.tobytes() != b.tobytes():
            raise ValueError("another picture was made")
    return 0
