"""The report: self-contained, whole for odd data, and safe for any text."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.nbest.file import NBestFile, NBestHeader, NBestHypothesis, NBestUtterance
from bench.report import write_report
from bench.tuning import tune
from bench.tuning.options import TuneOptions
from runtime.errors import OutputError
from tests.tools.nbest_examples import corpus, random_utterances

QUICK = TuneOptions(replicates=200)
VOID = {"meta", "link", "img", "br", "path", "use"}


class Balance(HTMLParser):
    """Collects links and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "href", "xlink:href"} and value:
                self.links.append(value)
            if name == "id" and value:
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def parsed(page: Path) -> Balance:
    balance = Balance()
    balance.feed(page.read_text(encoding="utf-8"))
    assert balance.open == []
    return balance


def test_page_is_self_contained(tmp_path: Path) -> None:
    Image.effect_noise((640, 480), 50).save(tmp_path / "p.png")
    (tmp_path / "broken.png").write_text("no picture")
    development, test = corpus(0), corpus(1)
    images = {u.id: tmp_path / "p.png" for u in test.utterances[1:]} | {"0": tmp_path / "broken.png"}
    page = write_report(tmp_path / "out", tune(development, QUICK, test), test, None, images)
    balance = parsed(page)
    assert all(link.startswith(("data:", "#")) for link in balance.links)
    assert sum(link.startswith("data:image/jpeg") for link in balance.links) >= 10
    assert len(balance.ids) == len(set(balance.ids))
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") >= 10
    assert "normalizer “words”" in text
    assert "WER as the notebook scores" in text
    # Every address in the page is the name of an XML vocabulary, which no browser fetches.
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    for name in ("error-surface", "nbest-depth", "groups", "best-alpha"):
        assert (tmp_path / f"out/plots/{name}.svg").read_text().startswith("<?xml")
        with Image.open(tmp_path / f"out/plots/{name}.png") as image:
            assert image.width > 600


@pytest.mark.parametrize(
    "utterances",
    [
        [NBestUtterance("only", "a", hypotheses=(NBestHypothesis("b", -1.0, 0.2),))],
        [NBestUtterance(str(i), "a", hypotheses=(NBestHypothesis("b", -1.0),)) for i in range(3)],
        [
            NBestUtterance("none", ""),
            NBestUtterance("empty", "", hypotheses=(NBestHypothesis("", -1.0, 0.1),)),
        ],
        random_utterances(np.random.default_rng(5)),
    ],
)
def test_odd_data_give_a_whole_page(tmp_path: Path, utterances: list[NBestUtterance]) -> None:
    file = NBestFile(NBestHeader(), tuple(utterances))
    text = write_report(tmp_path, tune(file, QUICK), file).read_text(encoding="utf-8")
    parsed(tmp_path / "index.html")
    assert "What it means" in text
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL).split()


def test_page_says_why_tuned_scales_were_left(tmp_path: Path) -> None:
    listed = (NBestHypothesis("b", -1.0, 0.2), NBestHypothesis("a", -1.1, 0.3))
    single = NBestFile(NBestHeader(), (NBestUtterance("only", "a", hypotheses=listed),))
    for file, why in ((corpus(0), "did no better on held-out folds"), (single, "nothing can be held out to")):
        result = tune(file, TuneOptions(replicates=200, tune_scale=True))
        assert why in write_report(tmp_path, result, file).read_text(encoding="utf-8")


def test_texts_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    hypothesis = (NBestHypothesis(evil, -1.0, 0.2),)
    file = NBestFile(NBestHeader(), (NBestUtterance(evil, evil, evil, evil, hypotheses=hypothesis),))
    text = write_report(tmp_path, tune(file, QUICK), file).read_text(encoding="utf-8")
    assert "<script" not in text
    parsed(tmp_path / "index.html")


def test_latency_table(tmp_path: Path) -> None:
    percentiles = {
        name: {"seconds": 0.0123, "supported": name != "p99"} for name in ("p50", "p90", "p95", "p99")
    }
    latency = {
        "stages": {"encoder": {"count": 30, "percentiles": percentiles}},
        "system": {"cpu": {"model": "A processor", "usable_cores": 2}},
        "rtf": {"corpus": 0.02},
        "rtfx": 50.0,
        "warnings": ["the machine was busy"],
    }
    file = corpus(0)
    text = write_report(tmp_path, tune(file, QUICK), file, latency).read_text(encoding="utf-8")
    assert "12.30?" in text
    assert "A processor, 2 cores" in text
    assert "the machine was busy" in text


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = corpus(0)
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path / "file", tune(file, QUICK), file)
