"""What the page keeps with the speaker's consent: what is refused, what waits, what fits into a request."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from runtime.server.correction_store import CorrectionStore
from runtime.server.limits import Limits
from tests.server.browsers import Visitor, confirm_by_file, microphone, needs_browser
from tests.server.conftest import AUDIO, wait_until

pytestmark = needs_browser

SPEAKER = "anna"
ROOM_BYTES = 128 * 2**10  # of a correction, for all but its two files
# Corrections by their texts, sent by the page's own code; the server's answers come from `statuses`.
SENDING = """async (statuses) => {
  const { Server } = await import("/page/api.js");
  const { Keeping } = await import("/page/keeping.js");
  const told = [], sent = [];
  globalThis.fetch = async (path, { body }) => {
    sent.push(body.get("reference"));
    const status = statuses.length ? statuses.shift() : 201;
    if (status === 0) throw new TypeError("no network");
    return Response.json(status < 300 ? {} : {error: {message: "why"}}, {status});
  };
  const server = new Server(async () => "token", () => {});
  const keeping = new Keeping(server, {consent: true, speaker: "anna"}, (text) => told.push(text));
  keeping.offer = {enabled: true};
  const say = (reference, wav = new Blob([reference])) => {
    keeping.note({reference, how: "typed", recording: {wav}, shown: []});
    return keeping.settle();
  };
  await say("first");
  await say("second");
  await say("third");
  return { told, sent };
}"""


@pytest.fixture
def store(offered, tmp_path, monkeypatch) -> CorrectionStore:
    store = CorrectionStore(tmp_path / "corrections", retention_days=30)
    monkeypatch.setattr(offered.service, "corrections", store)
    return store


@pytest.fixture
def visitor(offered, browser) -> Visitor:
    """Somebody who agreed that recordings are kept."""
    visitor = Visitor(browser, offered.url)
    settings = json.dumps({"consent": True, "speaker": SPEAKER})
    visitor.page.add_init_script(f"localStorage.getItem('earsight-settings') ?? "
                                 f"localStorage.setItem('earsight-settings', '{settings}')")  # fmt: skip
    return visitor


def references(store: CorrectionStore) -> list[str]:
    path = store.folder / "manifest.jsonl"
    return [json.loads(line)["reference"] for line in path.read_text().splitlines()] if path.exists() else []


def status_has(visitor: Visitor, words: str) -> None:
    visitor.page.wait_for_function(
        "words => document.getElementById('status').textContent.includes(words)", arg=words
    )


def confirm_and_go_on(visitor: Visitor) -> None:
    confirm_by_file(visitor)
    visitor.press("Next picture")
    visitor.state("choose")


class TestRefused:
    @pytest.mark.parametrize("status", [400, 403, 404, 405, 413, 415, 422])
    def test_for_good_is_given_up_and_told(self, offered, browser, status):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        found = visitor.page.evaluate(SENDING, [status])
        assert found["sent"] == ["first", "second", "third"]
        (told,) = found["told"]
        assert told.startswith("A sentence cannot be kept. ")

    @pytest.mark.parametrize("status", [0, 401, 408, 500, 504, 507])
    def test_for_now_is_sent_again_and_holds_up_no_other(self, offered, browser, status):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        found = visitor.page.evaluate(SENDING, [status])
        if status == 401:  # asked again at once, with another token
            assert found == {"sent": ["first", "first", "second", "third"], "told": []}
            return
        assert found["sent"] == ["first", "second", "first", "third"]
        (told,) = found["told"]
        assert told.startswith("A sentence is not kept yet: ")
        assert told.endswith(" It is tried again with the next one.")

    def test_again_and_again_holds_up_no_other(self, offered, browser):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        found = visitor.page.evaluate(SENDING, [500, 201, 500, 201, 500])
        assert found["sent"] == ["first", "second", "first", "third", "first"]

    def test_a_sound_that_cannot_be_read_does_not_block_the_next(self, visitor, store, tmp_path):
        path = tmp_path / "bad.m4a"
        path.write_bytes(b"this is no sound" * 50)
        visitor.enter()
        visitor.press("No picture")
        visitor.state("speak")
        visitor.page.set_input_files("#sound-file", path)
        visitor.state("trouble")
        visitor.press("Type it")
        visitor.state("type")
        visitor.page.fill("#typed", "a dog on a beach")
        visitor.press("Done")
        visitor.state("done")
        visitor.press("Next picture")
        status_has(visitor, "A sentence cannot be kept. The server cannot read this file.")
        visitor.state("choose")
        confirm_and_go_on(visitor)
        wait_until(lambda: len(references(store)) == 1)
        assert references(store) != ["a dog on a beach"]
        assert visitor.complaints == []


class TestRoom:
    def test_a_large_picture_is_kept_beside_the_longest_recording(self, offered, visitor, store, tmp_path):
        rng = np.random.default_rng(0)
        noise = Image.fromarray(rng.integers(0, 255, (1200, 1600, 3), dtype=np.uint8))
        noise.save(tmp_path / "photo.jpg", quality=80)
        assert (tmp_path / "photo.jpg").stat().st_size > 2**20
        visitor.enter()
        visitor.page.set_input_files("#picture-file", tmp_path / "photo.jpg")
        visitor.state("speak")
        visitor.page.set_input_files("#sound-file", longest(visitor, tmp_path / "longest.wav"))
        visitor.state("list")
        visitor.page.keyboard.press("1")
        visitor.state("done")
        visitor.press("Next picture")
        wait_until(lambda: len(references(store)) == 1)
        (picture,) = (store.folder / "images").iterdir()
        (sound,) = (store.folder / "audio").iterdir()
        assert picture.stat().st_size + sound.stat().st_size + ROOM_BYTES <= Limits().body_bytes
        with Image.open(picture) as kept:
            assert kept.format == "JPEG"
            assert kept.width / kept.height == pytest.approx(4 / 3, rel=0.01)

    def test_a_small_picture_is_sent_as_it_is(self, offered, browser):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        content = io.BytesIO()
        Image.new("RGB", (3000, 2000), "green").save(content, "PNG")
        sizes = visitor.page.evaluate(
            """async (bytes) => { const { fitting } = await import("/page/pictures.js");
            const blob = new Blob([new Uint8Array(bytes)]);
            const unreadable = new Blob([new Uint8Array(2 ** 20)]);
            return [await fitting(blob) === blob, await fitting(unreadable) === unreadable]; }""",
            list(content.getvalue()),
        )
        assert sizes == [True, True]


def longest(visitor: Visitor, path: Path) -> Path:
    """Write a sentence, and silence up to the longest recording that the page sends."""
    script = visitor.page.evaluate("async () => (await fetch('/page/recorder.js')).text()")
    assert "const MOST_BYTES = 24 * 2 ** 20;" in script
    microphone(path, AUDIO / "test-0000.ogg")
    samples, rate = soundfile.read(path, dtype="int16")
    longer = np.zeros((24 * 2**20 - 44) // 2, dtype=np.int16)
    longer[: len(samples)] = samples
    soundfile.write(path, longer, rate, subtype="PCM_16")
    return path
