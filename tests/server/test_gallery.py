"""The gallery: how it is read, offered, recognised with and compared with."""

import hashlib
import json
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest

from runtime.errors import ImageError, ImageNotFoundError, ManifestError
from runtime.fusion import to_caption_style
from runtime.server.gallery import read_gallery
from tests.server.conftest import IMAGES, Running, running

MANIFEST = IMAGES.parent / "manifest.jsonl"
NAMES = [f"test-{number:04d}" for number in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    for name in NAMES:
        shutil.copy(IMAGES / f"{name}.webp", folder)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def offered(pocket_asr, folder):
    with running(pocket_asr) as up:
        up.service.gallery = read_gallery(folder)
        yield up


def test_a_folder_is_read_by_name(folder):
    pictures = read_gallery(folder)
    assert [picture.name for picture in pictures.values()] == NAMES
    for key, picture in pictures.items():
        assert key == picture.id == hashlib.sha256(picture.read()).hexdigest()
        assert picture.media_type == "image/webp"


def test_a_manifest_is_read_with_names_and_each_picture_once(tmp_path, folder):
    rows = [{"image": f"{folder}/{name}.webp"} for name in (NAMES[1], NAMES[0], NAMES[1])]
    rows[1]["name"] = "two carts"
    manifest = tmp_path / "gallery.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in [*rows, {"audio": "without.ogg"}]))
    assert [picture.name for picture in read_gallery(manifest).values()] == [NAMES[1], "two carts"]
    rows = [json.loads(line) for line in MANIFEST.read_text().splitlines()]
    assert len(read_gallery(MANIFEST)) == len({row["image"] for row in rows if row.get("image")})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_manifest_may_have_a_byte_order_mark(tmp_path, folder, encoding):
    manifest = tmp_path / "gallery.jsonl"
    manifest.write_text(json.dumps({"image": f"{folder}/{NAMES[0]}.webp"}) + "\r\n", encoding=encoding)
    assert [picture.name for picture in read_gallery(manifest).values()] == [NAMES[0]]


def test_the_log_names_what_a_folder_does_not_offer(tmp_path, caplog):
    for name in ("a.heic", "b.jfif", ".hidden", *[f"{number}.txt" for number in range(10)]):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "more.png").mkdir()
    shutil.copy(IMAGES / f"{NAMES[0]}.webp", tmp_path)
    assert [picture.name for picture in read_gallery(tmp_path).values()] == [NAMES[0]]
    (record,) = caplog.records
    told = record.getMessage()
    assert "13 not offered: 0.txt, 1.txt" in told
    assert "and 3 more" in told
    assert ".hidden" not in told
    for number in range(10):
        (tmp_path / f"{number}.txt").unlink()
    read_gallery(tmp_path)
    assert "3 not offered: a.heic, b.jfif, more.png/; expected .avif" in caplog.text
    caplog.clear()
    for name in ("a.heic", "b.jfif"):
        (tmp_path / name).unlink()
    (tmp_path / "more.png").rmdir()
    read_gallery(tmp_path)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("none.jsonl", None, ImageNotFoundError, "no such folder or manifest"),
        ("a.csv", "image\n", ManifestError, "expected a folder or JSON Lines"),
        ("a.jsonl", "{", ManifestError, "a.jsonl:1: not JSON"),
        ("a.jsonl", '{"image": 1}', ManifestError, "a.jsonl:1: expected an object"),
        ("a.jsonl", "[]", ManifestError, "a.jsonl:1: expected an object"),
        ("a.jsonl", '{"image": "gone.png"}', ImageNotFoundError, "gone.png: the picture cannot be read"),
        ("a.jsonl", '{"image": "a.svg"}', ImageError, "browsers do not show this type"),
        ("a.jsonl", '{"audio": "a.wav"}', ManifestError, "no picture"),
    ],
)
def test_what_is_no_gallery_is_refused(tmp_path, name, content, error, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=words):
        read_gallery(tmp_path / name)


def test_it_is_listed_and_shown(offered, folder):
    listed = offered.get("/v1/gallery").json()["data"]
    assert [picture["name"] for picture in listed] == NAMES
    shown = offered.get(listed[2]["url"])
    assert shown.content == (folder / f"{NAMES[2]}.webp").read_bytes()
    assert shown.headers["content-type"] == "image/webp"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in shown.headers["cache-control"]
    assert offered.get("/gallery/none").status_code == 404


