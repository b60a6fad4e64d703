# SPDX-License-Identifier: Apache-2.0
"""virtio-net of a whole machine, vmmd and QEMU, on a real tap, driven by the driver that drives the fakes.

A QEMU without the qtest accelerator moves no frames while it is stopped: it runs a vCPU that only halts.
"""

from __future__ import annotations

import struct
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.network import Network, network_problem
from tests.framework.qtest import REPLY_TIMEOUT_S, Qtest
from tests.framework.virtqueue_driver import F_EVENT_IDX, F_INDIRECT, Buffer, Driver
from tests.framework.wire_driver import collect, wire_driver

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(network_problem() is not None, reason=str(network_problem()))

SLOT = 4
RINGS, RX_DATA, TX_DATA, COMMANDS, INDIRECT = 0x20_0000, 0x30_0000, 0x40_0000, 0x50_0000, 0x60_0000
MAC, PEER = bytes.fromhex("525400123456"), bytes.fromhex("020000000001")
ETHERTYPE = 0x88B5  # for experiments (IEEE 802)
ALL = (1 << 64) - 1 & ~(1 << 40)
MRG_RXBUF, MQ, CTRL_VLAN = 1 << 15, 1 << 22, 1 << 19
OK = 0

#: cli; hlt; jmp to the hlt, at the reset vector
HALTING_ROM = bytes(0xFFF0) + b"\xfa\xf4\xeb\xfd".ljust(16, b"\0")

both = pytest.mark.parametrize("name", ["vmmd", pytest.param("qemu", marks=pytest.mark.qemu)])


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


class Machine:
    """An emulator with a NIC on a tap, its driver, and the host's end of the tap."""

    def __init__(self, network: Network, name: str, device: str = "", *, modern: bool = True, queues: int = 1) -> None:
        fds = network.open_tap(queues=queues, bridge=None)
        self.host = network.packet_socket("tap0")
        self.host.settimeout(REPLY_TIMEOUT_S)
        which = f"fd={fds[0]}" if queues == 1 else "fds=" + ":".join(map(str, fds))
        self.rom = tempfile.NamedTemporaryFile(suffix=".rom")  # noqa: SIM115  # open as long as the machine is
        self.rom.write(HALTING_ROM)
        self.rom.flush()
        options = ["-nodefaults", "-bios", self.rom.name, "-netdev", f"tap,id=n0,{which}"]
        options += ["-device", f"virtio-net-pci,netdev=n0,addr={SLOT},id=nic0{device}"]
        self.vm = Qtest(name, *options, pass_fds=fds)
        self.modern = modern

    def __enter__(self) -> Machine:
        self.vm.__enter__()
        if not self.vm.has_clock:
            self.vm.qmp("cont")
        self.driver: Driver = wire_driver(self.vm, SLOT, modern=self.modern)
        return self

    def __exit__(self, *exc: Any) -> None:
        self.vm.__exit__(*exc)
        self.rom.close()
        self.host.close()

    def start(self, features: int = ALL, queues: int = 3) -> Machine:
        self.driver.negotiate(features)
        for index in range(queues):
            self.driver.setup_queue(index, RINGS + 0x8000 * index)
        self.driver.ready()
        self.header = 12 if self.modern or self.driver.features & MRG_RXBUF else 10
        return self

    def from_host(self, data: bytes) -> None:
        self.host.send(data)

    def on_host(self) -> bytes:
        """The next frame of the guest's."""
        while True:
            data = self.host.recv(1 << 16)
            if data[12:14] == ETHERTYPE.to_bytes(2, "big"):
                return data

    def post(self, *lengths: int, ring: int = 0) -> None:
        for index, length in enumerate(lengths):
            self.driver.queues[ring].add([], [Buffer(RX_DATA + 0x4000 * index, length)])
        self.driver.queues[ring].kick()

    def command(self, kind: int, number: int, data: bytes) -> int:
        ring = self.driver.queues[-1]
        self.driver.memory.write(COMMANDS, bytes([kind, number]) + data)
        ring.add([Buffer(COMMANDS, 2 + len(data))], [Buffer(COMMANDS + 0x1000, 1)])
        ring.kick()
        collect(ring, 1)
        return self.driver.memory.read(COMMANDS + 0x1000, 1)[0]


def frame(length: int = 60, to: bytes = b"\xff" * 6, source: bytes = PEER) -> bytes:
    head = to + source + ETHERTYPE.to_bytes(2, "big")
    return head + bytes(each * 7 & 0xFF for each in range(length - len(head)))


