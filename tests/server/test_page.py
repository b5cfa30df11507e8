"""The page for people, in a real browser with a microphone that plays a file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.manifest import read_manifest
from runtime.server.access import Access
from runtime.server.correction_store import CorrectionStore
from runtime.server.gallery import read_gallery
from runtime.server.page import FOLDER, HEADERS, page_files
from runtime.server.pictures import picture_id
from tests.server.browsers import (
    OTHER,
    PICTURE,
    SOUND,
    TREMOR_S,
    Visitor,
    chromium,
    confirm_by_file,
    listing,
    microphone,
    needs_browser,
    scrolls_sideways,
    small_targets,
    violations,
)
from tests.server.conftest import IMAGES, Running, running, wait_until

LARGEST_BYTES = 100_000
ENHANCED, EDGES = 7.0, 3.0  # contrast of text, of edges and focus
TOKEN = "a-token-of-the-tests-1"
VIEWS = {
    "desktop, light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "desktop, dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone, light": {"viewport": {"width": 320, "height": 640}, "color_scheme": "light", "has_touch": True},
    "phone, dark": {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark", "has_touch": True},
    # What 1280 × 1024 pixels are at 400 %.
    "400 %": {
        "viewport": {"width": 320, "height": 256},
        "device_scale_factor": 4,
        "reduced_motion": "reduce",
    },
}


# -- what is sent, without a browser ---------------------------------------------------------------------


def test_it_is_small_whole_and_loads_nothing_of_others(server: Running):
    files = page_files()
    assert sum(map(len, files.values())) <= LARGEST_BYTES
    assert set(files) == {path.name for path in FOLDER.iterdir()}
    index = server.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert index.content == files["index.html"]
    for name in re.findall(r'(?:href|src)="/page/([^"]+)"', index.text):
        assert name in files
    for name, content in files.items():
        answer = server.get(f"/page/{name}")
        assert answer.content == content
        assert HEADERS.items() <= {key.title(): value for key, value in answer.headers.items()}.items()
        assert not re.search(rb"https?://", content), f"{name} names another origin"
        assert not re.search(rb"\b(eval|innerHTML|outerHTML|insertAdjacentHTML|document\.write)\b", content)
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", index.text)
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert server.get("/page/none.js").status_code == 404
    assert server.get("/page/..%2fpage.py").status_code == 404


def test_it_needs_no_token_where_the_interface_does(pocket_asr, tmp_path):
    with running(pocket_asr, access=tokens(tmp_path)) as up:
        up.service.gallery = read_gallery(IMAGES)
        assert up.get("/").status_code == 200
        assert up.get("/page/app.js").status_code == 200
        assert up.get("/v1/gallery").status_code == 401
        listed = up.get("/v1/gallery", headers={"Authorization": f"Bearer {TOKEN}"}).json()["data"]
        assert up.get(listed[0]["url"]).status_code == 200


def test_contrast_of_every_colour_it_uses():
    style = page_files()["style.css"].decode()
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{([^}]+)\}", style)
    )
    texts = [
        ("ink", "paper"),
        ("ink", "soft"),
        ("on-primary", "primary"),
        ("on-danger", "danger"),
        ("on-mark", "mark"),
    ]
    edges = [("edge", "paper"), ("edge", "soft"), ("focus", "paper"), ("focus", "soft"), ("bar", "paper"),
             ("primary", "paper"), ("danger", "paper")]  # fmt: skip
    for theme in (light, dark):
        assert {name for pair in texts + edges for name in pair} == set(theme)
        for front, back in texts:
            assert contrast(theme[front], theme[back]) >= ENHANCED, (front, back)
        for front, back in edges:
            assert contrast(theme[front], theme[back]) >= EDGES, (front, back)
    colours = set(re.findall(r"#[0-9a-fA-F]{3,8}\b|rgb\([^)]*\)", re.sub(r":root \{[^}]+\}", "", style)))
    assert colours == {"#000000", "rgb(0 0 0 / 70%)"}  # behind the camera's picture and behind dialogs


def contrast(one: str, other: str) -> float:
    """Ratio of two colours (WCAG 2.2, relative luminance)."""
    first, second = sorted((luminance(one), luminance(other)), reverse=True)
    return (first + 0.05) / (second + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def tokens(folder: Path) -> Access:
    path = folder / "tokens"
    path.write_text(TOKEN)
    return Access.from_file(path)


# -- in the browser --------------------------------------------------------------------------------------


class TestInABrowser:
    pytestmark = needs_browser

    def test_picture_recording_list_confirmation_next(self, offered, browser, sentence, sounds):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        visitor.pick(PICTURE)
        visitor.say(sentence[1] + 0.3)
        visitor.state("list")
        # The words are those of the interface for the same sound, and so is the order.
        (sound,) = sounds
        key = next(key for key, picture in offered.service.gallery.items() if picture.name == PICTURE)
        answer = offered.transcribe(sound, image_id=key, n=5).json()
        expected = [
            alternative["display"]
            for alternative in answer["earsight"]["alternatives"]
            if alternative["id"] == 0 or alternative["diff"]
        ]
        assert len(expected) > 1
        assert visitor.sentences() == [" ".join(text.split()) for text in expected]
        # And those of what the microphone played.
        assert (
            offered.transcribe(sentence[0].read_bytes(), image_id=key, n=5).json()["text"] == answer["text"]
        )
        # WAV of 16 bits, one channel, nothing cut off.
        rate, bits = int.from_bytes(sound[24:28], "little"), int.from_bytes(sound[34:36], "little")
        assert (sound[:4], sound[22], bits) == (b"RIFF", 1, 16)
        assert (len(sound) - 44) / 2 / rate > sentence[1]
        visitor.page.click("#alternatives button >> nth=0")
        visitor.state("done")
        assert visitor.page.inner_text("#result") == expected[0]
        visitor.press("Undo")
        visitor.state("list")
        visitor.page.click("#alternatives button >> nth=1")
        visitor.state("done")
        assert visitor.page.inner_text("#result") == expected[1]
        visitor.press("Next picture")
        visitor.state("choose")
        visitor.pick(OTHER)
        assert visitor.complaints == []
        assert all(url.startswith((offered.url, "blob:", "data:")) for url in visitor.loaded)

    def test_marks_are_what_differs(self, offered, browser, sentence, sounds):
        visitor = listing(browser, offered.url, sentence)
        first, *others = visitor.sentences()
        marked = visitor.page.eval_on_selector_all(
            "#alternatives li",
            "all => all.map(one => [...one.querySelectorAll('mark')].map(m => m.textContent))",
        )
        dropped = visitor.page.eval_on_selector_all(
            "#alternatives li",
            "all => all.map(one => [...one.querySelectorAll('del')].map(m => m.textContent))",
        )
        assert len(others) >= 1
        for words, new, old in zip(others, marked[1:], dropped[1:], strict=True):
            assert new or old
            assert set(" ".join(new).split()) <= set(words.split())
            assert set(" ".join(old).split()) <= set(first.split())

    def test_repairs(self, offered, browser, sentence, sounds):
        visitor = listing(browser, offered.url, sentence)
        heard = visitor.sentences()
        visitor.press("None of these")
        visitor.state("speak")
        assert "None was right" in visitor.page.inner_text("#status")
        visitor.press("Back to the list")
        visitor.state("list")
        assert visitor.sentences() == heard
        visitor.press("Type it")
        visitor.state("type")
        assert visitor.page.input_value("#typed") == heard[0]
        visitor.page.fill("#typed", "  a socket and a clock  ")
        visitor.press("Done")
        visitor.state("done")
        assert visitor.page.inner_text("#result") == "a socket and a clock"
        visitor.press("Undo")
        visitor.state("list")
        visitor.press("Say it again")
        visitor.state("listening")
        visitor.pause(sentence[1])
        visitor.press("Put it aside")
        visitor.state("speak")
        assert len(sounds) == 1
        visitor.press("Use the recording that was put aside")
        visitor.state("list")
        assert len(sounds) == 2

    def test_changing_the_picture_keeps_what_was_said(self, offered, browser, sentence, sounds):
        visitor = listing(browser, offered.url, sentence)
        visitor.press("Change the picture")
        visitor.state("choose")
        visitor.press(f"Picture {OTHER}")
        visitor.state("list")
        assert sounds[0] == sounds[1]

    def test_a_picture_and_a_sound_of_ones_own(self, offered, browser, sentence, sounds):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        visitor.page.set_input_files("#picture-file", IMAGES / f"{PICTURE}.webp")
        visitor.state("speak")
        assert visitor.page.get_attribute("#picture", "src").startswith("blob:")
        # The server forgets it meanwhile; the page sends it again.
        key = next(key for key, picture in offered.service.gallery.items() if picture.name == PICTURE)
        offered.service.pictures.remove(key)
        visitor.page.set_input_files("#sound-file", SOUND)
        visitor.state("list")
        assert sounds == [SOUND.read_bytes()]
        visitor.press("Change the picture")
        visitor.state("choose")
        visitor.press("Use the camera")
        visitor.page.wait_for_function("() => document.getElementById('viewfinder').videoWidth > 0")
        visitor.pause(0.5)
        visitor.press("Take the picture")
        visitor.state("list")
        assert visitor.page.get_attribute("#picture", "alt") == "Picture from the camera"
        visitor.press("Change the picture")
        visitor.state("choose")
        visitor.press("No picture")
        visitor.state("list")
        assert visitor.page.is_hidden("#picture")
        assert visitor.complaints == []

    def test_show_big_copy_and_speak(self, offered, browser, sentence, sounds):
        visitor = listing(browser, offered.url, sentence)
        visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        visitor.page.evaluate(
            """() => { globalThis.spoken = [];
            const voice = (lang, localService) => ({lang, localService});
            speechSynthesis.getVoices = () => [voice('en', false), voice('fr', true), voice('en-GB', true)];
            globalThis.SpeechSynthesisUtterance = function (text) { this.text = text; };
            speechSynthesis.speak = (speech) => spoken.push([speech.text, speech.voice.lang]); }"""
        )
        visitor.page.keyboard.press("1")
        visitor.state("done")
        text = visitor.page.inner_text("#result")
        visitor.press("Copy")
        visitor.page.wait_for_function("() => document.getElementById('status').textContent === 'Copied.'")
        assert visitor.page.evaluate("navigator.clipboard.readText()") == text
        visitor.press("Speak aloud")
        assert visitor.page.evaluate("spoken") == [[text, "en-GB"]]
        visitor.press("Show big")
        assert visitor.page.inner_text("#big-text") == text
        assert (
            visitor.page.eval_on_selector("#big-text", "one => parseFloat(getComputedStyle(one).fontSize)")
            >= 50
        )
        visitor.pause(0.5)
        visitor.page.keyboard.press("Escape")
        visitor.page.wait_for_selector("#big", state="hidden")
        visitor.state("done")  # Esc closed the dialog and undid nothing
        visitor.page.evaluate("speechSynthesis.getVoices = () => []")
        visitor.press("Speak aloud")
        assert "no voice" in visitor.page.inner_text("#status")

    @pytest.mark.parametrize("view", VIEWS)
    def test_every_state_is_accessible(self, offered, browser, sentence, view):
        visitor = Visitor(browser, offered.url, **VIEWS[view])
        seen: list[str] = []

        def check(state: str) -> None:
            seen.append(state)
            assert violations(visitor.page) == [], state
            assert small_targets(visitor.page) == [], state
            assert not scrolls_sideways(visitor.page), state

        every_state(visitor, sentence[1], check)
        assert len(seen) == 12
        assert visitor.complaints == []

    def test_by_keyboard_alone(self, offered, browser, sentence, sounds):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        tab_to(visitor, f"Picture {PICTURE}")
        visitor.page.keyboard.press("Enter")
        visitor.state("speak")
        assert focused(visitor) == "Record"
        visitor.page.keyboard.press("Escape")
        visitor.state("choose")
        tab_to(visitor, f"Picture {PICTURE}")
        visitor.page.keyboard.press("Space")
        visitor.state("speak")
        visitor.page.keyboard.press("Space")
        visitor.state("listening")
        assert focused(visitor) == "Stop"
        visitor.pause(sentence[1])
        visitor.page.keyboard.press("Space")
        visitor.page.keyboard.press("Space")  # a trembling hand: not a choice
        visitor.state("list")
        heard = visitor.sentences()
        visitor.page.keyboard.press("9")
        visitor.page.keyboard.press("2")
        visitor.state("done")
        assert visitor.page.inner_text("#result") == heard[1]
        visitor.page.keyboard.press("Escape")
        visitor.state("list")
        tab_to(visitor, "Type it")
        visitor.page.keyboard.press("Enter")
        visitor.state("type")
        visitor.page.keyboard.press("End")
        visitor.page.keyboard.type(" 12")  # digits are digits here
        tab_to(visitor, "Done")
        visitor.page.keyboard.press("Enter")
        visitor.state("done")
        assert visitor.page.inner_text("#result") == f"{heard[0]} 12"
        tab_to(visitor, "Next picture")
        visitor.page.keyboard.press("Enter")
        visitor.state("choose")

    def test_keys_can_be_switched_off(self, offered, browser, sentence, sounds):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        visitor.press("Settings")
        visitor.pause(0.5)
        visitor.page.get_by_role("switch", name=re.compile("^Keys")).click()
        visitor.press("Close")
        visitor.pause(0.5)
        visitor.pick(PICTURE)
        visitor.page.set_input_files("#sound-file", SOUND)
        visitor.state("list")
        visitor.page.keyboard.press("1")
        visitor.page.keyboard.press("Escape")
        visitor.pause(0.3)
        visitor.state("list")

    def test_focus_is_seen_at_every_stop(self, offered, browser):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        stops = set()
        for _ in range(20):
            visitor.page.keyboard.press("Tab")
            stop = visitor.page.evaluate(
                """() => { const one = document.activeElement, style = getComputedStyle(one);
                return [one.tagName, one.textContent + (one.querySelector('img')?.alt ?? ''),
                        style.outlineStyle, parseFloat(style.outlineWidth)]; }"""
            )
            if stop[0] != "BODY":
                assert stop[2] == "solid"
                assert stop[3] >= 3
                stops.add(stop[1])
        assert len(stops) == visitor.page.locator("button:visible:enabled").count()

    def test_by_one_switch(self, offered, browser, sentence, sounds):
        visitor = Visitor(browser, offered.url)
        visitor.page.add_init_script(
            "localStorage.setItem('earsight-settings', JSON.stringify({oneSwitch: true, pace: 1.5}))"
        )
        visitor.enter()
        switch_to(visitor, "Pictures", f"Picture {PICTURE}")
        visitor.state("speak")
        switch_to(visitor, "Record")
        visitor.state("listening")
        visitor.pause(sentence[1])
        when_lit(visitor, "Stop")
        visitor.page.mouse.click(5, 5)  # a switch that clicks, wherever the pointer is
        visitor.state("list")
        heard = visitor.sentences()
        switch_to(visitor, "Sentences", heard[1], place=1)
        visitor.state("done")
        assert visitor.page.inner_text("#result") == heard[1]
        switch_to(visitor, "Go on", "Undo")
        visitor.state("list")
        switch_to(visitor, "Sentences", heard[0], place=0)
        visitor.state("done")
        switch_to(visitor, "Go on", "Next picture")
        visitor.state("choose")
        switch_to(visitor, "Settings")
        visitor.page.wait_for_selector("#settings", state="visible")
        visitor.pause(TREMOR_S)
        switch_to(visitor, "One switch", "One switch: choices light up in turn")
        assert visitor.page.locator(".lit").count() == 0
        assert visitor.complaints == []

    def test_a_token_is_asked_for_and_forgotten_with_the_tab(self, pocket_asr, browser, tmp_path):
        with running(pocket_asr, access=tokens(tmp_path)) as up:
            up.service.gallery = read_gallery(IMAGES)
            visitor = Visitor(browser, up.url)
            visitor.page.goto(up.url)
            visitor.state("token")
            assert violations(visitor.page) == []
            assert small_targets(visitor.page) == []
            for typed, told in (
                ("a-wrong-token-of-tests", "The server does not know this token. Type it again"),
                ("яночкавключилараскладку", "A token has only letters from a to z, digits and signs."),
                ("   ", "A token has only letters from a to z, digits and signs."),
                ("another-wrong-token-1", "The server does not know this token. Type it again"),
            ):
                visitor.page.fill("#token", typed)
                visitor.press("Go on")
                complains(visitor, told)
                assert focused_id(visitor) == "token"
                assert violations(visitor.page) == []
                assert small_targets(visitor.page) == []
                assert visitor.page.evaluate("sessionStorage.length") == 0
            visitor.page.reload()
            visitor.state("token")
            assert visitor.page.is_hidden("#token-trouble")
            visitor.page.fill("#token", TOKEN)
            visitor.page.keyboard.press("Enter")
            visitor.state("choose")
            visitor.pick(PICTURE)
            visitor.page.set_input_files("#sound-file", SOUND)
            visitor.state("list")
            assert TOKEN in visitor.page.evaluate("JSON.stringify(sessionStorage)")
            assert TOKEN not in visitor.page.evaluate("JSON.stringify(localStorage) + document.cookie")
            visitor.enter()  # known as long as the tab is open
            up.service.access.names = {b"none": "another"}  # and as long as the server knows it
            visitor.page.reload()
            visitor.state("token")
            complains(visitor, "The server does not know this token.")
            assert visitor.page.evaluate("sessionStorage.length") == 0

    def test_a_busy_server_is_asked_again_and_then_told(self, offered, browser, sentence, sounds):
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        visitor.pick(PICTURE)
        admission = offered.service.admission
        admission.draining = True
        try:
            visitor.page.set_input_files("#sound-file", SOUND)
            visitor.page.wait_for_function(
                "() => document.getElementById('status').textContent.includes('asked again')"
            )
            visitor.state("trouble")
            assert visitor.trouble.startswith(
                "The server is busy. Nothing is lost. Wait a little, then press Try again"
            )
            assert violations(visitor.page) == []
        finally:
            admission.draining = False
        visitor.press("Try again")
        visitor.state("list")

    @pytest.mark.parametrize(
        ("status", "answer", "is_told"),
        [
            (200, {"compared": 16, "better": 9}, True),
            (200, {"compared": 16, "better": 8}, False),
            (200, {"compared": 15, "better": 15}, False),  # too few, or too few that can be read
            (503, {"error": {"message": "full"}}, False),
        ],
        ids=["most fit better", "half", "few", "busy"],
    )
    def test_a_wrong_picture(self, offered, browser, status, answer, is_told):
        visitor = Visitor(browser, offered.url)
        asked: list[Any] = []

        def fit(route: Any) -> None:
            asked.append(route.request.post_data_json)
            route.fulfill(status=status, json=answer, headers={"Retry-After": "1"})

        visitor.page.route("**/v1/fit", fit)
        visitor.enter()
        visitor.pick(PICTURE)
        visitor.page.set_input_files("#sound-file", SOUND)
        visitor.state("list")
        visitor.pause(1.5)
        (request,) = asked
        assert len(request["texts"]) == len(visitor.sentences())
        assert ("wrong picture" in visitor.page.inner_text("#doubts")) == is_told
        # Who reads the list is not troubled with what goes wrong behind it.
        assert "busy" not in visitor.page.inner_text("#status")
        assert visitor.page.inner_text("#status").startswith("This may be" if is_told else "Heard: ")
        visitor.state("list")

    def test_a_server_that_has_gone_is_told(self, pocket_asr, browser):
        with running(pocket_asr) as up:
            up.service.gallery = read_gallery(IMAGES)
            visitor = Visitor(browser, up.url)
            visitor.enter()
            visitor.pick(PICTURE)
        visitor.page.set_input_files("#sound-file", SOUND)
        visitor.state("trouble")
        assert visitor.trouble.startswith("The server does not answer. Nothing is lost.")
        assert visitor.page.is_visible("#retry")

    def test_corrections_are_sent_with_consent_alone(self, offered, browser, sentence, sounds):
        visitor = Visitor(browser, offered.url)
        visitor.page.add_init_script(CORRECTIONS)
        visitor.enter()
        assert visitor.page.inner_text("#kept") == "Your recordings are not kept."
        confirm_by_file(visitor)
        visitor.press("Next picture")
        visitor.state("choose")
        assert visitor.page.evaluate("kept") == []
        visitor.press("Settings")
        visitor.pause(0.5)
        visitor.page.get_by_role("switch", name=re.compile("^Keep")).click()
        name = visitor.page.input_value("#speaker")
        assert re.fullmatch(r"speaker-\w+", name)
        assert violations(visitor.page) == []
        visitor.press("Close")
        visitor.pause(0.5)
        assert f"kept under the name {name}, for 90 days" in visitor.page.inner_text("#kept")
        confirm_by_file(visitor)
        visitor.press("Undo")
        visitor.state("list")
        heard = visitor.sentences()
        visitor.page.keyboard.press("2")
        visitor.state("done")
        assert visitor.page.evaluate("kept") == []
        visitor.press("Next picture")
        visitor.page.wait_for_function("() => kept.length === 2")
        (unknown, sent) = visitor.page.evaluate("kept")
        assert unknown["image_id"] in offered.service.gallery
        shown = json.loads(sent.pop("shown"))
        assert [" ".join(entry["display"].split()) for entry in shown] == heard
        assert 0 < float(sent.pop("seconds")) < 60
        assert int(sent.pop("taps")) == 3  # a key, Undo, a key
        assert sent == {
            "file": len(SOUND.read_bytes()),
            "image": (IMAGES / f"{PICTURE}.webp").stat().st_size,
            "reference": heard[1],
            "speaker": name,
            "how": "picked",
            "rank": "1",
            "consent": "true",
        }
        visitor.state("choose")
        visitor.press("Settings")
        visitor.pause(0.5)
        visitor.press("Delete all recordings under this name")
        visitor.press("Yes, delete them")
        visitor.page.wait_for_function(
            "() => document.getElementById('forgotten').textContent === 'They are deleted.'"
        )
        assert visitor.page.evaluate("deleted") == [f"/v1/corrections/speakers/{name}"]

    def test_what_is_confirmed_is_in_the_folder_that_is_tuned_on(
        self, offered, browser, tmp_path, monkeypatch
    ):
        store = CorrectionStore(tmp_path / "corrections", retention_days=30)
        monkeypatch.setattr(offered.service, "corrections", store)
        visitor = Visitor(browser, offered.url)
        visitor.enter()
        visitor.press("Settings")
        visitor.pause(0.5)
        visitor.page.get_by_role("switch", name=re.compile("^Keep")).click()
        name = visitor.page.input_value("#speaker")
        visitor.press("Close")
        visitor.pause(0.5)
        confirm_by_file(visitor)
        visitor.press("Next picture")
        wait_until((store.folder / "manifest.jsonl").exists)
        (kept,) = read_manifest(store.folder / "manifest.jsonl")
        picture = (IMAGES / f"{PICTURE}.webp").read_bytes()
        heard = offered.transcribe(SOUND.read_bytes(), image_id=picture_id(picture)).json()
        assert kept.reference == heard["text"]
        assert kept.audio.read_bytes() == SOUND.read_bytes()
        assert kept.image.read_bytes() == picture
        assert (kept.speaker, kept.group) == (name, "confirmed")
        visitor.state("choose")
        visitor.press("Settings")
        visitor.pause(0.5)
        visitor.press("Delete all recordings under this name")
        visitor.press("Yes, delete them")
        wait_until(lambda: not list((store.folder / "audio").iterdir()))
        assert (store.folder / "manifest.jsonl").read_bytes() == b""


# A server that keeps corrections, in place of fetch.
CORRECTIONS = """
globalThis.kept = []; globalThis.deleted = [];
const real = globalThis.fetch;
globalThis.fetch = async (path, options) => {
  if (!path.startsWith("/v1/corrections")) return real(path, options);
  if (options.method === "POST") {
    kept.push(Object.fromEntries([...options.body].map(([k, v]) => [k, v instanceof Blob ? v.size : v])));
    if (options.body.has("image_id"))  // of which it keeps the embedding alone
      return Response.json({error: {message: "", code: "picture_not_found"}}, {status: 404});
  }
  if (options.method === "DELETE") deleted.push(path);
  return Response.json({enabled: true, retention_days: 90});
};
"""


@pytest.mark.parametrize(
    ("source", "gain", "words"),
    [
        (None, 1.0, "gives no sound at all. Check that it is not muted"),
        (SOUND, 0.005, "quiet"),
        (SOUND, 30.0, "This was too loud, and words may be wrong. If they are, move back a little"),
    ],
    ids=["silence", "too quiet", "clipped"],
)
class TestSound:
    pytestmark = needs_browser

    def test_it_is_told(self, offered, playwright, tmp_path, source, gain, words):
        seconds = microphone(tmp_path / "sound.wav", source, gain, seconds=4.0)
        with chromium(playwright, tmp_path / "sound.wav") as browser:
            visitor = Visitor(browser, offered.url)
            visitor.enter()
            visitor.pick(PICTURE)
            visitor.say(max(seconds, 1.0))
            visitor.page.wait_for_selector(
                "section[data-state=list]:visible, section[data-state=trouble]:visible"
            )
            visitor.pause(0.2)
            told = " ".join(visitor.page.inner_text("main").split())
            assert words in told
            assert "again" in told
            assert violations(visitor.page) == []
            assert visitor.complaints == []


@pytest.mark.parametrize(
    ("heard", "allowed", "words"),
    [
        (True, False, "The browser may not use the microphone. Press the sign beside the address"),
        (False, True, "No microphone was found. Plug one in"),
    ],
    ids=["refused", "none"],
)
class TestMicrophone:
    pytestmark = needs_browser

    def test_it_is_told(self, offered, playwright, sentence, heard, allowed, words):
        with chromium(playwright, sentence[0] if heard else None, allowed=allowed) as browser:
            visitor = Visitor(browser, offered.url)
            visitor.enter()
            visitor.pick(PICTURE)
            visitor.press("Record")
            visitor.state("trouble")
            assert visitor.trouble.startswith(words)
            assert visitor.page.is_visible("#trouble-sound")
            assert violations(visitor.page) == []
            # And there is a way on.
            visitor.page.set_input_files("#sound-file", SOUND)
            visitor.state("list")


# -- ways through the page -------------------------------------------------------------------------------


def every_state(visitor: Visitor, seconds: float, check: Callable[[str], None]) -> None:
    """Go through all states and dialogs but that of the token."""
    page = visitor.page
    page.add_init_script(CORRECTIONS)
    visitor.enter()
    page.wait_for_function("() => [...document.images].every(one => one.complete)")
    check("choose")
    visitor.press("Settings")
    visitor.pause(0.5)
    page.get_by_role("switch", name=re.compile("^Keep")).click()
    check("settings")
    visitor.press("Close")
    visitor.pause(0.5)
    visitor.press("Use the camera")
    page.wait_for_selector("#camera", state="visible")
    check("camera")
    visitor.pause(0.5)
    page.click("#camera [data-close]")
    visitor.pause(0.5)
    visitor.pick(PICTURE)
    check("speak")
    held: list[Any] = []
    page.route("**/v1/audio/transcriptions", lambda route: held.append(route))
    visitor.press("Record")
    visitor.state("listening")
    check("listening")
    visitor.pause(seconds)
    visitor.press("Stop")
    visitor.state("working")
    check("working")
    held.pop().continue_()
    visitor.state("list")
    check("list")
    visitor.press("Type it")
    visitor.state("type")
    check("type")
    visitor.press("Done")
    visitor.state("done")
    check("done")
    visitor.press("Show big")
    visitor.pause(0.5)
    check("big")
    page.click("#big [data-close]")
    visitor.pause(0.5)
    visitor.press("Same picture again")
    visitor.state("speak")
    page.set_input_files("#sound-file", SOUND)
    visitor.state("working")
    visitor.press("Cancel")
    visitor.state("speak")
    check("put aside")
    page.unroute("**/v1/audio/transcriptions")
    page.route("**/v1/audio/transcriptions", lambda route: route.abort())
    page.set_input_files("#sound-file", SOUND)
    visitor.state("trouble")
    check("trouble")


def complains(visitor: Visitor, words: str) -> None:
    """Wait until the form of the token says what is wrong, to eyes and ears."""
    visitor.page.wait_for_function(
        """words => { const found = ['token-trouble', 'status'].map((id) => document.getElementById(id));
        return !found[0].hidden && found.every((one) => one.textContent.startsWith(words)); }""",
        arg=words,
    )
    visitor.pause(TREMOR_S)


def focused_id(visitor: Visitor) -> str:
    return visitor.page.evaluate("document.activeElement.id")


def focused(visitor: Visitor) -> str:
    return visitor.page.evaluate("document.activeElement.textContent")


def tab_to(visitor: Visitor, name: str) -> None:
    wanted = visitor.page.get_by_role("button", name=name, exact=True).element_handle()
    for _ in range(60):
        visitor.page.keyboard.press("Tab")
        if wanted.evaluate("one => one === document.activeElement"):
            return
    pytest.fail(f"the tabulator does not reach {name}")


def switch_to(visitor: Visitor, group: str, name: str | None = None, place: int | None = None) -> None:
    """Press the switch when a group is lit, and again when the choice of this name is."""
    when_lit(visitor, group)
    visitor.page.keyboard.press("Space")
    if name is None:
        return
    visitor.page.wait_for_function(
        """([name, place]) => { const lit = document.querySelector('button.lit');
        const items = document.querySelectorAll('#alternatives li');
        if (place !== null) return lit && lit.closest('li') === items[place];
        return lit && (lit.textContent === name || lit.querySelector('img')?.alt === name); }""",
        arg=[name, place],
    )
    visitor.pause(0.05)
    visitor.page.keyboard.press("Space")


def when_lit(visitor: Visitor, group: str) -> None:
    visitor.page.wait_for_function(
        "group => { const lit = document.querySelector('.lit'); return lit?.dataset.scan === group; }",
        arg=group,
    )
