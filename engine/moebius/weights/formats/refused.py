"""Why a file of torch.save is refused: one exception and the advice that its messages end in."""

from __future__ import annotations

from typing import NoReturn

HOW_TO_CONVERT = (
    "Convert it where PyTorch is installed: "
    "python -c \"import torch; torch.save(torch.load('in.bin', map_location='cpu', weights_only=True), 'out.bin')\"."
)
SAVE_AGAIN = "Save the weights alone, with torch.save(model.state_dict(), 'out.bin') or as .safetensors."


class RefusedError(Exception):
    """What is wrong with the file and what to do; `torch_save.read` makes a WeightError of it, with the path."""


def damaged(what: str) -> NoReturn:
    """For what torch.save never writes, in whatever it is asked to save."""
    raise RefusedError(f"{what}. The file is damaged, cut short or no work of torch.save: copy or download it again.")
