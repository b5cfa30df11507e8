"""From two checkpoints to one bundle, written whole or not at all.

Everything is built in a folder beside the target, checked there against PyTorch, and renamed at the end.
What a killed export leaves behind is a folder that no runtime opens, and that the next export of the same
target removes.
"""

import gc
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from export.checkpoints import Source, load_clip, load_whisper, save_clip_settings, save_whisper_settings
from export.graphs.fixed_decoder import write_fixed_decoder
from export.graphs.quantization.activation_ranges import Ranges, encoder_ranges
from export.graphs.write import CLIP_GRAPHS, WHISPER_GRAPHS, GraphKind, describe, remove_graphs, write_graphs
from export.parity import Difference, check_clip, check_whisper, clip_reference, whisper_reference
from export.short_window.gate import add_short_encoder
from runtime.bundle.bundle import MANIFEST, PRECISIONS, SCHEMA, Bundle
from runtime.bundle.graph import FIXED_DECODER, graph_path, sha256_of
from runtime.errors import BundleError, EarsightError, OutputError, SettingsError
from runtime.files.write_whole import lock, replace_folder, set_aside, sync_folder, write_json
from runtime.sessions.factory import Provider, SessionFactory, SessionSettings, select_provider
from runtime.whisper.log_mel import LogMelExtractor

