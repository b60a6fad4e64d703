# SPDX-License-Identifier: Apache-2.0
"""One /dev/vhost-net descriptor and its ioctls (linux/vhost.h, linux/vhost_types.h), typed. None of them waits for
anybody but the kernel's own thread, which ends the frame that it is at. They raise OSError."""

from __future__ import annotations

import enum
import fcntl
import struct
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.core.memory import RamRegion

PATH = "/dev/vhost-net"
#: feature of GET_FEATURES: the kernel adds and removes the vnet header itself, for taps without one
F_VIRTIO_NET_HDR = 1 << 27
#: file descriptor that takes the tap away from a ring
NO_TAP = -1

_U64 = struct.Struct("<Q")
_STATE = struct.Struct("<II")  # ring, number
_FILE = struct.Struct("<Ii")  # ring, descriptor
_ADDRESSES = struct.Struct("<IIQQQQ")  # ring, flags, descriptors, used, available, log
_REGION = struct.Struct("<QQQQ")  # guest address, bytes, our address, zero


class Call(enum.IntEnum):
    """Numbers of the ioctls: _IO, _IOR, _IOW and _IOWR of type 0xAF."""

    GET_FEATURES = 0x8008AF00
    SET_FEATURES = 0x4008AF00
    SET_OWNER = 0x0000AF01
    SET_MEM_TABLE = 0x4008AF03
    SET_VRING_NUM = 0x4008AF10
    SET_VRING_ADDR = 0x4028AF11
    SET_VRING_BASE = 0x4008AF12
    GET_VRING_BASE = 0xC008AF12
    SET_VRING_KICK = 0x4008AF20
    SET_VRING_CALL = 0x4008AF21
    SET_VRING_BUSYLOOP_TIMEOUT = 0x4008AF23
    NET_SET_BACKEND = 0x4008AF30


class Ioctl(Protocol):
    """fcntl.ioctl, or a test's."""

    def __call__(self, fd: int, request: int, argument: bytes, /) -> bytes: ...


def kernel_ioctl(fd: int, request: int, argument: bytes) -> bytes:
    """The kernel's. An argument of 1024 bytes is the most that it can have."""
    return fcntl.ioctl(fd, request, argument)


class VhostNetDevice:
    """``fd`` stays the caller's. Rings: 0 receives, 1 transmits."""

    def __init__(self, fd: int, ioctl: Ioctl = kernel_ioctl) -> None:
        self.fd = fd
        self._ioctl = ioctl

    def _call(self, call: Call, argument: bytes = b"") -> bytes:
        return self._ioctl(self.fd, call, argument)

    def features(self) -> int:
        """Of virtio, and F_VIRTIO_NET_HDR. ENOTTY: the descriptor is of something else."""
        return int(_U64.unpack(self._call(Call.GET_FEATURES, bytes(_U64.size)))[0])

    def own(self) -> None:
        """This process's addresses are meant from now on. EBUSY: another's are."""
        self._call(Call.SET_OWNER)

    def set_features(self, features: int) -> None:
        self._call(Call.SET_FEATURES, _U64.pack(features))

    def set_memory(self, regions: Sequence[RamRegion]) -> None:
        """All of guest memory."""
        table = b"".join(_REGION.pack(each.gpa, each.size_bytes, each.hva, 0) for each in regions)
        self._call(Call.SET_MEM_TABLE, _STATE.pack(len(regions), 0) + table)

    def set_ring(self, ring: int, size: int, position: int, addresses: tuple[int, int, int]) -> None:
        """``addresses``: of the descriptors, the available and the used ring, in this process."""
        self._call(Call.SET_VRING_NUM, _STATE.pack(ring, size))
        self._call(Call.SET_VRING_BASE, _STATE.pack(ring, position))
        desc, avail, used = addresses
        self._call(Call.SET_VRING_ADDR, _ADDRESSES.pack(ring, 0, desc, used, avail, 0))

    def set_eventfds(self, ring: int, kick_fd: int, call_fd: int) -> None:
        self._call(Call.SET_VRING_KICK, _FILE.pack(ring, kick_fd))
        self._call(Call.SET_VRING_CALL, _FILE.pack(ring, call_fd))

    def poll(self, ring: int, microseconds: int) -> None:
        """How long the kernel looks for more before it sleeps."""
        self._call(Call.SET_VRING_BUSYLOOP_TIMEOUT, _STATE.pack(ring, microseconds))

    def set_tap(self, ring: int, tap_fd: int) -> None:
        """Start serving a ring, or, with NO_TAP, stop: nothing of it is in flight then."""
        self._call(Call.NET_SET_BACKEND, _FILE.pack(ring, tap_fd))

    def position(self, ring: int) -> int:
        """The next entry of the available ring, of one that is stopped."""
        return int(_STATE.unpack(self._call(Call.GET_VRING_BASE, _STATE.pack(ring, 0)))[1])
