# SPDX-License-Identifier: Apache-2.0
"""Frames in a byte stream: split at every byte, hostile peers, peers that do not read, ends within a frame."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.select_loop import SelectLoop
from vmmd.net.frames import MAX_FRAME_BYTES, FrameBuffer, scatter
from vmmd.net.stream_queue import StreamQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHORT = bytes(range(60))
FRAMES = [SHORT, b"\x55" * 1514, b"a", SHORT[::-1]]


def wire(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


def feed(buffer: FrameBuffer, data: bytes) -> None:
    while data:
        room = buffer.room()
        count = min(len(room), len(data))
        assert count
        room[:count] = data[:count]
        buffer.received(count)
        data = data[count:]


def taken(buffer: FrameBuffer) -> list[bytes]:
    frames = []
    while (frame := buffer.take()) is not None:
        frames.append(bytes(frame))
    return frames


def test_frames_split_at_every_byte_come_whole() -> None:
    data = wire(*FRAMES)
    for cut in range(len(data) + 1):
        buffer = FrameBuffer()
        feed(buffer, data[:cut])
        first = taken(buffer)
        feed(buffer, data[cut:])
        assert first + taken(buffer) == FRAMES


def test_frames_byte_by_byte_come_whole() -> None:
    buffer = FrameBuffer()
    got = []
    for value in wire(*FRAMES):
        feed(buffer, bytes([value]))
        got += taken(buffer)
    assert got == FRAMES


def test_frames_of_any_length_fit_wherever_the_buffer_stands() -> None:
    buffer = FrameBuffer()
    long = b"\x77" * MAX_FRAME_BYTES
    for count in (1, 200, 1000, 3000):
        few = [SHORT] * count
        feed(buffer, wire(*few)[:-7])
        assert taken(buffer) == few[:-1]
        feed(buffer, wire(*few)[-7:])
        feed(buffer, wire(long))
        assert taken(buffer) == [SHORT, long]


def test_empty_frames_are_skipped_at_once() -> None:
    buffer = FrameBuffer()
    feed(buffer, bytes(100_000) + wire(SHORT) + bytes(4) + wire(SHORT) + bytes(3))
    assert taken(buffer) == [SHORT, SHORT]
    feed(buffer, b"\x01z")
    assert taken(buffer) == [b"z"]


@pytest.mark.parametrize("length", [MAX_FRAME_BYTES + 1, 1 << 31, (1 << 32) - 1])
def test_a_frame_that_is_too_long_ends_what_comes(length: int) -> None:
    buffer = FrameBuffer()
    feed(buffer, wire(SHORT) + struct.pack(">I", length) + wire(SHORT))
    assert taken(buffer) == [SHORT]
    assert buffer.oversized == length
    assert not buffer.has_frame()


def test_a_full_buffer_has_no_room_until_a_frame_is_taken() -> None:
    buffer = FrameBuffer()
    total = 0
    while room := buffer.room():
        piece = wire(SHORT * 20)[: len(room)]
        room[: len(piece)] = piece
        buffer.received(len(piece))
        total += len(piece)
    assert total <= 1 << 20
    assert buffer.take() == SHORT * 20
    assert buffer.room()


def test_scatter_fills_as_readv_does() -> None:
    for sizes in ((60,), (14, 46), (1, 2, 3, 100), (10, 10), ()):
        parts = [bytearray(size) for size in sizes]
        count = scatter(memoryview(SHORT), [memoryview(part) for part in parts])
        assert count == min(sum(sizes), 60)
        assert b"".join(parts)[:count] == SHORT[:count]


class Taker:
    """NetFrontend: takes ``credit`` frames, at most ``at_once`` each time."""

    def __init__(self, queue: StreamQueue, credit: int = 1 << 30, at_once: int = 8) -> None:
        self.queue = queue
        self.credit = credit
        self.at_once = at_once
        self.got: list[bytes] = []
        self.rooms = 0

    def readable(self) -> None:
        for _ in range(self.at_once):
            if not self.credit:
                self.queue.watch(False)
                return
            space = bytearray(MAX_FRAME_BYTES)
            count = self.queue.read([memoryview(space)[:100], memoryview(space)[100:]])
            if not count:
                return
            self.credit -= 1
            self.got.append(bytes(space[:count]))

    def writable(self) -> None:
        self.rooms += 1


class Rig:
    """A queue, its frontend, and the peer's end of the connection."""

    def __init__(self, **taker: int) -> None:
        self.loop = SelectLoop()
        self.ends: list[str] = []
        self.queue = StreamQueue(self.loop, self.ended)
        self.taker = Taker(self.queue, **taker)
        self.queue.attach(self.taker)
        self.queue.watch(True)
        self.peer = self.connect()

    def ended(self, why: str) -> None:
        self.ends.append(why)
        self.queue.hang_up()

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.queue.serve(ours)
        return theirs

    def until(self, condition: Any) -> None:
        self.loop.until(condition, 30)

    def settle(self, rounds: int = 20) -> None:
        """Let the queue do what it can do now."""
        self.loop.settle(rounds)


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    """Rigs that are closed at the end."""
    every: list[Rig] = []

    def make(**taker: int) -> Rig:
        every.append(Rig(**taker))
        return every[-1]

    yield make
    for each in every:
        each.queue.hang_up()
        each.peer.close()
        each.loop.selector.close()


