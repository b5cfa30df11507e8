"""Properties of the loaders over generated contents: they load, or raise the project's errors."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.manifest import read_manifest
from bench.nbest.file import read_nbest
from bench.nbest.records import NBestFile, NBestHypothesis, NBestUtterance
from bench.nbest.writer import NBestWriter
from runtime.audio.load import load_audio
from runtime.bundle.bundle import SETTINGS_FILES, Bundle
from runtime.bundle.json_files import parse_json
from runtime.clip.pictures import load_image
from runtime.errors import EarsightError, ManifestError
from tests.fuzz.targets import outcome, targets
from tests.fuzz.text_seeds import NBEST_HEADER

# One file per test is written again and again: the function-scoped folder is what is wanted.
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["audio", "reference", "image", "image_id", "id", "speaker", "group", "other"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.floats(-1e6, 1e6)
cosines = st.floats(-1.0, 1.0)


@many
@given(st.binary(max_size=2000))
def test_bytes_that_are_no_file(content):
    for load in (load_audio, load_image):
        with pytest.raises(EarsightError):
            load(content)


@many
@given(rows=st.lists(st.dictionaries(names, st.sampled_from(["a.wav", "a.png"]) | values), max_size=4))
def test_manifests_of_any_values(tmp_path, rows):
    for name in ("a.wav", "a.png"):
        (tmp_path / name).write_bytes(b"x")
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    try:
        utterances = read_manifest(path)
    except ManifestError:
        return
    assert len(utterances) == len(rows)
    for utterance in utterances:
        assert utterance.audio.is_file()


@many
@given(
    st.lists(
        st.builds(
            NBestUtterance,
            id=texts.filter(bool),
            reference=texts,
            speaker=st.none() | texts,
            group=st.none() | texts,
            image_id=st.none() | texts,
            duration_s=st.none() | st.floats(0, 1e5),
            hypotheses=st.lists(st.builds(NBestHypothesis, texts, numbers, cosines), max_size=3).map(tuple),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda utterance: utterance.id,
    )
)
def test_what_is_written_is_read_back(tmp_path, utterances):
    path = tmp_path / "n.jsonl"
    with NBestWriter(path, NBEST_HEADER) as writer:
        for utterance in utterances:
            writer.write(utterance)
    assert read_nbest(path) == NBestFile(NBEST_HEADER, tuple(utterances), path)


@many
@given(label=st.sampled_from(["bundle.json", *SETTINGS_FILES]), content=values)
def test_bundle_files_of_any_values(pocket_places, label, content):
    kind = "bundle" if label == "bundle.json" else "settings"
    found = outcome(pocket_places[kind], label, json.dumps(content).encode())
    assert found in ("loaded", "BundleError", "InferenceError"), found


@pytest.fixture(scope="module")
def pocket_places(pocket_bundle):
    with targets(pocket_bundle.folder) as uses:
        yield uses
        assert Bundle.open(pocket_bundle.folder).digest == pocket_bundle.digest


@many
@given(values)
def test_json_is_parsed_as_python_does_or_refused(content):
    text = json.dumps(content)
    try:
        found = parse_json(text)
    except ValueError:
        return
    assert json.dumps(found) == text  # compared as text, since nan differs from itself


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "too large a number"),
        ("9223372036854775808", "too large a number"),
        ('"\\ud800"', "half a surrogate pair"),
        ('{"\\udfff": 1}', "half a surrogate pair"),
    ],
)
def test_json_that_no_file_could_repeat(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    assert parse_json('["\\ud83d\\ude00", 9223372036854775807]') == ["😀", 2**63 - 1]
