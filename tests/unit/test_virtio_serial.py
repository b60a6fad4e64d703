# SPDX-License-Identifier: Apache-2.0
"""virtio-serial on fakes: the test is the vCPU, the loop another thread, the host's end a chardev that may be full."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.loop_thread import LoopDoorbells, LoopThread
from tests.framework.serial_driver import ADD, CONSOLE, F_MULTIPORT, NAME, OPEN, PORT_READY, READY, REMOVE, SerialDriver
from tests.framework.virtio_function import Registers
from tests.framework.virtqueue_driver import Buffer, Driver
from tests.unit.fakes import FakeChardev, make_context, props
from vmmd.core.backend import CharEvent
from vmmd.core.device import ResetKind
from vmmd.core.events import VserportChangeEvent
from vmmd.devices.pci.bus import PciBus
from vmmd.devices.virtio.serial.device import VirtioSerialPci
from vmmd.devices.virtio.serial.messages import Event, Outbox
from vmmd.devices.virtio.serial.port import SerialPort, VirtConsole, VirtSerialPort
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

RAM_BYTES = 8 << 20
BUS_MASTER_OFF, BUS_MASTER_ON = 3, 7


class LockedChardev(FakeChardev):
    """Its calls of the front end come as a real backend's: on the loop, with the DeviceLock held."""

    def __init__(self, bench: Bench, label: str) -> None:
        super().__init__(label)
        self._bench = bench

    def _deliver(self) -> None:
        def run() -> None:
            with self._bench.machine.lock:
                FakeChardev._deliver(self)

        self._bench.loop.post(run)

    def tell(self, event: CharEvent) -> None:
        def run() -> None:
            with self._bench.machine.lock:
                self.frontend.handle_event(event)

        self._bench.loop.call(run)
        self._bench.loop.settle()

    def makes_room(self, count: int | None) -> None:
        def run() -> None:
            self.room = count
            with self._bench.machine.lock:
                self.frontend.write_ready()

        self._bench.loop.call(run)
        self._bench.loop.settle()


class Bench:
    """A console as port 0 and a port 1, plugged, and a driver."""

    def __init__(self, **given: str) -> None:
        self.machine = make_context(RAM_BYTES)
        self.loop: Any = LoopThread()
        self.doorbells = LoopDoorbells(self.loop)
        self.machine.ctx.loop, self.machine.ctx.doorbells = self.loop, self.doorbells  # type: ignore[assignment]
        self.device = VirtioSerialPci(props(VirtioSerialPci, **given), self.machine.ctx, "serial0")
        self.device.bus = PciBus()
        with self.machine.lock:
            self.device.plug()
        self.ports: dict[int, SerialPort] = {}
        self.chardevs = {number: LockedChardev(self, f"c{number}") for number in range(3)}
        for number, chardev in self.chardevs.items():
            self.machine.backends.chardevs[f"c{number}"] = chardev
        self.plug(0)
        self.plug(1)
        self.registers = Registers(
            self.device,
            self.machine.pio,
            self.machine.mmio,
            self.doorbells,
            self.machine.lock,  # type: ignore[arg-type]
        )
        self.registers.map_bars()

    def plug(self, number: int, cls: type[SerialPort] | None = None, **given: str) -> SerialPort:
        cls = cls or (VirtSerialPort if number else VirtConsole)
        made = cls(props(cls, nr=str(number), chardev=f"c{number}", **given), self.machine.ctx, f"port{number}")
        made.bus = self.device
        with self.machine.lock:
            made.plug()
        self.ports[number] = made
        return made

    def unplug(self, number: int) -> None:
        def run() -> None:
            with self.machine.lock:
                self.ports.pop(number).unrealize()

        self.loop.call(run)
        self.loop.settle()

    def guest(
        self, *, modern: bool = True, opens: tuple[int, ...] = (0, 1), ports: tuple[int, ...] = (0, 1)
    ) -> SerialDriver:
        driver = Driver(self.registers, self.machine.memory, modern=modern)
        made = SerialDriver(driver, ports=ports, settle=self.loop.settle)
        made.announce(len(self.ports))
        for number in opens:
            made.open(number)
        self.loop.settle()
        made.messages.clear()
        made.take_messages()
        return made

    def stop(self) -> None:
        done: list[bool] = []
        for begin in self.machine.requests.quiesce_callbacks:
            self.loop.call(begin, lambda: done.append(True))
        assert done

    def cont(self) -> None:
        for callback in self.machine.requests.resume_callbacks:
            self.loop.call(callback)
        self.loop.settle()

    def events(self) -> list[tuple[str, bool]]:
        seen = [(each.id, each.open) for each in self.machine.events.emitted if isinstance(each, VserportChangeEvent)]
        self.machine.events.emitted.clear()
        return seen

    def close(self) -> None:
        for number in list(self.ports):
            self.unplug(number)
        with self.machine.lock:
            self.device.unrealize()
        self.loop.settle()
        self.loop.close()


