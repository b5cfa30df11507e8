"""The image-embedding cache: numpy's archives read alike, written whole or not at all, the rest refused."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.clip.cache import find_embedding, load_image_cache, save_image_cache
from runtime.errors import ImageCacheError, OutputError


def unit(count: int = 3, dimension: int = 16, seed: int = 0, dtype=np.float32) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def archive(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as stream:
        for name, content in entries.items():
            stream.writestr(name, content)
    return path


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


# -- parity with numpy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_reads_what_the_notebook_writes(tmp_path, write, dtype):
    vectors = unit(dtype=dtype)
    path = tmp_path / "cache.npz"
    write(path, **{f"img_{index}.png": vector for index, vector in enumerate(vectors)})
    loaded = load_image_cache(path)
    assert list(loaded) == ["img_0.png", "img_1.png", "img_2.png"]
    for key, array in np.load(path).items():
        assert loaded[key].dtype == np.float32
        np.testing.assert_array_equal(loaded[key], array.astype(np.float32))


def test_numpy_reads_what_is_written(tmp_path):
    embeddings = {"a.png": unit()[0], "sub/b c.jpg": unit()[1], "ünï.npy": unit()[2]}
    save_image_cache(tmp_path / "cache.npz", embeddings)
    with np.load(tmp_path / "cache.npz", allow_pickle=False) as numpys:
        assert sorted(numpys) == sorted(embeddings)
        for key, vector in embeddings.items():
            np.testing.assert_array_equal(numpys[key], vector)


# -- properties ---------------------------------------------------------------------------------------------

keys = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(keys, max_size=6, unique=True), dimension=st.integers(1, 40))
def test_round_trip_of_any_file_name(tmp_path_factory, names, dimension):
    path = tmp_path_factory.mktemp("cache") / "cache.npz"
    vectors = unit(len(names), dimension, seed=dimension)
    save_image_cache(path, dict(zip(names, vectors, strict=True)))
    loaded = load_image_cache(path)
    assert list(loaded) == names
    for name, vector in zip(names, vectors, strict=True):
        np.testing.assert_array_equal(loaded[name], vector)


@pytest.mark.parametrize(
    "name", ["file", "allow_pickle", "../up.png", "/root.png", "a.npy", ".npy", "C:\\x.png", "#", " "]
)
def test_names_that_trip_savez(tmp_path, name):
    if os.sep != "/" and os.sep in name:
        pytest.skip("zipfile rewrites this system's separator")
    save_image_cache(tmp_path / "c.npz", {name: unit()[0]})
    assert list(load_image_cache(tmp_path / "c.npz")) == [name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.npz"]


def test_same_embeddings_make_the_same_file(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_image_cache(tmp_path / name, {"x": unit()[0], "y": unit()[1]})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_empty_cache(tmp_path):
    save_image_cache(tmp_path / "c.npz", {})
    assert load_image_cache(str(tmp_path / "c.npz")) == {}


# -- whole or not at all ------------------------------------------------------------------------------------


def test_failed_write_leaves_the_old_cache(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    save_image_cache(path, {"old": unit()[0]})
    before = path.read_bytes()
    with pytest.raises(ImageCacheError):
        save_image_cache(path, {"new": unit()[0] * 2})

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        save_image_cache(path, {"new": unit()[0]})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.npz"]


def test_killed_while_writing_leaves_the_old_cache(tmp_path):
    path = tmp_path / "c.npz"
    save_image_cache(path, {"old": unit()[0]})
    script = (
        "import os, signal, sys, numpy as np, runtime.clip.cache as cache\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache.save_image_cache(sys.argv[1], {'new': np.ones(1, np.float32)})"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -9
    assert list(load_image_cache(path)) == ["old"]


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        save_image_cache(tmp_path / "nowhere" / "c.npz", {"a": unit()[0]})


# -- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (unit(), "shape"),
        (np.zeros(0, np.float32), "0 numbers"),
        (np.ones(3, np.int64), "dtype"),
        (np.full(4, np.nan, np.float32), "norm nan"),
        (np.array([np.inf, 0], np.float32), "norm inf"),
        (unit()[0] * 1.01, "norm 1.01"),
        (np.zeros(4, np.float32), "norm 0"),
        (np.array(1.0), "shape"),
        ([1.0], "list"),
    ],
)
def test_unusable_embeddings(tmp_path, value, words):
    with pytest.raises(ImageCacheError, match=words):
        save_image_cache(tmp_path / "c.npz", {"a": value})
    if isinstance(value, np.ndarray):
        np.savez(tmp_path / "c.npz", a=value)
        with pytest.raises(ImageCacheError, match="'a'"):
            load_image_cache(tmp_path / "c.npz")


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", "x" * 70_000, 3, None])
def test_unusable_keys(tmp_path, key):
    with pytest.raises(ImageCacheError, match="key"):
        save_image_cache(tmp_path / "c.npz", {key: unit()[0]})


def test_mixed_dimensions(tmp_path):
    mixed = {"a": unit()[0], "b": unit(1, 8)[0]}
    with pytest.raises(ImageCacheError, match="'b' has 8, 'a' has 16"):
        save_image_cache(tmp_path / "c.npz", mixed)
    np.savez(tmp_path / "c.npz", **mixed)
    with pytest.raises(ImageCacheError, match="different models"):
        load_image_cache(tmp_path / "c.npz")


def test_no_pickle_is_ever_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    np.savez(tmp_path / "c.npz", a=np.array([Trap()], dtype=object))
    with pytest.raises(ImageCacheError, match=r"dtype '\|O'"):
        load_image_cache(tmp_path / "c.npz")
    (tmp_path / "p.npz").write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(ImageCacheError, match="npz"):
        load_image_cache(tmp_path / "p.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"text", npy(unit()[0]), b"PK\5\6" + bytes(17)])
def test_files_that_are_no_archive(tmp_path, content):
    path = tmp_path / "c.npz"
    path.write_bytes(content)
    with pytest.raises(ImageCacheError, match=r"c\.npz.*embed-images"):
        load_image_cache(path)


@pytest.mark.parametrize("place", ["nowhere.npz", ".", "\0", "x" * 5000])
def test_places_without_a_cache(tmp_path, place):
    with pytest.raises(ImageCacheError):
        load_image_cache(tmp_path / place)


def header_only(header: bytes) -> bytes:
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\7\0" + bytes(50),
        header_only(b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}"),
        header_only(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
        header_only(b"{'descr': '<f4', 'fortran_order': False, 'shape': 3}"),
        header_only(b"{'descr': '<f4'}"),
        header_only(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"),
        header_only(b"{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,)}"),
        header_only(b"__import__('os').getpid()"),
        header_only(b"(" * 3000),
        header_only(b"\xff\xfe"),
        npy(unit()[0])[:-1],
        npy(unit()[0]) + b"x",
    ],
)
def test_damaged_entries(tmp_path, content):
    with pytest.raises(ImageCacheError, match="'a'"):
        load_image_cache(archive(tmp_path / "c.npz", {"a.npy": content}))


def test_entries_that_are_no_arrays(tmp_path):
    with pytest.raises(ImageCacheError, match=r"readme\.txt"):
        load_image_cache(archive(tmp_path / "c.npz", {"readme.txt": b"hello"}))


def test_unpacking_is_bounded(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.writestr("a.npy", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(ImageCacheError, match="50000000 bytes is no embedding"):
        load_image_cache(path)


# -- names of either Unicode form ---------------------------------------------------------------------------

NFC, NFD = "caf\u00e9.png", "cafe\u0301.png"


@pytest.mark.parametrize(("stored", "asked"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
def test_a_key_is_found_in_either_form(tmp_path, stored, asked):
    save_image_cache(tmp_path / "c.npz", {stored: unit()[0], "cafe.png": unit()[1]})
    cache = load_image_cache(tmp_path / "c.npz")
    np.testing.assert_array_equal(find_embedding(cache, asked), unit()[0])
    assert find_embedding(cache, "caf\u00e8.png") is None


def test_of_two_forms_the_exact_one_goes_first(tmp_path):
    save_image_cache(tmp_path / "c.npz", {NFC: unit()[0], NFD: unit()[1]})
    cache = load_image_cache(tmp_path / "c.npz")
    np.testing.assert_array_equal(find_embedding(cache, NFC), unit()[0])
    np.testing.assert_array_equal(find_embedding(cache, NFD), unit()[1])
