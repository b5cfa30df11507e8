"""The bundle: one folder with the graphs and settings of one Whisper and one CLIP.

Its `bundle.json` vouches for every file: nothing of a bundle is used before its hash has been compared.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final

from runtime.bundle.graph import (
    FIXED_DECODER,
    GRAPH_FOLDERS,
    SHORT_ENCODER,
    Graph,
    computed_precision,
    graph_path,
    joint_sha256,
    sha256_of,
    stored_precision,
)
from runtime.bundle.json_files import read_json_object
from runtime.errors import BundleError, BundleNotFoundError, SettingsError

SCHEMA: Final = "earsight.bundle/1"
MANIFEST: Final = "bundle.json"
PRECISIONS: Final = ("fp32", "int8", "fp16", "bf16")
# What the short encoder knows of the padding.
PADDING_FILE: Final = "whisper/padding.npz"
SETTINGS_FILES: Final = (
    "whisper/config.json",
    "whisper/generation_config.json",
    "whisper/preprocessor_config.json",
    "whisper/tokenizer.json",
    "whisper/tokenizer_config.json",
    "clip/config.json",
    "clip/preprocessor_config.json",
    "clip/tokenizer.json",
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle whose `bundle.json` and settings files have been verified.

    Attributes:
        folder: Where it lies.
        manifest: Content of `bundle.json`.
        digest: SHA-256 of `bundle.json` itself, and thereby of the whole bundle.
    """

    folder: Path
    manifest: Mapping[str, Any]
    digest: str

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> "Bundle":
        """Read `bundle.json` and verify it and every settings file; graphs are verified when asked for.

        Raises:
            BundleNotFoundError: There is no bundle, or a file of it is missing.
            BundleError: Another schema, a name that leads out of the folder, a hash that does not fit.
        """
        root = Path(folder)
        path = root / MANIFEST
        if not path.is_file():
            what = "no such folder" if not root.is_dir() else f"no {MANIFEST} in it"
            raise BundleNotFoundError(
                f"{root} is not a bundle ({what}); make one with `make export` or `python -m export`"
            )
        manifest = read_json_object(path)
        _verify_manifest(manifest, path)
        bundle = cls(root, MappingProxyType(manifest), hashlib.sha256(path.read_bytes()).hexdigest())
        for name in SETTINGS_FILES:
            bundle.verified(name)
        return bundle

    @property
    def name(self) -> str:
        """Return the name that the bundle was exported under."""
        return str(self.manifest["name"])

    @property
    def identity(self) -> dict[str, str]:
        """Return what reports say of the bundle: its name and digest."""
        return {"name": self.name, "sha256": self.digest}

    @property
    def precisions(self) -> tuple[str, ...]:
        """Return the precisions that every graph is there in."""
        return tuple(self.manifest["precisions"])

    @property
    def whisper(self) -> Path:
        """Return the folder of the Whisper settings."""
        return self.folder / "whisper"

    @property
    def clip(self) -> Path:
        """Return the folder of the CLIP settings."""
        return self.folder / "clip"

    def graph(self, name: str, precision: str) -> Graph:
        """Return a verified graph.

        Raises:
            SettingsError: The bundle does not have this precision.
            BundleNotFoundError: The file is missing.
            BundleError: Its hash does not fit.
        """
        if precision not in self.precisions:
            mend = f"export it with `--precision {precision}`"
            if precision not in PRECISIONS:
                mend = f"expected one of {', '.join(PRECISIONS)}"
            raise SettingsError(
                f"precision {precision!r} is not in the bundle {self.folder}, which has "
                f"{', '.join(self.precisions)}; {mend}"
            )
        return self._graph(name, precision)

    def graphs(self, precision: str) -> list[Graph]:
        """Return all verified graphs that a pipeline may open, the short encoder included.

        Raises:
            SettingsError: The bundle does not have this precision.
            BundleNotFoundError: A file is missing.
            BundleError: A hash does not fit.
        """
        graphs = [self.graph(name, precision) for name in GRAPH_FOLDERS]
        return graphs + ([self.short_encoder(precision)[0]] if self.short_window(precision) else [])

    def fixed_decoder(self, precision: str) -> Graph:
        """Return the verified decoder in fixed shapes.

        Raises:
            SettingsError: There is none in this precision.
            BundleNotFoundError: The file is missing.
            BundleError: Its hash, or that of the decoder whose weights it shares, does not fit.
        """
        self.graph("decoder_model", precision)
        name = graph_path(FIXED_DECODER, precision)
        if name not in self.manifest["files"]:
            raise SettingsError(
                f"the bundle {self.folder} has no {name}: fixed shapes need fp32 or fp16 and an export with "
                "`--fixed-steps`"
            )
        return self._graph(FIXED_DECODER, precision)

    def short_window(self, precision: str) -> Mapping[str, Any] | None:
        """Return what the export measured of the short encoder; None where the bundle has none.

        Returns:
            Among others `passed`: whether it may stand in for the full window.

        Raises:
            BundleError: `bundle.json` is damaged.
        """
        if "live_window" in self.manifest:
            raise BundleError(
                f"{self.folder / MANIFEST} was written by an earlier version, which names its short encoder "
                "otherwise; export the bundle again"
            )
        measured = self.manifest.get("short_window", {})
        entry = measured.get(precision) if isinstance(measured, dict) else measured
        if entry is None:
            return None
        if not isinstance(entry, dict) or not isinstance(entry.get("passed"), bool):
            raise BundleError(
                f"{self.folder / MANIFEST}: short_window is {entry!r}; expected an object with `passed` for "
                "each precision: export the bundle again"
            )
        return entry

    def short_encoder(self, precision: str) -> tuple[Graph, Path]:
        """Return the verified encoder over the speech alone, and the path of the padding's statistics.

        Raises:
            BundleNotFoundError: A file is missing.
            BundleError: A hash, or that of the encoder whose weights it shares, does not fit.
        """
        self.graph("encoder_model", precision)
        return self._graph(SHORT_ENCODER, precision), self.verified(PADDING_FILE)

    def _graph(self, name: str, precision: str) -> Graph:
        """Return a graph whose file, and the weights beside it where it has some, have been verified."""
        stored = stored_precision(name, precision, self.precisions)
        precision = computed_precision(name, precision, stored)
        place = graph_path(name, stored)
        path = self.verified(place)
        files = [file for file in (place, f"{place}_data") if file in self.manifest["files"]]
        for file in files[1:]:
            self.verified(file)
        digests = (self.manifest["files"][file]["sha256"] for file in files)
        return Graph(name, precision, path, joint_sha256(*digests))

    def verified(self, name: str) -> Path:
        """Compare one file with its hash and return its path.

        Raises:
            BundleNotFoundError: The file is missing.
            BundleError: `bundle.json` does not name it, or its hash does not fit.
        """
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise BundleError(f"{self.folder / MANIFEST} does not list {name}; export the bundle again")
        path = self.folder / name
        try:
            if not path.is_file():
                raise BundleNotFoundError(
                    f"{path} is missing although {MANIFEST} lists it; export the bundle again"
                )
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise BundleError(
                    f"{path} is a link that leads out of the bundle; replace it by the file itself"
                )
            size = path.stat().st_size
            if size != entry["bytes"]:
                raise BundleError(
                    f"{path} has {size} bytes, expected {entry['bytes']}; export the bundle again"
                )
            if sha256_of(path) != entry["sha256"]:
                raise BundleError(f"{path} does not match its hash in {MANIFEST}; export the bundle again")
        except BundleError:
            raise
        except OSError as error:  # no permission, a failing disk, a name that is too long
            raise BundleError(f"{path} cannot be read: {error.strerror}; look at its permissions") from error
        return path