@contextmanager
def bench(**given: str) -> Iterator[Bench]:
    made = Bench(**given)
    try:
        yield made
    finally:
        made.close()


def messages(made: Bench, guest: SerialDriver) -> list[tuple[int, int, int]]:
    made.loop.settle()
    return [each[:3] for each in guest.take_messages()]


# --- control messages -------------------------------------------------------------------------------------------------


def test_an_outbox_keeps_what_the_driver_has_to_see() -> None:
    box = Outbox()
    for value in (1, 0, 1, 0):
        box.add(1, Event.PORT_OPEN, value)
    for _ in range(5):
        box.add(1, Event.CONSOLE_PORT)
    seen = []
    while (message := box.first()) is not None:
        seen.append(message)
        box.drop_first()
    assert seen == [(1, OPEN, 1), (1, OPEN, 0), (1, CONSOLE, 1)]
    box.add(2, Event.DEVICE_ADD)
    box.remove_port(2)
    assert len(box) == 0
    box.add(3, Event.PORT_NAME)
    box.remove_port(3)
    box.add(3, Event.DEVICE_ADD)
    assert [box.first(), len(box)] == [(3, REMOVE, 1), 2]
    box.remove_port(3)
    assert [box.first(), len(box)] == [(3, REMOVE, 1), 1]


@pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
def test_hosts_that_come_and_go_while_the_driver_does_not_listen_cost_two_messages(modern: bool) -> None:
    with bench() as made:
        guest = made.guest(modern=modern)
        taken, guest.take_messages = guest.take_messages, list  # type: ignore[method-assign]
        for _ in range(100):
            made.chardevs[1].tell(CharEvent.OPENED)
            made.chardevs[1].tell(CharEvent.CLOSED)
        guest.take_messages = taken  # type: ignore[method-assign]
        seen: list[tuple[int, int, int]] = []
        while fresh := messages(made, guest):
            seen += fresh
        assert len(seen) <= 18  # as many as there were buffers, and two
        assert seen[-1] == (1, OPEN, 0)
        assert len(made.device.virtio.outbox) == 0


def test_nonsense_of_the_driver_is_ignored() -> None:
    with bench() as made:
        guest = made.guest()
        for port, event, value in (
            (30, OPEN, 1),
            (1 << 31, PORT_READY, 1),
            (0xFFFF_FFFF, 99, 7),
            (1, 77, 1),
            (1, ADD, 1),
        ):
            guest.say(port, event, value)
        guest.memory.write(0x31_0000, b"short")
        guest._control_out.add([Buffer(0x31_0000, 5)], [])
        guest._control_out.kick()
        made.loop.settle()
        assert len(guest._control_out.collect()) == 1
        guest.say(0xFFFF_FFFF, READY, 0)  # the driver has failed
        assert messages(made, guest) == []
        assert not made.device.virtio.broken


def test_names_and_hot_plug() -> None:
    with bench() as made:
        guest = made.guest()
        made.plug(2, name="org.example.two")
        assert messages(made, guest) == [(2, ADD, 1)]
        guest.say(2, PORT_READY)
        made.loop.settle()
        assert guest.take_messages() == [(2, NAME, 1, b"org.example.two\0")]
        made.unplug(2)
        assert messages(made, guest) == [(2, REMOVE, 1)]
        made.plug(2)
        made.unplug(2)
        made.plug(2)
        assert [each for each in messages(made, guest) if each[1] != REMOVE][-1] == (2, ADD, 1)


@pytest.mark.parametrize(
    ("number", "given", "sentence"),
    [
        ("1", {}, "A port already exists at id 1; it is port1"),
        ("31", {}, "Out-of-range port id specified, max. allowed: 30; serial0 has max_ports=31"),
        ("0", {}, "A port already exists at id 0; it is port0"),
        ("5", {"chardev": "c1"}, "in use"),
        ("5", {"chardev": "nope"}, "nope"),
    ],
)
def test_a_port_that_does_not_fit_leaves_nothing_behind(number: str, given: dict[str, str], sentence: str) -> None:
    with bench() as made:
        port = VirtSerialPort(props(VirtSerialPort, nr=number, **given), made.machine.ctx, "new")
        port.bus = made.device
        before = dict(made.device.virtio.ports)
        with made.machine.lock, pytest.raises(UsageError, match=sentence):
            port.plug()
        assert made.device.virtio.ports == before
        assert made.chardevs[1].frontend is made.ports[1]


