# SPDX-License-Identifier: Apache-2.0
"""virtio-net's receive queue: frames into buffers of any shape, several buffers, those that wait or do not fit; how
long it may take."""

from __future__ import annotations

import struct

import pytest

from tests.framework.virtqueue_driver import Buffer
from tests.unit.fakes import FakeNetdev
from tests.unit.net_rig import ALL, MRG_RXBUF, RX_DATA, TX_DATA, NetRig, frame
from vmmd.devices.virtio.net.receive import RxWorker

NEEDS_RESET = 0x40
CSUM_HEADER = struct.pack("<BBHHHH", 1, 1, 54, 1460, 34, 16)  # checksum to do, TCPv4 segments of 1460 bytes
HEADERS = pytest.mark.parametrize("headers", [(10, 12), ()])  # of the netdev


def from_netdev(data: bytes, headers: tuple[int, ...]) -> bytes:
    """A frame as the netdev gives it."""
    return bytes(12 if headers else 0) + data


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("headers", [(10, 12), ()])
@pytest.mark.parametrize("merge", [MRG_RXBUF, 0])
def test_frames_arrive_with_a_header(modern: bool, headers: tuple[int, ...], merge: int) -> None:
    rig = NetRig(netdev=FakeNetdev(headers=headers)).start(ALL & ~MRG_RXBUF | merge, modern=modern)
    rig.post(2048, 2048, 2048)
    frames = [frame(60), frame(1514)]
    given = CSUM_HEADER.ljust(rig.header, b"\0") if headers else b""
    rig.queue.feed(*(given + each for each in frames))
    expected = (CSUM_HEADER if headers else bytes(10)) + (b"\1\0" if rig.header == 12 else b"")
    assert rig.received() == [(expected, each) for each in frames]


def test_host_keeps_frames_while_the_guest_has_no_buffers() -> None:
    rig = NetRig().start()
    assert not rig.queue.watched
    rig.queue.feed(*[bytes(12) + frame(60 + each) for each in range(3)])
    rig.post(2048)
    rig.queue.run()
    assert len(rig.received()) == 1
    assert len(rig.queue.incoming) == 2
    assert not rig.queue.watched
    rig.post(2048, 2048)
    rig.queue.run()
    assert [len(each) for _, each in rig.received()] == [61, 62]


@HEADERS
@pytest.mark.parametrize("lengths", [(256,) * 8, (100, 2000), (72, 13, 1500), (4096,)])
def test_mergeable_buffers_share_a_frame(lengths: tuple[int, ...], headers: tuple[int, ...]) -> None:
    rig = NetRig(netdev=FakeNetdev(headers=headers)).start()
    for _ in range(3):  # the second time the chains are offered together
        rig.post(*lengths)
        rig.queue.feed(from_netdev(frame(1514), headers))
        ((header, data),) = rig.received()
        assert data == frame(1514)
        assert int.from_bytes(header[10:], "little") == min(
            count for count in range(1, 9) if sum(lengths[:count]) >= 1526
        )
        rest = len(rig.rings[0].chains)
        rig.queue.feed(*[from_netdev(frame(14), headers)] * rest)
        assert len(rig.received()) == rest  # those not needed serve the next ones


@HEADERS
def test_long_frames_go_into_all_their_chains_by_one_read(headers: tuple[int, ...]) -> None:
    rig = NetRig(netdev=FakeNetdev(headers=headers)).start()
    rig.post(*[256] * 14)
    rig.queue.feed(*[from_netdev(frame(1514), headers)] * 2)
    assert [data for _, data in rig.received()] == [frame(1514)] * 2
    assert rig.queue.buffers == [2, 7]  # one chain, and the rest was copied; then six, and the spill buffer


