"""Train the pocket Whisper: `python -m bench.pocket.train_whisper --pool POOL --output DIR --work DIR`.

`--pool` is the folder of `python -m bench.pocket.pool`. A `WhisperForConditionalGeneration` with four encoder
and two decoder layers of width 128. Besides the decoder's loss the encoder is trained by CTC (a head that is
dropped in the end) to spell the phonemes: that lines up sound and text within minutes. The first steps see
clean and mildly degraded speech only. Goes on from `--work` when started again.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from bench.pocket.phonemes import lexicon
from bench.pocket.pool import Utterance, load_shard
from bench.pocket.training import Session, add_arguments, make_tokenizer, run_trainer
from bench.pocket.whisper_model import FRAMES, WIDTH, encode, make_model, save_model
from bench.pocket.whisper_tokenizer import (
    END,
    NO_SPEECH,
    NO_TIMESTAMPS,
    START,
    make_whisper_tokenizer,
    timestamp,
)
from runtime.errors import SettingsError

MERGES: Final = 160
TIMESTAMPED: Final = 0.08  # share of examples with timestamps
IGNORED: Final = -100
EASY: Final = ("clean", "mild")  # groups of the first steps


class Labels:
    """Turns texts into decoder inputs and targets."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        ids = tokenizer.convert_tokens_to_ids
        self.start, self.end = ids(START), ids(END)
        self.no_speech, self.no_timestamps, self.zero = (
            ids(NO_SPEECH),
            ids(NO_TIMESTAMPS),
            ids(timestamp(0.0)),
        )
        self.lexicon = lexicon()
        inventory = sorted({phoneme for sounds in self.lexicon.values() for phoneme in sounds})
        self.phoneme_ids = {phoneme: i + 1 for i, phoneme in enumerate(inventory)}  # 0 is CTC's blank

    @property
    def ctc_classes(self) -> int:
        """Phonemes and the blank."""
        return len(self.phoneme_ids) + 1

    def phonemes(self, utterance: Utterance) -> list[int]:
        """What the words of the caption sound like."""
        return [self.phoneme_ids[p] for word in utterance.text.split() for p in self.lexicon[word]]

    def text(self, utterance: Utterance) -> list[int]:
        """Tokens of the text alone, with the leading space that Whisper's texts have."""
        if not utterance.text:
            return []
        tokens: list[int] = self.tokenizer(f" {utterance.text}", add_special_tokens=False).input_ids
        return tokens

    def sequences(self, utterance: Utterance, timestamps: bool) -> tuple[list[int], list[int]]:
        """Decoder input and targets; without speech the first target is <|nospeech|>."""
        text = self.text(utterance)
        if timestamps and text:
            stop = self.tokenizer.convert_tokens_to_ids(timestamp(utterance.seconds))
            said = [self.zero, *text, stop]
            return [self.start, *said], [*said, self.end]
        first = self.no_timestamps if text else self.no_speech
        return [self.start, self.no_timestamps, *text], [first, *text, self.end]


def batches(utterances: list[Utterance], size: int, rng: np.random.Generator) -> Iterator[list[Utterance]]:
    """One pass in random order, batches of about equal lengths."""
    order = rng.permutation(len(utterances))
    for start in range(0, len(order), size * 16):
        block = sorted(order[start : start + size * 16], key=lambda i: utterances[i].frames.shape[1])
        pieces = [block[i : i + size] for i in range(0, len(block) - size + 1, size)]
        for place in rng.permutation(len(pieces)):
            yield [utterances[i] for i in pieces[place]]


