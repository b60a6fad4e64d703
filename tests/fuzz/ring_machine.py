# SPDX-License-Identifier: Apache-2.0
"""A reference driver and a mutator on any virtio device of the registry, as a hypothesis state machine.

Properties (contract/safety.md §3.4 (1)): each turn of the device ends within a bound; memory outside the writable
buffers and the used ring is as it was (compared with a shadow copy); the device works or asks for a reset; after a
reset a clean request succeeds. What a clean request is, one recipe for each virtio id tells.
"""

from __future__ import annotations

import gc
import logging
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.framework.device_rig import Rig
from tests.framework.virtio_function import Registers
from tests.framework.virtqueue_driver import DESC_WRITE, F_RING_RESET, Buffer, Driver
from tests.fuzz.broken_rings import DATA, INDIRECT, RAM_BYTES, RING_STRIDE, RINGS, RULES, SET_UPS, Chain
from tests.unit.fakes import FakeChardev, props
from vmmd.core.registry import all_device_classes
from vmmd.devices.virtio.pci_transport import VirtioPciDevice
from vmmd.devices.virtio.serial.device import VirtioSerialPci
from vmmd.devices.virtio.serial.messages import Event
from vmmd.devices.virtio.serial.port import VirtConsole, VirtSerialPort

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.framework.virtqueue_driver import DriverQueue

NEEDS_RESET = 0x40
QUEUE_SIZE = 16
TURN_BOUND_S = 0.050
CALLBACKS_MAX = 5_000
#: VIRTIO_F_* that the reference driver takes when offered: indirect, event index, version 1, ring reset, legacy ones
WANTED = 0xFFFF_FFFF | 1 << 32 | F_RING_RESET
BLK_IN, BLK_OK = 0, 0
NOT_ANSWERED = 0xEE


class Recipe(NamedTuple):
    """A clean request of one kind of device."""

    queue: int
    #: prepares guest memory; the descriptors (address, length, flags)
    prepare: Callable[[Bench], list[tuple[int, int, int]]]
    #: whether the answer is right: (bench, bytes written)
    answered: Callable[[Bench, int], bool]
    #: what the host does for an answer to come
    prompt: Callable[[Bench], None] = lambda bench: None


def _blk_prepare(bench: Bench) -> list[tuple[int, int, int]]:
    bench.write(DATA, struct.pack("<IIQ", BLK_IN, 0, 1))
    bench.write(DATA + 0x1000, bytes([NOT_ANSWERED]) * 512)
    bench.write(DATA + 0x2000, bytes([NOT_ANSWERED]))
    bench.rig.disk.data[512:1024] = b"\x5a" * 512
    return [(DATA, 16, 0), (DATA + 0x1000, 512, DESC_WRITE), (DATA + 0x2000, 1, DESC_WRITE)]


def _blk_answered(bench: Bench, written: int) -> bool:
    memory = bench.rig.machine.memory
    return memory.u8(DATA + 0x2000) == BLK_OK and memory.read(DATA + 0x1000, 512) == b"\x5a" * 512 and written == 513


def _rng_prepare(bench: Bench) -> list[tuple[int, int, int]]:
    bench.write(DATA, bytes(64))
    return [(DATA, 64, DESC_WRITE)]


def _rng_answered(bench: Bench, written: int) -> bool:
    data = bench.rig.machine.memory.read(DATA, 64)
    return 0 < written <= 64 and any(data[:written]) and not any(data[written:])


FRAME = bytes(range(2, 62))


def _net_send(pair: int) -> Recipe:
    """A frame of the driver reaches the netdev. (Its header is long: both kinds of driver take mergeable buffers.)"""

    def prepare(bench: Bench) -> list[tuple[int, int, int]]:
        bench.rig.device.virtio.use_pairs(2)  # type: ignore[attr-defined]
        bench.write(DATA, bytes(12))
        bench.write(DATA + 0x1000, FRAME)
        bench.rig.netdev.queues[pair].sent.clear()
        return [(DATA, 12, 0), (DATA + 0x1000, len(FRAME), 0)]

    def sent(bench: Bench, written: int) -> bool:
        return bench.rig.netdev.queues[pair].sent == [bytes(12) + FRAME] and not written

    return Recipe(2 * pair + 1, prepare, sent)


