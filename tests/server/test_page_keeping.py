"""What the page keeps with the speaker's consent: what is refused, what waits, what fits into a request."""

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from runtime.server.correction_store import CorrectionStore
from runtime.server.limits import Limits
from tests.server.browsers import TREMOR_S, Visitor, confirm_by_file, microphone, needs_browser, violations
from tests.server.conftest import AUDIO, Running, wait_until

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


class TestStopped:
    """The speaker deletes what is kept, or stops the keeping, while a sentence waits or is on its way."""

    @pytest.fixture
    def busy(self, visitor) -> None:
        """A server that is too busy for the first sentence, for four seconds."""
        answers = [{"status": 503, "headers": {"Retry-After": "4"}, "json": {"error": {"message": "full"}}}]

        def answer(route: Any) -> None:
            if route.request.method == "POST" and answers:
                route.fulfill(**answers.pop())
            else:
                route.continue_()

        visitor.page.route("**/v1/corrections", answer)

    def test_deleted_while_it_waits_for_its_next_try(self, visitor, store, busy):
        visitor.enter()
        confirm_and_go_on(visitor)
        status_has(visitor, "asked again")
        delete_all(visitor)
        settings_has(visitor, "They are deleted.")
        assert visitor.page.text_content("#status") == ""
        visitor.pause(4.5)
        assert references(store) == []
        visitor.press("Close")
        visitor.pause(TREMOR_S)
        confirm_and_go_on(visitor)  # the next one is kept again
        wait_until(lambda: len(references(store)) == 1)
        assert visitor.complaints == []

    def test_stopped_while_it_waits_for_its_next_try(self, visitor, store, busy):
        visitor.enter()
        confirm_and_go_on(visitor)
        stop_keeping(visitor)
        visitor.press("Close")
        visitor.pause(4.5)
        assert visitor.page.inner_text("footer") == "Your recordings are not kept."
        assert references(store) == []
        assert visitor.complaints == []

    def test_deleted_while_the_server_is_at_work_on_it(self, offered, visitor, store, monkeypatch):
        steps = go_on_slowly(offered, visitor, monkeypatch)
        delete_all(visitor)
        settings_has(visitor, "They are being deleted.")
        assert steps == ["begun"]
        settings_has(visitor, "They are deleted.")
        assert steps == ["begun", "ended"]
        visitor.pause(0.5)
        assert references(store) == []

    def test_stopped_while_the_server_is_at_work_on_it(self, offered, visitor, store, monkeypatch):
        steps = go_on_slowly(offered, visitor, monkeypatch)
        stop_keeping(visitor)
        assert steps == ["begun"]
        visitor.page.wait_for_selector("#late", state="visible")
        assert len(references(store)) == 1
        assert violations(visitor.page) == []
        visitor.press("Delete all recordings under this name")
        visitor.press("Yes, delete them")
        settings_has(visitor, "They are deleted.")
        assert references(store) == []
        assert visitor.page.is_hidden("#late")

    def test_a_deletion_that_needs_a_token_asks_for_it(self, visitor, store):
        refusals = [{"status": 401, "json": {"error": {"message": "unknown"}}}]
        visitor.page.route(
            "**/v1/corrections/speakers/*",
            lambda route: route.fulfill(**refusals.pop()) if refusals else route.continue_(),
        )
        visitor.enter()
        delete_all(visitor)
        visitor.state("token")  # in front, not behind the settings
        assert visitor.page.is_hidden("#settings")
        visitor.page.fill("#token", "a-token-of-the-tests-1")
        visitor.press("Go on")
        visitor.state("choose")
        settings_has(visitor, "They are deleted.")

    def test_what_is_noted_later_is_not_lost(self, offered, browser):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        sent = visitor.page.evaluate(
            """async () => {
            const { Keeping } = await import("/page/keeping.js");
            const sent = [], answers = [];
            const server = {ask: (path, {form}) => {
              sent.push(form.get("reference"));
              return new Promise((resolve) => answers.push(resolve));
            }};
            const keeping = new Keeping(server, {consent: true, speaker: "anna"}, () => {});
            keeping.offer = {enabled: true};
            const note = (reference) => keeping.note({reference, recording: {wav: new Blob([reference])}});
            note("first");
            const ended = keeping.settle();
            note("dropped");
            keeping.settle();
            keeping.stop();
            note("second");
            keeping.settle();
            answers.shift()();
            await new Promise((resolve) => setTimeout(resolve));
            answers.shift()();
            await ended;
            return sent; }"""
        )
        assert sent == ["first", "second"]


def go_on_slowly(offered: Running, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Confirm a sentence and go on, while the server takes its time to keep it; return its steps."""
    visitor.enter()
    confirm_by_file(visitor)
    steps = slowed(offered, monkeypatch)
    visitor.press("Next picture")
    wait_until(lambda: steps == ["begun"])
    visitor.state("choose")
    return steps


def slowed(offered: Running, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the server take two seconds to read a sound; return what it has begun and ended."""
    steps: list[str] = []
    decode = offered.service.waveform

    async def decoded(content: bytes) -> Any:
        steps.append("begun")
        await asyncio.sleep(2.0)
        steps.append("ended")
        return await decode(content)

    monkeypatch.setattr(offered.service, "waveform", decoded)
    return steps


def stop_keeping(visitor: Visitor) -> None:
    visitor.press("Settings")
    visitor.pause(TREMOR_S)
    visitor.page.get_by_role("switch", name=re.compile("^Keep")).click()


def delete_all(visitor: Visitor) -> None:
    visitor.press("Settings")
    visitor.pause(TREMOR_S)
    visitor.press("Delete all recordings under this name")
    visitor.press("Yes, delete them")


def settings_has(visitor: Visitor, words: str) -> None:
    visitor.page.wait_for_function(
        "words => document.getElementById('forgotten').textContent === words", arg=words
    )


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