# -- frames ------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
@pytest.mark.parametrize("features", [0, ALL], ids=["plain", "all"])
def test_frames_go_both_ways(network: Network, name: str, modern: bool, features: int) -> None:
    with Machine(network, name, modern=modern) as machine:
        machine.start(features)
        memory, tx = machine.driver.memory, machine.driver.queues[1]
        for length in (60, 1514):
            data = frame(length, source=MAC)
            memory.write(TX_DATA, bytes(machine.header) + data)
            whole = Buffer(TX_DATA, machine.header + length)
            parts = [Buffer(TX_DATA, machine.header), Buffer(TX_DATA + machine.header, length)]
            tx.add([whole] if features and not modern else parts, [])
            tx.kick()
            assert machine.on_host() == data
            assert [written for _, written in collect(tx, 1)] == [0]
        machine.post(2048, 2048)
        for index, length in enumerate((60, 1514)):
            machine.from_host(frame(length))
            assert [written for _, written in collect(machine.driver.queues[0], 1)] == [machine.header + length]
            got = memory.read(RX_DATA + 0x4000 * index, machine.header + length)
            assert got[machine.header :] == frame(length)


@both
def test_mergeable_buffers_share_a_frame(network: Network, name: str) -> None:
    with Machine(network, name) as machine:
        machine.start(MRG_RXBUF)
        machine.post(*[512] * 4)
        machine.from_host(frame(1514))
        parts = collect(machine.driver.queues[0], 3)
        assert [written for _, written in parts] == [512, 512, 502]
        data = b"".join(
            machine.driver.memory.read(RX_DATA + 0x4000 * index, part[1]) for index, part in enumerate(parts)
        )
        assert struct.unpack_from("<H", data, 10) == (3,)
        assert data[12:] == frame(1514)


@both
def test_the_host_keeps_frames_while_the_guest_has_no_buffers(network: Network, name: str) -> None:
    with Machine(network, name) as machine:
        machine.start(0)
        for length in range(100, 120):
            machine.from_host(frame(length))
        for length in range(100, 120):
            machine.post(2048)
            assert [written for _, written in collect(machine.driver.queues[0], 1)] == [12 + length]


@both
@pytest.mark.parametrize("features", [F_INDIRECT, F_INDIRECT | F_EVENT_IDX], ids=["indirect", "event index"])
def test_many_frames_in_one_go(network: Network, name: str, features: int) -> None:
    with Machine(network, name) as machine:
        machine.start(features)
        tx = machine.driver.queues[1]
        for index in range(100):
            at = TX_DATA + 0x100 * index
            machine.driver.memory.write(at, bytes(12) + frame(60 + index, source=MAC))
            tx.add([Buffer(at, 12), Buffer(at + 12, 60 + index)], [], INDIRECT + 0x40 * index)
        tx.kick()
        collect(tx, 100)
        assert [len(machine.on_host()) for _ in range(100)] == list(range(60, 160))


