"""naga's own word on shaders with cooperative matrices, which no device of wgpu-native 29 can be asked for.

As a program: shaders come in as a JSON list of texts, and what naga says of each goes out as one, "" where it has nothing against it; null
where it could not be asked. It opens a software driver with every feature that this has, and in its own memory sets one bit more wherever
wgpu keeps those: from then on naga reads and validates such a shader as any other. Nothing is compiled further, or run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

COOPERATIVE = 1 << 57  # of wgpu's own features, a word of 64 bits. WebGPU's are the next word,
SURE = 0b10001111  # among these timestamps, depth formats and compressed textures, which software drivers have
LEAST = "enable wgpu_cooperative_matrix; @compute @workgroup_size(1) fn main() {}"  # is refused where the bit is not where it counts


def says(codes: Sequence[str]) -> list[str] | None:
    """In a process of its own: it writes where nobody should. None too where that crashed or hung, or may not read and write itself."""
    try:
        run = subprocess.run([sys.executable, __file__], input=json.dumps(codes), capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else None  # drivers say what they like before


def memory() -> Iterator[tuple[int, np.ndarray]]:
    """What this process has allocated: an address, and the words from there on."""
    with open("/proc/self/maps") as maps:
        regions = [line.split() for line in maps]
    with open("/proc/self/mem", "rb") as file:
        for span, access, *_, name in ([*region, ""][:6] for region in regions):
            begin, end = (int(text, 16) for text in span.split("-"))
            if access.startswith("rw") and name in ("", "[heap]") and end - begin < 1 << 29:
                try:
                    file.seek(begin)
                    read = file.read(end - begin)
                except OSError:  # a driver's own, or the stack of a thread that has ended
                    continue
                yield begin, np.frombuffer(read, np.uint64, len(read) // 8)


def features() -> set[tuple[int, int]]:
    """The two words of adapters with many features, which occur again in their devices."""
    found = Counter[tuple[int, int]]()
    for _, words in memory():
        own, webgpu = words[:-1], words[1:]
        likely = (own >= 1 << 60) & (own & COOPERATIVE == 0) & (webgpu >= 1 << 12) & (webgpu < 1 << 24) & (webgpu & SURE == SURE)
        found.update((int(own[i]), int(webgpu[i])) for i in np.flatnonzero(likely))
    return {pair for pair, count in found.items() if count > 1 and pair[0].bit_count() >= 16}


def allow() -> None:
    """Sets the bit."""
    pairs = features()
    with open("/proc/self/mem", "r+b", buffering=0) as file:
        for begin, words in memory():
            for own, webgpu in pairs:
                for i in np.flatnonzero((words[:-1] == own) & (words[1:] == webgpu)):
                    file.seek(begin + 8 * int(i))
                    file.write(np.uint64(own | COOPERATIVE).tobytes())


def main() -> None:
    import wgpu
    from wgpu.backends.wgpu_native import lib_version_info

    codes, known = json.load(sys.stdin), lib_version_info[0] == 29
    software = [a for a in wgpu.gpu.enumerate_adapters_sync() if a.info["adapter_type"] == "CPU" and "shader-f16" in a.features]
    device = known and software and software[0].request_device_sync(required_features=sorted(software[0].features))
    if not device:
        print("null")
        return

    def answer(code: str) -> str:
        try:
            device.create_shader_module(code=code)
        except wgpu.GPUError as error:
            return str(error)
        return ""

    allow()
    print("null" if answer(LEAST) else json.dumps([answer(code) for code in codes]))


if __name__ == "__main__":
    main()
