# SPDX-License-Identifier: Apache-2.0
"""virtio-net's control queue: each command, what the receive filter does with it, and what managers are told."""

from __future__ import annotations

import struct

import pytest

from tests.framework.virtqueue_driver import Buffer
from tests.unit.fakes import FIRST_MAC
from tests.unit.net_rig import ALL, COMMANDS, CTRL_GUEST_OFFLOADS, CTRL_VLAN, NetRig, frame
from vmmd.core.backend import NetOffload
from vmmd.core.events import NicRxFilterChangedEvent
from vmmd.devices.virtio.net import control

OK, ERR = 0, 1
RX, MAC, VLAN, OFFLOADS = 0, 1, 2, 5
PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST = range(6)
BROADCAST = b"\xff" * 6
MULTICAST, OTHER_MULTICAST = bytes.fromhex("01005e000001"), bytes.fromhex("01005e000002")
OTHER = bytes.fromhex("525400999999")
NEEDS_RESET = 0x40


def table(*macs: bytes) -> bytes:
    return struct.pack("<I", len(macs)) + b"".join(macs)


def arrives(rig: NetRig, to: bytes = FIRST_MAC, vlan: int | None = None) -> bool:
    """Whether a frame gets through."""
    rig.post(2048)
    rig.queue.feed(bytes(12) + frame(70, to=to, vlan=vlan))
    came = len(rig.received())
    if not came:  # the buffer that is left is used up
        rig.queue.feed(bytes(12) + frame(70, to=FIRST_MAC if not rig.net.filter.nouni else BROADCAST))
        rig.received()
    return came == 1


def mode(rig: NetRig, which: int, on: bool) -> None:
    assert rig.command(RX, which, bytes([on])) == OK


def test_everything_passes_at_first() -> None:
    rig = NetRig().start()
    assert all(arrives(rig, to) for to in (FIRST_MAC, OTHER, BROADCAST, MULTICAST))


def test_without_promiscuity_only_ones_own_and_broadcasts_pass() -> None:
    rig = NetRig().start(ALL & ~CTRL_VLAN)
    mode(rig, PROMISC, False)
    assert [arrives(rig, to) for to in (FIRST_MAC, OTHER, BROADCAST, MULTICAST)] == [True, False, True, False]
    mode(rig, ALLMULTI, True)
    assert arrives(rig, MULTICAST)
    mode(rig, NOMULTI, True)
    assert not arrives(rig, MULTICAST)
    mode(rig, ALLUNI, True)
    assert arrives(rig, OTHER)
    mode(rig, NOBCAST, True)
    assert not arrives(rig, BROADCAST)
    mode(rig, NOBCAST, False)
    mode(rig, NOUNI, True)
    assert not arrives(rig)
    mode(rig, PROMISC, True)
    assert arrives(rig, OTHER)


def test_a_command_that_takes_long_ends_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = NetRig().start()
    ring = rig.rings[-1]
    rig.memory.write(COMMANDS, bytes([RX, PROMISC, 0]))
    for number in range(3):
        ring.add([Buffer(COMMANDS, 3)], [Buffer(COMMANDS + 0x2_0000 + number, 1)])
    now = iter(range(0, 10**9, control.TURN_NS))
    monkeypatch.setattr(control, "monotonic_ns", lambda: 2 * next(now))
    ring.kick()
    done = [len(ring.collect())]
    while rig.machine.loop.pending:
        callback, arguments = rig.machine.loop.pending.pop(0)
        callback(*arguments)
        done.append(len(ring.collect()))
    assert [count for count in done if count] == [1, 1, 1]


def test_address_tables_let_more_pass() -> None:
    rig = NetRig().start(ALL & ~CTRL_VLAN)
    mode(rig, PROMISC, False)
    assert rig.command(MAC, 0, table(OTHER) + table(MULTICAST)) == OK
    assert [arrives(rig, to) for to in (OTHER, MULTICAST, OTHER_MULTICAST)] == [True, True, False]
    assert rig.command(MAC, 0, table() + table()) == OK
    assert [arrives(rig, to) for to in (OTHER, MULTICAST)] == [False, False]


