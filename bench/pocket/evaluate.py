"""Measure the pocket checkpoints with plain PyTorch: `python -m bench.pocket.evaluate`.

Prints WER, oracle and anti-oracle WER of the reference 5-best lists by group, image-to-caption retrieval, and
what image rescoring gains on the test split with α from the dev split, also with the pictures shuffled.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile as sf
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from bench.pocket.speech import SAMPLE_RATE
from bench.text.normalizers import NOTEBOOK, normalizer
from bench.text.scoring import count_word_errors
from runtime.commands.console import run_guarded
from runtime.errors import ManifestError
from runtime.fusion import to_caption_style

HERE: Final = Path(__file__).parent
ALPHAS: Final = np.round(np.arange(0.0, 1.05, 0.05), 2)
BATCH: Final = 16
CLEAN: Final = normalizer(NOTEBOOK).apply  # the corpus has neither case nor punctuation


@dataclass(frozen=True)
class Item:
    """One utterance with its n-best list, best first."""

    reference: str
    group: str
    texts: list[str]
    scores: NDArray[np.float64]  # (n,)
    image: NDArray[np.float32]  # (projection width,), unit norm


def read_manifest(path: Path) -> list[dict[str, str]]:
    """The rows of a manifest.

    Raises:
        ManifestError: there is no such file.
    """
    if not path.is_file():
        raise ManifestError(f"manifest {path} is not there; make it with python -m bench.pocket.corpus")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Checkpoints:
    """Both checkpoints, in float32."""

    def __init__(self, whisper: Path, clip: Path) -> None:
        from transformers import CLIPModel, CLIPProcessor, WhisperForConditionalGeneration, WhisperProcessor

        self.asr_processor: Any = WhisperProcessor.from_pretrained(whisper)
        self.asr: Any = WhisperForConditionalGeneration.from_pretrained(whisper, dtype=torch.float32).eval()
        self.clip_processor: Any = CLIPProcessor.from_pretrained(clip)
        self.clip: Any = CLIPModel.from_pretrained(clip, dtype=torch.float32).eval()

    @torch.no_grad()
    def n_best(
        self, waves: list[NDArray[np.float32]], beams: int = 5
    ) -> list[tuple[list[str], NDArray[np.float64]]]:
        """The reference n-best of every waveform: distinct texts and their scores, best first."""
        from transformers.generation import GenerationMixin

        settings = self.asr.generation_config
        features = self.asr_processor(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        prompt = torch.tensor(
            [[settings.decoder_start_token_id, settings.no_timestamps_token_id]] * len(waves)
        )
        out = GenerationMixin.generate(
            self.asr, features, decoder_input_ids=prompt, num_beams=beams, num_return_sequences=beams,
            max_new_tokens=self.asr.config.max_target_positions - 2, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
        decoded = self.asr_processor.batch_decode(out.sequences, skip_special_tokens=True)
        lists = []
        for i in range(len(waves)):
            kept: dict[str, float] = {}
            for j in range(i * beams, (i + 1) * beams):
                kept.setdefault(decoded[j].strip().lower(), float(out.sequences_scores[j]))
            ranked = sorted(kept.items(), key=lambda entry: -entry[1])
            lists.append(([text for text, _ in ranked], np.array([score for _, score in ranked])))
        return lists

    @torch.no_grad()
    def embed_images(self, pictures: list[Image.Image]) -> NDArray[np.float32]:
        """Unit-norm embeddings, (n, projection width)."""
        pixels = self.clip_processor(images=pictures, return_tensors="pt").pixel_values
        found = self.clip.get_image_features(pixel_values=pixels)
        return np.asarray(torch.nn.functional.normalize(found, dim=-1).numpy())

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit-norm embeddings, (n, projection width)."""
        tokens = self.clip_processor(text=texts, padding=True, truncation=True, return_tensors="pt")
        found = self.clip.get_text_features(**tokens)
        return np.asarray(torch.nn.functional.normalize(found, dim=-1).numpy())


def load_items(checkpoints: Checkpoints, manifest: Path) -> list[Item]:
    """Run both models over a manifest."""
    rows = read_manifest(manifest)
    items = []
    for start in tqdm(range(0, len(rows), BATCH), desc=manifest.parent.name, disable=not sys.stderr.isatty()):
        part = rows[start : start + BATCH]
        lists = checkpoints.n_best(
            [sf.read(manifest.parent / row["audio"], dtype="float32")[0] for row in part]
        )
        images = checkpoints.embed_images(_pictures(manifest, part))
        for row, (texts, scores), image in zip(part, lists, images, strict=True):
            items.append(Item(row["reference"], row["group"], texts, scores, image))
    return items


def _pictures(manifest: Path, rows: list[dict[str, str]]) -> list[Image.Image]:
    return [Image.open(manifest.parent / row["image"]).convert("RGB") for row in rows]


def _softmax(values: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum(), np.float64)


def clip_probabilities(checkpoints: Checkpoints, items: list[Item], images: list[NDArray[np.float32]]
                       ) -> list[NDArray[np.float64]]:  # fmt: skip
    """For every utterance the softmax of 100 · cosine over its hypotheses."""
    flat = [to_caption_style(text) for item in items for text in item.texts]
    embedded = np.split(checkpoints.embed_texts(flat), np.cumsum([len(item.texts) for item in items])[:-1])
    return [_softmax(100.0 * texts @ image) for texts, image in zip(embedded, images, strict=True)]