def _net_receive(pair: int) -> Recipe:
    """A frame of the netdev's reaches the driver, in two buffers of a chain."""

    def prepare(bench: Bench) -> list[tuple[int, int, int]]:
        bench.rig.device.virtio.use_pairs(2)  # type: ignore[attr-defined]
        bench.write(DATA, bytes(64))
        bench.write(DATA + 0x1000, bytes(64))
        bench.rig.netdev.queues[pair].incoming.clear()
        return [(DATA, 32, DESC_WRITE), (DATA + 0x1000, 64, DESC_WRITE)]

    def prompt(bench: Bench) -> None:
        bench.rig.netdev.queues[pair].feed(bytes(12) + FRAME)

    def received(bench: Bench, written: int) -> bool:
        memory = bench.rig.machine.memory
        data = memory.read(DATA, 32) + memory.read(DATA + 0x1000, 64)
        return data[: written + 1] == bytes(10) + b"\1\0" + FRAME + b"\0"

    return Recipe(2 * pair, prepare, received, prompt)


def _net_command(bench: Bench) -> list[tuple[int, int, int]]:
    bench.write(DATA, b"\0\1\1")  # receive mode: all multicast
    bench.write(DATA + 0x2000, bytes([NOT_ANSWERED]))
    bench.rig.device.virtio.filter.allmulti = False  # type: ignore[attr-defined]
    return [(DATA, 2, 0), (DATA + 2, 1, 0), (DATA + 0x2000, 1, DESC_WRITE)]


def _net_obeyed(bench: Bench, written: int) -> bool:
    obeyed = bench.rig.device.virtio.filter.allmulti  # type: ignore[attr-defined]
    return obeyed and written == 1 and bench.rig.machine.memory.u8(DATA + 0x2000) == 0


TYPED, PRINTED = b"typed", bytes(range(200))


def _serial_port(bench: Bench, number: int) -> FakeChardev:
    """The host's end of a port, whose guest's end is open."""
    device, backends = bench.rig.device, bench.rig.machine.backends
    assert isinstance(device, VirtioSerialPci)
    label = f"port{number}"
    if number not in device.virtio.ports:
        backends.chardevs[label] = FakeChardev(label)
        cls = VirtSerialPort if number else VirtConsole
        port = cls(props(cls, nr=str(number), chardev=label), device.ctx)
        port.bus = device
        with device.ctx.lock:
            port.plug()
    device.virtio.ports[number].guest_open = True
    device.virtio.ports[number].host_open = True
    found: FakeChardev = backends.chardevs[label]
    return found


def _serial_in(queue: int, number: int) -> Recipe:
    def prepare(bench: Bench) -> list[tuple[int, int, int]]:
        _serial_port(bench, number).input[:] = TYPED
        bench.write(DATA, bytes(64))
        return [(DATA, 3, DESC_WRITE), (DATA + 0x20, 16, DESC_WRITE)]

    def answered(bench: Bench, written: int) -> bool:
        memory = bench.rig.machine.memory
        return (memory.read(DATA, 3) + memory.read(DATA + 0x20, 2), written) == (TYPED, len(TYPED))

    return Recipe(queue, prepare, answered)


def _serial_out(queue: int, number: int) -> Recipe:
    def prepare(bench: Bench) -> list[tuple[int, int, int]]:
        _serial_port(bench, number).output.clear()
        bench.write(DATA, PRINTED)
        return [(DATA, 100, 0), (DATA + 100, 100, 0)]

    return Recipe(queue, prepare, lambda bench, written: _serial_port(bench, number).output == PRINTED and not written)


def _serial_told_prepare(bench: Bench) -> list[tuple[int, int, int]]:
    serial = bench.rig.device.virtio  # type: ignore[attr-defined]
    serial.outbox.clear()
    serial.outbox.add(1, Event.PORT_OPEN)
    bench.write(DATA, bytes(64))
    return [(DATA, 6, DESC_WRITE), (DATA + 6, 20, DESC_WRITE)]