@HEADERS
def test_frames_of_many_lengths_and_buffers_arrive_whole(headers: tuple[int, ...]) -> None:
    rig = NetRig(netdev=FakeNetdev(headers=headers)).start()
    for length in (4000, 60, 65_000, 1514, 9000, 4000):
        rig.post(pieces=(20, 300, 700))
        rig.post(*[1526] * -(-(12 + length - 1020) // 1526))
        rig.queue.feed(from_netdev(frame(length), headers))
        assert [data for _, data in rig.received()] == [frame(length)]


@HEADERS
def test_a_frame_that_needs_more_chains_than_there_are_waits_for_them(headers: tuple[int, ...]) -> None:
    rig = NetRig(netdev=FakeNetdev(headers=headers)).start()
    rig.post(256, 256)
    rig.queue.feed(from_netdev(frame(1000), headers))
    assert not rig.received()
    assert not rig.queue.watched
    rig.post(256)
    assert not rig.received()
    rig.post(256)
    assert [data for _, data in rig.received()] == [frame(1000)]


def test_a_frame_that_all_chains_together_cannot_hold_is_dropped() -> None:
    rig = NetRig().start()
    rig.post(*[64] * 256)
    rig.queue.feed(bytes(12) + frame(60_000), bytes(12) + frame(100))
    assert [data for _, data in rig.received()] == [frame(100)]


def test_without_mergeable_buffers_a_frame_that_is_too_long_is_dropped() -> None:
    rig = NetRig().start(ALL & ~MRG_RXBUF)
    rig.post(100)
    rig.queue.feed(bytes(12) + frame(89), bytes(12) + frame(88))
    assert [data for _, data in rig.received()] == [frame(88)]


@pytest.mark.parametrize("headers", [(10, 12), ()])
@pytest.mark.parametrize("pieces", [(12, 1514), (4, 8, 600, 600, 400), (11, 1, 1, 1600), (1526,)])
def test_buffers_in_pieces_are_filled_in_order(headers: tuple[int, ...], pieces: tuple[int, ...]) -> None:
    rig = NetRig(netdev=FakeNetdev(headers=headers)).start()
    rig.post(pieces=pieces)
    rig.queue.feed(b"\0" * (12 if headers else 0) + frame(1514))
    assert rig.received() == [(bytes(10) + b"\1\0", frame(1514))]


def test_a_buffer_without_room_for_a_frame_breaks_the_device() -> None:
    rig = NetRig().start()
    rig.post(12)
    rig.queue.feed(bytes(12) + frame())
    assert rig.driver.status & NEEDS_RESET


def test_a_buffer_that_is_nowhere_breaks_the_device() -> None:
    rig = NetRig().start()
    rig.rings[0].add([], [Buffer(0xE000_0000, 2048)])
    rig.rings[0].kick()
    rig.run()
    rig.queue.feed(bytes(12) + frame())
    assert rig.driver.status & NEEDS_RESET


def test_a_turn_takes_a_bounded_number_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    from vmmd.devices.virtio.net import receive

    rig = NetRig().start()
    rig.post(*[128] * 200)
    monkeypatch.setattr(receive, "TURN_NS", 0)
    rig.queue.incoming = [bytes(12) + frame()] * 200
    rig.queue.frontend.readable()
    assert not rig.received()  # the turn was over before it began
    monkeypatch.setattr(receive, "TURN_NS", 1)
    ticks = iter(range(10_000))
    monkeypatch.setattr(receive, "monotonic_ns", lambda: next(ticks))
    rig.queue.frontend.readable()
    assert len(rig.received()) <= receive.FRAMES_A_LOOK


def test_a_frame_that_takes_long_ends_the_turn_whose_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from vmmd.devices.virtio.net import receive

    rig = NetRig().start()
    rig.post(*[256] * 200)
    monkeypatch.setattr(receive, "TURN_NS", 1)
    looks = iter([0, 0, 1, 1, *[0, 0, 0, 1, 1] * 2])  # the turn is over with the first frame
    monkeypatch.setattr(receive, "monotonic_ns", lambda: next(looks))
    rig.queue.incoming = [bytes(12) + frame(1000)] * 6
    left = []
    for _ in range(3):  # one chain overflows at first, later ones are offered together
        rig.queue.frontend.readable()
        left.append(len(rig.queue.incoming))
    assert left == [5, 4, 3]
    assert not list(looks)


def test_a_ring_that_runs_dry_is_found_to_be_so_however_late_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from vmmd.devices.virtio.net import receive

    for pieces in ((256,), (256, 256)):
        rig = NetRig().start()
        rig.post(pieces=pieces)
        looks = iter([0, 0, *[0] * (len(pieces) - 1), 9, 9])
        monkeypatch.setattr(receive, "TURN_NS", 1)
        monkeypatch.setattr(receive, "monotonic_ns", lambda looks=looks: next(looks))
        rig.queue.feed(bytes(12) + frame())
        assert not rig.queue.watched
        monkeypatch.undo()


def test_buffers_are_not_looked_up_for_a_frame_that_cannot_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = NetRig(rx_queue_size="1024").start()
    rig.post(*[13] * 1024)
    places = []
    place = RxWorker._place
    monkeypatch.setattr(RxWorker, "_place", lambda *which, **first: places.append(which) or place(*which, **first))
    rig.queue.feed(*[bytes(12) + frame(60_000)] * 3, bytes(12) + frame(14))
    assert [data for _, data in rig.received()] == [frame(14)]
    assert len(places) < 10


def test_a_frame_over_thousands_of_buffers_is_dropped() -> None:
    rig = NetRig().start()
    for at in range(100):
        rig.rings[0].add([], [Buffer(RX_DATA, 16)] * 250, TX_DATA + 0x1000 * at)  # tables: the ring has room for more
    rig.rings[0].kick()
    rig.run()
    rig.queue.feed(bytes(12) + frame(60_000), bytes(12) + frame(3900))
    (written,) = [written for _, written in rig.rings[0].collect()]
    assert written == 3912


def test_short_frames_behind_a_long_one_are_offered_few_buffers_soon() -> None:
    rig = NetRig().start()
    rig.post(*[256] * 200)
    rig.queue.feed(bytes(12) + frame(10_000), *[bytes(12) + frame()] * 100)
    assert [len(data) for _, data in rig.received()] == [10_000] + [60] * 100
    assert rig.queue.buffers[1:8] == [41, 21, 11, 6, 4, 3, 2]  # and the spill buffer
    assert set(rig.queue.buffers[8:]) == {2}
