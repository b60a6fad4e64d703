# SPDX-License-Identifier: Apache-2.0
"""virtio-serial of a whole machine, vmmd and QEMU, driven over the wire; the test is the manager on a socket."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.qtest import QEMU_WITH_QTEST, QmpFailure, Qtest
from tests.framework.serial_driver import (
    ADD,
    CONSOLE,
    F_EMERG_WRITE,
    NAME,
    OPEN,
    REMOVE,
    SerialDriver,
)
from tests.framework.wire_driver import wire_driver

if TYPE_CHECKING:
    from pathlib import Path

SLOT = 4
both = pytest.mark.parametrize("name", ["vmmd", pytest.param("qemu", marks=pytest.mark.qemu)])
#: QEMU without the accelerator stands still: its virtio-serial then reads nothing from the host
needs_accelerator = [
    pytest.mark.qemu,
    pytest.mark.skipif(QEMU_WITH_QTEST not in os.environ, reason=f"{QEMU_WITH_QTEST} does not name a QEMU"),
]
both_running = pytest.mark.parametrize("name", ["vmmd", pytest.param("qemu", marks=needs_accelerator)])
interfaces = pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
AGENT = "org.qemu.guest_agent.0"
DEADLINE_S = 30.0


def machine(name: str, directory: Path, *more: str) -> Qtest:
    """A console into a file, an agent's port on a socket, and a port without a chardev."""
    return Qtest(
        name, "-nodefaults",
        "-chardev", f"file,id=con,path={directory}/console.log",
        "-chardev", f"socket,id=agent,path={directory}/agent.sock,server=on,wait=off",
        "-device", f"virtio-serial-pci,id=virtio-serial0,addr={SLOT}",
        "-device", "virtconsole,chardev=con,id=console0",
        "-device", f"virtserialport,bus=virtio-serial0.0,nr=1,chardev=agent,id=channel0,name={AGENT}",
        "-device", "virtserialport,id=spare",
        *more,
    )  # fmt: skip