def many(count: int, first: int = 0x52) -> bytes:
    return table(*(bytes([first, 0, 0, 0, each >> 8, each & 0xFF]) for each in range(count)))


@pytest.mark.parametrize(
    ("unicast", "multicast", "overflows"),
    [(64, 0, (False, False)), (65, 0, (True, False)), (60, 5, (False, True)), (4000, 64, (True, False))],
)
def test_tables_that_are_full_let_all_of_a_kind_pass(
    unicast: int, multicast: int, overflows: tuple[bool, bool]
) -> None:
    rig = NetRig().start(ALL & ~CTRL_VLAN)
    mode(rig, PROMISC, False)
    assert rig.command(MAC, 0, many(unicast) + many(multicast, 0x33)) == OK
    shown = rig.device.rx_filter()
    assert (shown.unicast_overflow, shown.multicast_overflow) == overflows
    assert (arrives(rig, OTHER), arrives(rig, MULTICAST)) == overflows


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0\0\0", table(OTHER), table(OTHER) + table(MULTICAST) + b"\0", table(OTHER)[:-1],
        struct.pack("<I", 0xFFFF_FFFF) + table(), table() + struct.pack("<I", 2) + MULTICAST,
    ],
    ids=["empty", "short", "one table", "more behind", "cut", "count", "second cut"],
)  # fmt: skip
def test_malformed_tables_are_refused_and_change_nothing(data: bytes) -> None:
    rig = NetRig().start()
    assert rig.command(MAC, 0, table(OTHER) + table(MULTICAST)) == OK
    before = rig.device.rx_filter()
    assert rig.command(MAC, 0, data) == ERR
    assert rig.device.rx_filter() == before


@pytest.mark.parametrize(
    ("kind", "number", "data"),
    [
        (RX, 6, b"\1"), (RX, PROMISC, b""), (MAC, 1, OTHER[:5]), (MAC, 1, OTHER + b"\0"), (MAC, 2, OTHER),
        (VLAN, 2, b"\1\0"), (VLAN, 0, b"\1"), (VLAN, 0, b"\0\x10"), (3, 0, b""), (3, 1, b""), (4, 0, b"\1\0"),
        (4, 1, b""), (OFFLOADS, 0, b"\0" * 7), (OFFLOADS, 1, bytes(8)), (OFFLOADS, 0, b"\xff" * 8), (6, 0, b""),
        (255, 255, b"x" * 100),
    ],
)  # fmt: skip
def test_malformed_and_unknown_commands_are_refused(kind: int, number: int, data: bytes) -> None:
    rig = NetRig().start()
    assert rig.command(kind, number, data) == ERR
    assert not rig.driver.status & NEEDS_RESET
    assert arrives(rig)


def test_the_address_can_be_changed() -> None:
    rig = NetRig().start(ALL & ~CTRL_VLAN)
    mode(rig, PROMISC, False)
    assert rig.command(MAC, 1, OTHER) == OK
    assert (arrives(rig, OTHER), arrives(rig, BROADCAST)) == (True, True)
    rig.post(2048)
    rig.queue.feed(bytes(12) + frame(70, to=FIRST_MAC))
    assert not rig.received()
    assert rig.device.current_mac == OTHER
    assert bytes(rig.driver.config(at, 1) for at in range(6)) == OTHER
    rig.driver.status = 0
    rig.run()
    assert rig.device.current_mac == FIRST_MAC


def test_vlans_are_filtered_once_that_is_negotiated() -> None:
    rig = NetRig().start()
    mode(rig, PROMISC, False)
    assert [arrives(rig, vlan=each) for each in (None, 5)] == [True, False]
    assert rig.command(VLAN, 0, b"\5\0") == OK
    assert [arrives(rig, vlan=each) for each in (5, 5 | 3 << 13, 6)] == [True, True, False]
    assert rig.command(VLAN, 1, b"\5\0") == OK
    assert not arrives(rig, vlan=5)
    rig = NetRig().start(ALL & ~CTRL_VLAN)
    mode(rig, PROMISC, False)
    assert arrives(rig, vlan=5)


