# SPDX-License-Identifier: Apache-2.0
"""virtio-net through its registers and rings: what is offered, frames both ways, links, stop, reset, unplug."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.framework.virtqueue_driver import Buffer, Driver
from tests.unit.fakes import FIRST_MAC, FakeNetdev
from tests.unit.net_rig import (
    ALL,
    ANNOUNCE,
    CTRL_MAC,
    CTRL_VLAN,
    CTRL_VQ,
    F_EVENT_IDX,
    GUEST_CSUM,
    GUEST_TSO4,
    INDIRECT,
    MQ,
    MRG_RXBUF,
    RX_DATA,
    STATUS,
    TX_DATA,
    NetRig,
    frame,
)
from vmmd.core.backend import NetOffload
from vmmd.core.notify import Handshake
from vmmd.devices.virtio.net import transmit
from vmmd.devices.virtio.net.header import FRAME_BYTES_MAX
from vmmd.devices.virtio.net.pci import VirtioNetPciNonTransitional
from vmmd.devices.virtio.net.worker import BATCH
from vmmd.errors import UsageError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

VERSION_1 = 1 << 32
NEEDS_RESET = 0x40
CSUM_HEADER = struct.pack("<BBHHHH", 1, 1, 54, 1460, 34, 16)  # checksum to do, TCPv4 segments of 1460 bytes


# -- what is offered ---------------------------------------------------------------------------------------------------


def test_a_netdev_with_header_and_offloads_has_them_all_offered() -> None:
    rig = NetRig().start()
    # all below bit 24 but: the MTU, which is not told; a hole; the legacy GSO; several queue pairs
    assert rig.driver.offered() & 0xFF_FFFF == 0xFF_FFFF & ~(1 << 3 | 1 << 4 | 1 << 6 | 1 << 22)
    assert rig.netdev.header == 12
    basic = NetOffload.CSUM | NetOffload.TSO4 | NetOffload.TSO6 | NetOffload.TSO_ECN | NetOffload.UFO
    assert rig.netdev.accepted == basic  # no USO: QEMU 7.2 has none


def test_uso_is_offered_when_it_is_asked_for() -> None:
    rig = NetRig(guest_uso4="on", guest_uso6="on", host_uso="on").start()
    assert rig.driver.offered() >> 54 & 7 == 7
    assert rig.netdev.accepted is not None
    assert rig.netdev.accepted & (NetOffload.USO4 | NetOffload.USO6) == NetOffload.USO4 | NetOffload.USO6


def test_offloads_that_the_netdev_lacks_are_not_offered() -> None:
    netdev = FakeNetdev()
    netdev.offloads = NetOffload.CSUM | NetOffload.TSO4
    offered = NetRig(netdev=netdev).start().driver.offered()
    assert offered & 0x7F83 == 1 | 1 << 1 | 1 << 7 | 1 << 11


def test_a_netdev_without_header_has_no_offloads_offered() -> None:
    rig = NetRig(netdev=FakeNetdev(headers=())).start()
    assert not rig.driver.offered() & 0x7F83
    assert rig.netdev.header is None
    assert rig.netdev.accepted is None


def test_a_driver_gets_nothing_that_is_not_offered() -> None:
    """It takes every bit, and goes on though FEATURES_OK is refused."""
    netdev = FakeNetdev()
    netdev.offloads = NetOffload.CSUM
    rig = NetRig(netdev=netdev, mrg_rxbuf="off", ctrl_vlan="off").start()
    rig.driver.status = 0
    rig.run()
    rig.driver.status = 3
    for select in (0, 1):
        rig.driver.put(8, 4, select)
        rig.driver.put(0xC, 4, 0xFFFF_FFFF)
    rig.driver.status = 11
    assert rig.driver.status == 3
    rig.driver.queues.clear()
    rig.rings = [rig.driver.setup_queue(index, 0x1_0000 + 0x4000 * index) for index in range(3)]
    rig.driver.status = 7
    rig.run()
    rig.post(2048)
    rig.queue.feed(bytes(12) + frame(1514))
    assert rig.received() == [(bytes(10) + b"\1\0", frame(1514))]
    assert netdev.accepted == NetOffload.CSUM
    assert rig.command(5, 0, struct.pack("<Q", 1 << 1 | 1 << 7)) == 1


def test_segments_without_checksums_are_not_asked_of_the_netdev() -> None:
    rig = NetRig().start(ALL & ~GUEST_CSUM)
    assert rig.netdev.accepted == NetOffload(0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"rx_queue_size": "300"}, r"Invalid rx_queue_size \(= 300\), must be a power of 2 between 256 and 1024\."),
        ({"tx_queue_size": "128"}, r"Invalid tx_queue_size \(= 128\), must be a power of 2 between 256 and 1024$"),
        ({"duplex": "double"}, "'duplex' must be 'half' or 'full'"),
        ({"speed": "-2"}, "'speed' must be between 0 and INT_MAX"),
        ({"rss": "on"}, "'rss' is not available in this version"),
        ({"failover": "on"}, "'failover' is not available in this version"),
    ],
)
def test_wrong_properties_are_refused(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        NetRig(**given)


def test_unknown_way_of_sending_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    NetRig(tx="foo")
    assert [each.partition(",")[0] for each in caplog.messages] == ["virtio-net: Unknown option tx=foo"]


def test_configuration_tells_what_the_properties_say() -> None:
    rig = NetRig(mac="52:54:00:01:02:03", host_mtu="1400", speed="2500", duplex="full").start()
    config = bytes(rig.driver.config(at, 1) for at in range(20))
    assert config[:6].hex() == "525400010203"
    assert struct.unpack("<HHHIB", config[6:17]) == (1, 1, 1400, 2500, 1)
    assert config[17:] == b"\xff" * 3
    assert rig.driver.offered() & (1 << 63 | 1 << 3) == 1 << 63 | 1 << 3


def test_legacy_driver_without_control_queue_sets_the_address_in_the_configuration() -> None:
    rig = NetRig().start(ALL & ~(CTRL_VQ | CTRL_MAC | MRG_RXBUF), modern=False)
    for at, value in enumerate(b"\x52\x54\x00\x99\x88\x77"):
        rig.driver.write_config(at, 1, value)
    rig.run()
    assert rig.device.current_mac.hex() == "525400998877"
    assert rig.net.filter.mac.hex() == "525400998877"
    rig.driver.status = 0
    rig.run()
    assert rig.device.current_mac == FIRST_MAC


def test_address_of_a_legacy_driver_is_forgotten_with_its_reset() -> None:
    rig = NetRig()
    legacy = Driver(rig.registers, rig.memory, modern=False)
    legacy.negotiate(0)
    legacy.write_config(5, 1, 0x77)
    legacy.status = 0  # no queue to wait for: the loop has not had its turn meanwhile
    rig.run()
    assert rig.device.current_mac == rig.net.filter.mac == FIRST_MAC


def test_modern_driver_cannot_write_the_configuration() -> None:
    rig = NetRig().start(ALL & ~CTRL_MAC)
    rig.driver.write_config(0, 1, 0xAA)
    assert rig.device.current_mac == FIRST_MAC


# -- transmit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("split", [0, 12, 10, 5, 40])
@pytest.mark.parametrize("headers", [(10, 12), ()])
def test_frames_leave_in_order_whatever_their_buffers(modern: bool, split: int, headers: tuple[int, ...]) -> None:
    rig = NetRig(netdev=FakeNetdev(headers=headers)).start(modern=modern)
    frames = [frame(60), frame(1514), frame(61)]
    header = CSUM_HEADER.ljust(rig.header, b"\0") if headers else bytes(rig.header)
    rig.send(*frames, header=header, split=split)
    assert rig.queue.sent == [(header if headers else b"") + each for each in frames]
    assert [written for _, written in rig.rings[1].collect()] == [0, 0, 0]


def test_legacy_header_without_mergeable_buffers_is_short() -> None:
    rig = NetRig().start(ALL & ~MRG_RXBUF, modern=False)
    assert rig.netdev.header == 10
    rig.send(frame())
    assert rig.queue.sent == [bytes(10) + frame()]
    rig.post(2048)
    rig.queue.feed(CSUM_HEADER + frame(70))
    assert rig.received() == [(CSUM_HEADER, frame(70))]


def test_a_frame_in_an_indirect_table_leaves() -> None:
    rig = NetRig().start(INDIRECT | VERSION_1)
    parts = [Buffer(TX_DATA + 0x100 * index, 20) for index in range(5)]
    for part in parts:
        rig.memory.write(part.gpa, bytes([part.gpa >> 8 & 0xFF]) * 20)
    rig.rings[1].add(parts, [], TX_DATA + 0x8000)
    rig.rings[1].kick()
    rig.run()
    assert rig.queue.sent == [b"".join(bytes([index]) * 20 for index in range(5))]


def test_frames_that_the_netdev_has_no_room_for_stay_in_the_ring() -> None:
    rig = NetRig().start()
    rig.queue.room = 2
    rig.send(*(frame(60 + each) for each in range(5)))
    assert len(rig.rings[1].collect()) == 2
    rig.send(frame(80))  # a notification meanwhile changes nothing
    assert len(rig.queue.sent) == 2
    rig.queue.room = None
    rig.queue.frontend.writable()
    rig.run()
    assert [len(each) - 12 for each in rig.queue.sent] == [60, 61, 62, 63, 64, 80]
    assert len(rig.rings[1].collect()) == 4


@pytest.mark.parametrize("length", [FRAME_BYTES_MAX + 13, 12, 5, 0x7FFF_FFFF])
def test_frames_too_long_or_without_anything_are_dropped(length: int) -> None:
    rig = NetRig(netdev=FakeNetdev(headers=())).start()
    rig.rings[1].add([Buffer(TX_DATA, length)], [])
    rig.rings[1].kick()
    rig.run()
    assert not rig.queue.sent
    assert len(rig.rings[1].collect()) == 1
    rig.send(frame())
    assert rig.queue.sent == [frame()]


def test_a_chain_that_describes_gigabytes_is_dropped_not_copied() -> None:
    rig = NetRig().start(VERSION_1)
    rig.rings[1].add([Buffer(TX_DATA, 0x0400_0000)] * 65, [])
    rig.rings[1].kick()
    rig.run()
    assert len(rig.rings[1].collect()) == 1
    assert not rig.queue.sent


def test_a_defect_is_logged_with_its_traceback_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However often the guest resets the device and goes on."""
    rig = NetRig()
    monkeypatch.setattr(rig.queue, "write", lambda buffers: 1 // 0)
    for _ in range(3):
        rig.start()
        rig.send(frame())
        assert rig.driver.status & NEEDS_RESET
        rig.reset()
    assert [each.levelname for each in caplog.records if each.exc_info] == ["ERROR"]


def test_a_frame_without_buffers_breaks_the_device() -> None:
    rig = NetRig().start()
    rig.rings[1].add([], [Buffer(TX_DATA, 60)])
    rig.rings[1].kick()
    rig.run()
    assert rig.driver.status & NEEDS_RESET


def test_one_interrupt_for_a_batch_and_none_when_none_is_wanted() -> None:
    rig = NetRig().start(VERSION_1)
    rig.send(*[frame()] * BATCH)
    assert rig.net.counters[1].interrupts == 1
    rig.rings[1].set_no_interrupt(True)
    rig.rings[1].collect()
    rig.send(frame())
    assert rig.net.counters[1].interrupts == 1


def test_event_index_both_ways() -> None:
    rig = NetRig().start(VERSION_1 | F_EVENT_IDX)
    rig.rings[1].interrupt_at(3)
    rig.send(frame(), frame())
    assert rig.net.counters[1].interrupts == 0
    rig.send(frame(), frame())
    assert rig.net.counters[1].interrupts == 1
    assert rig.rings[1].wants_kick() is False
    rig.rings[1].add([Buffer(TX_DATA, 72)], [])
    assert rig.rings[1].wants_kick()


class SlowClock:
    """The transmit queue's: 1 µs passes with each look, and the driver does what ``then`` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns, self.looks = 10**9, 0
        self.then: list[Callable[[], object]] = []
        monkeypatch.setattr(transmit, "monotonic_ns", self)

    def __call__(self) -> int:
        self.now_ns += 1000
        self.looks += 1
        if self.then:
            self.then.pop(0)()
        return self.now_ns

    def looks_at(self, work: Callable[[], object]) -> int:
        before = self.looks
        work()
        return self.looks - before


@pytest.mark.parametrize("features", [VERSION_1, VERSION_1 | F_EVENT_IDX])
def test_a_driver_that_answers_at_once_need_not_ring(monkeypatch: pytest.MonkeyPatch, features: int) -> None:
    clock, rig = SlowClock(monkeypatch), NetRig().start(features)
    rig.post(*[2048] * 8)
    rig.queue.feed(bytes(12) + frame())
    rig.queue.run()
    rig.send(frame())  # a doorbell right behind a frame
    for number in range(4):
        rang: list[bool] = []

        def answer(rang: list[bool] = rang) -> None:
            rig.rings[1].add([Buffer(TX_DATA, 72)], [])
            rang.append(rig.rings[1].kick())

        clock.then = [lambda: None, lambda: None, answer]  # not yet at the first look
        rig.queue.feed(bytes(12) + frame())
        rig.queue.run()
        assert rang == [False]
        assert len(rig.queue.sent) == number + 2
    assert rig.net.counters[1].notifications == 1
    rig.send(frame())  # later
    assert len(rig.queue.sent) == 6
    assert rig.net.counters[1].notifications == 2


def test_a_driver_that_does_not_answer_is_hardly_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rig = SlowClock(monkeypatch), NetRig().start(VERSION_1)
    rig.post(*[2048] * 200)

    def receive() -> None:
        rig.queue.feed(bytes(12) + frame())
        rig.queue.run()
        rig.rings[1].add([Buffer(TX_DATA, 72)], [])
        assert rig.rings[1].kick()  # too late to be seen by who waits
        rig.run()

    waits = [clock.looks_at(receive) > transmit.AWAITED_NS // 1000 for _ in range(100)]
    assert len(rig.queue.sent) == 100
    assert [index for index in range(12) if waits[index]] == [1, 2, 4, 5, 9, 10]  # twice, and ever longer not at all
    assert sum(waits) <= 2 * 100 // transmit.SOON_NEEDED_MAX + 8


def test_timer_collects_frames_until_it_is_over() -> None:
    rig = NetRig(tx="timer", x_txtimer="1000").start()
    rig.send(frame())
    assert not rig.queue.sent
    with rig.machine.lock:
        rig.machine.clock.advance(999)
    rig.run()
    assert not rig.queue.sent
    with rig.machine.lock:
        rig.machine.clock.advance(1)
    rig.run()
    assert len(rig.queue.sent) == 1


def test_second_notification_sends_at_once_what_the_timer_collected() -> None:
    rig = NetRig(tx="timer", x_txtimer="1000").start(VERSION_1)
    rig.send(frame())
    rig.rings[1].notify()  # though it was not asked for
    rig.run()
    assert len(rig.queue.sent) == 1


# -- queue pairs -------------------------------------------------------------------------------------------------------


def test_several_queue_pairs() -> None:
    netdev = FakeNetdev(queues=3)
    rig = NetRig(netdev=netdev, mq="on").start(pairs=3)
    assert rig.driver.config(8, 2) == 3
    assert rig.driver.queue_count == 7
    assert rig.netdev.enabled == 1
    rig.send(frame(), ring=3)
    assert not netdev.queues[1].sent  # not in use yet
    assert rig.command(4, 0, b"\2\0") == 0
    assert rig.netdev.enabled == 2
    assert netdev.queues[1].sent == [bytes(12) + frame()]
    rig.post(2048, ring=2)
    netdev.queues[1].feed(bytes(12) + frame(77))
    assert [len(data) for _, data in rig.received(2)] == [77]
    assert [rig.command(4, 0, struct.pack("<H", each)) for each in (0, 4, 3)] == [1, 1, 0]
    assert rig.command(4, 0, b"\1\0") == 0
    rig.post(2048, ring=2)
    assert not netdev.queues[1].watched


def test_driver_without_multiqueue_finds_the_control_queue_third() -> None:
    rig = NetRig(netdev=FakeNetdev(queues=3), mq="on").start(ALL & ~MQ)
    assert rig.driver.queue_count == 3
    assert rig.command(0, 0, b"\0") == 0
    assert rig.command(4, 0, b"\1\0") == 1  # not negotiated
    rig.send(frame())
    assert rig.queue.sent == [bytes(12) + frame()]


def test_vectors_are_for_every_queue() -> None:
    assert NetRig(netdev=FakeNetdev(queues=3), mq="on").device.msix.vectors == 8  # type: ignore[union-attr]
    assert NetRig(vectors="5").device.msix.vectors == 5  # type: ignore[union-attr]


# -- links, stop, reset, unplug ----------------------------------------------------------------------------------------


def test_link_state_is_told_by_an_interrupt() -> None:
    rig = NetRig().start()
    assert rig.driver.config(6, 2) == 1
    with rig.machine.lock:
        rig.device.link_changed(False)
    assert rig.driver.isr == 3
    assert rig.driver.config(6, 2) == 0
    with rig.machine.lock:
        rig.device.link_changed(False)
    assert rig.driver.isr == 0


def test_when_the_netdev_is_taken_away_frames_are_gone() -> None:
    rig = NetRig().start()
    rig.post(2048, 2048)
    with rig.machine.lock:
        rig.device.backend_removed()
    rig.run()
    assert rig.queue.frontend is None
    assert rig.driver.config(6, 2) == 0
    rig.send(frame())
    assert len(rig.rings[1].collect()) == 1
    assert rig.command(0, 0, b"\0") == 0
    rig.reset()
    rig.start()
    rig.send(frame())
    assert len(rig.rings[1].collect()) == 1
    assert not rig.queue.sent


def test_frames_that_wait_for_a_netdev_that_is_taken_away_are_gone() -> None:
    rig = NetRig().start()
    rig.queue.room = 0
    rig.send(frame(), frame())
    assert not rig.rings[1].collect()
    with rig.machine.lock:
        rig.device.backend_removed()
    rig.run()
    assert len(rig.rings[1].collect()) == 2


def test_a_vm_that_is_stopped_while_the_netdev_has_no_room_goes_on_later() -> None:
    rig = NetRig().start()
    rig.queue.room = 0
    rig.send(frame())
    rig.stop_vm()
    rig.queue.room = None
    rig.queue.frontend.writable()
    rig.run()
    assert not rig.queue.sent
    rig.resume_vm()
    assert len(rig.queue.sent) == 1


def test_a_stopped_vm_takes_and_gives_no_frames() -> None:
    rig = NetRig().start()
    rig.post(*[2048] * 3)
    rig.queue.feed(bytes(12) + frame())
    rig.stop_vm()
    assert not rig.queue.watched
    rig.queue.feed(bytes(12) + frame(70))
    rig.send(frame(80))
    assert len(rig.received()) == 1
    assert not rig.queue.sent
    rig.resume_vm()
    rig.queue.run()
    assert [len(data) for _, data in rig.received()] == [70]
    assert rig.queue.sent == [bytes(12) + frame(80)]


def test_bus_mastering_off_and_on_loses_no_buffer() -> None:
    rig = NetRig().start()
    rig.post(2048, 2048)
    command = rig.registers.config_read(4, 2)
    rig.registers.config_write(4, 2, command & ~4)
    rig.run()
    rig.queue.feed(bytes(12) + frame())
    assert not rig.received()
    rig.registers.config_write(4, 2, command)
    rig.run()
    rig.queue.run()
    assert len(rig.received()) == 1
    rig.queue.feed(bytes(12) + frame())
    assert len(rig.received()) == 1


def test_what_the_guest_ejects_writes_nothing_once_the_ejecting_instruction_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = NetRig().start()
    rig.post(2048)

    def wait(_: Handshake, lock: threading.Lock, timeout_s: float) -> bool:
        assert timeout_s
        lock.release()
        rig.run()
        return lock.acquire()

    monkeypatch.setattr(Handshake, "wait", wait)
    monkeypatch.setattr(rig.machine.loop, "on_loop_thread", lambda: False)
    with rig.machine.lock:
        rig.device.vanish()
        rig.device.end_dma()
    monkeypatch.undo()
    ram = bytes(rig.machine.ram)
    rig.queue.feed(bytes(12) + frame())
    assert rig.machine.ram == ram
    ended: list[bool] = []
    with rig.machine.lock:
        rig.device.wind_down(lambda: ended.append(True))
    rig.run()
    assert ended == [True]


def test_after_a_reset_nothing_is_read_into_old_buffers() -> None:
    rig = NetRig().start()
    rig.post(2048)
    rig.driver.status = 0
    rig.run()
    rig.queue.feed(bytes(12) + frame())
    assert rig.memory.read(RX_DATA, 4) == b"\xcc" * 4
    rig.start()
    rig.post(2048)
    rig.queue.run()
    assert len(rig.received()) == 1


def test_machine_reset_with_a_frame_that_waits_for_chains() -> None:
    rig = NetRig().start()
    rig.post(64)
    rig.queue.feed(bytes(12) + frame(1000))
    rig.reset()
    rig.start()
    rig.post(2048)
    rig.queue.feed(bytes(12) + frame(77))
    assert [len(data) for _, data in rig.received()] == [77]


def test_unplugged_under_traffic_it_lets_go_of_everything() -> None:
    rig = NetRig().start()
    rig.post(2048, 2048)
    rig.queue.room = 0
    rig.send(frame())
    rig.unplug()
    assert rig.queue.frontend is None
    assert not rig.queue.watched
    assert not rig.machine.backends.claimed
    assert not rig.machine.requests.quiesce_callbacks


# -- announcements -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [(10, 12), ()])
def test_an_announcement_has_the_header_that_the_netdev_knows_of(headers: tuple[int, ...]) -> None:
    """Another driver is there, with another header, and none of its queues has been served."""
    rig = NetRig(netdev=FakeNetdev(headers=headers))
    rig.device.announce()
    rig.start()
    rig.reset()
    legacy = Driver(rig.registers, rig.memory, modern=False)
    legacy.negotiate(0)
    legacy.ready()
    rig.device.announce()
    assert [len(each) for each in rig.queue.sent] == [60, 60 + (rig.netdev.header or 0)]


def test_an_announcement_is_a_rarp_frame_and_the_drivers_turn() -> None:
    rig = NetRig().start()
    rig.device.announce()
    (sent,) = rig.queue.sent
    assert sent[:12] == bytes(12)
    assert sent[12:18] == b"\xff" * 6
    assert sent[18:24] == FIRST_MAC
    assert sent[24:32].hex() == "8035000108000604"
    assert len(sent) == 72
    assert rig.driver.config(6, 2) == 3
    assert rig.driver.isr == 3
    assert rig.command(3, 0) == 0
    assert rig.driver.config(6, 2) == 1
    assert rig.command(3, 0) == 1  # there is nothing to acknowledge


@pytest.mark.parametrize("without", [ANNOUNCE, CTRL_VQ])
def test_a_driver_that_cannot_announce_is_not_asked(without: int) -> None:
    rig = NetRig().start(ALL & ~without)
    rig.device.announce()
    assert len(rig.queue.sent) == 1
    assert rig.driver.config(6, 2) == 1


def test_before_a_driver_comes_the_frame_has_no_header() -> None:
    rig = NetRig()
    rig.device.announce()
    assert [len(each) for each in rig.queue.sent] == [60]


def test_non_transitional_type_is_a_modern_device_only() -> None:
    rig = NetRig(VirtioNetPciNonTransitional).start()
    assert rig.device.config_read(2, 2) == 0x1041
    rig.send(frame())
    assert rig.queue.sent == [bytes(12) + frame()]


def test_features_of_the_guests_side_can_be_left_out() -> None:
    rig = NetRig(guest_tso4="off", mrg_rxbuf="off", status="off", ctrl_vlan="off").start()
    assert not rig.driver.offered() & (GUEST_TSO4 | MRG_RXBUF | STATUS | CTRL_VLAN)
    assert rig.driver.config(6, 2) == 0xFFFF
