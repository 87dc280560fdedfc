"""Taking the network, other programs and other processes away from this process, for good.

Three ways, all without privileges, as many as the system has: an empty network namespace and a
filter on system calls (Linux), and an audit hook that refuses in Python what the filter refuses in
the kernel (everywhere; native code does not ask it).
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from typing import Any

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_RET_ALLOW, _RET_KILL, _RET_EPERM = 0x7FFF0000, 0x80000000, 0x00050001
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in the data that a filter sees
_OTHER_ABI = 0x40000000  # from here on, x86-64 calls of the x32 ABI

_MACHINES = {
    # the kernel's number of the architecture; the calls socket, execve, execveat, ptrace,
    # process_vm_readv, process_vm_writev, io_uring_setup
    "x86_64": (0xC000003E, (41, 59, 322, 101, 310, 311, 425)),
    "aarch64": (0xC00000B7, (198, 221, 281, 117, 270, 271, 425)),
}
_REFUSED_EVENTS = (
    "socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen",
    "os.exec", "os.posix_spawn", "os.system",
)  # fmt: skip


def isolate() -> frozenset[str]:
    """Give up the network and the right to start programs; call it before any thread starts.

    Returns:
        What is in force: "namespace", "filter", "hook".
    """
    done = {"hook"}
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
            done.add("namespace")
        if _filter_calls(libc):
            done.add("filter")
    sys.addaudithook(_refuse)
    return frozenset(done)


def _refuse(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in _REFUSED_EVENTS:
        raise PermissionError(f"{event} is not allowed to a parser")


class _Program(ctypes.Structure):
    """The kernel's struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _filter_calls(libc: ctypes.CDLL) -> bool:
    """Install a filter that answers EPERM to the refused calls; False where that cannot be."""
    if platform.machine() not in _MACHINES or struct.calcsize("P") != 8:
        return False
    architecture, refused = _MACHINES[platform.machine()]
    code = _instruction(_LOAD, _ARCHITECTURE_AT)
    code += _instruction(_JUMP_EQUAL, architecture, 1, 0) + _instruction(_RETURN, _RET_KILL)
    code += _instruction(_LOAD, _NUMBER_AT)
    left = len(refused)
    code += _instruction(_JUMP_AT_LEAST, _OTHER_ABI, left + 1, 0)
    for number in refused:
        code += _instruction(_JUMP_EQUAL, number, left, 0)
        left -= 1
    code += _instruction(_RETURN, _RET_ALLOW) + _instruction(_RETURN, _RET_EPERM)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    installed = libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    return bool(installed == 0)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one instruction of the classic packet filter."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
