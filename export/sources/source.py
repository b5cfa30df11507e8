"""Where a checkpoint comes from, and what identifies its content."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from runtime.bundle.graph import sha256_of
from runtime.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Source:
    """Where a checkpoint comes from.

    Attributes:
        name: Hub id or folder, as given.
        revision: Branch, tag or commit of a hub id; None for the default.
    """

    name: str
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a local folder rather than a hub id."""
        return Path(self.name).is_dir()

    def fingerprint(self) -> str:
        """Return what identifies the content: a hash over a folder's files, or id and revision.

        Raises:
            CheckpointError: A file of the folder cannot be read.
        """
        if not self.is_folder:
            return f"{self.name}@{self.revision or 'main'}"
        digest = hashlib.sha256()
        try:
            for path in sorted(p for p in Path(self.name).iterdir() if p.is_file()):
                digest.update(f"{path.name} {sha256_of(path)}\n".encode())
        except OSError as error:
            raise CheckpointError(
                f"{error.filename or self.name} cannot be read: {error.strerror}; look at its permissions"
            ) from error
        return f"sha256:{digest.hexdigest()}"
