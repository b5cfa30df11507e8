"""The human clips of the repository, heard by a recogniser alone: there are no pictures of them.

Ten recordings of people reading are no test set. They show that the recogniser hears people at all, beside a
corpus whose speech is synthetic.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.manifest import read_manifest
from bench.nbest.corpus import write_nbest
from bench.nbest.records import NBestHypothesis, NBestUtterance
from bench.nbest.table import NBestTable, build_table
from bench.text.normalizers import DEFAULT_NORMALIZER, normalizer
from bench.text.scoring import error_rate
from runtime.bundle.json_files import parse_json
from runtime.errors import ManifestError
from runtime.pipeline import MultimodalASR

ROOT: Final = Path(__file__).parents[2]
MANIFEST: Final = Path(__file__).parents[1] / "pocket" / "human" / "manifest.jsonl"
NOTICE: Final = ROOT / "NOTICE"
NOTICE_ENTRY: Final = "human/*.flac"


@dataclass(frozen=True, slots=True)
class HeardClip:
    """One clip.

    Attributes:
        utterance: Reference and n-best list.
        source: Where the recording comes from.
        licence: Of the recording.
        words: Of the reference, as scored.
        errors: Of every hypothesis, in the order of the list; of the empty text where nothing was heard.
    """

    utterance: NBestUtterance
    source: str
    licence: str
    words: int
    errors: tuple[int, ...]

    @property
    def hypotheses(self) -> list[tuple[NBestHypothesis, int]]:
        """Every hypothesis with its errors, best first."""
        return list(zip(self.utterance.hypotheses, self.errors, strict=False))


@dataclass(frozen=True, slots=True)
class HeardClips:
    """All of them.

    Attributes:
        clips: One by one.
        normalizer: Name of the normaliser that `wer` and all counts of errors come from.
        wer: Of the first hypotheses.
        words_wer: The same by the normaliser `words`.
        attribution: Whose recordings these are.
    """

    clips: tuple[HeardClip, ...]
    normalizer: str
    wer: float
    words_wer: float
    attribution: str

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON; the lists are in the n-best file."""
        return {
            "utterances": len(self.clips),
            "normalizer": self.normalizer,
            "wer": self.wer,
            "words_wer": self.words_wer,
            "attribution": self.attribution,
        }

    def lines(self) -> Iterator[str]:
        """Yield the clips for people at a terminal."""
        yield (
            f"{len(self.clips)} clips of people reading, without pictures: WER {self.wer:.2%} "
            f"(normalizer {self.normalizer}), {self.words_wer:.2%} ({DEFAULT_NORMALIZER})"
        )
        for clip in self.clips:
            yield f"  {clip.utterance.id} ({clip.source}, {clip.licence}), {clip.words} words"
            yield f"    said    {clip.utterance.reference}"
            for hypothesis, errors in clip.hypotheses:
                yield f"    {hypothesis.score:7.3f} {errors:2d} errors  {hypothesis.text}"
            if not clip.hypotheses:
                yield "    nothing was heard"
        yield f"  {self.attribution}"


def hear(asr: MultimodalASR, output: Path, normalizer_name: str) -> HeardClips:
    """Recognise the clips.

    Args:
        asr: The pipeline.
        output: The n-best file.
        normalizer_name: What counts as an error.

    Raises:
        ManifestError: A clip cannot be used.
        OutputError: The file cannot be written.
    """
    utterances = write_nbest(asr, read_manifest(MANIFEST), output, resume=False).utterances
    table = build_table(utterances, normalizer(normalizer_name))
    origins = _origins()
    clips = tuple(
        HeardClip(
            utterance,
            *origins[utterance.id],
            int(table.reference_words[row]),
            tuple(table.errors[table.first[row] : table.first[row + 1]].tolist()),
        )
        for row, utterance in enumerate(utterances)
    )
    words_wer = _first_wer(build_table(utterances, normalizer(DEFAULT_NORMALIZER)))
    return HeardClips(clips, normalizer_name, _first_wer(table), words_wer, attribution())


def attribution() -> str:
    """Return what NOTICE says of the clips, in one line.

    Raises:
        ManifestError: It says nothing; their licences want it to.
    """
    entries = NOTICE.read_text(encoding="utf-8").split("\n\n") if NOTICE.is_file() else []
    for entry in entries:
        if entry.startswith(NOTICE_ENTRY):
            return " ".join(entry.removeprefix(NOTICE_ENTRY).split())
    raise ManifestError(f"{NOTICE} has no entry for {NOTICE_ENTRY}, which the clips must be shown with")


def _first_wer(table: NBestTable) -> float:
    return error_rate(int(table.errors[table.first[:-1]].sum()), table.total_words)


def _origins() -> dict[str, tuple[str, str]]:
    """Return source and licence of every clip by its id."""
    rows = [parse_json(line) for line in MANIFEST.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: (row["source"], row["licence"]) for row in rows}
