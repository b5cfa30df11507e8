"""Nothing that was said or typed is lost, whenever the microphone comes, or where it does not come."""

from typing import Any

import pytest

from tests.server.browsers import (
    OTHER,
    PICTURE,
    SOUND,
    Visitor,
    confirm_by_file,
    listing,
    needs_browser,
    violations,
)
from tests.server.conftest import Running

pytestmark = needs_browser

LATE_S = 3.0
# A microphone that comes late; what it gave is in `streams`.
LATE = """
globalThis.streams = [];
const media = navigator.mediaDevices, ask = media.getUserMedia.bind(media);
media.getUserMedia = async (wanted) => {
  await new Promise((resolve) => setTimeout(resolve, LATE_MS));
  const stream = await ask(wanted);
  streams.push(stream);
  return stream;
};
""".replace("LATE_MS", f"{1000 * LATE_S}")
# One that the browser refuses, after a while.
REFUSED = """
navigator.mediaDevices.getUserMedia = async () => {
  await new Promise((resolve) => setTimeout(resolve, 1000));
  throw new DOMException("", "NotAllowedError");
};
"""
GIVEN = "() => streams.length > 0"
RELEASED = (
    "() => streams.flatMap((stream) => stream.getTracks()).every((track) => track.readyState === 'ended')"
)


def entered(offered: Running, browser: Any, script: str) -> Visitor:
    """Open the page with a microphone of its own."""
    visitor = Visitor(browser, offered.url)
    visitor.page.add_init_script(script)
    visitor.enter()
    return visitor


def by_file(visitor: Visitor) -> list[str]:
    """Come to the list of a file; return its sentences."""
    visitor.page.set_input_files("#sound-file", SOUND)
    visitor.state("list")
    return visitor.sentences()


def status(visitor: Visitor) -> str:
    return visitor.page.inner_text("#status")


class TestLateMicrophone:
    @pytest.fixture
    def visitor(self, offered, browser) -> Visitor:
        return entered(offered, browser, LATE)

    def test_what_was_done_meanwhile_stays(self, visitor):
        visitor.pick(PICTURE)
        visitor.press("Record")
        visitor.pause(0.2)
        assert status(visitor) == "Allow the microphone if the browser asks."
        heard = by_file(visitor)
        visitor.press("Type it")
        visitor.state("type")
        visitor.page.fill("#typed", "half a sent")
        visitor.page.wait_for_function(GIVEN)
        visitor.page.wait_for_function(RELEASED)
        visitor.state("type")
        assert status(visitor).startswith("Nothing is recorded, since you went on.")
        assert visitor.page.input_value("#typed") == "half a sent"
        visitor.press("Back")
        visitor.state("list")
        assert visitor.sentences() == heard
        # Asked for again, it records.
        visitor.press("Say it again")
        visitor.state("listening")
        assert visitor.complaints == []

    def test_pressed_again_elsewhere_it_records_there(self, visitor):
        visitor.pick(PICTURE)
        visitor.press("Record")
        visitor.pause(0.2)
        visitor.page.keyboard.press("Escape")
        visitor.state("choose")
        visitor.pick(OTHER)
        visitor.press("Record")
        visitor.state("listening")
        assert visitor.page.evaluate("streams.length") == 1
        assert not visitor.page.evaluate(RELEASED)

    def test_settings_count_as_going_on(self, visitor):
        visitor.pick(PICTURE)
        visitor.press("Record")
        visitor.pause(0.2)
        visitor.press("Settings")
        visitor.page.wait_for_function(GIVEN)
        visitor.page.wait_for_function(RELEASED)
        visitor.press("Close")
        visitor.state("speak")


class TestRefusedMicrophone:
    @pytest.fixture
    def visitor(self, offered, browser) -> Visitor:
        visitor = entered(offered, browser, REFUSED)
        visitor.pick(PICTURE)
        return visitor

    def test_list_and_recording_stay(self, visitor, sounds):
        heard = by_file(visitor)
        visitor.press("Say it again")
        visitor.state("trouble")
        assert visitor.trouble.startswith("The browser may not use the microphone.")
        assert visitor.page.is_visible("#trouble-play")
        assert violations(visitor.page) == []
        visitor.press("Back to the list")
        visitor.state("list")
        assert visitor.sentences() == heard
        visitor.press("Change the picture")
        visitor.state("choose")
        visitor.press(f"Picture {OTHER}")
        visitor.state("list")
        assert sounds == [SOUND.read_bytes()] * 2

    def test_it_is_told_to_who_went_on(self, visitor):
        visitor.press("Record")
        visitor.pause(0.2)
        visitor.press("Type it")
        visitor.page.wait_for_function(
            "() => document.getElementById('status').textContent.includes('may not use')"
        )
        visitor.state("type")


class TestSteppingBack:
    def test_what_is_put_aside_stays(self, offered, browser, sentence, sounds):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        visitor.pick(PICTURE)
        visitor.press("Record")
        visitor.state("listening")
        visitor.pause(sentence[1])
        for state in ("speak", "choose", "speak"):
            visitor.page.keyboard.press("Escape")
            visitor.state(state)
        visitor.press("Change the picture")
        visitor.state("choose")
        visitor.pick(OTHER)
        visitor.press("Use the recording that was put aside")
        visitor.state("list")
        assert len(sounds) == 1

    def test_a_list_stays(self, offered, browser, sentence, sounds):
        visitor = listing(browser, offered.url, sentence)
        heard = visitor.sentences()
        for state in ("speak", "choose", "list", "speak", "choose"):
            visitor.page.keyboard.press("Escape")
            visitor.state(state)
        assert visitor.sentences() == heard
        # The other picture is for the same recording.
        visitor.press(f"Picture {OTHER}")
        visitor.state("list")
        assert sounds[0] == sounds[1]
        assert visitor.complaints == []

    def test_where_none_was_right_another_picture_is_another_sentence(
        self, offered, browser, sentence, sounds
    ):
        visitor = listing(browser, offered.url, sentence)
        visitor.press("None of these")
        visitor.state("speak")
        visitor.press("Change the picture")
        visitor.state("choose")
        visitor.page.keyboard.press("Escape")
        visitor.state("speak")
        assert visitor.page.is_visible("#back-to-list")
        visitor.press("Change the picture")
        visitor.state("choose")
        visitor.pick(OTHER)
        assert visitor.page.is_hidden("#back-to-list")
        assert visitor.page.is_hidden("#send-kept")
        assert len(sounds) == 1

    def test_a_sentence_after_the_picture_was_nearly_changed(self, offered, browser, sentence):
        visitor = listing(browser, offered.url, sentence)
        visitor.press("Change the picture")
        visitor.state("choose")
        visitor.page.keyboard.press("Escape")
        visitor.state("list")
        visitor.page.keyboard.press("1")
        visitor.state("done")
        visitor.press("Next picture")
        visitor.state("choose")
        confirm_by_file(visitor)
        assert visitor.complaints == []

    def test_a_recording_that_was_not_understood_is_put_aside(self, offered, browser, sounds):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        visitor.pick(PICTURE)
        refused: list[Any] = []

        def refuse(route: Any) -> None:
            refused.append(route)
            route.abort()

        visitor.page.route("**/v1/audio/transcriptions", refuse)
        visitor.page.set_input_files("#sound-file", SOUND)
        visitor.state("trouble")
        visitor.page.unroute("**/v1/audio/transcriptions")
        visitor.press("Back")
        visitor.state("speak")
        visitor.press("Use the recording that was put aside")
        visitor.state("list")
        assert len(refused) == len(sounds) == 1
