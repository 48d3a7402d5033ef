"""How many cores there are for this process: its affinity, and what its control groups leave of it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cores() -> int:
    """At least 1; a share of a core counts as one."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        count = os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(limit) for limit in limits(GROUPS, MOUNT))]))


def limits(groups: Path, mount: Path) -> Iterator[float]:
    """The cores' worth of time that each control group of this process, and each group around one, allows; Linux alone has them."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, names, path = line.split(":", 2)
        if number == "0":
            root, files = mount, ["cpu.max"]  # "quota period", version 2
        elif "cpu" in names.split(","):
            root, files = mount / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        here = Path(path.lstrip("/"))
        for group in (here, *here.parents):  # in a container the path may be the host's, and the group lies at the root
            try:
                quota, period = " ".join((root / group / name).read_text(encoding="utf-8") for name in files).split()
                if quota != "max" and int(quota) > 0:
                    yield int(quota) / int(period)
            except (OSError, ValueError):
                continue
