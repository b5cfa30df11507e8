"""Sound manifests, n-best files and bundle files to mutate."""

import json
from pathlib import Path

from bench.nbest.records import NBestHeader, NBestHypothesis, NBestUtterance
from runtime.bundle.bundle import MANIFEST, SETTINGS_FILES
from tests.fuzz.seeds import Seed

NBEST_HEADER = NBestHeader({"name": "pocket", "sha256": "00"}, {"num_beams": 2, "precision": "fp32"})


def manifest_seeds() -> list[Seed]:
    """Two rows that name the files of `fuzz_targets.manifest_folder`, in every format."""
    one = {"id": "one", "audio": "a.wav", "reference": "a red box", "image": "a.png", "speaker": "s"}
    two = {"id": "two", "audio": "b.wav", "reference": 'a "blue" box, too', "image_id": "key", "group": 7}
    jsonl = "".join(json.dumps(row) + "\n" for row in (one, two))
    quoted = 'id,audio,reference,image\none,a.wav,"a red, ""big"" box",a.png\ntwo,b.wav,"two\nlines",\n'
    plain = "audio;reference;image_id;speaker\na.wav;a red box;key;s\nb.wav;a blue box;;\n"
    return [
        (".jsonl", jsonl.encode()), (".jsonl", ("\ufeff" + jsonl).encode()), (".jsonl", jsonl.encode()),
        (".csv", quoted.encode()), (".csv", plain.encode()), (".tsv", plain.replace(";", "\t").encode()),
        ("", jsonl.encode()),
    ]  # fmt: skip


def nbest_seeds() -> list[Seed]:
    """Utterances with a picture, without one, and without a hypothesis."""
    pairs = (("a red box", -0.2, 0.4), ("a red fox", -0.3, 0.2), ("", -0.9, 0.1))
    seen = tuple(NBestHypothesis(text, score, cosine, 4 * score, 4, -cosine) for text, score, cosine in pairs)
    heard = tuple(NBestHypothesis(text, score) for text, score, _ in pairs)
    utterances = [
        NBestUtterance("one", "a red box", "s", "g", "a.png", 1.5, seen),
        NBestUtterance("two", "a red fox", "t", "h", "b.png", 0.5, seen[:2]),
        NBestUtterance("three", "a blue box", hypotheses=heard),
        NBestUtterance("four", ""),
    ]
    rows = [NBEST_HEADER.to_dict(), *(utterance.to_dict() for utterance in utterances)]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    return [("", whole), ("", whole[: whole.rfind(b"\n", 0, -1) + 1])]


def bundle_seeds(folder: Path) -> list[Seed]:
    """The `bundle.json` of a bundle."""
    return [(MANIFEST, (folder / MANIFEST).read_bytes())]


def settings_seeds(folder: Path) -> list[Seed]:
    """Every settings file of a bundle; the label says which."""
    return [(name, (folder / name).read_bytes()) for name in SETTINGS_FILES]
