"""Measure the described corpus with real Whisper: `python -m bench.pocket.evaluate_described --whisper DIR`.

`--whisper` is a CTranslate2 folder of an English-only Whisper; its 5-best lists are rescored with the adapted
pocket CLIP in plain PyTorch, α from dev. Needs the packages ctranslate2 and tokenizers. Words are counted
without case and punctuation, and "2" is "two".
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jiwer
import numpy as np
import soundfile as sf
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from bench.pocket.evaluate import ALPHAS, HERE, read_manifest
from bench.pocket.vocabulary import NUMBERS
from runtime.console import run_guarded
from runtime.features import LogMelExtractor
from runtime.fusion import fuse, to_caption_style

PROMPT: Final = [50257, 50362]  # start of transcript, no timestamps, of the English-only vocabulary
BEAMS: Final = 5
MAX_TOKENS: Final = 60
_MARKS: Final = re.compile(r"[^\w\s']")


@dataclass(frozen=True)
class Heard:
    """One utterance, its n-best list, best first, and its picture."""

    row: dict[str, str]
    texts: list[str]
    scores: NDArray[np.float64]  # (n,), mean log-probability of a token
    picture: Path


def to_words(text: str) -> str:
    """Lower case, no punctuation, small numbers spelt out."""
    spelt = {str(number): word for number, word in NUMBERS.items()}
    return " ".join(spelt.get(word, word) for word in _MARKS.sub(" ", text.lower()).split())


def recognise(folder: Path, manifest: Path, threads: int) -> list[Heard]:
    """The n-best list of every utterance of a manifest; distinct texts as the model wrote them."""
    import ctranslate2
    from tokenizers import Tokenizer

    model: Any = ctranslate2.models.Whisper(str(folder), compute_type="float32", intra_threads=threads)
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    features = LogMelExtractor()
    found = []
    for row in tqdm(read_manifest(manifest), desc=manifest.parent.name, disable=not sys.stderr.isatty()):
        wave = sf.read(manifest.parent / row["audio"], dtype="float32")[0]
        result = model.generate(
            ctranslate2.StorageView.from_array(features([wave])), [PROMPT], beam_size=BEAMS,
            num_hypotheses=BEAMS, max_length=MAX_TOKENS, return_scores=True,
        )[0]  # fmt: skip
        kept: dict[str, float] = {}
        for ids, score in zip(result.sequences_ids, result.scores, strict=True):
            kept.setdefault(tokenizer.decode(ids, skip_special_tokens=True).strip(), float(score))
        picture = manifest.parent / row["image"]
        found.append(Heard(row, list(kept), np.array(list(kept.values())), picture))
    return found


class Judge:
    """The pocket CLIP in float32."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPModel, CLIPProcessor

        self.processor: Any = CLIPProcessor.from_pretrained(folder)
        self.model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def texts(self, texts: list[str]) -> NDArray[np.float64]:
        """Unit-norm embeddings of texts in caption style, (n, width)."""
        styled = [to_caption_style(text) for text in texts]
        tokens = self.processor(text=styled, padding=True, truncation=True, return_tensors="pt")
        return _unit(self.model.get_text_features(**tokens).numpy())

    @torch.no_grad()
    def pictures(self, paths: list[Path]) -> NDArray[np.float64]:
        """Unit-norm embeddings, (n, width)."""
        pictures = [Image.open(path).convert("RGB") for path in paths]
        pixels = self.processor(images=pictures, return_tensors="pt").pixel_values
        return _unit(self.model.get_image_features(pixel_values=pixels).numpy())


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float64)


def wer(heard: list[Heard], texts: list[str]) -> float:
    """Corpus word error rate."""
    return float(jiwer.wer([to_words(h.row["reference"]) for h in heard], [to_words(t) for t in texts]))


def describe_lists(heard: list[Heard], chosen: list[str]) -> dict[str, Any]:
    """WER of the first texts, of the nearest of each list and of `chosen`, by group and speaker."""
    found = {}
    names = ["all", *dict.fromkeys(h.row[key] for key in ("group", "speaker") for h in heard)]
    for name in names:
        places = [i for i, h in enumerate(heard) if name in {"all", h.row["group"], h.row["speaker"]}]
        part = [heard[i] for i in places]
        nearest = [min(h.texts, key=lambda text: wer([h], [text])) for h in part]
        found[name] = {
            "utterances": len(part),
            "wer": wer(part, [h.texts[0] for h in part]),
            "oracle_wer": wer(part, nearest),
            "with_picture": wer(part, [chosen[i] for i in places]),
            "texts_distinct_in_words": float(np.mean([len({to_words(t) for t in h.texts}) for h in part])),
        }
    return found


def choose(heard: list[Heard], cosines: list[NDArray[np.float64]], alpha: float) -> list[str]:
    """The best text of every utterance at `alpha`."""
    return [
        h.texts[int(np.argmax(fuse(h.scores, seen, alpha).fused))]
        for h, seen in zip(heard, cosines, strict=True)
    ]


def see(judge: Judge, heard: list[Heard], order: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Cosines of every list with the picture of utterance `order[i]`."""
    pictures = judge.pictures([h.picture for h in heard])[order]
    texts = judge.texts([text for h in heard for text in h.texts])
    parts = np.split(texts, np.cumsum([len(h.texts) for h in heard])[:-1])
    return [part @ picture for part, picture in zip(parts, pictures, strict=True)]


def measure(judge: Judge, dev: list[Heard], test: list[Heard], seed: int) -> dict[str, Any]:
    """α from dev; lists, rescoring and retrieval of both splits."""
    own = {name: see(judge, heard, np.arange(len(heard))) for name, heard in (("dev", dev), ("test", test))}
    sweep = [wer(dev, choose(dev, own["dev"], float(alpha))) for alpha in ALPHAS]
    alpha = float(ALPHAS[int(np.argmin(sweep))])
    found: dict[str, Any] = {"alpha": alpha, "dev_sweep": [round(value, 4) for value in sweep]}
    for name, heard in (("dev", dev), ("test", test)):
        order = np.random.default_rng(seed).permutation(len(heard))
        others = choose(heard, see(judge, heard, order), alpha)
        found[name] = describe_lists(heard, choose(heard, own[name], alpha))
        found[name]["all"]["with_other_picture"] = wer(heard, others)
        references = judge.texts([h.row["reference"] for h in heard])
        nearest = (judge.pictures([h.picture for h in heard]) @ references.T).argmax(1)
        found[name]["all"]["retrieval_at_1"] = float(np.mean(nearest == np.arange(len(heard))))
    return found


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pocket.evaluate_described", description=__doc__)
    parser.add_argument("--whisper", type=Path, required=True, help="CTranslate2 folder, English only")
    parser.add_argument("--clip", type=Path, default=HERE / "models" / "clip_described")
    parser.add_argument("--data", type=Path, default=HERE / "described", help="folder of dev/ and test/")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7, help="of the shuffled pictures")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    torch.set_num_threads(args.threads)
    dev, test = (
        recognise(args.whisper, args.data / half / "manifest.jsonl", args.threads) for half in ("dev", "test")
    )
    text = json.dumps(measure(Judge(args.clip), dev, test, args.seed), indent=1)
    sys.stdout.write(text + "\n")
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded("python -m bench.pocket.evaluate_described", lambda: run(parse_args())))
