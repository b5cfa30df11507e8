"""Settings of CLIP's pictures, written so that the runtime makes of them what the processor makes."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from runtime.clip.pixels import ImagePreprocessor
from runtime.errors import BundleError, CheckpointError

MEND: Final = (
    "save the processor of the checkpoint that training began with: "
    "`CLIPImageProcessor.from_pretrained(base).save_pretrained(folder)`"
)
TOLERANCE: Final = 1e-4  # of the runtime's pixels: it normalises by a table in float32
SIZES: Final = ((61, 40), (40, 61), (500, 333))  # (width, height) of the pictures that are compared
STEPS: Final = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


def save_pictures(name: str, processor: Any, size: int, folder: Path) -> None:
    """Write `preprocessor_config.json`, once the runtime has made the same of pictures as the processor.

    Args:
        name: Of the checkpoint, for messages.
        processor: Of its pictures, without torchvision.
        size: Pixels of a side that the vision tower takes.
        folder: Of the bundle's CLIP.

    Raises:
        CheckpointError: Its pictures have another size, or the runtime cannot make them.
    """
    for step in STEPS:
        if getattr(processor, step, None) is None:  # a ViT's never crops; absent, the runtime takes it for on
            setattr(processor, step, False)
    processor.save_pretrained(folder)
    kind = type(processor).__name__
    try:
        preprocess = ImagePreprocessor.from_folder(folder)
    except BundleError as error:
        fault = str(error).replace(f"{folder}/", "")
        raise CheckpointError(f"{name}: {fault}; {MEND}") from error
    found = preprocess.output_size
    if found != (size, size):
        of = "sizes of their own" if found is None else f"{found[0]} x {found[1]} pixels"
        raise CheckpointError(
            f"{name}: by preprocessor_config.json ({kind}) pictures come in {of}, the model takes {size} x "
            f"{size}; {MEND}"
        )
    random = np.random.default_rng(0)
    for width, height in SIZES:
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        if not _same(name, processor, preprocess, picture):
            raise CheckpointError(
                f"{name}: what its {kind} makes of a picture is more than resizing, a crop of the centre and "
                f"normalising, which is all that the runtime does; {MEND}"
            )


def _same(name: str, processor: Any, preprocess: ImagePreprocessor, picture: Image.Image) -> bool:
    try:
        expected = np.asarray(processor(picture, return_tensors="np")["pixel_values"])
    except Exception as error:  # transformers raises whatever the settings lead to
        raise CheckpointError(
            f"{name}: its {type(processor).__name__} cannot process a picture: {error}; {MEND}"
        ) from error
    found = preprocess([picture])
    return expected.shape == found.shape and np.allclose(expected, found, rtol=1e-5, atol=TOLERANCE)
