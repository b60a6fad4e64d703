# SPDX-License-Identifier: Apache-2.0
"""Messages of the vhost-user protocol as bytes: a header of three 32-bit words, then a payload of the request's own
shape; all in the host's byte order, which is little endian here."""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = struct.Struct("<III")  # request, flags, bytes of payload
U64 = struct.Struct("<Q")
STATE = struct.Struct("<II")  # ring, number
ADDRESSES = struct.Struct("<IIQQQQ")  # ring, flags, descriptors, used, available, log
REGION = struct.Struct("<QQQQ")  # guest address, bytes, our address, offset in the descriptor

VERSION = 1
FLAG_REPLY = 1 << 2
FLAG_NEED_REPLY = 1 << 3
#: feature bit of GET_FEATURES: the protocol has features of its own
F_PROTOCOL_FEATURES = 1 << 30
#: regions that SET_MEM_TABLE can carry
REGIONS_MAX = 8
#: the protocol numbers rings with 8 bits in SET_VRING_KICK
RINGS_MAX = 256


class Request(enum.IntEnum):
    """What the front end asks. Requests for things that are not done here are left out."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_STATUS = 39
    GET_STATUS = 40


class Feature(enum.IntFlag):
    """Features of the protocol that are used here when the back end has them."""

    MQ = 1 << 0
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    MTU = 1 << 4
    STATUS = 1 << 16


#: bytes of the replies' payloads
REPLY_BYTES = {
    Request.GET_FEATURES: U64.size,
    Request.GET_PROTOCOL_FEATURES: U64.size,
    Request.GET_QUEUE_NUM: U64.size,
    Request.GET_VRING_BASE: STATE.size,
    Request.GET_STATUS: U64.size,
}


class Region(NamedTuple):
    """A run of guest memory, and where the back end finds it."""

    gpa: int
    size_bytes: int
    hva: int
    fd: int
    fd_offset: int


def message(request: Request, payload: bytes = b"", *, need_reply: bool = False) -> bytes:
    """A request of ours."""
    return HEADER.pack(request, VERSION | (FLAG_NEED_REPLY if need_reply else 0), len(payload)) + payload


def memory_table(regions: Sequence[Region]) -> bytes:
    """Payload of SET_MEM_TABLE; the descriptors go with it in the same order."""
    table = b"".join(REGION.pack(each.gpa, each.size_bytes, each.hva, each.fd_offset) for each in regions)
    return STATE.pack(len(regions), 0) + table