def test_offloads_can_be_switched_off_and_on() -> None:
    rig = NetRig().start()
    assert rig.command(OFFLOADS, 0, struct.pack("<Q", 1 << 1 | 1 << 7)) == OK
    assert rig.netdev.accepted == NetOffload.CSUM | NetOffload.TSO4
    assert rig.command(OFFLOADS, 0, bytes(8)) == OK
    assert rig.netdev.accepted == NetOffload(0)
    rig = NetRig().start(ALL & ~CTRL_GUEST_OFFLOADS)
    assert rig.command(OFFLOADS, 0, bytes(8)) == ERR


def test_a_command_in_pieces_is_put_together() -> None:
    rig = NetRig().start()
    ring = rig.rings[-1]
    data = bytes([MAC, 0]) + table(OTHER) + table()
    rig.memory.write(COMMANDS, data)
    parts = [Buffer(COMMANDS + at, 1) for at in range(len(data))]
    ring.add(parts, [Buffer(COMMANDS + 0x1000, 1)])
    ring.kick()
    rig.run()
    assert rig.memory.u8(COMMANDS + 0x1000) == OK
    assert rig.device.rx_filter().unicast_table == (OTHER,)


@pytest.mark.parametrize(("readable", "writable"), [([], [1]), ([1], [1]), ([2, 1], [])])
def test_a_command_without_header_or_answer_breaks_the_device(readable: list[int], writable: list[int]) -> None:
    rig = NetRig().start()
    ring = rig.rings[-1]
    ring.add([Buffer(COMMANDS, each) for each in readable], [Buffer(COMMANDS + 0x1000, each) for each in writable])
    ring.kick()
    rig.run()
    assert rig.driver.status & NEEDS_RESET


def test_a_change_is_told_once_until_somebody_asks() -> None:
    rig = NetRig().start()
    told = NicRxFilterChangedEvent(name="nic0", path="/machine/peripheral/nic0/virtio-backend")
    mode(rig, ALLMULTI, True)
    mode(rig, ALLMULTI, False)
    assert rig.machine.events.emitted == [told]
    rig.device.rx_filter()
    assert rig.command(RX, 9, b"\1") == ERR
    assert rig.machine.events.emitted == [told]
    assert rig.command(VLAN, 0, b"\1\0") == OK
    assert rig.machine.events.emitted == [told, told]


def test_what_is_shown_of_the_filter() -> None:
    rig = NetRig().start()
    shown = rig.device.rx_filter()
    assert (shown.promiscuous, shown.unicast, shown.multicast, shown.vlan) == (True, "normal", "normal", "none")
    for each in (PROMISC, ALLMULTI, ALLUNI, NOBCAST):
        mode(rig, each, each not in (PROMISC,))
    for vlan in (3, 7):
        assert rig.command(VLAN, 0, struct.pack("<H", vlan)) == OK
    shown = rig.device.rx_filter()
    assert (shown.promiscuous, shown.unicast, shown.multicast, shown.broadcast_allowed) == (False, "all", "all", False)
    assert (shown.vlan, shown.vlan_table) == ("normal", (7, 3))
    mode(rig, NOMULTI, True)
    mode(rig, NOUNI, True)
    shown = rig.device.rx_filter()
    assert (shown.unicast, shown.multicast) == ("none", "none")
    rig.reset()
    assert rig.device.rx_filter() == NetRig().device.rx_filter()


def test_commands_wait_while_the_vm_is_stopped_and_do_not_keep_the_loop() -> None:
    rig = NetRig().start()
    rig.stop_vm()
    ring = rig.rings[-1]
    rig.memory.write(COMMANDS, bytes([RX, ALLMULTI, 1]))
    for each in range(20):
        ring.add([Buffer(COMMANDS, 3)], [Buffer(COMMANDS + 0x1000 + each, 1)])
    ring.kick()
    rig.run()
    assert not ring.collect()
    rig.resume_vm()
    assert len(ring.collect()) == 20
