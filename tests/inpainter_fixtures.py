"""A small Inpainter, once for each module. A plugin of those that ask it."""

import pytest
from inpainter_cases import SMALL_UNET, SMALL_VAE, made_of

from moebius.backends.cpu import CPU
from moebius.inpaint.inpainter import Inpainter


@pytest.fixture(scope="module")
def small() -> Inpainter:
    return made_of(SMALL_UNET, SMALL_VAE, CPU())
