"""`python -m bench wer`: word and character error rate of a bundle on a manifest, at one alpha."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from bench.commands.latency import write_report
from bench.manifest import read_manifest
from bench.measure.system_info import system_info
from bench.nbest.corpus import write_nbest
from bench.nbest.records import NBestFile, NBestUtterance
from bench.nbest.table import log_probability_sum
from bench.text.normalizers import DEFAULT_NORMALIZER, NORMALIZER_NAMES, NOTEBOOK, Normalizer, normalizer
from bench.text.scoring import count_character_errors, count_word_errors
from runtime.commands.console import EXIT_DONE
from runtime.commands.options import add_alpha_argument, add_pipeline_arguments, make_pipeline
from runtime.fusion import checked_alpha, rank
from runtime.fusion_settings import FusionSettings

SCHEMA: Final = "earsight.wer/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_pipeline_arguments(parser)
    parser.add_argument("--data", required=True, type=Path, metavar="MANIFEST", help="JSON Lines or CSV")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="for nbest.jsonl and wer.json"
    )
    add_alpha_argument(parser)
    parser.add_argument(
        "--normalizer",
        choices=NORMALIZER_NAMES,
        default=DEFAULT_NORMALIZER,
        help="for WER; the notebook's stands beside it (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Recognise, score, write `wer.json` and print a table."""
    if args.alpha is not None:
        checked_alpha(args.alpha)
    scorer = normalizer(args.normalizer, args.language)
    utterances = read_manifest(args.data)
    asr = make_pipeline(args, alpha=args.alpha)
    fusion = replace(asr.fusion, alpha=asr.alpha)
    nbest = write_nbest(asr, utterances, args.output / "nbest.jsonl")
    report = {
        "schema": SCHEMA,
        "alpha": fusion.alpha,
        "fusion": asdict(fusion),
        "num_samples": len(nbest.utterances),
        "bundle": dict(nbest.header.bundle),
        "settings": dict(nbest.header.settings),
        "system": system_info(),
        **_both_rates(nbest, fusion, scorer),
        "notebook": _both_rates(nbest, fusion, normalizer(NOTEBOOK)),
    }
    write_report(report, args.output, "wer.json")
    print(_table(report, scorer))
    return EXIT_DONE


def _both_rates(nbest: NBestFile, fusion: FusionSettings, scorer: Normalizer) -> dict[str, Any]:
    """Return the error rates without and with the picture."""
    return {
        "normalizer": scorer.to_dict(),
        "speech_only": error_rates(nbest, replace(fusion, alpha=0.0), scorer),
        "with_picture": error_rates(nbest, fusion, scorer),
    }


def _table(report: dict[str, Any], scorer: Normalizer) -> str:
    notebook = report["notebook"]
    lines = [
        f"WER and CER: texts are {scorer.description}.",
        f"notebook: texts are {notebook['normalizer']['description']}.",
        "",
        f"{'':<24}{'WER':>8}{'CER':>8}{'notebook WER':>15}{'CER':>8}",
    ]
    named = (("speech only", "speech_only"), (f"with picture, α = {report['alpha']:g}", "with_picture"))
    for name, key in named:
        rates, beside = report[key], notebook[key]
        lines.append(
            f"{name:<24}{rates['wer']:>8.1%}{rates['cer']:>8.1%}{beside['wer']:>15.1%}{beside['cer']:>8.1%}"
        )
    return "\n".join(lines)


def error_rates(nbest: NBestFile, fusion: FusionSettings, scorer: Normalizer) -> dict[str, Any]:
    """Return corpus WER and CER of the texts that the runtime would choose."""
    clean = scorer.apply
    references = [clean(utterance.reference) for utterance in nbest.utterances]
    texts = [clean(chosen_text(utterance, fusion)) for utterance in nbest.utterances]
    words, characters = count_word_errors(references, texts), count_character_errors(references, texts)
    return {
        "wer": words.rate,
        "cer": characters.rate,
        "substitutions": int(words.substitutions.sum()),
        "deletions": int(words.deletions.sum()),
        "insertions": int(words.insertions.sum()),
        "reference_words": int(words.reference_length.sum()),
    }


def chosen_text(utterance: NBestUtterance, fusion: FusionSettings) -> str:
    """Return the hypothesis with the highest fused score; the best by ASR score without a picture."""
    if not utterance.hypotheses:
        return ""
    if not utterance.has_image:
        return utterance.hypotheses[0].text
    scores = [
        log_probability_sum(utterance, hypothesis) if fusion.asr_score == "sum" else hypothesis.score
        for hypothesis in utterance.hypotheses
    ]
    cosines = [float(hypothesis.clip_score or 0.0) for hypothesis in utterance.hypotheses]
    return utterance.hypotheses[int(rank(fusion.fuse(scores, cosines, fusion.alpha).fused)[0])].text
