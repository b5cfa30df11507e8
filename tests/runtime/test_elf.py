"""What a shared library is linked with, read without loading it, on libraries built for the purpose."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from runtime.sessions import machine
from runtime.sessions.elf import needed_libraries

CAPI = Path(ort.__file__).parent / "capi"
linux = pytest.mark.skipif(sys.platform != "linux", reason="ELF files are looked at on Linux")
compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def build(folder, name, source, *options):
    path = folder / f"lib{name}.so"
    (folder / f"{name}.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-o", path, folder / f"{name}.c", "-L", folder, *options]
    subprocess.run(command, check=True)
    return path


@linux
def test_the_libraries_of_the_wheel():
    found = needed_libraries(CAPI / "libonnxruntime_providers_shared.so")
    assert "libc.so.6" in found
    assert all(".so" in name for name in found)


@linux
@compiler
def test_the_names_in_their_order(tmp_path):
    build(tmp_path, "second", "int two(void) { return 2; }", "-Wl,-soname,libsecond.so.2")
    build(tmp_path, "first", "int one(void) { return 1; }", "-Wl,-soname,libfirst.so.13")
    path = build(
        tmp_path,
        "user",
        "int one(void); int two(void); int f(void) { return one() + two(); }",
        "-Wl,--no-as-needed",
        "-lfirst",
        "-lsecond",
    )
    assert needed_libraries(path)[:2] == ("libfirst.so.13", "libsecond.so.2")


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"MZ" + bytes(100), b"\x7fELF\x01\x01" + bytes(100)])
def test_other_files_need_nothing(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert needed_libraries(tmp_path / "file") == ()
    assert needed_libraries(tmp_path / "missing") == ()


@linux
@compiler
def test_a_provider_is_judged_by_what_it_needs_and_is_never_loaded(tmp_path, monkeypatch):
    """To load this provider library ends the process, as it does with a real one without its host."""
    build(tmp_path, "cublas", "int f(void) { return 1; }", "-Wl,-soname,libcublas-made-up.so.13")
    capi = tmp_path / "capi"
    capi.mkdir()
    fatal = "#include <stdlib.h>\n__attribute__((constructor)) static void start(void) { abort(); }"
    library = build(tmp_path, "onnxruntime_providers_cuda", fatal, "-Wl,--no-as-needed", "-lcublas")
    library.rename(capi / library.name)
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert "libcublas-made-up.so.13" in machine.read_machine().libraries["cuda"]
    ctypes.CDLL(str(tmp_path / "libcublas.so"))  # from now on its soname is known to the loader
    assert "cuda" not in machine.read_machine().libraries