# --- guest to host ----------------------------------------------------------------------------------------------------


def test_a_full_port_keeps_the_rest_of_a_chain() -> None:
    with bench() as made:
        guest = made.guest()
        made.chardevs[1].tell(CharEvent.OPENED)
        made.chardevs[1].room = 7
        guest.offer(1, b"0123456789")
        guest.offer(1, b"abc", at=0x100)
        made.loop.settle()
        assert guest.taken(1) == []
        assert made.ports[1].throttled
        assert list(made.ports[1].tree_lines()) == ["port 1, guest on, host on, throttle on"]
        made.chardevs[1].makes_room(4)
        assert len(guest.taken(1)) == 1
        made.chardevs[1].makes_room(None)
        assert len(guest.taken(1)) == 1
        assert bytes(made.chardevs[1].output) == b"0123456789abc"
        assert not made.ports[1].throttled


def test_a_full_console_drops_and_counts_and_never_waits() -> None:
    with bench() as made:
        guest = made.guest()
        made.chardevs[0].room = 4
        guest.offer(0, b"0123456789")
        made.loop.settle()
        assert len(guest.taken(0)) == 1
        assert (bytes(made.chardevs[0].output), made.chardevs[0].dropped_bytes) == (b"0123", 6)


def test_a_port_whose_host_has_left_goes_on() -> None:
    """What it holds for the one who left is done with."""
    with bench() as made:
        guest = made.guest()
        made.chardevs[1].tell(CharEvent.OPENED)
        made.chardevs[1].room = 0
        guest.offer(1, b"never heard")
        made.loop.settle()
        made.chardevs[1].room = None  # as a chardev without a peer takes everything
        made.chardevs[1].tell(CharEvent.CLOSED)
        assert len(guest.taken(1)) == 1
        assert messages(made, guest) == [(1, OPEN, 1), (1, OPEN, 0)]


def test_a_throttled_port_that_is_pulled_gives_its_chains_back() -> None:
    with bench() as made:
        guest = made.guest()
        made.chardevs[1].tell(CharEvent.OPENED)
        made.chardevs[1].room = 0
        guest.offer(1, b"in flight")
        made.loop.settle()
        made.unplug(1)
        assert len(guest.taken(1)) == 1
        assert made.chardevs[1].frontend is None


def test_a_huge_chain_goes_out_in_pieces() -> None:
    with bench() as made:
        guest = made.guest()
        size = 6 << 20
        ring = guest.ports[1].outward
        ring.add([Buffer(0x10_0000, size)], [])
        ring.kick()
        made.loop.settle()
        assert len(guest.taken(1)) == 1
        assert len(made.chardevs[1].output) == size


def test_a_driver_that_takes_what_was_not_offered_has_one_port() -> None:
    with bench(max_ports="2") as made:
        virtio = made.device.virtio
        for offered in ("offered", "offered_legacy"):  # as with max_ports=1
            setattr(virtio, offered, getattr(virtio, offered) & ~F_MULTIPORT)
        driver = Driver(made.registers, made.machine.memory, modern=False)
        driver.status = 3
        driver.put(4, 4, F_MULTIPORT)
        driver.setup_queue(0, 0x20_0000)
        driver.ready()
        made.loop.settle()
        assert made.ports[0].guest_open


def test_an_emergency_write_needs_no_driver() -> None:
    with bench() as made:
        driver = Driver(made.registers, made.machine.memory, modern=True)
        driver.write_config(8, 4, ord("!"))
        driver.write_config(8, 4, 0)
        assert bytes(made.chardevs[0].output) == b"!"
    with bench(emergency_write="off") as made:
        driver = Driver(made.registers, made.machine.memory, modern=True)
        driver.write_config(8, 4, ord("!"))
        assert made.chardevs[0].output == b""
        assert driver.config(8, 4) == 0xFFFF_FFFF


