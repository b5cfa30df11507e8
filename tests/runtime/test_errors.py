"""The table of docs/errors.md and the classes agree; the command lines answer bad input with one line."""

import builtins
import json
import re

import pytest

import bench.commands.main
import export.cli
import runtime.commands.main
from runtime import errors
from tests.conftest import POCKET, ROOT

ROWS = re.findall(
    r"^\| `(\w+)` \| `(\w+)` \| (.+?) \| `+(.+?)`+ \| (\d) \|$",
    (ROOT / "docs" / "errors.md").read_text(),
    re.MULTILINE,
)
CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and value is not errors.EarsightError
}


def test_the_table_names_every_class_once():
    assert sorted(row[0] for row in ROWS) == sorted(CLASSES)


@pytest.mark.parametrize(("name", "builtin", "when", "example", "status"), ROWS)
def test_every_row_is_true(name, builtin, when, example, status, capsys):
    kind = CLASSES[name]
    assert issubclass(kind, errors.EarsightError)
    assert issubclass(kind, getattr(builtins, builtin))
    assert kind.__doc__

    def raising():
        raise kind("what\nand why")

    from runtime.commands.console import run_guarded

    assert run_guarded("program", raising) == int(status)
    assert capsys.readouterr().err == "program: what and why\n"


AUDIO = str(POCKET / "data" / "test" / "audio" / "test-0000.ogg")
PICTURE = str(POCKET / "data" / "test" / "images" / "test-0000.webp")
MANIFEST = str(POCKET / "data" / "test" / "manifest.jsonl")
MODELS = POCKET / "models"
# BUNDLE, BAD (a text file) and EMPTY (a folder) are filled in; each line must end with status 2.
COMMANDS = f"""
runtime transcribe BAD --bundle BUNDLE
runtime transcribe EMPTY --bundle BUNDLE
runtime transcribe /dev/null --bundle BUNDLE
runtime transcribe {AUDIO} --bundle EMPTY
runtime transcribe {AUDIO} --bundle BAD
runtime transcribe {AUDIO} --bundle BUNDLE --threads 0
runtime transcribe {AUDIO} --bundle BUNDLE --max-new-tokens 0
runtime transcribe {AUDIO} --bundle BUNDLE --image BAD
runtime transcribe {AUDIO} --bundle BUNDLE --image EMPTY
runtime transcribe {AUDIO} --bundle BUNDLE --image-id a --image-cache BAD
runtime transcribe {AUDIO} --bundle BUNDLE --silence-dbfs nan
runtime transcribe {AUDIO} --bundle BUNDLE --no-speech-threshold 2
runtime transcribe {AUDIO} --bundle BUNDLE --log-prob-threshold inf
runtime transcribe {AUDIO} --bundle BUNDLE --pause -1
runtime embed-images EMPTY --bundle BUNDLE --output OUT
runtime embed-images BAD --bundle BUNDLE --output OUT
runtime embed-images {PICTURE} --bundle BUNDLE --output EMPTY
runtime doctor --bundle EMPTY
bench nbest --bundle BUNDLE --data BAD --output OUT
bench nbest --bundle BUNDLE --data EMPTY --output OUT
bench nbest --bundle BUNDLE --data MIXED --output OUT
bench nbest --bundle BUNDLE --data {MANIFEST} --output EMPTY
bench nbest --bundle BUNDLE --data {MANIFEST} --output BAD/x
bench tune --output OUT
bench tune --nbest BAD --output OUT
bench tune --nbest {MANIFEST} --output OUT
bench tune --nbest BAD --output OUT --num-beams 5
bench wer --bundle BUNDLE --data MIXED --output OUT
bench wer --bundle BUNDLE --data {MANIFEST} --output OUT --alpha 7
bench latency --bundle BUNDLE --output OUT
bench latency --bundle BUNDLE --data MIXED --output OUT
bench latency --bundle BUNDLE --data {MANIFEST} --output OUT --pareto x
bench latency --bundle BUNDLE --data {MANIFEST} --output OUT --steps 3
bench accuracy --bundle BUNDLE --data MIXED --output OUT
bench accuracy --bundle BUNDLE --data {MANIFEST} --output OUT --precision fp16
bench accuracy --bundle BUNDLE --data {MANIFEST} --output OUT --limit -1
bench accuracy --nbest BAD BAD --output OUT --limit 3
bench compare BAD BAD
bench compare EMPTY {MANIFEST}
export --whisper EMPTY --clip {MODELS}/clip --output OUT
export --whisper {MODELS}/clip --clip {MODELS}/clip --output OUT
export --whisper {MODELS}/whisper --clip {MODELS}/clip --output BAD
export --whisper {MODELS}/whisper --clip {MODELS}/clip --output OUT --precision ,
export engines --bundle EMPTY
""".strip().splitlines()
MAINS = {"runtime": runtime.commands.main.main, "bench": bench.commands.main.main, "export": export.cli.main}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda line: line.replace(str(ROOT), ""))
def test_bad_input_is_one_line_and_status_2(command, pocket_bundle, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").write_text("no such thing")
    row = {"audio": str(tmp_path / "bad"), "reference": "a", "image": PICTURE}
    (tmp_path / "mixed.jsonl").write_text(json.dumps(row) + "\n")
    places = {"EMPTY": "empty", "BAD": "bad", "MIXED": "mixed.jsonl", "OUT": "out"}
    for name, place in places.items():
        command = re.sub(rf"\b{name}\b", str(tmp_path / place), command)
    program, *arguments = re.sub(r"\bBUNDLE\b", str(pocket_bundle.folder), command).split()
    assert MAINS[program](arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"python -m {program}")
    assert len(line) > 40
