"""What several test files need: the pocket bundle, exported once a session."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from export.bundle_writer import ExportRequest, write_bundle
from export.checkpoints import Source
from export.sources.packages import MODELS
from runtime.bundle.bundle import Bundle
from runtime.pipeline import MultimodalASR

ROOT = Path(__file__).parent.parent
POCKET = ROOT / "bench" / "pocket"
SHARED = ROOT.parent / "shared" / "data"


def weights_installed(name: str) -> bool:
    """Whether the packages are there that carry the weights of a published model."""
    try:
        return all(version(package) for package in MODELS[name].packages)
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="session")
def pocket_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundled checkpoints in fp32 and int8."""
    folder = tmp_path_factory.mktemp("bundles") / "pocket"
    models = POCKET / "models"
    request = ExportRequest(Source(str(models / "whisper")), Source(str(models / "clip")), folder)
    bundle, written = write_bundle(request)
    assert written
    return bundle


@pytest.fixture(scope="session")
def pocket_asr(pocket_bundle: Bundle) -> MultimodalASR:
    """The float32 pipeline, on one thread."""
    return MultimodalASR(pocket_bundle, precision="fp32", providers="cpu", threads=1)