def wer(items: list[Item], chosen: list[str]) -> float:
    """Corpus word error rate of the chosen texts, scored as by the notebook."""
    return count_word_errors([CLEAN(item.reference) for item in items], [CLEAN(text) for text in chosen]).rate


def choose(items: list[Item], clip: list[NDArray[np.float64]], alpha: float) -> list[str]:
    """The best text of every utterance at `alpha`."""
    return [
        item.texts[int(np.argmax((1 - alpha) * _softmax(item.scores) + alpha * seen))]
        for item, seen in zip(items, clip, strict=True)
    ]


def extreme(items: list[Item], best: bool) -> list[str]:
    """The hypothesis of every list with the fewest (or most) word errors."""
    pick = min if best else max
    return [pick(item.texts, key=lambda text: wer([item], [text])) for item in items]


def _of_group(items: list[Item], name: str) -> list[int]:
    return [i for i, item in enumerate(items) if name in {"all", item.group}]


def describe_lists(items: list[Item]) -> dict[str, Any]:
    """WER, oracle and anti-oracle WER by group and the number of distinct hypotheses."""
    found: dict[str, Any] = {}
    for name in ["all", *dict.fromkeys(item.group for item in items)]:
        part = [items[i] for i in _of_group(items, name)]
        found[name] = {
            "utterances": len(part),
            "wer": wer(part, [item.texts[0] for item in part]),
            "oracle_wer": wer(part, extreme(part, best=True)),
            "anti_oracle_wer": wer(part, extreme(part, best=False)),
        }
    found["three_or_more"] = float(np.mean([len(item.texts) >= 3 for item in items]))
    return found


def retrieval(checkpoints: Checkpoints, references: list[str], images: NDArray[np.float32]) -> float:
    """How often the caption nearest to a picture is its own.

    Args:
        checkpoints: CLIP.
        references: One caption a picture.
        images: Unit-norm embeddings, (n, projection width).
    """
    texts = checkpoints.embed_texts([to_caption_style(reference) for reference in references])
    return float(np.mean((images @ texts.T).argmax(1) == np.arange(len(references))))


def rescoring(checkpoints: Checkpoints, dev: list[Item], test: list[Item], seed: int) -> dict[str, Any]:
    """α from dev, the gain on test, and the same with every picture given to another utterance."""
    found: dict[str, Any] = {}
    rng = np.random.default_rng(seed)
    for name in ("pictures", "shuffled"):
        clips = []
        for items in (dev, test):
            order = np.arange(len(items)) if name == "pictures" else rng.permutation(len(items))
            clips.append(clip_probabilities(checkpoints, items, [items[i].image for i in order]))
        sweep = [wer(dev, choose(dev, clips[0], float(alpha))) for alpha in ALPHAS]
        if name == "pictures":
            found["alpha"] = float(ALPHAS[int(np.argmin(sweep))])
        alpha = found["alpha"]
        before, after = wer(test, choose(test, clips[1], 0.0)), wer(test, choose(test, clips[1], alpha))
        found[name] = {
            "dev_sweep": [round(value, 4) for value in sweep],
            "test_sweep": [round(wer(test, choose(test, clips[1], float(a))), 4) for a in ALPHAS],
            "before": before, "after": after, "relative_reduction": 1 - after / before,
        }  # fmt: skip
    return found


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pocket.evaluate", description=__doc__)
    parser.add_argument("--whisper", type=Path, default=HERE / "models" / "whisper")
    parser.add_argument("--clip", type=Path, default=HERE / "models" / "clip")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder of dev/ and test/")
    parser.add_argument("--clean", type=Path, help="manifest of undegraded speech: print its WER only")
    parser.add_argument("--retrieval", type=Path, metavar="MANIFEST", help="print its retrieval only")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7, help="of the shuffled pictures")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    torch.set_num_threads(args.threads)
    checkpoints = Checkpoints(args.whisper, args.clip)
    if args.retrieval:
        rows = read_manifest(args.retrieval)
        images = checkpoints.embed_images(_pictures(args.retrieval, rows))
        found: dict[str, Any] = {
            "retrieval_at_1": retrieval(checkpoints, [row["reference"] for row in rows], images)
        }
    elif args.clean:
        found = {"clean": describe_lists(load_items(checkpoints, args.clean))}
    else:
        dev, test = (
            load_items(checkpoints, args.data / split / "manifest.jsonl") for split in ("dev", "test")
        )
        found = {
            "dev": describe_lists(dev),
            "test": describe_lists(test),
            "retrieval_at_1": retrieval(
                checkpoints, [item.reference for item in test], np.stack([item.image for item in test])
            ),
            "rescoring": rescoring(checkpoints, dev, test, args.seed),
        }
    found = {"normalizer": NOTEBOOK} | found
    text = json.dumps(found, indent=1)
    sys.stdout.write(text + "\n")
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded("python -m bench.pocket.evaluate", lambda: run(parse_args())))
