"""A wall between a process and what decoding never needs: sockets, programs, other processes.

Linux has it as a filter of system calls, which an ordinary process may set for itself and never
take away again; no package offers one without a library of the system.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

from ...errors import DeviceError

# Numbers of system calls, and the architecture's in audit.h. Source: Linux, unistd.h of each
_CALLS = {
    "x86_64": {
        **{"socket": 41, "socketpair": 53, "connect": 42, "execve": 59, "execveat": 322},
        **{"fork": 57, "vfork": 58, "kill": 62, "ptrace": 101, "bpf": 321},
        **{"process_vm_readv": 310, "process_vm_writev": 311},
        **{"pidfd_send_signal": 424, "io_uring_setup": 425},
    },
    "aarch64": {
        **{"socket": 198, "socketpair": 199, "connect": 203, "execve": 221, "execveat": 281},
        **{"kill": 129, "ptrace": 117, "bpf": 280},
        **{"process_vm_readv": 270, "process_vm_writev": 271},
        **{"pidfd_send_signal": 424, "io_uring_setup": 425},
    },
}
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}  # the call that sets a filter
_OTHER_NUMBERS = 0x40000000  # from here on, x86-64 has all calls once more
_NO_NEW_PRIVILEGES, _SET_FILTER, _ALL_THREADS = 38, 1, 1
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # of the filter's machine
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM


def wall_off() -> bool:
    """Refuse this process (EPERM) new sockets and programs, and signals to other processes.

    Returns:
        Whether there is such a wall for this system: on Linux, on x86-64 and ARM64.

    Raises:
        DeviceError: the system should have it, and does not set it.
    """
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in _CALLS:
        return False
    program = _program(machine)
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_NO_NEW_PRIVILEGES, ctypes.c_ulong(1), zero, zero, zero) or libc.syscall(
        ctypes.c_long(_SECCOMP[machine]),
        ctypes.c_ulong(_SET_FILTER),
        ctypes.c_ulong(_ALL_THREADS),
        ctypes.c_char_p(described),
    ):
        reason = os.strerror(ctypes.get_errno())
        raise DeviceError(f"this system does not filter a decoder's system calls ({reason})")
    return True


def _program(machine: str) -> bytes:
    """Return the filter: instructions of 8 bytes, whose jumps count those that are passed over."""
    numbers = sorted(_CALLS[machine].values())
    steps = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, len(numbers) + 1, 0, _OTHER_NUMBERS),
        *((_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