@both
def test_a_frame_of_four_gigabytes_is_survived(network: Network, name: str) -> None:
    with Machine(network, name) as machine:
        machine.start(0)
        tx = machine.driver.queues[1]
        tx.add([Buffer(TX_DATA, 0xFFFF_FFFF // 64)] * 65, [])
        tx.kick()
        collect(tx, 1)
        machine.driver.memory.write(TX_DATA, bytes(12) + frame(source=MAC))
        tx.add([Buffer(TX_DATA, 72)], [])
        tx.kick()
        assert machine.on_host() == frame(source=MAC)


@both
def test_queue_pairs(network: Network, name: str) -> None:
    with Machine(network, name, ",mq=on", queues=2) as machine:
        machine.start(1 << 17 | MQ, queues=5)
        assert machine.driver.config(8, 2) == 2
        assert machine.command(4, 0, b"\2\0") == OK
        tx = machine.driver.queues[3]
        machine.driver.memory.write(TX_DATA, bytes(12) + frame(source=MAC))
        tx.add([Buffer(TX_DATA, 72)], [])
        tx.kick()
        assert machine.on_host() == frame(source=MAC)
        assert machine.command(4, 0, b"\3\0") != OK
        assert machine.command(4, 0, b"\1\0") == OK


# -- what managers see -------------------------------------------------------------------------------------------------


@both
def test_receive_filter_is_applied_and_told(network: Network, name: str) -> None:
    with Machine(network, name) as machine:
        machine.start(ALL & ~CTRL_VLAN)
        machine.post(2048, 2048)
        assert machine.command(0, 0, b"\0") == OK  # not promiscuous
        event = machine.vm.wait_event("NIC_RX_FILTER_CHANGED")
        assert event["data"] == {"name": "nic0", "path": "/machine/peripheral/nic0/virtio-backend"}
        other = bytes.fromhex("525400aabbcc")
        assert machine.command(1, 0, struct.pack("<I", 1) + other + bytes(4)) == OK  # its table of addresses
        for to in (bytes.fromhex("525400000001"), bytes.fromhex("01005e000001"), MAC, other, b"\xff" * 6):
            machine.from_host(frame(100, to))
        assert collect(machine.driver.queues[0], 2)
        heads = [machine.driver.memory.read(RX_DATA + 0x4000 * index + 12, 6) for index in range(2)]
        assert heads == [MAC, other]
        (shown,) = machine.vm.qmp("query-rx-filter", name="nic0")
        assert shown["promiscuous"] is False
        assert shown["unicast-table"] == [other.hex(":")]
        assert machine.command(1, 1, other) == OK
        assert machine.vm.wait_event("NIC_RX_FILTER_CHANGED")
        assert f"macaddr={other.hex(':')}" in machine.vm.hmp("info network")


@both
def test_announce_self(network: Network, name: str) -> None:
    with Machine(network, name) as machine:
        machine.start()
        assert machine.driver.config(6, 2) == 1
        machine.vm.qmp("announce-self", initial=1, max=5, rounds=3, step=1, interfaces=["nic0"])
        for _ in range(3):
            while (data := machine.host.recv(1 << 16))[12:14] != b"\x80\x35":
                pass
            assert data == (b"\xff" * 6 + MAC + bytes.fromhex("8035 0001 0800 0604 0003") + (MAC + bytes(4)) * 2).ljust(
                60, b"\0"
            )
        assert machine.driver.config(6, 2) == 3
        assert machine.command(3, 0, b"") == OK
        assert machine.driver.config(6, 2) == 1


@both
def test_set_link_reaches_the_guest_and_stops_the_frames(network: Network, name: str) -> None:
    with Machine(network, name) as machine:
        machine.start()
        machine.post(2048)
        machine.vm.qmp("set_link", name="nic0", up=False)
        assert machine.driver.config(6, 2) == 0
        assert machine.driver.isr & 2
        machine.vm.qmp("set_link", name="nic0", up=True)
        assert machine.driver.config(6, 2) == 1
        machine.from_host(frame())
        assert collect(machine.driver.queues[0], 1)


# -- the same device ---------------------------------------------------------------------------------------------------


def registers(name: str, device: str, *, modern: bool, queues: int, features: int) -> dict[str, Any]:
    """All that a driver and a manager see of a NIC before frames flow."""
    with Network() as network, Machine(network, name, device, modern=modern, queues=queues) as machine:
        vm, driver = machine.vm, machine.driver
        function = vm.pci(SLOT)
        placed = (0x04, 0x10, 0x14, 0x20, 0x30)  # the command register and BARs, which the driver has written
        seen: dict[str, Any] = {
            "configuration space": [function.config_read(at, 4) for at in range(0, 64, 4) if at not in placed],
            "capabilities": function.capabilities(),
            "queues before": driver.queue_count,
            "status": driver.negotiate(features),
            "offered": driver.offered(),
            "sizes": [driver.queue_size(index) for index in range(driver.queue_count)],
            "configuration": [driver.config(at, 1) for at in range(24)],
            "filter": vm.qmp("query-rx-filter"),
            "network": vm.hmp("info network").partition("fd=")[0],
        }
        driver.status = 0
        seen |= {"queues after": driver.queue_count, "filter after": vm.qmp("query-rx-filter")}
        for each in seen["filter"] + seen["filter after"]:
            del each["broadcast-allowed"]  # QEMU 7.2 says the opposite of what is
        return seen


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("device", "modern", "queues", "features"),
    [
        ("", True, 1, ALL),
        ("", False, 1, ALL & ~(1 << 30)),
        (",mq=on", True, 3, ALL),
        (",mq=on", True, 3, ALL & ~MQ),
        (",host_mtu=1400,duplex=half", False, 2, 0),
        (",speed=1000,ctrl_vq=off,status=off,mrg_rxbuf=off,csum=off,guest_csum=off", True, 1, ALL),
        (",tx_queue_size=1024,rx_queue_size=1024,gso=off,guest_tso4=off,host_ufo=off,vectors=0", False, 1, ALL),
    ],
)  # fmt: skip
def test_a_driver_sees_the_same_device(device: str, modern: bool, queues: int, features: int) -> None:
    seen = [registers(name, device, modern=modern, queues=queues, features=features) for name in ("vmmd", "qemu")]
    assert seen[0] == seen[1]