def _serial_told(bench: Bench, written: int) -> bool:
    return (bench.rig.machine.memory.read(DATA, 8), written) == (struct.pack("<IHH", 1, Event.PORT_OPEN, 1), 8)


def _serial_prepare(bench: Bench) -> list[tuple[int, int, int]]:
    bench.rig.device.virtio.listens = False  # type: ignore[attr-defined]
    bench.write(DATA, struct.pack("<IHH", 0xFFFF_FFFF, Event.DEVICE_READY, 1))
    return [(DATA, 5, 0), (DATA + 5, 3, 0)]


def _serial_heard(bench: Bench, written: int) -> bool:
    return bench.rig.device.virtio.listens and not written  # type: ignore[attr-defined]


PAGES = [0x70, 0x71, 0x73]
REPORTED = 0x7_0000, 0x3000


def _balloon_prepare(bench: Bench) -> list[tuple[int, int, int]]:
    bench.write(DATA, struct.pack("<3I", *PAGES))
    bench.rig.machine.backing.discarded.clear()
    return [(DATA, 12, 0)]


def _inflated(bench: Bench, written: int) -> bool:
    return bench.rig.machine.discarded() == [(0x7_0000, 0x2000), (0x7_3000, 0x1000)] and not written


def _deflated(bench: Bench, written: int) -> bool:
    return not bench.rig.machine.discarded() and not written


def _statistics_prepare(bench: Bench) -> list[tuple[int, int, int]]:
    bench.write(DATA, struct.pack("<HQHQ", 4, 0x1234, 5, 0x5678))  # free and total memory
    return [(DATA, 20, 0)]


def _statistics_wanted(bench: Bench) -> None:
    balloon, machine = bench.rig.device.virtio, bench.rig.machine  # type: ignore[attr-defined]
    with machine.lock:
        for seconds in (0, 1):  # switched on: at once
            balloon.poll_every(seconds)
        machine.clock.advance(0)


def _statistics_told(bench: Bench, written: int) -> bool:
    stats = bench.rig.device.virtio.guest_stats()["stats"]  # type: ignore[attr-defined]
    return (stats["stat-free-memory"], stats["stat-total-memory"], written) == (0x1234, 0x5678, 0)


def _report_prepare(bench: Bench) -> list[tuple[int, int, int]]:
    bench.rig.machine.backing.discarded.clear()
    return [(*REPORTED, DESC_WRITE)]


def _reported(bench: Bench, written: int) -> bool:
    return bench.rig.machine.discarded() == [REPORTED] and not written


#: of every queue, by virtio id (virtio 1.2 §5); the first queue has the whole suite, the others the same in fewer tests
RECIPES: dict[int, tuple[Recipe, ...]] = {
    1: (
        _net_send(0),
        _net_receive(0),
        _net_send(1),
        _net_receive(1),
        Recipe(4, _net_command, _net_obeyed),
    ),
    2: (Recipe(0, _blk_prepare, _blk_answered),),
    3: (
        _serial_out(5, 1),
        _serial_in(0, 0),
        _serial_out(1, 0),
        Recipe(2, _serial_told_prepare, _serial_told),
        Recipe(3, _serial_prepare, _serial_heard),
        _serial_in(4, 1),
    ),
    4: (Recipe(0, _rng_prepare, _rng_answered),),
    5: (
        Recipe(0, _balloon_prepare, _inflated),
        Recipe(1, _balloon_prepare, _deflated),
        Recipe(2, _statistics_prepare, _statistics_told, _statistics_wanted),
        Recipe(3, _report_prepare, _reported),
    ),
}


def virtio_types() -> list[str]:
    """Every virtio PCI function of the registry."""
    return [name for name, cls in sorted(all_device_classes().items()) if issubclass(cls, VirtioPciDevice)]


def recipes_of(type_name: str) -> tuple[Recipe, ...]:
    """The recipes of a virtio PCI function, one for each of its queues."""
    rig = Rig(type_name)
    rig.plug()
    virtio_id = rig.device.virtio.virtio_id  # type: ignore[attr-defined]
    rig.unplug()
    return RECIPES[virtio_id]


