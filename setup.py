"""What pyproject.toml cannot say: where the packages lie, and the README with links that also work on the package index."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HOME = "https://github.com/moebius-webgpu/moebius-webgpu"  # a placeholder until the project has a home; nothing else names it


def absolute(text: str) -> str:
    """`text` with its relative links and images led to HOME: outside the repository they would lead nowhere."""
    text = re.sub(r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)", rf"![\1]({HOME}/raw/HEAD/\2)", text)
    return re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", rf"[\1]({HOME}/blob/HEAD/\2)", text)


setup(
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