# --- host to guest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
def test_only_what_the_buffers_take_is_read(modern: bool) -> None:
    with bench() as made:
        guest = made.guest(modern=modern)
        made.chardevs[1].feed(bytes(range(256)) * 4)
        made.loop.settle()
        assert len(made.chardevs[1].input) == 1024
        guest.post(1, count=2, length=100)
        made.loop.settle()
        assert guest.collect(1) == [bytes(range(100)), bytes(range(100, 200))]
        assert len(made.chardevs[1].input) == 824
        assert guest.driver.isr & 1


def test_nothing_is_read_until_the_guest_opens_and_after_it_closes() -> None:
    with bench() as made:
        guest = made.guest(opens=(0,))
        guest.post(1, count=4)
        made.chardevs[1].feed(b"early")
        made.loop.settle()
        assert guest.collect(1) == []
        guest.open(1)
        made.loop.settle()
        assert guest.collect(1) == [b"early"]
        guest.open(1, 0)
        made.chardevs[1].feed(b"late")
        made.loop.settle()
        assert (guest.collect(1), bytes(made.chardevs[1].input)) == ([], b"late")
        assert made.events() == [("port0", True), ("port1", True), ("port1", False)]


def test_buffers_without_room_are_given_back() -> None:
    with bench() as made:
        guest = made.guest()
        ring = guest.ports[1].inward
        for _ in range(40):
            ring.add([Buffer(0x10_0000, 4)], [])  # nothing that the device may write
        ring.kick()
        guest.post(1, count=1)
        made.chardevs[1].feed(b"x")
        made.loop.settle()
        assert [written for _, written in ring.collect()] == [0] * 40 + [1]


# --- the machine stops, is reset, DMA goes off ------------------------------------------------------------------------


def test_a_stopped_machine_moves_nothing() -> None:
    with bench() as made:
        guest = made.guest()
        made.chardevs[1].tell(CharEvent.OPENED)
        messages(made, guest)
        made.stop()
        guest.post(1, count=2)
        guest.offer(1, b"out")
        made.chardevs[1].feed(b"in")
        made.chardevs[1].tell(CharEvent.CLOSED)
        made.loop.settle()
        assert (guest.collect(1), bytes(made.chardevs[1].output), messages(made, guest)) == ([], b"", [])
        made.cont()
        assert guest.collect(1) == [b"in"]
        assert bytes(made.chardevs[1].output) == b"out"
        assert messages(made, guest) == [(1, OPEN, 0)]


def test_buffers_in_hand_survive_bus_mastering_off_and_on() -> None:
    with bench() as made:
        guest = made.guest()
        guest.post(1, count=4)
        made.chardevs[1].feed(b"one")
        made.loop.settle()
        assert guest.collect(1) == [b"one"]
        made.registers.config_write(4, 2, BUS_MASTER_OFF)
        made.loop.settle()
        made.chardevs[1].feed(b"two")
        made.loop.settle()
        assert guest.collect(1) == []
        made.registers.config_write(4, 2, BUS_MASTER_ON)
        made.loop.settle()
        made.chardevs[1].accept_input()
        made.loop.settle()
        assert guest.collect(1) == [b"two"]


@pytest.mark.parametrize("by_machine", [False, True])
def test_a_reset_closes_the_guests_ends(by_machine: bool) -> None:
    with bench() as made:
        guest = made.guest()
        made.chardevs[1].tell(CharEvent.OPENED)
        made.chardevs[1].room = 0
        guest.offer(1, b"stuck")
        made.loop.settle()
        made.events()
        assert (made.chardevs[1].frontend_open, made.chardevs[0].frontend_open) == (True, True)
        if by_machine:
            with made.machine.lock:
                made.device.reset(ResetKind.COLD)
        else:
            guest.driver.status = 0
        made.loop.settle()
        assert made.events() == [("port0", False), ("port1", False)]
        assert (made.chardevs[1].frontend_open, made.chardevs[0].frontend_open) == (False, True)
        assert not made.ports[1].throttled
        if by_machine:
            made.registers.map_bars()
        made.chardevs[1].room = None
        again = made.guest()
        again.write(1, b"new driver")
        assert bytes(made.chardevs[1].output) == b"new driver"


def test_the_backend_is_exchanged_under_the_port() -> None:
    with bench() as made:
        guest = made.guest()
        other = LockedChardev(made, "other")
        with made.machine.lock:
            made.chardevs[1].detach()
            other.frontend = made.ports[1]
            made.ports[1].replace_backend(other)
        assert other.frontend_open
        guest.write(1, b"to the new one")
        assert (bytes(other.output), bytes(made.chardevs[1].output)) == (b"to the new one", b"")
