"""The models of a side-by-side run: random checkpoints, the bundle made of them, the peers' own forms."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.base import PeerError, Workload
from bench.peers.driver import CONVERSION_SECONDS, LOG, Worker
from runtime.bundle.bundle import Bundle
from runtime.errors import CheckpointError, SettingsError
from runtime.files.write_whole import write_whole_folder

DEFAULT_CLIP = "clip-vit-base-patch32"
DEFAULT_WHISPER = "whisper-tiny"
PACKAGED = "checkpoint"  # folder of a checkpoint that was put together from packages


@dataclass(frozen=True, slots=True)
class ModelFolders:
    """Where the models of one architecture lie.

    Attributes:
        whisper: Whisper checkpoint in Hugging Face format.
        clip: CLIP checkpoint in Hugging Face format.
        bundle: The bundle exported from both.
        root: Folder of all, converted peers included.
        ctranslate2: The same Whisper in CTranslate2's format, where that is what there was.
    """

    whisper: Path
    clip: Path
    bundle: Path
    root: Path
    ctranslate2: Path | None = None

    def source(self, system: str, kind: str) -> Path:
        """Return what a system is converted from."""
        if system.startswith("earsight"):
            return self.bundle
        if system.startswith("ctranslate2") and self.ctranslate2:
            return self.ctranslate2
        return self.clip if kind == "text" else self.whisper


def prepare_models(
    architecture: str, precisions: list[str], models: Path, seed: int = 0, *, fixed_steps: bool = False
) -> ModelFolders:
    """Make the checkpoints and the bundle of an architecture where they are missing or not up to date.

    Args:
        architecture: A Whisper or a CLIP architecture (names that start with "clip-"); the other half of
            the bundle is the smallest there is.
        precisions: Of the bundle.
        models: Folder that holds one folder for each architecture.
        seed: Of the random weights.
        fixed_steps: Whether the bundle also holds the decoder in fixed shapes.

    Raises:
        PeerError: The architecture is unknown, or the export failed.
    """
    is_clip = architecture.startswith("clip-")
    root = models / f"{architecture}-seed{seed}"
    folders = ModelFolders(root / "whisper", root / "clip", root / "bundle", root)
    root.mkdir(parents=True, exist_ok=True)
    _make_checkpoint("whisper", DEFAULT_WHISPER if is_clip else architecture, folders.whisper, seed)
    _make_checkpoint("clip", architecture if is_clip else DEFAULT_CLIP, folders.clip, seed)
    arguments = [
        "--whisper",
        str(folders.whisper),
        "--clip",
        str(folders.clip),
        "--output",
        str(folders.bundle),
    ]
    arguments += ["--fixed-steps"] if fixed_steps else []
    command = [sys.executable, "-m", "export", *arguments, "--precision", ",".join(precisions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=CONVERSION_SECONDS)
    (root / LOG).open("a", encoding="utf-8").write(done.stdout + done.stderr)
    if done.returncode != 0:
        last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise PeerError(f"`{' '.join(command[1:])}` ended with status {done.returncode}: {last}")
    return folders


def prepare_peers(
    bundle: Bundle, checkpoint: Path | None, peers: Sequence[str], models: Path
) -> ModelFolders:
    """Find the checkpoint that a bundle was made of, in the forms that the peers read.

    Args:
        bundle: Which one.
        checkpoint: Its Whisper, a folder of transformers or CTranslate2; None for the package that holds it.
        peers: Names without precision.
        models: Folder that keeps what is converted.

    Returns:
        The folders; there is no CLIP among them.

    Raises:
        SettingsError: No package holds the checkpoint, or `checkpoint` is another one than the bundle's.
        WeightsUnavailableError: The package is not installed.
        PeerError: A conversion failed.
    """
    from export.sources.packages import assemble, known_model
    from export.sources.source import Source

    stated = bundle.manifest["sources"]["whisper"]
    digest = str(stated["fingerprint"])
    root = models / f"{bundle.name}-{digest.rpartition(':')[2][:12]}"
    source = checkpoint or root / PACKAGED
    if checkpoint is None and not source.is_dir():
        model = known_model(str(stated["id"]))
        with write_whole_folder(source) as beside:
            assemble(model, beside)
    found = Source(str(source)).fingerprint()
    if found != digest:
        raise SettingsError(
            f"{source} is not the checkpoint of {bundle.folder} (fingerprint {found}, the bundle states "
            f"{digest}): the peers would run other weights; name its folder with --checkpoint"
        )
    is_ctranslate2 = (source / "model.bin").is_file()
    whisper = source
    if is_ctranslate2 and set(peers) - {"ctranslate2"}:
        whisper = root / "whisper"
        _make("converted", whisper, source=str(source))
    return ModelFolders(whisper, whisper, bundle.folder, root, source if is_ctranslate2 else None)


def _make_checkpoint(family: str, architecture: str, folder: Path, seed: int) -> None:
    _make(family, folder, architecture=architecture, seed=seed)


def _make(family: str, folder: Path, **request: Any) -> None:
    """Let a process of its own write a checkpoint, unless it is there."""
    if folder.is_dir():
        return
    with (
        write_whole_folder(folder) as beside,
        Worker("checkpoint", family, os.cpu_count() or 1, folder.parent / LOG) as worker,
    ):
        worker.ask("convert", CONVERSION_SECONDS, family=family, folder=str(beside), **request)


def read_geometry(checkpoint: Path) -> dict[str, Any]:
    """Return the shapes that features and the bytes of a step follow from.

    Returns:
        `mels`, `frames`, `positions` (of the encoder), `layers` (of the decoder), `width`.

    Raises:
        CheckpointError: There is no readable config.json.
    """
    config = _read_json(checkpoint / "config.json")
    return {
        "mels": int(config["num_mel_bins"]),
        "frames": 2 * int(config["max_source_positions"]),
        "positions": int(config["max_source_positions"]),
        "layers": int(config["decoder_layers"]),
        "width": int(config["d_model"]),
    }


def make_workload(
    checkpoint: Path, steps: int, beams: int, threads: int, *, fixed_length: bool = True
) -> Workload:
    """Build the work from the checkpoint's own prompt tokens: English transcription without timestamps.

    Raises:
        CheckpointError: generation_config.json lacks an id.
    """
    generation = _read_json(checkpoint / "generation_config.json")
    try:
        prompt = [generation["decoder_start_token_id"]]
        if generation.get("is_multilingual", True):
            prompt += [generation["lang_to_id"]["<|en|>"], generation["task_to_id"]["transcribe"]]
        prompt.append(generation["no_timestamps_token_id"])
        end_of_text = generation["eos_token_id"]
    except KeyError as error:
        raise CheckpointError(f"{checkpoint}/generation_config.json lacks {error}") from error
    ids = tuple(int(token) for token in prompt)
    return Workload(ids, int(end_of_text), steps, beams, threads, fixed_length=fixed_length)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    return content
