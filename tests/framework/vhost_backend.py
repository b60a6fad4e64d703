# SPDX-License-Identifier: Apache-2.0
"""A vhost-user back end for tests, from the public protocol document: maps the front end's memory, serves its rings,
and gives every frame that the guest sends back to it. On a thread; knows nothing of vmmd's code.

    with LoopbackBackend(path, server=True) as backend:
        … start the front end …
        backend.wait_for(lambda: backend.rings_running == 2)

``Faults`` makes it break the protocol.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SEND_RARP, NET_SET_MTU, SET_STATUS, GET_STATUS = 19, 20, 39, 40

F_PROTOCOL_FEATURES = 1 << 30
VERSION_1 = 1 << 32
#: what a simple back end has: CSUM, GUEST_CSUM, MTU, MRG_RXBUF, GUEST_ANNOUNCE, MQ, INDIRECT_DESC
FEATURES = F_PROTOCOL_FEATURES | VERSION_1 | 1 << 0 | 1 << 1 | 1 << 3 | 1 << 15 | 1 << 22 | 1 << 28
#: MQ, RARP, REPLY_ACK, NET_MTU, STATUS
PROTOCOL = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 16

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4
HEADER_BYTES = 12
PATIENCE_S = 30.0


@dataclass
class Faults:
    """What it does wrong."""

    silent_to: set[int] = field(default_factory=set)  # requests that get no answer
    close_at: int | None = None  # request at which it leaves
    refuse: set[int] = field(default_factory=set)  # requests that are answered with a failure
    answer: dict[int, bytes] = field(default_factory=dict)  # raw bytes instead of an answer
    greeting: bytes = b""  # said without having been asked


@dataclass
class Ring:
    size: int = 0
    addresses: tuple[int, int, int] = (0, 0, 0)  # desc, used, avail, in the front end's address space
    last_avail: int = 0
    kick: int = -1
    call: int = -1
    enabled: bool = False
    started: bool = False  # by a kick

    @property
    def running(self) -> bool:
        return self.kick >= 0 and self.size > 0 and self.addresses[0] != 0


class Memory:
    """The front end's memory, mapped."""

    def __init__(self) -> None:
        self.maps: list[tuple[int, int, int, mmap.mmap, int]] = []  # gpa, size, front-end address, map, offset

    def replace(self, payload: bytes, fds: list[int]) -> None:
        self.close()
        (count,) = struct.unpack_from("<I", payload)
        assert count == len(fds), "one descriptor for each region"
        for number, fd in enumerate(fds):
            gpa, size, user, offset = struct.unpack_from("<QQQQ", payload, 8 + 32 * number)
            self.maps.append((gpa, size, user, mmap.mmap(fd, size + offset), offset))
            os.close(fd)

    def close(self) -> None:
        for each in self.maps:
            each[3].close()
        self.maps.clear()

    def at(self, gpa: int, length: int) -> tuple[mmap.mmap, int]:
        for start, size, _, mapped, offset in self.maps:
            if start <= gpa and gpa + length <= start + size:
                return mapped, gpa - start + offset
        raise LookupError(f"guest address {gpa:#x}")

    def user(self, address: int, length: int) -> tuple[mmap.mmap, int]:
        for _, size, start, mapped, offset in self.maps:
            if start <= address and address + length <= start + size:
                return mapped, address - start + offset
        raise LookupError(f"address {address:#x} of the front end")


