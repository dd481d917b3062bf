"""The few system calls behind private networks and small disks that Python 3.11 has no names for. Linux only."""

import ctypes
import fcntl
import os
import struct
from enum import IntFlag
from pathlib import Path

__all__ = ["Namespace", "enter_network", "mount_tmpfs", "open_tun", "own_network", "resize_tmpfs", "unmount", "unshare"]

_NUM_IDS = 1
_MS_REMOUNT = 32
_MS_REC_PRIVATE = (1 << 14) | (1 << 18)
_MNT_DETACH = 2
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 1, 0x1000


class Namespace(IntFlag):
    """Flags of unshare(2)."""

    MOUNTS = 0x00020000
    USERS = 0x10000000
    NETWORK = 0x40000000


def unshare(which: Namespace) -> None:
    """Give the calling thread namespaces of its own; mounts that come later stay in it. Raises OSError.

    With ``USERS`` the caller must be the process's only thread; it becomes root of its own namespaces and of nothing else.
    """
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc().unshare(ctypes.c_int(which)), "unshare")
    if Namespace.USERS in which:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} {_NUM_IDS}")
        Path("/proc/self/gid_map").write_text(f"0 {gid} {_NUM_IDS}")
    if Namespace.MOUNTS in which:
        _check(_libc().mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None), "make mounts private")


def own_network() -> int:
    """A file descriptor of the calling thread's network; it keeps the network alive. Raises OSError."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter_network(descriptor: int) -> None:
    """Move the calling thread, and what it starts from now on, into a network. Raises OSError."""
    _check(_libc().setns(ctypes.c_int(descriptor), ctypes.c_int(Namespace.NETWORK)), "enter a network")


def open_tun(name: str) -> int:
    """A device in the calling thread's network; each read of the descriptor is a packet out of it, each write one into it.

    It goes with its last descriptor. Raises OSError.
    """
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(device)
        raise
    return device


def mount_tmpfs(path: Path, size_bytes: int) -> None:
    """An empty file system in memory at ``path``. Raises OSError."""
    options = f"size={size_bytes},mode=0700".encode()
    _check(_libc().mount(b"tmpfs", os.fsencode(path), b"tmpfs", ctypes.c_ulong(0), options), f"mount {path}")


def resize_tmpfs(path: Path, size_bytes: int) -> None:
    """Change its size; not below what it holds. Raises OSError."""
    options = f"size={size_bytes}".encode()
    _check(_libc().mount(None, os.fsencode(path), None, ctypes.c_ulong(_MS_REMOUNT), options), f"resize {path}")


def unmount(path: Path) -> None:
    """Take the file system away; what is open stays until it is closed. Raises OSError."""
    _check(_libc().umount2(os.fsencode(path), ctypes.c_int(_MNT_DETACH)), f"unmount {path}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
