# SPDX-License-Identifier: Apache-2.0
"""The kernel's TUN/TAP driver: its ioctls (linux/if_tun.h), typed. They wait for the kernel's network lock only."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import NamedTuple

from vmmd.core.backend import NetOffload
from vmmd.errors import BackendError

DEVICE = "/dev/net/tun"
#: bytes of an interface name, with its NUL (IFNAMSIZ)
IFNAME_BYTES = 16
#: queues of one interface at most (MAX_TAP_QUEUES)
MAX_QUEUES = 256

_TUNSETIFF = 0x400454CA
_TUNGETFEATURES = 0x800454CF
_TUNSETOFFLOAD = 0x400454D0
_TUNGETIFF = 0x800454D2
_TUNSETSNDBUF = 0x400454D4
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETQUEUE = 0x400454D9

IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000

#: struct ifreq: name, flags, and the rest of its union
_IFREQ = struct.Struct("16sH22x")
_INT = struct.Struct("i")

#: TUN_F_* are the same bits
_USO = NetOffload.USO4 | NetOffload.USO6


class Interface(NamedTuple):
    """What a descriptor of the driver is attached to."""

    name: str
    flags: int

    @property
    def is_tap(self) -> bool:
        return bool(self.flags & IFF_TAP)

    @property
    def has_header(self) -> bool:
        return bool(self.flags & IFF_VNET_HDR)

    @property
    def is_multi_queue(self) -> bool:
        return bool(self.flags & IFF_MULTI_QUEUE)


def interface(fd: int) -> Interface:
    """What ``fd`` is attached to. Raises OSError: ENOTTY when it is no descriptor of the driver, EBADFD when it is not
    attached."""
    name, flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))
    return Interface(os.fsdecode(name.partition(b"\0")[0]), flags)


def create(name: str, flags: int) -> int:
    """A descriptor attached to interface ``name``, which is made when it is not there; "" or a name with ``%d`` lets
    the kernel choose. Raises OSError."""
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(os.fsencode(name), IFF_TAP | IFF_NO_PI | flags))
    except BaseException:
        os.close(fd)
        raise
    return fd


def features() -> int:
    """The IFF_ flags that the kernel knows. Raises OSError."""
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        return int(_INT.unpack(fcntl.ioctl(fd, _TUNGETFEATURES, bytes(_INT.size)))[0])
    finally:
        os.close(fd)


def set_send_buffer(fd: int, size_bytes: int) -> None:
    """As many bytes may be on their way out of the interface before writing has to wait."""
    fcntl.ioctl(fd, _TUNSETSNDBUF, _INT.pack(size_bytes))


def set_header_length(fd: int, length_bytes: int) -> None:
    """Length of the vnet header, of the whole interface. Raises OSError."""
    fcntl.ioctl(fd, _TUNSETVNETHDRSZ, _INT.pack(length_bytes))


def set_offloads(fd: int, accepted: NetOffload) -> None:
    """What frames that are read may leave to do; of the whole interface. Raises OSError."""
    if accepted & _USO != _USO:  # the kernel has them together only
        accepted &= ~_USO
    if not accepted & NetOffload.CSUM:  # everything else rests on it
        accepted = NetOffload(0)
    fcntl.ioctl(fd, _TUNSETOFFLOAD, int(accepted))


def known_offloads(fd: int) -> NetOffload:
    """What the kernel takes over. None is in use afterwards. Raises OSError."""
    basic = NetOffload.CSUM | NetOffload.TSO4 | NetOffload.TSO6 | NetOffload.TSO_ECN
    known = NetOffload(0)
    for more in (basic, NetOffload.UFO, _USO):
        try:
            set_offloads(fd, basic | more)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            known |= more
    set_offloads(fd, NetOffload(0))
    return known


def enable_queue(fd: int, enabled: bool) -> None:
    """Frames may (not) come to this queue of its interface. Raises OSError."""
    flags = IFF_ATTACH_QUEUE if enabled else IFF_DETACH_QUEUE
    fcntl.ioctl(fd, _TUNSETQUEUE, _IFREQ.pack(b"", flags))


def query(fd: int) -> Interface:
    """``interface`` for a descriptor that somebody has given. Raises BackendError."""
    try:
        found = interface(fd)
    except OSError as error:
        # QEMU-COMPAT: the sentence
        made = BackendError.from_os(f"Unable to query TUNGETIFF on FD {fd}", error)
        hints = {
            errno.ENOTTY: "it is no descriptor of /dev/net/tun",
            errno.EBADFD: "it is not attached to an interface",
        }
        made.hint = hints.get(error.errno or 0)
        raise made from error
    if not found.is_tap:
        raise BackendError(f"FD {fd} is not a tap", f"{found.name} carries IP packets (IFF_TUN), not Ethernet frames")
    return found
