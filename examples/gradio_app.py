"""An app of Gradio's around one Inpainter: paint over what should go, and watch it being filled in (pip install gradio).

python examples/gradio_app.py [MODEL]            nano, pretrained, places2, …; for this machine alone
"""

import sys
from functools import cache

import numpy as np

from moebius import Inpainter
from moebius.errors import MoebiusError


@cache
def inpainter(model):
    return Inpainter.from_pretrained(model)


def fill(painted, steps, guidance, seed, model="nano"):
    """Previews, then the result. `painted` is what gr.ImageEditor gives: the picture as an array, and what was painted as layers."""
    photo = np.asarray(painted["background"])[..., :3]
    mask = np.zeros(photo.shape[:2], bool)
    for layer in painted["layers"]:
        mask |= np.asarray(layer)[..., 3] > 0
    run = inpainter(model).steps(photo, mask, steps=int(steps), guidance=guidance, seed=int(seed))
    for step in run:
        yield step.preview
    yield run.result.image


def app(model="nano"):
    import gradio

    def filled(painted, *settings):
        if painted is None or painted["background"] is None:
            raise gradio.Error("There is no picture; drop one at the left.")
        try:
            yield from fill(painted, *settings, model=model)
        except MoebiusError as error:  # one sentence, with what to do
            raise gradio.Error(str(error)) from error

    with gradio.Blocks(title="Moebius") as blocks:
        with gradio.Row():
            painted = gradio.ImageEditor(label="Paint over what should go", type="numpy")
            result = gradio.Image(label="Filled in", format="png")
        steps = gradio.Slider(2, 50, 20, step=1, label="Steps")
        guidance = gradio.Slider(1, 6, 2.5, label="Guidance")
        seed = gradio.Number(0, precision=0, label="Seed")
        button = gradio.Button("Fill in", variant="primary")
        button.click(filled, [painted, steps, guidance, seed], result)
    return blocks


if __name__ == "__main__":
    app(*sys.argv[1:2]).queue().launch(server_name="127.0.0.1")
