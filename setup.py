"""Everything else is in pyproject.toml, which cannot say this: packages are found below engine/, and shaders/ is one more."""

from setuptools import find_packages, setup

setup(packages=[*find_packages("engine"), "moebius.shaders"], package_dir={"": "engine", "moebius.shaders": "shaders"})
