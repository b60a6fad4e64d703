# SPDX-License-Identifier: Apache-2.0
"""virtio-blk requests (virtio 1.2 §5.2.6): from a descriptor chain to what is asked for. Pure: nothing is executed.

``parse`` looks only at the chain's shape and copies header and segments out once; ``Limits`` checks what is asked
against the disk. A chain without room for header or status breaks the queue (there is nowhere to say so); anything
else wrong is answered in the status byte.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.memory import GuestAddressError
from vmmd.devices.virtio.chain import Pairs, drop_last_byte, resolve, split, take_front, total
from vmmd.devices.virtio.queue import RingError
from vmmd.units import SECTOR_BYTES, MiB

if TYPE_CHECKING:
    from vmmd.core.memory import GuestMemory
    from vmmd.devices.virtio.chain import Chain


class Kind(enum.IntEnum):
    """Request types (§5.2.6)."""

    IN = 0
    OUT = 1
    SCSI_CMD = 2
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class Answer(enum.IntEnum):
    """Status byte (§5.2.6)."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


#: Legacy flag in the type: a barrier (virtio 0.9.5); all requests before it are complete by construction of the driver
KIND_BARRIER = 0x8000_0000
HEADER_BYTES = 16
ID_BYTES = 20
#: flags, of write-zeroes only: the range may be deallocated
SEGMENT_UNMAP = 1
#: LIMIT: data of one request; drivers stay far below (safety.md P6)
DATA_BYTES_MAX = 64 * MiB

_U32 = 0xFFFF_FFFF  # the used ring has room for no more
_HEADER = struct.Struct("<IIQ")
_SEGMENT = struct.Struct("<QII")


class BlkRequest(NamedTuple):
    """One parsed request. ``kind`` is the raw type without the barrier flag."""

    head: int
    kind: int
    sector: int
    readable: Pairs  # behind the header
    writable: Pairs  # before the status byte
    status_gpa: int
    written: int  # bytes of the writable part, status included: what the used ring reports


class Segment(NamedTuple):
    """One range of DISCARD or WRITE_ZEROES, in bytes."""

    offset: int
    length: int
    may_unmap: bool


class BadRequest(Exception):
    """The request is answered with ``answer`` and not executed."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.name)
        self.answer = answer


def parse(chain: Chain, memory: GuestMemory) -> BlkRequest:
    """Raises RingError when there is no header or no status byte."""
    readable, writable = split(chain)
    if not writable:
        raise RingError("a block request without a status byte")
    status_gpa, data_in = drop_last_byte(writable)
    try:
        header, data_out = take_front(memory, readable, HEADER_BYTES)
        memory.find(status_gpa, 1)
    except GuestAddressError:
        raise RingError("a block request without a header, or with one outside RAM") from None
    kind, _, sector = _HEADER.unpack(header)
    return BlkRequest(chain[0], kind & ~KIND_BARRIER, sector, data_out, data_in, status_gpa, min(total(writable), _U32))


class Limits(NamedTuple):
    """What the disk allows."""

    size_bytes: int
    block_bytes: int
    discard: bool
    write_zeroes: bool
    max_discard_sectors: int
    max_write_zeroes_sectors: int

    def transfer(self, request: BlkRequest, memory: GuestMemory) -> tuple[int, int, list[memoryview]]:
        """(offset, length, buffers) of IN or OUT. Raises BadRequest."""
        reading = request.kind == Kind.IN
        pairs, wrong_way = (request.writable, request.readable) if reading else (request.readable, request.writable)
        length = total(pairs)
        offset = request.sector * SECTOR_BYTES
        if wrong_way or length > DATA_BYTES_MAX:
            raise BadRequest(Answer.IOERR)
        if offset % self.block_bytes or length % self.block_bytes or offset + length > self.size_bytes:
            raise BadRequest(Answer.IOERR)
        try:
            return offset, length, resolve(memory, pairs, writable=reading)
        except GuestAddressError:
            raise BadRequest(Answer.IOERR) from None

    def segment(self, request: BlkRequest, memory: GuestMemory) -> Segment:
        """The one range of DISCARD or WRITE_ZEROES (§5.2.6.2). Raises BadRequest."""
        zeroing = request.kind == Kind.WRITE_ZEROES
        length = total(request.readable)
        if not (self.write_zeroes if zeroing else self.discard) or length > _SEGMENT.size:
            raise BadRequest(Answer.UNSUPP)  # more segments than the configuration allows
        if length != _SEGMENT.size:
            raise BadRequest(Answer.IOERR)
        try:
            data, _ = take_front(memory, request.readable, _SEGMENT.size)
        except GuestAddressError:
            raise BadRequest(Answer.IOERR) from None
        sector, count, flags = _SEGMENT.unpack(data)
        if flags & ~(SEGMENT_UNMAP if zeroing else 0):
            raise BadRequest(Answer.UNSUPP)
        offset, length = sector * SECTOR_BYTES, count * SECTOR_BYTES
        most = self.max_write_zeroes_sectors if zeroing else self.max_discard_sectors
        if count > most or offset % self.block_bytes or length % self.block_bytes or offset + length > self.size_bytes:
            raise BadRequest(Answer.IOERR)
        return Segment(offset, length, bool(flags & SEGMENT_UNMAP))