class RingFault(AssertionError):
    """A property does not hold."""


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.raised: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            self.raised.append(self.format(record))


class AnyMemory:
    """Guest memory as a guest writes it: what is not RAM reads zero and takes nothing, alignment does not matter."""

    def __init__(self, ram: bytearray) -> None:
        self._ram = ram

    def read(self, gpa: int, length: int) -> bytes:
        return bytes(self._ram[gpa : gpa + length]).ljust(length, b"\0")

    def write(self, gpa: int, data: bytes) -> None:
        if gpa + len(data) <= len(self._ram):
            self._ram[gpa : gpa + len(data)] = data

    def u16(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 2), "little")

    def store_u16(self, gpa: int, value: int) -> None:
        self.write(gpa, value.to_bytes(2, "little"))


class Bench:
    """One device, its driver, and the shadow copy of memory."""

    def __init__(self, type_name: str, *, modern: bool, recipe: int = 0) -> None:
        """``recipe``: which of the device's."""
        self.rig = Rig(type_name)
        self.modern = modern
        self.rig.plug()
        self.rig.reset()
        machine = self.rig.machine
        self.memory = AnyMemory(machine.ram)
        self.registers = Registers(self.rig.device, machine.pio, machine.mmio, machine.doorbells, machine.lock)
        self.registers.map_bars()
        self.recipe = RECIPES[self.rig.device.virtio.virtio_id][recipe]  # type: ignore[attr-defined]
        #: (address, length) that the device was given to write, since the last reset
        self.writable: list[tuple[int, int]] = []
        self.slowest = (0.0, "")
        self.turns = 0
        self.log = _Log()
        root = logging.getLogger("vmmd")
        self._handlers = root.handlers[:], root.propagate
        root.handlers[:], root.propagate = [self.log], False
        self.shadow = bytearray(machine.ram)
        self.driver: Driver
        self.ring: DriverQueue
        self.set_up()

    # -- the driver's side -------------------------------------------------------------------------------------

    def set_up(self, *, msix: bool = False) -> None:
        """Reset by the driver, negotiation, the recipe's queue, DRIVER_OK; with MSI-X where there is any."""
        msix = msix and self.rig.device.msix is not None  # type: ignore[attr-defined]
        self.begin(msix=msix)
        index = self.recipe.queue
        size = min(QUEUE_SIZE, self.driver.queue_size(index)) if self.modern else None
        self.ring = self.driver.setup_queue(index, RINGS + RING_STRIDE * index, size=size, vector=1 if msix else None)
        self.go()

    def begin(self, *, msix: bool = False) -> None:
        """Everything up to FEATURES_OK."""
        self.driver = Driver(self.registers, self.memory, modern=self.modern)
        if msix:
            self.registers.enable_msix(2)
        self.act("reset", lambda: setattr(self.driver, "status", 0))
        self.writable.clear()
        self.driver.negotiate(WANTED)

    def go(self) -> None:
        self.remember()
        self.act("DRIVER_OK", self.driver.ready)

    def write(self, gpa: int, data: bytes) -> None:
        self.memory.write(gpa, data)

    def chain(self) -> Chain:
        """A lawful request, not yet available."""
        return Chain(self.ring, self.recipe.prepare(self))

    def clean_request(self, *, indirect: bool = False) -> None:
        """One request from start to end; the device must do it."""
        parts = self.recipe.prepare(self)
        readable = [Buffer(gpa, length) for gpa, length, flags in parts if not flags & DESC_WRITE]
        writable = [Buffer(gpa, length) for gpa, length, flags in parts if flags & DESC_WRITE]
        head = self.ring.add(readable, writable, INDIRECT if indirect else None)
        self.notify()
        self.act("the host's part", lambda: self.recipe.prompt(self))
        answers = self.ring.collect()
        if [each for each, _ in answers] != [head]:
            raise RingFault(f"a clean request came back as {answers}, status {self.driver.status:#x}")
        if not self.recipe.answered(self, answers[0][1]):
            raise RingFault(f"a clean request was answered wrongly, {answers[0][1]} bytes written")

    @property
    def needs_reset(self) -> bool:
        """DEVICE_NEEDS_RESET, which a legacy driver cannot see: the device itself says then."""
        if self.modern:
            return bool(self.driver.status & NEEDS_RESET)
        return bool(self.rig.device.virtio.broken)  # type: ignore[attr-defined]

    # -- the properties ------------------------------------------------------------------------------------

    def notify(self) -> None:
        self.remember()
        self.act("notification", self.ring.notify)

    def remember(self) -> None:
        """What the descriptors give to the device now, and the shadow copy."""
        tables = [(self.ring.desc, self.ring.size), (INDIRECT, QUEUE_SIZE + 2)] if hasattr(self, "ring") else []
        for table, count in tables:
            for index in range(count):
                gpa, length, flags, _ = struct.unpack("<QIHH", self.memory.read(table + 16 * index, 16))
                if flags & DESC_WRITE and gpa < RAM_BYTES:
                    self.writable.append((gpa, min(length, RAM_BYTES - gpa)))
        self.writable += [(ring.used, 6 + 8 * ring.size) for ring in self.driver.queues if ring.used < RAM_BYTES]
        self.writable = list(set(self.writable))
        self.shadow[:] = self.rig.machine.ram

    def act(self, what: str, action: Callable[[], None]) -> None:
        """Do something that the device reacts to; every turn of it is timed, and memory is compared afterwards."""
        self._timed(what, action)
        loop, turns = self.rig.loop, 0
        while loop.pending:
            callback, arguments = loop.pending.pop(0)
            self._timed(f"{what}, on the loop", lambda: callback(*arguments))  # noqa: B023  # called at once
            turns += 1
            if turns > CALLBACKS_MAX:
                raise RingFault(f"{what}: the loop does not come to rest")
        if self.log.raised:
            raise RingFault(f"{what}: it logged {self.log.raised.pop()}")
        self._compare(what)

    def _timed(self, what: str, action: Callable[[], None]) -> None:
        self.turns += 1
        gc.disable()  # its pauses would be taken for the device's
        before = time.process_time()
        try:
            action()
        finally:
            took = time.process_time() - before
            gc.enable()
        if took > self.slowest[0]:
            self.slowest = (took, what)
        if took > TURN_BOUND_S:
            raise RingFault(f"{what} took {took * 1000:.1f} ms of processor time")

    def _compare(self, what: str) -> None:
        ram = self.rig.machine.ram
        # a table that the device was given to write over may say anything when it is read next
        tables = [(RINGS, RING_STRIDE), (INDIRECT, 0x1000)]
        if any(a < c + d and c < a + b for a, b in self._buffers() for c, d in tables):
            self.shadow[:] = ram
            return
        for gpa, length in self.writable:
            end = min(gpa + length, RAM_BYTES)
            self.shadow[gpa:end] = ram[gpa:end]
        if self.shadow != ram:
            at = next(index for index, (old, new) in enumerate(zip(self.shadow, ram, strict=True)) if old != new)
            raise RingFault(f"{what}: memory at {at:#x} changed, which the device was not given to write")

    def _buffers(self) -> list[tuple[int, int]]:
        used = {(ring.used, 6 + 8 * ring.size) for ring in self.driver.queues}
        return [each for each in self.writable if each not in used]

    # -- whole stories -----------------------------------------------------------------------------------------

    def break_rule(self, name: str) -> None:
        """Break one rule on a lawful ring, and judge."""
        rule_ = RULES[name]
        rule_.breaks(self.chain())
        self.notify()
        if rule_.must_ask and not self.needs_reset:
            raise RingFault(f"{name}: the device goes on")

    def wrong_set_up(self, name: str) -> None:
        """A queue set up wrongly; then DRIVER_OK and a notification."""
        set_up = SET_UPS[name]
        self.begin()
        self.ring = self.driver.place_queue(self.recipe.queue, set_up.size, set_up.rings)
        self.ring.size = self.driver.get(0x18, 2)  # what the device took of it
        set_up.then(self.driver)
        self.go()
        self.act(f"notification after {name}", self.ring.notify)
        if set_up.must_ask and not self.needs_reset:
            raise RingFault(f"{name}: the device goes on")

    def settle_host(self) -> None:
        """The host does what it held back."""
        self.act("late completions", self.rig.complete)

    def close(self) -> None:
        root = logging.getLogger("vmmd")
        root.handlers[:], root.propagate = self._handlers
        self.rig.unplug()


