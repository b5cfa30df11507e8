"""Packages that come with an extra of this project, and what is said where one is not installed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

from runtime.errors import PackageMissingError

ENGINE: Final = "onnxruntime"
# Module -> the extra that brings it. The engine has two extras, which exclude each other.
EXTRA_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("torch", "transformers", "optimum", "optimum.exporters.onnx", "onnx", "safetensors"), "export"
        ),
        **dict.fromkeys(("jiwer", "matplotlib", "jinja2", "psutil", "httpx", "whisper_normalizer"), "bench"),
        **dict.fromkeys(("starlette", "uvicorn", "python_multipart", "prometheus_client", "pebble"), "serve"),
        "ray": "ray",
        "ctranslate2": "peers",
    }
)
_INSTALL_ENGINE: Final = "pip install 'earsight[cpu]', or 'earsight[gpu]' for an NVIDIA GPU, never both"


@contextmanager
def missing_packages_named() -> Iterator[None]:
    """Turn the failed import of a package of an extra into an error that names both.

    Raises:
        PackageMissingError: The package is not installed, or of the engine there are only remains.
    """
    _refuse_remains()
    try:
        yield
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name == ENGINE:
            raise PackageMissingError(f"the engine {ENGINE} is not installed: {_INSTALL_ENGINE}") from error
        if name not in EXTRA_OF:
            raise
        extra = EXTRA_OF[name]
        raise PackageMissingError(
            f"the package {name} is not installed, which comes with the extra {extra}: "
            f"pip install 'earsight[{extra}]'"
        ) from error


def _refuse_remains() -> None:
    """Refuse a folder `onnxruntime` that Python would import as an empty package.

    It is left where both wheels were installed, which write the same files, and one was uninstalled.
    """
    spec = find_spec(ENGINE)
    if spec is not None and spec.origin is None:
        raise PackageMissingError(
            f"of the engine {ENGINE} there are only remains, as after uninstalling one of two wheels: "
            f"pip uninstall -y onnxruntime onnxruntime-gpu, then {_INSTALL_ENGINE}"
        )
