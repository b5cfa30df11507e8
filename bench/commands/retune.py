"""`python -m bench retune`: tune on the corrections that a server kept, and propose what is better."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench.commands.tune import add_tuning_arguments, tune_options
from bench.corrections.effort import effort
from bench.corrections.retune import SCHEMA, retune
from bench.manifest import Utterance, read_manifest
from bench.measure.system_info import system_info
from bench.nbest.corpus import write_nbest
from bench.nbest.file import NBestFile, read_nbest
from bench.nbest.recognition import header_of
from runtime.commands.console import EXIT_DONE
from runtime.commands.options import add_server_pipeline_arguments, make_pipeline
from runtime.errors import ManifestError, NBestFileError, SettingsError
from runtime.files.write_whole import write_json
from runtime.pipeline import MultimodalASR
from runtime.server.correction_store import MANIFEST, REJECTED, Row, read_rows

FUSION: Final = "fusion.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--corrections", required=True, type=Path, metavar="DIR", help="folder of `serve --corrections`"
    )
    parser.add_argument("--speaker", metavar="NAME", help="tune for one speaker (default: for all)")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="for nbest.jsonl, retune.json and, where it is better, fusion.json",
    )
    add_tuning_arguments(parser)
    add_server_pipeline_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Recognise the corrections, tune on them, and write what is proposed."""
    place = args.output / FUSION
    if args.fusion is not None and Path(args.fusion).resolve() == place.resolve():
        raise SettingsError(f"--fusion is {args.fusion}, where a proposal would go; give another --output")
    utterances, rows, rejected = _corrections(args.corrections, args.speaker)
    asr = make_pipeline(args, alpha=args.alpha)
    current = replace(asr.fusion, alpha=asr.alpha)
    options = replace(tune_options(args), asr_score=current.asr_score)
    retuning = retune(_lists(asr, utterances, args.output / "nbest.jsonl"), current, options)
    cost = effort([*rows, *rejected])
    elsewhere = sum(row.get("bundle", {}).get("sha256") != asr.bundle.digest for row in rows)
    report = {
        "schema": SCHEMA,
        "corrections": len(rows),
        "rejected": len(rejected),
        "recognised_by_another_bundle": elsewhere,
        **retuning.to_dict(),
        "effort": cost,
        "system": system_info(),
    }
    if retuning.proposal is None:
        place.unlink(missing_ok=True)  # of an earlier run, whose corrections were others
    else:
        retuning.proposal.save(place)
    write_json(args.output / "retune.json", report)
    for line in (
        *retuning.lines(),
        *([] if retuning.proposal is None else [f"use them with --fusion {place}"]),
        "",
        *_effort_lines(cost),
        *_other_bundle_lines(elsewhere, len(rows)),
    ):
        print(line)
    return EXIT_DONE


def _corrections(folder: Path, speaker: str | None) -> tuple[list[Utterance], list[Row], list[Row]]:
    """Read both manifests; the first of them as utterances as well."""
    rows, rejected = (
        [row for row in read_rows(folder / name) if speaker in (None, row["speaker"])]
        for name in (MANIFEST, REJECTED)
    )
    if not rows:
        whose = f" of speaker {speaker!r}" if speaker else ""
        raise ManifestError(
            f"{folder}: no corrections{whose}; expected the folder that `python -m runtime serve "
            "--corrections` filled"
        )
    ids = {row["id"] for row in rows}
    return [u for u in read_manifest(folder / MANIFEST) if u.id in ids], rows, rejected


def _lists(asr: MultimodalASR, utterances: Sequence[Utterance], path: Path) -> NBestFile:
    """Recognise what the n-best file of an earlier run does not hold; what was removed since leaves it."""
    return write_nbest(asr, utterances, path, resume=_is_of(asr, path), drop_others=True)


def _is_of(asr: MultimodalASR, path: Path) -> bool:
    """Whether this bundle and these settings would make the lists of an n-best file again."""
    try:
        header = read_nbest(path).header
    except NBestFileError:
        return False
    return json.dumps(header.to_dict()) == json.dumps(header_of(asr).to_dict())


def _effort_lines(cost: dict[str, Any]) -> Iterator[str]:
    yield f"{'effort':<26}{'utterances':>11}{'taps':>8}{'seconds':>9}"
    for how, row in cost["by_how"].items():
        yield f"{how:<26}{row['utterances']:>11}{_number(row['taps']):>8}{_number(row['seconds']):>9}"
    yield f"{'per correct sentence':<37}{'taps':>8}{'seconds':>9}  first  in list  mean rank of the right"
    for name, row in cost["per_correct_sentence"].items():
        ranks = ""
        if "right_first" in row:
            ranks = f"{row['right_first']:>7}{row['right_in_list']:>9}{_number(row['mean_rank']):>11}"
        title = {"without_picture": "without picture (estimated)"}.get(name, name.replace("_", " "))
        costs = f"{_number(row['taps']):>8}{_number(row['seconds']):>9}"
        yield f"{title:<27}{row['utterances']:>10}{costs}{ranks}"


def _other_bundle_lines(elsewhere: int, count: int) -> Iterator[str]:
    if elsewhere:
        yield (
            f"{elsewhere} of {count} corrections were shown lists of another bundle: the effort is that of "
            "its lists, the error rates are of this one's."
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