def connect(directory: Path) -> socket.socket:
    """The manager's side."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(DEADLINE_S)
    peer.connect(str(directory / "agent.sock"))
    return peer


def receive(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = peer.recv(count - len(data))
        assert part, f"the peer has left after {data!r}"
        data += part
    return data


def events(vm: Qtest, kind: str, count: int) -> list[dict[str, Any]]:
    """Data of the next ``count`` events of a kind."""
    return [vm.wait_event(kind)["data"] for _ in range(count)]


def guest_of(vm: Qtest, *, modern: bool = True, features: int = 0) -> SerialDriver:
    return SerialDriver(wire_driver(vm, SLOT, modern=modern), features=features)


def opened(vm: Qtest, *, modern: bool = True) -> SerialDriver:
    """A driver that has opened ports 0 and 1; whatever the device said meanwhile was read."""
    guest = guest_of(vm, modern=modern)
    guest.announce(3)
    for port in (0, 1):
        guest.open(port)
    return guest


def test_registers(tmp_path: Path) -> None:
    seen = []
    for name in ("vmmd", "qemu"):
        with machine(name, tmp_path) as vm:
            driver = wire_driver(vm, SLOT, modern=True)
            driver.negotiate(0)
            seen.append((
                driver.offered() & 0xFFFF, driver.queue_count, [driver.queue_size(index) for index in range(64)],
                [driver.config(offset, 4) for offset in (0, 4, 8)],
            ))  # fmt: skip
    assert seen[0] == seen[1]


@both_running
@interfaces
def test_the_driver_is_told_of_the_ports(name: str, modern: bool, tmp_path: Path) -> None:
    with machine(name, tmp_path) as vm:
        guest = guest_of(vm, modern=modern)
        added = guest.announce(3)
        assert [(each.port, each.event, each.value) for each in added] == [(0, ADD, 1), (1, ADD, 1), (2, ADD, 1)]
        told = guest.messages_of(3)
        assert told == [(0, CONSOLE, 1, b""), (0, OPEN, 1, b""), (1, NAME, 1, AGENT.encode() + b"\0")]
        with connect(tmp_path):
            assert guest.messages_of(1) == [(1, OPEN, 1, b"")]
        assert guest.messages_of(1) == [(1, OPEN, 0, b"")]


@both_running
@interfaces
def test_bytes_go_both_ways(name: str, modern: bool, tmp_path: Path) -> None:
    every = bytes(range(256))
    with machine(name, tmp_path) as vm, connect(tmp_path) as peer:
        guest = opened(vm, modern=modern)
        guest.write(1, every)
        assert receive(peer, 256) == every
        peer.sendall(every * 10)
        assert guest.read(1, 2560) == every * 10
        guest.write(0, b"console\n")
        guest.until(lambda: (tmp_path / "console.log").read_bytes(), "nothing on the console")
    assert (tmp_path / "console.log").read_bytes() == b"console\n"


@both_running
def test_nothing_is_read_while_the_guests_end_is_closed(name: str, tmp_path: Path) -> None:
    with machine(name, tmp_path) as vm, connect(tmp_path) as peer:
        guest = guest_of(vm)
        guest.announce(3)
        guest.post(1)
        peer.setblocking(False)
        sent = 0
        try:
            while sent < 8 << 20:
                sent += peer.send(b"\xff" + b"x" * 4095)
        except BlockingIOError:
            pass
        assert sent < 1 << 20  # what the kernel keeps
        vm.qmp("query-status")
        assert guest.collect(1) == []
        guest.open(1)
        assert guest.read(1, sent) == ((b"\xff" + b"x" * 4095) * (sent // 4096 + 1))[:sent]


@both_running
def test_a_full_host_end_keeps_the_chains_in_the_ring(name: str, tmp_path: Path) -> None:
    with machine(name, tmp_path) as vm, connect(tmp_path) as peer:
        guest = opened(vm)
        piece = bytes(range(256)) * 128
        offered = 0
        deadline = time.monotonic() + DEADLINE_S
        while True:  # until one is not taken
            guest.offer(1, piece)
            offered += 1
            while not (back := guest.taken(1)):
                if "port 1, guest on, host on, throttle on" in vm.hmp("info qtree"):
                    break
                assert time.monotonic() < deadline
            if not back:
                break
        assert receive(peer, offered * len(piece)) == piece * offered
        guest.until(lambda: guest.taken(1), "the last chain does not come back")
        assert "throttle on" not in vm.hmp("info qtree")


@both_running
def test_output_for_nobody_is_discarded(name: str, tmp_path: Path) -> None:
    with machine(name, tmp_path) as vm:
        guest = opened(vm)
        for _ in range(20):
            guest.write(1, b"lost" * 1000)
        guest.write(2, b"there is no chardev")
        with connect(tmp_path) as peer:
            assert "host on" in vm.hmp("info qtree").split("port 1,")[1].splitlines()[0]
            guest.write(1, b"kept")
            assert receive(peer, 4) == b"kept"


@both
def test_the_guests_end_is_shown_and_told(name: str, tmp_path: Path) -> None:
    def open_of(label: str) -> bool:
        return {each["label"]: each["frontend-open"] for each in vm.qmp("query-chardev")}[label]

    with machine(name, tmp_path) as vm:
        guest = guest_of(vm)
        guest.announce(3)
        assert (open_of("con"), open_of("agent")) == (True, False)
        guest.open(1)
        assert events(vm, "VSERPORT_CHANGE", 1) == [{"id": "channel0", "open": True}]
        assert open_of("agent") is True
        guest.open(0)
        assert events(vm, "VSERPORT_CHANGE", 1) == [{"id": "console0", "open": True}]
        guest.driver.status = 0
        guest.until(lambda: not open_of("agent"), "the port stays open")
        if vm.has_clock:  # QEMU limits the rate of events by it
            vm.clock_step(2_000_000_000)
        closed = {each["id"]: each["open"] for each in events(vm, "VSERPORT_CHANGE", 2)}
        assert closed == {"channel0": False, "console0": False}


@both
def test_ports_come_and_go(name: str, tmp_path: Path) -> None:
    with machine(name, tmp_path) as vm:
        guest = guest_of(vm)
        guest.announce(3)
        guest.messages_of(3)
        vm.qmp("device_del", id="spare")
        assert guest.messages_of(1) == [(2, REMOVE, 1, b"")]
        assert events(vm, "DEVICE_DELETED", 1) == [{"device": "spare", "path": "/machine/peripheral/spare"}]
        vm.qmp("device_add", driver="virtserialport", id="spare", name="second", bus="virtio-serial0.0")
        assert guest.messages_of(1) == [(2, ADD, 1, b"")]
        with pytest.raises(QmpFailure, match="A port already exists at id 1"):
            vm.qmp("device_add", driver="virtserialport", id="other", nr=1)
        with pytest.raises(QmpFailure, match="A port already exists by name second"):
            vm.qmp("device_add", driver="virtserialport", id="other", name="second")
        with pytest.raises(QmpFailure, match="Duplicate device ID 'spare'"):
            vm.qmp("device_add", driver="virtserialport", id="spare")
        assert "other" not in vm.hmp("info qtree")
        vm.qmp("device_add", driver="virtserialport", id="other", nr=30)
        assert guest.messages_of(1) == [(30, ADD, 1, b"")]


@both_running
@interfaces
def test_a_driver_without_multiport_has_port_0(name: str, modern: bool, tmp_path: Path) -> None:
    serial = f"virtio-serial-pci,addr={SLOT}"
    chardev = f"socket,id=agent,path={tmp_path}/agent.sock,server=on,wait=off"
    with (
        Qtest(
            name, "-nodefaults", "-chardev", chardev, "-device", serial, "-device", "virtconsole,chardev=agent"
        ) as vm,
        connect(tmp_path) as peer,
    ):
        peer.sendall(b"early")
        guest = SerialDriver(wire_driver(vm, SLOT, modern=modern), multiport=False, ports=(0,))
        assert guest.read(0, 5) == b"early"
        guest.write(0, b"answer")
        assert receive(peer, 6) == b"answer"


@both
def test_emergency_write(name: str, tmp_path: Path) -> None:
    with machine(name, tmp_path) as vm:
        driver = wire_driver(vm, SLOT, modern=True)
        assert driver.offered() & F_EMERG_WRITE
        for letter in b"oops":
            driver.write_config(8, 4, letter)
        driver.write_config(8, 1, ord("!"))
        driver.write_config(8, 4, 0)
        driver.write_config(8, 4, 0x4200 | ord("\n"))
        assert driver.config(8, 4) == 0
        deadline = time.monotonic() + DEADLINE_S
        while (tmp_path / "console.log").read_bytes() != b"oops!\n":
            assert time.monotonic() < deadline, (tmp_path / "console.log").read_bytes()


@both
def test_a_bus_that_the_guest_lets_go_takes_its_ports_along(name: str, tmp_path: Path) -> None:
    """Plugged and ejected by ACPI, twice: names, numbers and the chardev are free again."""
    chardev = f"socket,id=agent,path={tmp_path}/agent.sock,server=on,wait=off"
    with Qtest(name, "-nodefaults", "-chardev", chardev) as vm:
        for _ in range(2):
            vm.qmp("device_add", driver="virtio-serial-pci", id="bus", addr="6")
            for number, more in ((1, {"chardev": "agent"}), (2, {})):
                vm.qmp("device_add", driver="virtserialport", bus="bus.0", id=f"p{number}", nr=number, **more)
            with connect(tmp_path) as peer:
                guest = SerialDriver(wire_driver(vm, 6, modern=True))
                guest.announce(2)
                guest.open(1)
                peer.sendall(b"nobody reads this")
                vm.qmp("device_del", id="bus")
                vm.outl(0xAE08, 1 << 6)
                gone = [each.get("device", each["path"]) for each in events(vm, "DEVICE_DELETED", 4)]
                assert gone == ["p2", "p1", "/machine/peripheral/bus/virtio-backend", "bus"]
            assert "virtio-serial" not in vm.hmp("info qtree")
            with pytest.raises(QmpFailure, match="No 'virtio-serial-bus' bus found for device 'virtserialport'"):
                vm.qmp("device_add", driver="virtserialport", id="p1")
            assert {each["label"]: each["frontend-open"] for each in vm.qmp("query-chardev")}["agent"] is False


@both_running
def test_the_chardev_is_exchanged_under_an_open_port(name: str, tmp_path: Path) -> None:
    with machine(name, tmp_path) as vm, connect(tmp_path) as peer:
        guest = opened(vm)
        guest.write(1, b"to the old one")
        assert receive(peer, 14) == b"to the old one"
        address = {"type": "unix", "data": {"path": f"{tmp_path}/new.sock"}}
        backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
        vm.qmp("chardev-change", id_="agent", backend=backend)
        with socket.socket(socket.AF_UNIX) as other:
            other.settimeout(DEADLINE_S)
            other.connect(f"{tmp_path}/new.sock")
            other.sendall(b"hello")
            assert guest.read(1, 5) == b"hello"
            guest.write(1, b"to the new one")
            assert receive(other, 14) == b"to the new one"
            assert peer.recv(1) == b""
            told: list[int] = []
            guest.until(
                lambda: told.extend(each.value for each in guest.take_messages() if each[:2] == (1, OPEN)) or 0 in told,
                "the driver hears nothing of the old one's end",
            )
            assert told[-2:] in ([0], [0, 1])
            if name == "vmmd":  # QEMU forgets that the port is open
                assert {each["label"]: each["frontend-open"] for each in vm.qmp("query-chardev")}["agent"] is True