@pytest.fixture
def rig(rigs: Callable[..., Rig]) -> Rig:
    return rigs()


def test_frames_reach_the_guest_and_the_peer(rig: Rig) -> None:
    rig.peer.sendall(wire(*FRAMES))
    rig.until(lambda: len(rig.taker.got) == len(FRAMES))
    assert rig.taker.got == FRAMES
    assert rig.queue.write([memoryview(SHORT)[:10], memoryview(SHORT)[10:]])
    assert rig.peer.recv(1000) == wire(SHORT)


def test_more_frames_than_a_turn_takes_all_come(rig: Rig) -> None:
    many = [struct.pack(">I", number) * 20 for number in range(1000)]
    rig.peer.sendall(wire(*many))
    rig.until(lambda: len(rig.taker.got) == len(many))
    assert rig.taker.got == many


def test_a_guest_without_buffers_holds_the_peer_back_and_goes_on(rigs: Callable[..., Rig]) -> None:
    rig = rigs(credit=0)
    rig.queue.watch(False)
    rig.peer.setblocking(False)
    sent = 0
    frame = wire(b"\x11" * 1000)
    rest = b""
    for _ in range(20_000):
        try:
            rest = (rest or frame)[rig.peer.send(rest or frame) :]
            sent += not rest
        except BlockingIOError:
            posts = rig.loop.posts
            rig.settle()
            if rig.loop.posts == posts and not _writable(rig.peer):
                break
    else:
        pytest.fail("nothing held the peer back")
    assert not rig.taker.got
    rig.taker.credit = 1 << 30
    rig.queue.watch(True)
    rig.until(lambda: len(rig.taker.got) >= sent)
    assert set(rig.taker.got) == {b"\x11" * 1000}


def _writable(sock: socket.socket) -> bool:
    import select

    return bool(select.select([], [sock], [], 0)[1])


def test_a_peer_that_does_not_read_holds_the_guest_back_and_gets_every_frame_whole(rig: Rig) -> None:
    sent = []
    for number in range(100_000):
        frame = struct.pack(">I", number) * (1 + number % 377)
        if not rig.queue.write([memoryview(frame)]):
            break
        sent.append(frame)
    else:
        pytest.fail("the guest was not held back")
    assert not rig.queue.write([memoryview(SHORT)])
    rig.peer.settimeout(30)
    expected, got = wire(*sent), bytearray()
    while len(got) < len(expected):
        got += rig.peer.recv(65536)
        rig.loop.round()
    assert bytes(got) == expected
    rig.until(lambda: rig.taker.rooms == 1)
    assert rig.queue.write([memoryview(SHORT)])
    assert rig.peer.recv(100) == wire(SHORT)


@pytest.mark.parametrize("length", [MAX_FRAME_BYTES + 1, (1 << 32) - 1])
def test_a_peer_that_announces_too_much_is_dropped(rig: Rig, length: int) -> None:
    rig.peer.sendall(wire(SHORT) + struct.pack(">I", length) + bytes(50))
    rig.until(lambda: rig.ends)
    assert str(length) in rig.ends[0]
    assert rig.taker.got == [SHORT]


