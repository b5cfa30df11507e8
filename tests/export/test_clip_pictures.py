"""Settings of pictures: the runtime makes what the processor makes, or the checkpoint is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import (
    BitImageProcessor,
    BlipImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    SiglipImageProcessor,
    ViTImageProcessor,
)

from export.checkpoints import Source, load_clip, save_clip_settings
from runtime.clip.pixels import ImagePreprocessor
from runtime.errors import CheckpointError
from tests.conftest import POCKET

CLIP = POCKET / "models" / "clip"
SIDE = 112  # of the pictures that the pocket CLIP takes
SQUARE = {"height": SIDE, "width": SIDE}
SHORTEST = {"shortest_edge": SIDE}


@pytest.fixture(scope="module")
def clip():
    return load_clip(Source(str(CLIP)))


@pytest.fixture
def export_settings(clip, tmp_path):
    """Return what writes the settings of the pocket CLIP with another processor, into the folder returned."""

    def export(processor, **changes):
        folder = Path(shutil.copytree(CLIP, tmp_path / "checkpoint", dirs_exist_ok=True))
        processor.save_pretrained(folder)
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        save_clip_settings(Source(str(folder)), clip, tmp_path / "settings")
        return tmp_path / "settings"

    return export


@pytest.mark.parametrize(
    ("processor", "changes"),
    [
        (CLIPImageProcessor(size=SHORTEST, crop_size=SQUARE), {}),
        (CLIPImageProcessor(size=SQUARE, do_center_crop=False), {}),
        (CLIPImageProcessor(size=SQUARE), {"do_center_crop": None}),
        (BitImageProcessor(size={"shortest_edge": 130}, crop_size=SQUARE), {}),
        (ViTImageProcessor(size=SQUARE), {}),
        (ViTImageProcessor(size=SQUARE), {"do_center_crop": None, "crop_size": None}),
        (SiglipImageProcessor(size=SQUARE), {}),
        (BlipImageProcessor(size=SQUARE), {}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, dict) else None,
)
@pytest.mark.parametrize("size", [(300, 200), (90, 151)])
def test_the_runtime_makes_of_a_picture_what_the_processor_makes(processor, changes, size, export_settings):
    folder = export_settings(processor, **changes)
    if changes:
        processor.do_center_crop = None
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(pixels)
    expected = np.asarray(processor(picture, return_tensors="np")["pixel_values"])
    found = ImagePreprocessor.from_folder(folder)([picture])
    np.testing.assert_allclose(found, expected, atol=1e-4)  # as demanded of CLIP's own; measured 0


@pytest.mark.parametrize(
    ("processor", "mention"),
    [
        (
            CLIPImageProcessor(size={"shortest_edge": 96}, crop_size=96),
            "come in 96 x 96 pixels, the model",
        ),
        (
            CLIPImageProcessor(size=SHORTEST, do_center_crop=False),
            "come in sizes of their own, the model",
        ),
        (ViTImageProcessor(), "(ViTImageProcessor) pictures come in 224 x 224 pixels"),
        (CLIPImageProcessor(size=SHORTEST, crop_size=SQUARE, image_std=[0, 1, 1]), "image_std is [0.0, 1.0"),
        (CLIPImageProcessor(size=SHORTEST, crop_size=SQUARE, image_mean=[1, 1]), "image_mean is [1, 1]"),
        (
            EfficientNetImageProcessor(size=SQUARE),
            "what its EfficientNetImageProcessor makes of a picture",
        ),
        (
            ConvNextImageProcessor(size=SHORTEST),
            "(ConvNextImageProcessor) pictures come in sizes of",
        ),
    ],
)
def test_pictures_that_the_graph_does_not_take_are_refused(processor, mention, export_settings, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        export_settings(processor)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'checkpoint'}: ")
    assert mention in message
    assert "CLIPImageProcessor.from_pretrained(base)" in message
    assert str(tmp_path / "settings") not in message
