"""A node for ComfyUI: copy this file into its folder custom_nodes, and install moebius in ComfyUI's Python.

It takes an IMAGE and a MASK (white is filled in), and gives the IMAGE back with its own pixels wherever nothing was masked.
"""

from functools import cache

import numpy as np

from moebius import Inpainter

MODELS = ["nano", "pretrained", "places2", "celebahq", "ffhq"]


@cache
def inpainter(model):
    return Inpainter.from_pretrained(model)


class MoebiusInpaint:
    CATEGORY = "inpaint"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "fill"
    DESCRIPTION = "Fills in what is masked, with Moebius on WebGPU."

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "image": ("IMAGE",),
                "mask": ("MASK",),
                "model": (MODELS,),
                "steps": ("INT", {"default": 20, "min": 2, "max": 1000}),
                "guidance": ("FLOAT", {"default": 2.5, "min": 1.0, "max": 10.0, "step": 0.1}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "grow": ("INT", {"default": 0, "min": 0, "max": 256}),
            }
        }

    def fill(self, image, mask, model, steps, guidance, seed, grow):
        """`image` (N, H, W, 3) from 0 to 1, `mask` (N or 1, H, W); one mask does for all. What comes back is of the kind that came."""
        photos, masks = np.clip(np.asarray(image, np.float32), 0, 1), np.asarray(mask) > 0.5
        masks = masks.reshape(-1, *masks.shape[-2:])  # some nodes give one mask as (H, W)
        filled = []
        for i, photo in enumerate(photos):
            hole = masks[i if len(masks) > 1 else 0]
            if not hole.any():  # of a picture without transparency ComfyUI's own has 64×64 pixels
                filled.append(photo)
                continue
            result = inpainter(model)(photo, hole, steps=steps, guidance=guidance, seed=seed, grow=grow)
            filled.append(result.arrays[0].astype(np.float32))
        stacked = np.stack(filled)
        return (image.new_tensor(stacked) if hasattr(image, "new_tensor") else stacked,)  # a tensor of PyTorch's, where one came


NODE_CLASS_MAPPINGS = {"MoebiusInpaint": MoebiusInpaint}
NODE_DISPLAY_NAME_MAPPINGS = {"MoebiusInpaint": "Inpaint (Moebius)"}