def ring_machine(type_name: str, judge: Callable[[Bench], None] = lambda bench: None) -> type[RuleBasedStateMachine]:
    """The state machine of one device type; ``judge`` is called with each bench at its end."""
    recipes = recipes_of(type_name)

    class RingMachine(RuleBasedStateMachine):
        """Lawful requests, broken rules, resets of each kind, late hosts, in any order."""

        @initialize(modern=st.booleans(), recipe=st.integers(0, len(recipes) - 1))
        def plug(self, modern: bool, recipe: int) -> None:
            modern = modern or type_name.endswith("non-transitional")
            self.bench = Bench(type_name, modern=modern, recipe=recipe)
            self.clean = True  # no rule was broken since the last reset

        @precondition(lambda self: self.clean)
        @rule(indirect=st.booleans())
        def request(self, indirect: bool) -> None:
            self.bench.settle_host()
            self.bench.clean_request(indirect=indirect)

        @rule(name=st.sampled_from(sorted(RULES)))
        def break_rule(self, name: str) -> None:
            rule_ = RULES[name]
            if rule_.modern_only and not self.bench.modern:
                return
            if self.clean:
                self.bench.settle_host()
                self.bench.break_rule(name)
            else:
                rule_.breaks(self.bench.chain())
                self.bench.notify()
            self.clean = False

        @rule(name=st.sampled_from(sorted(SET_UPS)))
        def set_up_wrongly(self, name: str) -> None:
            if self.bench.modern:
                self.bench.settle_host()
                self.bench.wrong_set_up(name)
                self.clean = False

        @rule()
        def host_is_slow(self) -> None:
            self.bench.rig.hold_back()

        @precondition(lambda self: not self.clean)
        @rule()
        def notify_again(self) -> None:
            self.bench.notify()

        @rule()
        def host_answers(self) -> None:
            self.bench.settle_host()

        @rule(msix=st.booleans())
        def reset_by_driver(self, msix: bool) -> None:
            self.bench.act("status 0", lambda: setattr(self.bench.driver, "status", 0))
            self._start_over(msix)

        @rule(msix=st.booleans())
        def reset_by_machine(self, msix: bool) -> None:
            self.bench.rig.reset()
            self.bench.registers.map_bars()
            self._start_over(msix)

        @precondition(lambda self: self.bench.modern and self.bench.driver.features & F_RING_RESET)
        @rule()
        def reset_of_the_queue(self) -> None:
            bench = self.bench
            bench.settle_host()
            bench.act("queue reset", lambda: bench.driver.reset_queue(bench.recipe.queue) and None)
            self._start_over(False)

        @rule()
        def bus_mastering_off_and_on(self) -> None:
            bench = self.bench
            bench.settle_host()
            bench.act("bus mastering off", lambda: bench.registers.config_write(4, 2, 3))
            bench.act("a ring without DMA", bench.ring.notify)
            bench.act("bus mastering on", lambda: bench.registers.config_write(4, 2, 7))

        def _start_over(self, msix: bool) -> None:
            self.bench.settle_host()
            self.bench.set_up(msix=msix)
            if self.bench.needs_reset:
                raise RingFault("a reset did not help")
            self.bench.clean_request()
            self.clean = True

        @invariant()
        def nothing_was_asked_of_the_machine(self) -> None:
            if hasattr(self, "bench") and self.bench.rig.machine.requests.asked:
                raise RingFault(f"it asked for {self.bench.rig.machine.requests.asked}")

        def teardown(self) -> None:
            if hasattr(self, "bench"):
                self.bench.close()
                judge(self.bench)

    return RingMachine
