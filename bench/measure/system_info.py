"""What a figure depends on: machine, operating system, package versions, revision, memory."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from runtime.sessions.processors import usable_processors

# Instruction sets that decide which kernels the engines take.
TELLING_FLAGS = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
PACKAGES = (
    "earsight",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tokenizers",
    "soundfile",
    "soxr",
    "pillow",
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "ctranslate2",
    "jiwer",
    "whisper-normalizer",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ORT_NUM_THREADS")


def system_info() -> dict[str, Any]:
    """Describe this machine and this installation.

    Returns:
        JSON-serialisable: `cpu` (model, cores the process may use, telling flags, caches), `memory_bytes`,
        `os`, `python`, `packages` (installed ones of `PACKAGES`), `revision` (git, or None outside a
        checkout) and `thread_variables` (those that are set).
    """
    return {
        "cpu": cpu_info(),
        "memory_bytes": total_memory(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": package_versions(PACKAGES),
        "revision": git_revision(Path(__file__).resolve().parent),
        "thread_variables": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def cpu_info() -> dict[str, Any]:
    """Return model name, cores and the instruction sets of `TELLING_FLAGS` that the processor offers."""
    fields = _first_processor(Path("/proc/cpuinfo"))
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "model": _processor_name(fields),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_processors(),
        "flags": [flag for flag in TELLING_FLAGS if flag in flags],
        "cache": fields.get("cache size"),
    }


def _processor_name(fields: dict[str, str]) -> str:
    """Name the processor. Virtual machines often hide the model, so family and model numbers go with it."""
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    return name


def _first_processor(cpuinfo: Path) -> dict[str, str]:
    """Parse the first block of /proc/cpuinfo; empty where there is no such file."""
    if not cpuinfo.is_file():
        return {}
    block = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def total_memory() -> int | None:
    """Return physical memory in bytes, None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_revision(folder: Path) -> dict[str, Any] | None:
    """Return commit and whether tracked files differ from it, None outside a checkout or without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": changed}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def peak_memory() -> int:
    """Return the largest resident set of this process so far, bytes.

    `VmHWM` of /proc/self/status belongs to this program alone; `ru_maxrss`, taken where there is no such
    file, survives `exec` and can thus be that of the parent process (getrusage(2)).
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # Unix alone

    scale = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