def test_without_a_gallery_the_list_is_empty(server: Running):
    assert server.get("/v1/gallery").json() == {"object": "list", "data": []}


def test_a_picture_that_was_changed_is_not_shown_nor_used(pocket_asr, tmp_path, clip):
    shutil.copy(IMAGES / f"{NAMES[0]}.webp", tmp_path / "a.webp")
    with running(pocket_asr) as up:
        up.service.gallery = read_gallery(tmp_path)
        (key,) = up.service.gallery
        shutil.copy(IMAGES / f"{NAMES[1]}.webp", tmp_path / "a.webp")
        assert up.get(f"/gallery/{key}").status_code == 404
        refused = up.transcribe(clip, image_id=key)
        assert refused.status_code == 400
        assert "the picture was changed" in refused.json()["error"]["message"]


def test_it_is_recognised_with_as_a_picture_that_was_sent(offered, folder, clip):
    (first, *_) = offered.service.gallery
    named = offered.transcribe(clip, image_id=first, strict_image="true").json()
    content = (folder / f"{NAMES[0]}.webp").read_bytes()
    sent = offered.transcribe(clip, files={"image": ("a.webp", content)}).json()
    assert named["earsight"]["mode"] == "multimodal"
    assert named["earsight"]["alternatives"] == sent["earsight"]["alternatives"]


def fit(up: Running, **body) -> httpx.Response:
    return httpx.post(f"{up.url}/v1/fit", json={"model": "whisper-1", **body}, timeout=60)


def test_the_fit_counts_the_pictures_that_fit_better(offered, folder, pocket_asr):
    texts = ["a rocket and a clock on black", "a rat"]
    keys = list(offered.service.gallery)
    pictures = pocket_asr.encode_images([folder / f"{name}.webp" for name in NAMES])
    best = (pictures @ pocket_asr.encode_texts([to_caption_style(text) for text in texts]).T).max(axis=1)
    assert len(set(best.round(4))) == len(NAMES)
    for key, own in zip(keys, best, strict=True):
        answer = fit(offered, texts=texts, image_id=key).json()
        assert answer["clip_score"] == pytest.approx(own, abs=1e-5)
        assert (answer["compared"], answer["better"]) == (len(NAMES) - 1, int(np.sum(best > own)))


def test_a_large_gallery_is_compared_in_part(pocket_asr):
    with running(pocket_asr) as up:
        up.service.gallery = read_gallery(IMAGES)
        first, *_ = up.service.gallery
        answer = fit(up, texts=["a rat"], image_id=first).json()
        assert 8 <= answer["compared"] <= 32 < len(up.service.gallery)


def test_a_picture_that_cannot_be_read_ends_no_comparison(pocket_asr, tmp_path, caplog):
    for name in NAMES[:4]:
        shutil.copy(IMAGES / f"{name}.webp", tmp_path)
    (tmp_path / "z-damaged.png").write_bytes(b"no picture")
    with running(pocket_asr) as up:
        up.service.gallery = read_gallery(tmp_path)
        good, removed, *_, damaged = up.service.gallery
        (tmp_path / f"{NAMES[1]}.webp").unlink()
        for _ in range(2):
            answer = fit(up, texts=["a rat"], image_id=good)
            assert (answer.status_code, answer.json()["compared"]) == (200, 2)
        told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
        assert [message.split(" is ")[0] for message in told] == [
            f"gallery: {NAMES[1]}",
            "gallery: z-damaged",
        ]
        for key in (removed, damaged):  # who names it is told
            assert fit(up, texts=["a rat"], image_id=key).json()["error"]["param"] == "image_id"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"texts": ["a"]}, 400, "image_id"),
        ({"texts": ["a"], "image_id": "none"}, 404, "image_id"),
        ({"texts": [], "image_id": "none"}, 400, "texts"),
        ({"texts": ["a", 1], "image_id": "none"}, 400, "texts"),
        ({"texts": [""], "image_id": "none"}, 400, "texts"),
        ({"texts": "a", "image_id": "none"}, 400, "texts"),
        ({"texts": ["a"], "image_id": "none", "alpha": 0.1}, 400, "alpha"),
    ],
)
def test_the_fit_refuses(server, body, status, param):
    answer = fit(server, **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