def stack(batch: list[Utterance], rng: np.random.Generator) -> Tensor:
    """Padded features, (N, mel bins, frames): as long as the longest clip or the window; masked a little."""
    longest = max(utterance.frames.shape[1] for utterance in batch)
    frames = (
        FRAMES if rng.random() < 0.12 else min(FRAMES, 2 * ((longest + int(rng.integers(0, 60)) + 1) // 2))
    )
    features = np.empty((len(batch), batch[0].frames.shape[0], frames), np.float32)
    for row, utterance in zip(features, batch, strict=True):
        length = min(frames, utterance.frames.shape[1])
        row[:] = utterance.frames[0, -1]  # the value of padding
        row[:, :length] = utterance.frames[:, :length]
        for _ in range(int(rng.integers(0, 3))):
            low, count = int(rng.integers(row.shape[0])), int(rng.integers(1, 8))
            row[low : low + count] = row.mean()
        for _ in range(int(rng.integers(0, 3))):
            first, count = int(rng.integers(length)), int(rng.integers(1, 12))
            row[:, first : first + count] = row.mean()
    return torch.from_numpy(features)


def losses(model: Any, head: nn.Module, labels: Labels, batch: list[Utterance], rng: np.random.Generator
           ) -> dict[str, Tensor]:  # fmt: skip
    """Decoder loss, CTC loss and the share of decoder tokens that are right."""
    encoded = encode(model.model.encoder, stack(batch, rng))
    pairs = [labels.sequences(u, bool(rng.random() < TIMESTAMPED)) for u in batch]
    width = max(len(given) for given, _ in pairs)
    inputs = torch.tensor([given + [labels.end] * (width - len(given)) for given, _ in pairs])
    targets = torch.tensor([wanted + [IGNORED] * (width - len(wanted)) for _, wanted in pairs])
    hidden = model.model.decoder(input_ids=inputs, encoder_hidden_states=encoded).last_hidden_state
    logits = model.proj_out(hidden).float()
    sounds = [labels.phonemes(utterance) for utterance in batch]
    log_probs = head(encoded).float().log_softmax(-1).transpose(0, 1)
    ctc = nn.functional.ctc_loss(
        log_probs, torch.tensor([phoneme for spelt in sounds for phoneme in spelt]),
        torch.full((len(batch),), log_probs.shape[0]), torch.tensor([len(spelt) for spelt in sounds]),
        zero_infinity=True,
    )  # fmt: skip
    kept = targets != IGNORED
    return {
        "decoder": nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=0.05
        ),
        "ctc": ctc,
        "right": (logits.argmax(-1)[kept] == targets[kept]).float().mean().detach(),
    }


def load_pool(folder: Path, known: dict[str, list[Utterance]]) -> list[Utterance]:
    """All utterances of the shards that exist by now.

    Raises:
        SettingsError: there is no shard.
    """
    for path in sorted(folder.glob("shard-*.npz")):
        if path.name not in known:
            known[path.name] = load_shard(path)
    if not known:
        raise SettingsError(f"--pool {folder} has no shard-*.npz; make some with python -m bench.pocket.pool")
    return [utterance for shard in known.values() for utterance in shard]


def train(args: argparse.Namespace) -> None:
    """Train to `args.steps` and write the checkpoint, also at every save."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer(make_whisper_tokenizer, MERGES)
    labels = Labels(tokenizer)
    model = make_model(tokenizer).train()
    head = nn.Linear(WIDTH, labels.ctc_classes)
    session = Session("whisper", args, model, head, 300, lambda: save_model(model, tokenizer, args.output))
    known: dict[str, list[Utterance]] = {}
    while not session.is_done():
        rng = np.random.default_rng([args.seed, 300, session.step])
        pool = load_pool(args.pool, known)
        easy = session.step < args.easy_steps
        for batch in batches([u for u in pool if not easy or u.group in EASY], args.batch, rng):
            if easy and session.step == args.easy_steps:
                break
            with torch.autocast("cpu", torch.bfloat16):
                parts = losses(model, head, labels, batch, rng)
            ctc_weight = 1.0 if session.step < 0.4 * args.steps else 0.3
            session.learn(parts["decoder"] + ctc_weight * parts["ctc"], parts)
            if session.is_done():
                break
    session.finish(utterances=sum(len(shard) for shard in known.values()))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pocket.train_whisper", description=__doc__)
    add_arguments(parser, steps=3000, batch=32, rate=1.5e-3)
    parser.add_argument("--pool", type=Path, required=True, help="folder of training shards")
    parser.add_argument("--easy-steps", type=int, default=500, help="first steps, clean and mild speech only")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_trainer("python -m bench.pocket.train_whisper", train, parse_args()))
