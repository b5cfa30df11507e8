"""Run a command in which every system call that makes a connection ends the process (Linux, seccomp).

    python -m tests.tools.server_checks.no_connections python -m runtime serve …

The kernel sees the calls of native libraries as well. `connect` is one for every protocol; `sendto` with an
address is one without a connection, as for the name service.
"""

import ctypes
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: load a word, jump if equal, return
NUMBER_AT, ADDRESS_AT = (
    0,
    16 + 8 * 4,
)  # in struct seccomp_data: the call, and the lower half of its fifth argument
CALLS = {"x86_64": {"connect": 42, "sendto": 44}, "aarch64": {"connect": 203, "sendto": 206}}


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def program(calls: dict[str, int]) -> bytes:
    return b"".join(
        [
            instruction(LOAD, NUMBER_AT),
            instruction(JUMP_EQUAL, calls["connect"], 4, 0),  # to KILL
            instruction(JUMP_EQUAL, calls["sendto"], 0, 2),  # else to ALLOW
            instruction(LOAD, ADDRESS_AT),
            instruction(JUMP_EQUAL, 0, 0, 1),  # no address: ALLOW, else KILL
            instruction(RETURN, ALLOW),
            instruction(RETURN, KILL_PROCESS),
        ]
    )


def forbid_connections() -> None:
    """Install the filter for this process and all that come of it."""
    content = program(CALLS[platform.machine()])
    buffer = ctypes.create_string_buffer(content)

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    filter_ = Program(len(content) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl refused the filter")


if __name__ == "__main__":
    forbid_connections()
    os.execvp(sys.argv[1], sys.argv[1:])
