"""Chromium with a microphone that plays a file, and what is measured of the page in it."""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import soundfile
import soxr

from tests.conftest import POCKET

PICTURE, OTHER = "test-0000", "test-0001"  # of the gallery
SOUND: Final = POCKET / "data" / "test" / "audio" / "test-0000.ogg"  # what is said of it
CHROMIUM: Final = Path("/usr/bin/chromium")
PLAYWRIGHT: Final = find_spec("playwright") is not None
AXE: Final = find_spec("axe_playwright_python") is not None
ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MIC_RATE: Final = 48_000
LEAD_S: Final = 0.4  # of silence before the sound: the microphone plays before the recorder runs
SMALLEST: Final = 44  # CSS pixels of a target
LARGE: Final = 72  # of what is used most
LARGE_TARGETS: Final = "#record, #stop, #alternatives button"
TREMOR_S: Final = 0.45  # after a change, a press is taken for the one before
# WCAG 2.2 AA, the enhanced contrast of AAA, and axe's own best practices.
AXE_OPTIONS: Final = {
    "rules": {"color-contrast-enhanced": {"enabled": True}, "target-size": {"enabled": True}},
    "resultTypes": ["violations", "incomplete"],
}

needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium: apt-get install chromium"),
    pytest.mark.skipif(
        not PLAYWRIGHT or not AXE, reason="no Playwright or axe: pip install 'earsight[browser]'"
    ),
]


def microphone(path: Path, source: Path | None, gain: float = 1.0, seconds: float = 2.0) -> float:
    """Write what the microphone hears: a sound, louder or softer, clipped where it must be; then silence.

    Returns:
        Seconds until the sound is over.
    """
    sound = np.zeros(0)
    if source is not None:
        samples, rate = soundfile.read(source)
        sound = np.clip(soxr.resample(samples, rate, MIC_RATE) * gain, -1.0, 1.0)
    lead = np.zeros(int(LEAD_S * MIC_RATE))
    silence = np.zeros(int(seconds * MIC_RATE))
    soundfile.write(path, np.concatenate([lead, sound, silence]), MIC_RATE, subtype="PCM_16")
    return (lead.size + sound.size) / MIC_RATE


@contextlib.contextmanager
def chromium(playwright: Any, heard: Path | None, *, allowed: bool = True) -> Iterator[Any]:
    """Start Chromium.

    Args:
        playwright: One for all browsers: the synchronous interface starts once a thread.
        heard: What the microphone plays once; None for a machine without one.
        allowed: Whether pages may use it.
    """
    arguments = list(ARGUMENTS)
    arguments += ["--use-fake-ui-for-media-stream"] if allowed else ["--deny-permission-prompts"]
    if heard is not None:
        arguments += [
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={heard}%noloop",
        ]
    browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
    try:
        yield browser
    finally:
        browser.close()


class Visitor:
    """Somebody who uses the page, by mouse unless told; notes what it loads and complains of.

    Args:
        browser: As `chromium` gives it.
        url: Of the server.
        options: Of the browser's context: viewport, color_scheme, …
    """

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.page = browser.new_context(**options).new_page()
        self.page.set_default_timeout(90_000)
        self.loaded: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.loaded.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._note)
        self.url = url

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def enter(self) -> None:
        self.page.goto(f"{self.url}/")
        self.state("choose")

    def state(self, name: str, seconds: float = 90.0) -> None:
        """Wait until the page is in a state, and takes presses in it."""
        self.page.wait_for_selector(f"section[data-state={name}]", state="visible", timeout=1000 * seconds)
        self.pause(TREMOR_S)

    def pause(self, seconds: float) -> None:
        self.page.wait_for_timeout(1000 * seconds)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def pick(self, picture: str) -> None:
        self.press(f"Picture {picture}")
        self.state("speak")

    def say(self, seconds: float) -> None:
        """Record for so long; the answer is not waited for."""
        self.press("Record")
        self.state("listening")
        self.pause(seconds)
        self.press("Stop")

    def sentences(self) -> list[str]:
        """The sentences of the list, as they are read without what is struck out."""
        return self.page.eval_on_selector_all(
            "#alternatives button > span:last-child",
            """all => all.map(one => { const copy = one.cloneNode(true);
                copy.querySelectorAll('del, .heard').forEach(gone => gone.remove());
                return copy.textContent.split(/\\s+/).filter(Boolean).join(' '); })""",
        )

    @property
    def trouble(self) -> str:
        return f"{self.page.inner_text('#trouble-title')} {self.page.inner_text('#trouble-next')}"


def violations(page: Any) -> list[str]:
    """What axe finds wrong, as "rule: element"."""
    import axe_playwright_python

    source = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(source)
    found = page.evaluate("options => axe.run(document, options)", AXE_OPTIONS)
    return [
        f"{rule['id']}: {node['html'][:120]} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def small_targets(page: Any) -> list[str]:
    """Targets that are smaller than they must be, or not whole on the page; at least one is measured."""
    targets = page.eval_on_selector_all(
        "button, input:not([type=file]), textarea, a[href], summary",
        f"""all => {{
            const dialog = document.querySelector('dialog[open]');
            return all.filter(one => one.checkVisibility() && (!dialog || dialog.contains(one))).map(one => {{
            const box = one.getBoundingClientRect();
            return {{name: one.id || one.textContent, large: one.matches('{LARGE_TARGETS}'),
                    width: box.width, height: box.height, left: box.left, right: box.right,
                    page: document.documentElement.clientWidth}}; }}) }}""",
    )
    assert targets
    return [
        f"{target}"
        for target in targets
        if min(target["width"], target["height"]) < (LARGE if target["large"] else SMALLEST)
        or target["left"] < 0
        or target["right"] > target["page"] + 0.5
    ]


def scrolls_sideways(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def listing(browser: Any, url: str, sentence: tuple[Path, float]) -> Visitor:
    """Come to the list."""
    visitor = Visitor(browser, url)
    visitor.enter()
    visitor.pick(PICTURE)
    visitor.say(sentence[1] + 0.3)
    visitor.state("list")
    return visitor


def confirm_by_file(visitor: Visitor) -> None:
    """Confirm the first sentence that is heard in a file."""
    visitor.pick(PICTURE)
    visitor.page.set_input_files("#sound-file", SOUND)
    visitor.state("list")
    visitor.page.keyboard.press("1")
    visitor.state("done")
