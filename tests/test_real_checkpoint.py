"""A real 30-second encoder on real words: OpenAI's tiny.en with a relearned vocabulary."""

import json
import subprocess
import sys
from pathlib import Path

import jiwer
import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
SPOKEN = SHARED / "flickr8k-spoken"


@pytest.mark.shared
@pytest.mark.skipif(not SPOKEN.is_dir(), reason=f"no real audio and weights at {SHARED}")
def test_spoken_captions_through_both_command_lines(tmp_path):
    bundle = tmp_path / "relearned"
    sources = ["--whisper", SHARED / "whisper-tiny.en-relearned", "--clip", ROOT / "bench/pocket/models/clip"]
    command = [sys.executable, "-m", "export", *sources, "--output", bundle, "--precision", "fp32,int8"]
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True, capture_output=True)
    rows = [json.loads(line) for line in (SPOKEN / "manifest.jsonl").read_text().splitlines()[:3]]
    audio = [str(SPOKEN / row["audio"]) for row in rows]
    for precision in ("fp32", "int8"):
        options = ["--bundle", str(bundle), "--precision", precision, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "runtime", "transcribe", *audio, *options],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert [answer["audio"] for answer in answers] == audio
        assert all(answer["mode"] == "asr_only" for answer in answers)
        # 0.377 over all 150 captions, says the checkpoint's own description; three captions scatter.
        texts = [answer["transcription"] for answer in answers]
        assert jiwer.wer([row["reference"] for row in rows], texts) < 0.6, texts