def _verify_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    schema = manifest.get("schema")
    if schema != SCHEMA:
        raise BundleError(
            f"{path} has schema {schema!r}, but this version reads {SCHEMA!r}; "
            "export the bundle again with this version, or install the version that wrote it"
        )
    precisions, files = manifest.get("precisions"), manifest.get("files")
    known = isinstance(precisions, list) and precisions and all(p in PRECISIONS for p in precisions)
    if (
        not isinstance(precisions, list)
        or not known
        or not isinstance(manifest.get("name"), str)
        or not isinstance(files, dict)
    ):
        raise BundleError(
            f"{path} is incomplete: it must hold name, precisions and files; export the bundle again"
        )
    for name, entry in files.items():
        inner = PurePosixPath(name)
        if inner.is_absolute() or ".." in inner.parts or "\\" in name:
            raise BundleError(f"{path} lists {name!r}, which leads out of the bundle; do not use this bundle")
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("sha256"), str)
            or not isinstance(entry.get("bytes"), int)
        ):
            raise BundleError(f"{path} has no sha256 and bytes for {name!r}; export the bundle again")
    graphs = {
        graph_path(graph, stored_precision(graph, precision, precisions))
        for graph in GRAPH_FOLDERS
        for precision in precisions
    }
    expected = [*SETTINGS_FILES, *sorted(graphs)]
    missing = [name for name in expected if name not in files]
    if missing:
        raise BundleError(f"{path} does not list {', '.join(missing)}; export the bundle again")
