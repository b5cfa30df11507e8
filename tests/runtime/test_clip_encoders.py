"""Both CLIP towers of the pocket bundle against `CLIPModel` with `CLIPProcessor`'s parts."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

from runtime.errors import ImageError, ImageNotFoundError
from tests.conftest import POCKET

CHECKPOINT = POCKET / "models" / "clip"
PICTURES = sorted((POCKET / "data" / "test" / "images").iterdir())[:20]

# float32 sums in another order, on unit vectors: 1e-7 measured, a hundred times that for other machines.
TOLERANCE = 1e-5

TEXTS = [
    "a bear",
    "an image showing a pear",
    "a pink lemon",
    "two goats next to a boat on white",
    "",
    "a",
    "zebra! unknown, punctuation?",
    "i see " + "a very long caption " * 40,
    "a bear",
]


@pytest.fixture(scope="module")
def reference():
    return CLIPModel.from_pretrained(CHECKPOINT).float().eval()


def reference_texts(model, texts):
    """The notebook's `encode_texts`: one padded batch."""
    inputs = CLIPTokenizerFast.from_pretrained(CHECKPOINT)(
        texts,
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=model.config.text_config.max_position_embeddings,
    )
    with torch.no_grad():
        features = model.text_projection(
            model.text_model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).pooler_output
        )
    return (features / features.norm(dim=-1, keepdim=True)).numpy()


def reference_images(model, paths):
    processor = CLIPImageProcessor.from_pretrained(CHECKPOINT)
    images = [Image.open(path).convert("RGB") for path in paths]
    with torch.no_grad():
        features = model.visual_projection(
            model.vision_model(
                pixel_values=processor(images=images, return_tensors="pt")["pixel_values"]
            ).pooler_output
        )
    return (features / features.norm(dim=-1, keepdim=True)).numpy()


def test_texts_equal_clip_model(pocket_asr, reference):
    ours = pocket_asr.encode_texts(TEXTS)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, reference_texts(reference, TEXTS), atol=TOLERANCE)


def test_pictures_equal_clip_model(pocket_asr, reference):
    ours = pocket_asr.encode_images(PICTURES)
    assert ours.dtype == np.float32
    # The pictures themselves agree to a grey level or less, see the tests of the preprocessing.
    np.testing.assert_allclose(ours, reference_images(reference, PICTURES), atol=1e-3)


def test_embeddings_have_unit_norm(pocket_asr):
    for embeddings in (pocket_asr.encode_texts(TEXTS), pocket_asr.encode_images(PICTURES[:3])):
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-6)  # float32 rounding


@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_batches_change_nothing(pocket_asr, batch_size):
    """Neither company nor padding reaches a text: sorted by length, padded to the longest of a batch."""
    together = pocket_asr.text_encoder(TEXTS, batch_size=batch_size)
    alone = np.concatenate([pocket_asr.encode_texts([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=TOLERANCE)
    images = pocket_asr.image_encoder(PICTURES[:5], batch_size=batch_size)
    alone = np.concatenate([pocket_asr.encode_images([path]) for path in PICTURES[:5]])
    np.testing.assert_allclose(images, alone, atol=TOLERANCE)


def test_equal_texts_get_equal_rows(pocket_asr):
    embeddings = pocket_asr.encode_texts(["a bear", "a pear", "a bear"])
    np.testing.assert_array_equal(embeddings[0], embeddings[2])
    assert not np.allclose(embeddings[0], embeddings[1])


def test_nothing_gives_nothing(pocket_asr):
    dimension = pocket_asr.text_encoder.dimension
    assert pocket_asr.encode_texts([]).shape == (0, dimension)
    assert pocket_asr.encode_images([]).shape == (0, dimension)


def test_the_pair_understands_its_pictures(pocket_asr):
    """Trained, not random: a picture's own caption is nearer than another's, nearly always."""

    manifest = (POCKET / "data" / "test" / "manifest.jsonl").read_text()
    rows = [json.loads(line) for line in manifest.splitlines()[:40]]
    texts = pocket_asr.encode_texts([row["reference"] for row in rows])
    images = pocket_asr.encode_images([POCKET / "data" / "test" / row["image"] for row in rows])
    cosines = images @ texts.T
    own = np.diagonal(cosines)[:, None] > cosines
    np.fill_diagonal(own, True)
    assert own.mean() > 0.9  # chance is 0.5


def test_cosines_are_products_of_the_embeddings(pocket_asr):
    picture = pocket_asr.encode_images(PICTURES[:1])[0]
    cosines = pocket_asr.clip_similarity(picture, TEXTS)
    assert cosines.shape == (len(TEXTS),)
    assert cosines.dtype == np.float32
    np.testing.assert_allclose(cosines, pocket_asr.encode_texts(TEXTS) @ picture, atol=1e-6)
    np.testing.assert_array_equal(pocket_asr.clip_similarity(picture[None], TEXTS), cosines)
    assert pocket_asr.clip_similarity(picture, []).shape == (0,)


def test_what_is_no_picture_is_refused(pocket_asr, tmp_path):
    (tmp_path / "note.png").write_text("not a picture")
    with pytest.raises(ImageError, match=r"note\.png"):
        pocket_asr.encode_images([tmp_path / "note.png"])
    with pytest.raises(ImageNotFoundError):
        pocket_asr.encode_images([tmp_path / "nowhere.png"])