class LoopbackBackend:
    """See above. ``requests`` are all messages that came, ``frames`` what the guest has sent (without header)."""

    def __init__(
        self,
        path: Path | str,
        *,
        server: bool,
        features: int = FEATURES,
        protocol: int = PROTOCOL,
        queue_pairs: int = 2,
        faults: Faults | None = None,
        echo: bool = True,
    ) -> None:
        """``features`` without VERSION_1 and so on: a back end that lacks them. ``faults``: one that lies."""
        self.path, self.server = str(path), server
        self.features, self.protocol, self.queue_pairs = features, protocol, queue_pairs
        self.faults = faults or Faults()
        self.echo = echo
        self.requests: list[tuple[int, bytes]] = []
        self.frames: list[bytes] = []
        self.accepted_features = 0
        self.connections = 0
        self.statuses: list[int] = []
        self.rarps: list[bytes] = []
        self.error: BaseException | None = None
        self.memory = Memory()
        self.rings: dict[int, Ring] = {}
        self.lock = threading.Lock()
        self._to_guest: list[bytes] = []
        self._wake_read, self._wake_write = os.pipe()
        self._ending = False
        self._drop = False
        self._listener: socket.socket | None = None
        if server:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.path)
            self._listener.listen(4)
        self._thread = threading.Thread(target=self._run, name="vhost back end", daemon=True)

    # -- the test's side -----------------------------------------------------------------------------------------

    def __enter__(self) -> LoopbackBackend:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Die: the connection ends, nothing is given back. Idempotent."""
        if self._ending:
            return
        self._ending = True
        os.write(self._wake_write, b"x")
        self._thread.join(PATIENCE_S)
        if self._listener is not None:
            self._listener.close()
            os.unlink(self.path)

    def drop(self) -> None:
        """End the connection; then wait for the next."""
        self._drop = True
        os.write(self._wake_write, b"x")

    def send(self, frame: bytes) -> None:
        """A frame for the guest."""
        with self.lock:
            self._to_guest.append(frame)
        os.write(self._wake_write, b"x")

    @property
    def rings_running(self) -> int:
        return sum(ring.running and ring.enabled for ring in list(self.rings.values()))

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.error is not None:
                raise self.error
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {self.requests[-5:]}")
            time.sleep(0.005)

    def count(self, request: int) -> int:
        return sum(each[0] == request for each in list(self.requests))

    # -- connections ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ending:
                connection = self._next_connection()
                if connection is None:
                    continue
                self.connections += 1
                try:
                    self._serve(connection)
                except OSError:
                    pass  # the front end has gone
                finally:
                    connection.close()
                    self._forget()
        except BaseException as error:  # told by wait_for
            self.error = error

    def _next_connection(self) -> socket.socket | None:
        if self._listener is not None:
            ready, _, _ = select.select([self._listener.fileno(), self._wake_read], [], [])
            if self._listener.fileno() in ready:
                return self._listener.accept()[0]
            os.read(self._wake_read, 100)
            return None
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(self.path)
        except OSError:
            connection.close()
            time.sleep(0.02)
            return None
        return connection

    def _forget(self) -> None:
        for ring in self.rings.values():
            for fd in (ring.kick, ring.call):
                if fd >= 0:
                    os.close(fd)
        self.rings = {}
        self.memory.close()
        self._drop = False

    def _serve(self, connection: socket.socket) -> None:
        connection.sendall(self.faults.greeting)
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        watched: dict[int, Ring] = {}
        while not self._ending and not self._drop:
            for ring in self.rings.values():
                if ring.running and ring.kick not in watched:
                    watched[ring.kick] = ring
                    poller.register(ring.kick, select.POLLIN)
            for fd, _ in poller.poll():
                if fd == connection.fileno():
                    if not self._message(connection):
                        return
                    for kick in [kick for kick, ring in watched.items() if ring.kick != kick]:
                        del watched[kick]
                        poller.unregister(kick)
                        os.close(kick)
                elif fd == self._wake_read:
                    os.read(self._wake_read, 100)
                else:
                    os.read(fd, 8)
                    watched[fd].started = True
            self._move()

    # -- messages ------------------------------------------------------------------------------------------------

    def _message(self, connection: socket.socket) -> bool:
        data, fds, _, _ = socket.recv_fds(connection, 12, 16)
        if len(data) < 12:
            return False
        request, flags, size = struct.unpack("<III", data)
        payload = b""
        while len(payload) < size:
            part = connection.recv(size - len(payload))
            if not part:
                return False
            payload += part
        assert flags & 3 == 1, f"version of {flags:#x}"
        self.requests.append((request, payload))
        if request == self.faults.close_at:
            return False
        handled = self._handle(request, payload, fds)
        answer = self.faults.answer.get(request)
        if answer is None and handled is not None:
            answer = struct.pack("<III", request, 1 | 4, len(handled)) + handled
        elif answer is None and flags & 8:
            failed = request in self.faults.refuse
            answer = struct.pack("<IIIQ", request, 1 | 4, 8, int(failed))
        if answer is not None and request not in self.faults.silent_to:
            connection.sendall(answer)
        return True

    def _handle(self, request: int, payload: bytes, fds: list[int]) -> bytes | None:
        """The payload of the answer, for requests that have one of their own."""
        if request == GET_FEATURES:
            return struct.pack("<Q", self.features)
        if request == GET_PROTOCOL_FEATURES:
            return struct.pack("<Q", self.protocol)
        if request == GET_QUEUE_NUM:
            return struct.pack("<Q", self.queue_pairs)
        if request == SET_FEATURES:
            (self.accepted_features,) = struct.unpack("<Q", payload)
        elif request == SET_MEM_TABLE:
            self.memory.replace(payload, fds)
        elif request == SET_STATUS:
            self.statuses.append(struct.unpack("<Q", payload)[0])
        elif request == SEND_RARP:
            self.rarps.append(payload[:6])
        elif request in (SET_VRING_KICK, SET_VRING_CALL):
            (value,) = struct.unpack("<Q", payload)
            ring = self._ring(value & 0xFF)
            if request == SET_VRING_KICK:
                ring.kick, ring.started = fds[0], False
            else:
                if ring.call >= 0:
                    os.close(ring.call)
                ring.call = fds[0]
        elif request in (SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ENABLE, SET_VRING_ADDR):
            self._set_ring(request, payload)
        elif request == GET_VRING_BASE:
            number, _ = struct.unpack("<II", payload)
            ring = self._ring(number)
            ring.kick = -1  # closed by the poll loop
            return struct.pack("<II", number, ring.last_avail)
        return None

    def _ring(self, number: int) -> Ring:
        return self.rings.setdefault(number, Ring())

    def _set_ring(self, request: int, payload: bytes) -> None:
        number, value = struct.unpack_from("<II", payload)
        ring = self._ring(number)
        if request == SET_VRING_NUM:
            ring.size = value
        elif request == SET_VRING_BASE:
            ring.last_avail = value
        elif request == SET_VRING_ENABLE:
            ring.enabled = bool(value)
        else:
            desc, used, avail = struct.unpack_from("<QQQ", payload, 8)
            ring.addresses = desc, used, avail

    # -- rings (virtio 1.2 §2.7) ---------------------------------------------------------------------------------

    def _move(self) -> None:
        """Frames out of transmit rings, and into receive rings."""
        for number, ring in sorted(self.rings.items()):
            if number % 2 and ring.running and ring.started:
                for head, parts in self._take(ring):
                    frame = b"".join(self._copy(gpa, length) for gpa, length, _ in parts)[HEADER_BYTES:]
                    self._give_back(ring, head, 0)
                    if ring.enabled:
                        self.frames.append(frame)
                        if self.echo:
                            with self.lock:
                                self._to_guest.append(frame)
        receive = self.rings.get(0)
        while receive is not None and receive.running and receive.started and receive.enabled and self._to_guest:
            chain = next(self._take(receive, limit=1), None)
            if chain is None:
                break
            with self.lock:
                frame = self._to_guest.pop(0)
            data = bytes(10) + struct.pack("<H", 1) + frame
            at = 0
            for gpa, length, _ in chain[1]:
                mapped, offset = self.memory.at(gpa, length)
                part = data[at : at + length]
                mapped[offset : offset + len(part)] = part
                at += len(part)
            self._give_back(receive, chain[0], at)

    def _copy(self, gpa: int, length: int) -> bytes:
        mapped, offset = self.memory.at(gpa, length)
        return mapped[offset : offset + length]

    def _take(self, ring: Ring, limit: int = 1 << 16):  # type: ignore[no-untyped-def]  # pairs of head and parts
        desc, _, avail = ring.addresses
        mapped, at = self.memory.user(avail, 4 + 2 * ring.size)
        table, table_at = self.memory.user(desc, 16 * ring.size)
        while limit and struct.unpack_from("<H", mapped, at + 2)[0] != ring.last_avail:
            (head,) = struct.unpack_from("<H", mapped, at + 4 + 2 * (ring.last_avail % ring.size))
            ring.last_avail = (ring.last_avail + 1) & 0xFFFF
            limit -= 1
            yield head, self._walk(table, table_at, head)

    def _walk(self, table: mmap.mmap, at: int, index: int) -> list[tuple[int, int, int]]:
        parts = []
        while True:
            gpa, length, flags, following = struct.unpack_from("<QIHH", table, at + 16 * index)
            if flags & DESC_INDIRECT:
                table, at = self.memory.at(gpa, length)
                index = 0
                continue
            parts.append((gpa, length, flags))
            if not flags & DESC_NEXT:
                return parts
            index = following

    def _give_back(self, ring: Ring, head: int, written: int) -> None:
        mapped, at = self.memory.user(ring.addresses[1], 4 + 8 * ring.size)
        (index,) = struct.unpack_from("<H", mapped, at + 2)
        struct.pack_into("<II", mapped, at + 4 + 8 * (index % ring.size), head, written)
        struct.pack_into("<H", mapped, at + 2, (index + 1) & 0xFFFF)
        if ring.call >= 0:
            os.write(ring.call, struct.pack("<Q", 1))