# Bumped whenever graphs change, so that bundles of an older exporter are not taken for up to date.
EXPORTER_REVISION: Final = 18
FULL_DISK_BYTES: Final = 1 << 20  # with less left, a write that failed is taken to have failed for that
PACKAGES: Final = ("earsight", "torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export; verified on creation.

    Attributes:
        whisper: The Whisper checkpoint.
        clip: The CLIP checkpoint.
        output: Bundle folder.
        precisions: Of "fp32", "int8", "fp16", "bf16".
        overwrite: Replace a folder that is there and is no bundle.
        fixed_steps: Also write the decoder in fixed shapes, for CUDA graphs.
    """

    whisper: Source
    clip: Source
    output: Path
    precisions: tuple[str, ...] = ("fp32", "int8")
    overwrite: bool = False
    fixed_steps: bool = False

    def __post_init__(self) -> None:
        unknown = [precision for precision in self.precisions if precision not in PRECISIONS]
        if unknown or not self.precisions:
            raise SettingsError(
                f"precisions are {','.join(self.precisions) or 'empty'}; "
                f"expected some of {','.join(PRECISIONS)}"
            )
        for option, source in (("--whisper", self.whisper), ("--clip", self.clip)):
            if source.revision is not None and source.is_folder:
                raise SettingsError(
                    f"{option}-revision is {source.revision!r}, but {source.name} is a folder, which has no "
                    "revisions; leave the option out, or name a hub id"
                )
        if "bf16" in self.precisions and "fp32" not in self.precisions:
            raise SettingsError(
                f"precisions are {','.join(self.precisions)}; bf16 has no files of its own, it is computed "
                "from those of fp32: put fp32 in as well"
            )
        if self.fixed_steps and set(self.precisions) == {"int8"}:
            raise SettingsError("--fixed-steps needs fp32 or fp16 among the precisions: CUDA runs no int8")

    def identity(self) -> dict[str, Any]:
        """Return what a bundle must have been made of to count as up to date."""
        identity = {
            "whisper": self.whisper.fingerprint(),
            "clip": self.clip.fingerprint(),
            "precisions": [precision for precision in PRECISIONS if precision in self.precisions],
            "exporter": EXPORTER_REVISION,
        }
        return identity | ({"fixed_steps": True} if self.fixed_steps else {})


@dataclass(frozen=True, slots=True)
class _Part:
    """One checkpoint's way into the bundle.

    Attributes:
        folder: Of its settings.
        source: Where it comes from.
        load: Reads it, in float32.
        save_settings: Writes what the runtime reads beside the graphs.
        graphs: Made of it.
        reference: What PyTorch makes of it, once for all precisions.
        check: Compares the graphs with that.
        ranges: Measures the inputs of its products, for int8.
        complete: Adds what needs the graphs, and says what `bundle.json` is to tell of it.
    """

    folder: str
    source: Source
    load: Callable[[Source], Any]
    save_settings: Callable[[Source, Any, Path], None]
    graphs: Mapping[str, GraphKind]
    reference: Callable[[Any, Path], Any]
    check: Callable[[Path, str, Any, SessionFactory], list[Difference]]
    ranges: Callable[[Any, LogMelExtractor], Ranges] | None = None
    complete: Callable[..., dict[str, Any]] | None = None


def write_bundle(request: ExportRequest) -> tuple[Bundle, bool]:
    """Export, unless the bundle is there and up to date.

    Returns:
        The bundle, and whether it was written now.

    Raises:
        CheckpointError: A checkpoint cannot be used.
        ParityError: A graph differs from PyTorch.
        OutputError: The target is taken by something else, or cannot be written.
    """
    identity = request.identity()
    try:
        with _exclusive(request.output):
            present = _bundle_at(request.output)
            if present is not None and present.manifest.get("identity") == identity:
                return present, False
            if request.output.exists() and not (request.overwrite or (request.output / MANIFEST).is_file()):
                raise OutputError(
                    f"{request.output} exists and is no bundle; name another --output, or replace it "
                    "with --overwrite"
                )
            building = _beside(request.output, "building")
            shutil.rmtree(building, ignore_errors=True)
            try:
                with _full_disk_named(building):
                    _build(request, identity, building)
                sync_folder(building)
                replace_folder(building, request.output)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{request.output} cannot be written: {error}") from error
    return Bundle.open(request.output), True


def _build(request: ExportRequest, identity: dict[str, Any], folder: Path) -> None:
    parts = (
        _Part(
            "whisper",
            request.whisper,
            load_whisper,
            save_whisper_settings,
            WHISPER_GRAPHS,
            whisper_reference,
            check_whisper,
            encoder_ranges,
            add_short_encoder,
        ),
        _Part(
            "clip",
            request.clip,
            load_clip,
            save_clip_settings,
            CLIP_GRAPHS,
            clip_reference,
            check_clip,
        ),
    )
    wanted = identity["precisions"]
    sessions = {
        precision: SessionFactory(_provider_for(precision), SessionSettings()) for precision in wanted
    }
    made = [p for p in PRECISIONS if p != "bf16" and (p in wanted or (p == "fp32" and "int8" in wanted))]
    parity: dict[str, list[dict[str, Any]]] = {precision: [] for precision in wanted}
    sources: dict[str, Any] = {}
    more: dict[str, Any] = {}
    with tqdm(
        total=len(parts) * (1 + len(made)), desc="export", unit="step", disable=None, file=sys.stderr
    ) as bar:
        for part in parts:
            bar.set_postfix_str(f"load {part.folder}")
            model = part.load(part.source)
            part.save_settings(part.source, model, folder / part.folder)
            sources[part.folder] = _describe_source(part.source, model, identity[part.folder])
            ranges = None
            if "int8" in made and part.ranges:
                ranges = part.ranges(model, LogMelExtractor.from_folder(folder / part.folder))
            reference = part.reference(model, folder)
            bar.update()
            for precision in made:
                bar.set_postfix_str(f"{part.folder} {precision}")
                write_graphs(model, part.graphs, precision, folder, ranges)
                bar.update()
            for precision in wanted:
                bar.set_postfix_str(f"check {part.folder} {precision}")
                found = part.check(folder, precision, reference, sessions[precision])
                parity[precision] += [asdict(difference) for difference in found]
            if part.complete:
                bar.set_postfix_str(f"complete {part.folder}")
                more |= part.complete(model, folder, made, wanted, sessions, ranges)
            if "fp32" not in wanted:
                remove_graphs(part.graphs, "fp32", folder)
            del model, reference
            gc.collect()
    if request.fixed_steps:
        for precision in set(wanted) - {"int8", "bf16"}:
            decoder = folder / graph_path("decoder_model", precision)
            write_fixed_decoder(decoder, folder / graph_path(FIXED_DECODER, precision))
    _write_manifest(folder, request.output.name, identity, sources, {"parity": parity, **more})


def _provider_for(precision: str) -> Provider:
    """Return where a precision is checked: the CPU provider runs all of them but bf16.

    Raises:
        ProviderError: OpenVINO, which computes bf16, cannot run here.
        SettingsError: It runs here, and the processor has no units for bf16.
    """
    if precision != "bf16":
        return select_provider("cpu")
    provider = select_provider("openvino")
    if not provider.bf16:
        raise SettingsError(
            "this processor has no units for bf16, which cannot be checked here; leave it out"
        )
    return provider


def _describe_source(source: Source, model: Any, fingerprint: str) -> dict[str, Any]:
    # A folder is named without the path that leads to it: the bundle travels, the path does not.
    name = Path(source.name).resolve().name if source.is_folder else source.name
    revision = source.revision or getattr(model.config, "_commit_hash", None)
    return {"id": name, "revision": revision, "fingerprint": fingerprint}


def _write_manifest(
    folder: Path, name: str, identity: dict[str, Any], sources: dict[str, Any], measured: dict[str, Any]
) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "schema": SCHEMA,
        "name": name,
        "sources": sources,
        "precisions": identity["precisions"],
        **describe(),
        **measured,
        "versions": {package: version(package) for package in PACKAGES},
        "identity": identity,
        "files": {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in files
        },
    }
    write_json(folder / MANIFEST, manifest)


def _bundle_at(folder: Path) -> Bundle | None:
    """Return the bundle at `folder` if it is whole, None if there is none or a damaged one."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        bundle = Bundle.open(folder)
        for name in bundle.manifest["files"]:
            bundle.verified(name)
    except BundleError:
        return None
    return bundle


def _beside(output: Path, purpose: str) -> Path:
    return output.absolute().parent / f".{output.name}.{purpose}"


@contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    """Tell a full disk from other faults: libraries that write graphs notice it late, in their own words."""
    try:
        yield
    except Exception as error:
        full = folder.exists() and shutil.disk_usage(folder).free < FULL_DISK_BYTES
        if full and not isinstance(error, (EarsightError, OSError)):
            raise OutputError(f"{folder} cannot be written: no space left on the disk") from error
        raise


@contextmanager
def _exclusive(output: Path) -> Iterator[None]:
    """Let one export at a time work on a target; a second one waits. The lock ends with its process."""
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with _beside(output, "lock").open("w") as file:
        lock(file, wait=True)
        if (old := set_aside(output)).exists() and not output.exists():
            old.rename(output)  # a killed export was between its two renames
        yield
