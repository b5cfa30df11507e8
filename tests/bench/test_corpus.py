"""Inputs that once ended in something other than the project's own errors."""

import pytest

from tests.fuzz.targets import outcome, targets

ROW = '{"audio": "a.wav", "reference": "a red box"'
HEADER = '{"schema": "earsight.nbest/1", "bundle": {}, "settings": {}}\n'
LINE = '{"id": "one", "reference": "a red box", "hypotheses": [{"text": "a", "score": -1'
DIGITS = "1" * 5000

# (kind, label, content, error expected now). In the comments: what came out.
CORPUS = [
    ("manifest", ".jsonl", ROW + f', "id": {DIGITS}}}', "ManifestError"),  # ValueError of int()
    ("manifest", ".jsonl", ROW + ', "id": "\\ud800"}', "ManifestError"),  # UnicodeEncodeError when written
    ("manifest", ".jsonl", '{"audio": "a.wav", "reference": "\\uDCFF"}', "ManifestError"),  # the same
    ("nbest", "", HEADER + LINE + "0" * 400 + "}]}", "NBestFileError"),  # OverflowError of isfinite()
    ("nbest", "", HEADER + LINE + f', "num_tokens": {DIGITS}}}]}}', "NBestFileError"),  # ValueError of int()
    ("nbest", "", HEADER + LINE.replace('"a"', '"\\ud800"') + "}]}", "NBestFileError"),  # UnicodeEncodeError
    ("nbest", "", HEADER + LINE + "e307}]}", "NBestFileError"),  # an infinite sum, which JSON cannot hold
    ("nbest", "", HEADER.replace("{}}", '{"a": 1e999}}') + LINE + "}]}", "NBestFileError"),  # the same
    ("bundle", "bundle.json", f'{{"schema": {DIGITS}}}', "BundleError"),  # ValueError of int()
    ("settings", "clip/config.json", '{"text_config": {"max_position_embeddings": 512}}', "InferenceError"),
    ("settings", "clip/preprocessor_config.json", "{}", "BundleError"),  # 224 pixels for a graph of 112
    (
        "settings",
        "clip/preprocessor_config.json",
        f'{{"image_std": 1{"0" * 400}}}',
        "BundleError",
    ),  # Overflow
    (
        "settings",
        "whisper/preprocessor_config.json",
        '{"chunk_length": 6}',
        "BundleError",
    ),  # 80 bands, not 64
    ("settings", "whisper/preprocessor_config.json", '{"chunk_length": 600, "hop_length": 1}', "BundleError"),
    (
        "settings",
        "whisper/tokenizer.json",  # a Rust panic, which is a BaseException
        '{"model": {"type": "BPE", "continuing_subword_prefix": "a.png", "vocab": {"a": 0, "b": 1, "ab": 2}, '
        '"merges": [["a", "b"]]}}',
        "BundleError",
    ),
    (
        "settings",
        "whisper/config.json",
        '{"vocab_size": 726, "max_target_positions": 9007199254740992}',  # MemoryError
        "BundleError",
    ),
]


@pytest.mark.parametrize(("kind", "label", "content", "expected"), CORPUS)
def test_what_once_failed_is_refused(kind, label, content, expected, pocket_bundle):
    with targets(pocket_bundle.folder) as uses:
        assert outcome(uses[kind], label, content.encode()) == expected
