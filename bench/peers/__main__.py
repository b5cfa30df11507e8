"""`python -m bench.peers KIND SYSTEM`: the process of one measured system."""

import sys
from importlib.util import find_spec
from types import ModuleType


def bare_package(name: str) -> None:
    """Let submodules of a package be imported without running its `__init__`.

    `runtime/__init__.py` opens onnxruntime, some 30 MiB that a peer's process must not carry, and that would
    be missing from the import time of a cold start. What is measured still imports all that it needs.
    """
    spec = find_spec(name)
    assert spec is not None, f"{name} is not importable"
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or [])
    package.__spec__ = spec
    sys.modules[name] = package


if __name__ == "__main__":
    bare_package("runtime")
    from bench.peers.worker import main

    main()