def test_too_much_is_noticed_also_when_the_guest_takes_the_frames_before_it_late(rigs: Callable[..., Rig]) -> None:
    rig = rigs(credit=0)
    rig.queue.watch(False)
    rig.peer.setblocking(False)
    rest = wire(SHORT, SHORT) + b"\xff" * 400_000
    while rest and _writable(rig.peer):
        rest = rest[rig.peer.send(rest) :]
        rig.settle(2)
    rig.taker.credit = 5
    rig.queue.watch(True)
    rig.until(lambda: rig.ends)
    assert rig.taker.got == [SHORT, SHORT]


def test_what_was_whole_comes_after_the_peer_has_gone_and_before_the_next(rig: Rig) -> None:
    rig.taker.credit = 1
    many = [struct.pack(">I", number) * 20 for number in range(50)]
    rig.peer.sendall(wire(*many) + b"\0\0\1\0half")
    rig.peer.close()
    rig.until(lambda: rig.ends)
    assert rig.ends == [""]
    rig.peer = rig.connect()
    rig.peer.sendall(wire(b"next"))
    rig.settle()
    rig.taker.credit = 1 << 30
    rig.queue.watch(True)
    rig.until(lambda: len(rig.taker.got) == 51)
    assert rig.taker.got == [*many, b"next"]


def test_a_peer_that_goes_lets_a_waiting_guest_go_on(rig: Rig) -> None:
    while rig.queue.write([memoryview(SHORT * 20)]):
        pass
    rig.peer.close()
    rig.until(lambda: rig.ends)
    assert rig.taker.rooms == 1
    dropped = rig.queue.dropped
    assert rig.queue.write([memoryview(SHORT)])
    assert rig.queue.dropped == dropped + 1
    rig.peer = rig.connect()
    assert rig.queue.write([memoryview(SHORT)])
    assert rig.peer.recv(1000) == wire(SHORT)


def test_nothing_can_be_read_while_the_link_is_cut(rig: Rig) -> None:
    rig.queue.watch(False)
    rig.peer.sendall(wire(SHORT))
    rig.until(rig.queue._has_frame)
    rig.queue.set_cut(True)
    assert not rig.queue.read([memoryview(bytearray(100))])
    rig.until(lambda: rig.queue.dropped == 1)


def test_while_the_link_is_cut_everything_is_dropped_and_the_stream_stays_in_step(rig: Rig) -> None:
    while rig.queue.write([memoryview(SHORT * 20)]):
        pass
    rig.queue.set_cut(True)
    rig.until(lambda: rig.taker.rooms == 1)
    assert rig.queue.write([memoryview(b"lost")])
    rig.peer.sendall(wire(*[b"lost"] * 1000) + wire(SHORT)[:20])
    rig.until(lambda: rig.queue.dropped >= 1001)
    rig.queue.set_cut(False)
    rig.peer.sendall(wire(SHORT)[20:])
    rig.until(lambda: rig.taker.got)
    assert rig.taker.got == [SHORT]
    rig.peer.settimeout(30)
    buffer, got = FrameBuffer(), []
    while not got or got[-1] != b"after":
        room = buffer.room()
        buffer.received(rig.peer.recv_into(room))
        got += taken(buffer)
        rig.loop.round()
        if not rig.queue._rest and b"after" not in got:
            rig.queue.write([memoryview(b"after")])
    assert set(got) == {SHORT * 20, b"after"}


def test_a_frame_longer_than_any_is_dropped(rig: Rig) -> None:
    assert rig.queue.write([memoryview(bytes(MAX_FRAME_BYTES)), memoryview(b"x")])
    assert rig.queue.dropped == 1
    assert rig.queue.write([memoryview(SHORT)])
    assert rig.peer.recv(100_000) == wire(SHORT)


def test_nothing_is_switched_for_each_frame(rig: Rig) -> None:
    changes = []
    rig.loop.add_reader = lambda *args: changes.append(args)  # type: ignore[method-assign]
    rig.loop.remove_reader = lambda *args: changes.append(args)  # type: ignore[method-assign]
    for _ in range(50):
        rig.peer.sendall(wire(SHORT))
        rig.queue.write([memoryview(SHORT)])
        rig.until(lambda: rig.taker.got)
        rig.taker.got.clear()
    assert not changes
