"""What pyproject.toml cannot say: where the packages lie, the README with links that also work on the package index, and archives that
are the same bytes whoever builds them, once SOURCE_DATE_EPOCH says when."""

import gzip
import os
import re
import tarfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.sdist import sdist

HOME = "https://github.com/moebius-webgpu/moebius-webgpu"  # a placeholder until the project has a home; nothing else names it


def absolute(text: str) -> str:
    """`text` with its relative links and images led to HOME: outside the repository they would lead nowhere."""
    text = re.sub(r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)", rf"![\1]({HOME}/raw/HEAD/\2)", text)
    return re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", rf"[\1]({HOME}/blob/HEAD/\2)", text)


class SourceArchive(sdist):
    """setuptools writes the time of the build into it, and the builder's name and umask."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        if format != "gztar" or root_dir is not None:
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        epoch = int(os.environ["SOURCE_DATE_EPOCH"]) if "SOURCE_DATE_EPOCH" in os.environ else None
        path = Path(f"{base_name}.tar.gz")
        path.parent.mkdir(parents=True, exist_ok=True)

        def nobodys(member):
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.mtime = int(member.mtime) if epoch is None else epoch
            return member

        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(base_dir, filter=nobodys)  # in the order of the names
        return str(path)


class Wheel(bdist_wheel):
    """setuptools keeps the times of SOURCE_DATE_EPOCH, and takes the rights of the builder's files."""

    def write_wheelfile(self, *args, **kwargs):
        super().write_wheelfile(*args, **kwargs)  # the last before it is packed
        for path in Path(self.bdist_dir).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


setup(
    cmdclass={"sdist": SourceArchive, "bdist_wheel": Wheel},
    packages=[*find_packages("engine"), "moebius.shaders"],
    package_dir={"": "engine", "moebius.shaders": "shaders"},
    long_description=absolute(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    project_urls={
        "Homepage": HOME,
        "Documentation": f"{HOME}/tree/HEAD/docs",
        "Changelog": f"{HOME}/blob/HEAD/CHANGELOG.md",
        "Issues": f"{HOME}/issues",
    },
)
