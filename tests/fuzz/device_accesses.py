# SPDX-License-Identifier: Apache-2.0
"""Random accesses to one device, whatever its type: ports, memory, configuration space, time, DMA, backends, resets.

No driver model: a sweep does every access there is (each offset of each range, in each width, read and written), then
accesses come at random, biased to what finds bugs: the same few registers again, values read a moment ago with one bit
changed, addresses in RAM. Guest memory near the addresses that the device was given, and what it reads by DMA, holds
random structures. A fault is an exception, a logged one, a handler over 50 ms of processor time, a value out of range,
or a flood of log lines; the accesses so far are then a script (``tests.framework.access_script``).
"""

from __future__ import annotations

import gc
import logging
import random
import struct
import time
import traceback
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from tests.framework.access_script import (
    PCI_ADDRESS,
    PCI_DATA,
    Access,
    Backend,
    ConfigRead,
    ConfigWrite,
    In,
    Memory,
    Out,
    Qmp,
    Read,
    Step,
    Write,
    lines,
    parse,
)
from tests.framework.device_rig import NEEDED, RAM_BYTES, SLOT, Rig
from vmmd.core.backend import CharEvent
from vmmd.core.input import BUTTONS, KEY, RELATIVE, ButtonEvent, KeyEvent, RelativeEvent
from vmmd.core.memory import GuestMemory
from vmmd.devices.pci.device import PciDevice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vmmd.core.address_space import AddressSpace, IoRange
    from vmmd.core.memory import RamRegion

HANDLER_BOUND_S = 0.050
LOG_LINES_MAX = 30
#: callbacks of timers in one step of the clock
TIMER_TURNS_MAX = 300
#: a range is swept and hit at this many of its bytes; a frame buffer is larger
RANGE_SHOWN_BYTES = 1 << 16
DMA_ANSWER_MAX = 4096
RUNS_OF_ONE_REGISTER = 6
EIO, ENOSPC = 5, 28


class Report(NamedTuple):
    """What a run without a fault did."""

    accesses: int
    slowest_s: float  # processor time
    slowest: str
    wall_s: float  # of the one that took longest by the clock on the wall


class DeviceFault(AssertionError):
    """A seed failed. ``script`` replays it."""

    def __init__(self, what: str, script: str) -> None:
        super().__init__(what)
        self.script = script


class _Records(logging.Handler):
    """What the device logged."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.raised: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        if record.exc_info or record.levelno >= logging.ERROR:
            self.raised = f"it logged: {self.format(record)}"


@contextmanager
def _watched_log() -> Iterator[_Records]:
    records, root = _Records(), logging.getLogger("vmmd")
    before = root.handlers[:], root.propagate
    root.handlers[:], root.propagate = [records], False
    try:
        yield records
    finally:
        root.handlers[:], root.propagate = before


class HookedMemory(GuestMemory):
    """Guest memory that is filled by ``answer`` just before a device looks at it."""

    __slots__ = ("answer",)

    def __init__(self, regions: Sequence[RamRegion], answer: Callable[[int, int], None]) -> None:
        super().__init__(regions)
        self.answer = answer

    def find(self, gpa: int, length: int) -> RamRegion:
        self.answer(gpa, length)
        return super().find(gpa, length)

    def view(self, gpa: int, length: int, *, writable: bool = False) -> memoryview:
        if not writable:
            self.answer(gpa, length)
        return super().view(gpa, length, writable=writable)

    def read(self, gpa: int, length: int) -> bytes:
        self.answer(gpa, length)
        return super().read(gpa, length)


class Accesses:
    """One device of a type, plugged and reset, and a stream of accesses from a seed."""

    def __init__(self, type_name: str, seed: str, rig: Rig | None = None) -> None:
        self.type_name, self.seed = type_name, seed
        self.rng = random.Random(f"{type_name} {seed}")
        self.dma_answers = rig is None
        self.rig = rig or Rig(type_name)
        machine = self.rig.machine
        self.memory = machine.ctx.memory = HookedMemory(machine.memory.regions, self._answer_dma)
        self.done: list[Access] = []
        self._answering = False
        self._given: deque[int] = deque([0x1000, 0x8000], maxlen=16)  # addresses that the device was given
        self._last_read = 0
        self._register: tuple[AddressSpace, int, int] | None = None
        self._register_left = 0
        self._places: dict[str, tuple[tuple[IoRange, ...], list[int]]] = {}
        self.slowest = (0.0, "")
        self.wall_s = 0.0
        device = self.rig.device
        self.rig.plug()
        self.rig.reset()
        self.function = device.slot << 3 | device.function if isinstance(device, PciDevice) else None
        self._choices = self._make_choices()

    def _make_choices(self) -> list[Callable[[], Access | None]]:
        rig, claimed = self.rig, self.rig.machine.backends.claimed
        weighted: list[tuple[int, Callable[[], Access | None]]] = [
            (60, self._any_register),
            (6, self._any_step),
            (3, self._any_memory),
            (12 if self.function is not None else 0, self._any_config),
            (4 if rig.chardev.frontend is not None else 0, self._any_chardev_event),
            (4 if rig.machine.requests.quiesce_callbacks or rig.drive in claimed else 0, self._any_disk_event),
            (4 if rig.machine.inputs.takes(KEY) or rig.machine.inputs.takes(RELATIVE) else 0, self._any_input_event),
        ]
        return [choice for weight, choice in weighted for _ in range(weight)]

    # -- running -------------------------------------------------------------------------------------------

    def run(self, count: int, sweep: int | None = None) -> Report:
        """``sweep`` accesses of the sweep (all of them without), then ``count`` at random. Raises DeviceFault."""
        gc_was_on = gc.isenabled()
        gc.disable()  # its pauses would be taken for the device's
        with _watched_log() as records:
            try:
                self._map()
                for access in self._sweep(sweep):
                    self.do(access, records)
                for turn in range(count):
                    if turn % 500 == 0:
                        self._now_and_then(turn, records)
                    access = self.rng.choice(self._choices)()
                    if access is not None:
                        self.do(access, records)
            finally:
                if gc_was_on:
                    gc.enable()
        return Report(len(self.done), *self.slowest, self.wall_s)

    def _map(self) -> None:
        for offset, size, value in self.rig.bar_writes():
            self._apply(ConfigWrite(self.function or 0, offset, size, value))

    def _now_and_then(self, turn: int, records: _Records) -> None:
        """BARs are moved and switched off by random writes: back to where they can be hit; sometimes a reset."""
        if self.rng.random() < 0.25:
            self.do(Qmp("system_reset"), records)
        for offset, size, value in self.rig.bar_writes():
            self.do(ConfigWrite(self.function or 0, offset, size, value), records)

    def _sweep(self, limit: int | None) -> list[Access]:
        """Every access there is in random order, or ``limit`` of them."""
        places: list[tuple[AddressSpace | None, range]] = [
            (space, range(entry.base, min(entry.end, entry.base + RANGE_SHOWN_BYTES)))
            for space in (self.rig.machine.pio, self.rig.machine.mmio)
            for entry in space.ranges
        ]
        if self.function is not None:
            places.append((None, range(256)))
        if limit is not None:
            sizes = [len(addresses) for _, addresses in places]
            chosen = self.rng.choices(places, sizes, k=limit) if places else []
            return [self._swept(space, self.rng.choice(addresses)) for space, addresses in chosen]
        found = [
            self._swept(space, at, size, write=write)
            for space, addresses in places
            for at in addresses
            for size in self._sizes(space)
            for write in (False, True)
        ]
        self.rng.shuffle(found)
        return found

    def _sizes(self, space: AddressSpace | None) -> tuple[int, ...]:
        return (1, 2, 4, 8) if space is self.rig.machine.mmio else (1, 2, 4)

    def _swept(
        self, space: AddressSpace | None, at: int, size: int | None = None, *, write: bool | None = None
    ) -> Access:
        """One of the sweep; ``space`` None: the configuration space."""
        size = size or self.rng.choice(self._sizes(space))
        write = self.rng.random() < 0.5 if write is None else write
        if space is not None:
            return self._access(space, at, size, write=write)
        function = self.function or 0
        if not write or 0x04 <= at + size - 1 <= 0x28:  # where BARs and decoding are: written at random later
            return ConfigRead(function, at, size)
        return ConfigWrite(function, at, size, self._value(size))

    def do(self, access: Access, records: _Records) -> None:
        """One access, timed and judged."""
        fault = ""
        processor, wall = time.process_time(), time.perf_counter()
        try:
            self._apply(access)
        except Exception:  # whatever it is, it is what is looked for
            fault = traceback.format_exc()
        took = time.process_time() - processor
        self.wall_s = max(self.wall_s, time.perf_counter() - wall)
        if took > self.slowest[0] and not isinstance(access, Step):
            self._note_time(took, access)
        fault = fault or self._judge(records)
        if fault:
            raise DeviceFault(f"{self.type_name}, seed {self.seed}: {fault}", self.script(fault))

    def _note_time(self, took_s: float, access: Access) -> None:
        self.slowest = (took_s, f"{lines(access)[-1]:.80}")

    def _judge(self, records: _Records) -> str:
        if records.raised is not None:
            return records.raised
        if records.count > LOG_LINES_MAX:
            return f"the guest made it log more than {LOG_LINES_MAX} lines"
        if self.slowest[0] > HANDLER_BOUND_S:
            return f"{self.slowest[0] * 1000:.1f} ms of processor time: {self.slowest[1]}"
        asked = self.rig.machine.requests.asked
        broken = [reason for verb, reason in asked if verb == "internal-error"]
        asked.clear()
        return f"internal error: {broken[0]}" if broken else ""

    def script(self, fault: str) -> str:
        """All accesses so far, to be replayed."""
        head = [f"# device: {self.type_name}", f"# seed: {self.seed}", f"# arguments: {' '.join(self.arguments())}"]
        head += [f"# {line}" for line in fault.splitlines()]
        return "\n".join([*head, *(line for access in self.done for line in lines(access)), ""])

    def arguments(self) -> list[str]:
        """The command line of a machine with the same device."""
        made = ["-machine", "pc", "-m", "16", "-nodefaults"]
        device = self.rig.device
        needed = NEEDED.get(self.type_name, {})
        if "chardev" in needed:
            made += ["-chardev", f"null,id={needed['chardev']}"]
        if "drive" in needed:
            made += ["-blockdev", f"null-co,node-name={needed['drive']},size={self.rig.disk.size_bytes},read-zeroes=on"]
        if device.user_creatable:
            given = "".join(f",{name}={value}" for name, value in needed.items())
            made += ["-device", self.type_name + given + (f",addr={SLOT:#x}" if self.function is not None else "")]
        return made

    # -- carrying out --------------------------------------------------------------------------------------

    def _apply(self, access: Access) -> None:
        machine = self.rig.machine
        self._answering = self.dma_answers and self.rng.random() < 0.3
        start_ns = machine.clock.now_ns()
        try:
            match access:
                case Step(nanoseconds):
                    self._step(nanoseconds)
                case Memory(address, data):
                    machine.memory.write(address, data)
                case Qmp():
                    self.rig.reset()
                case Backend(event, argument):
                    BACKEND_EVENTS[event](self.rig, argument)
                case _:
                    with machine.lock:
                        self._access_register(access)
            self.rig.loop.run()
        finally:
            self._answering = False
            if isinstance(access, Step):
                access = Step(self.rig.machine.clock.now_ns() - start_ns)
            self.done.append(access)

    def _access_register(self, access: Access) -> None:
        machine = self.rig.machine
        match access:
            case In(port, size):
                self._check(machine.pio.read(port, size), size)
            case Out(port, size, value):
                machine.pio.write(port, size, value)
            case Read(address, size):
                self._check(machine.mmio.read(address, size), size)
            case Write(address, size, value):
                machine.mmio.write(address, size, value)
            case ConfigRead(function, offset, size):
                self._check(self.rig.bus.config_read(0, function >> 3, function & 7, offset, size), size)
            case ConfigWrite(function, offset, size, value):
                self.rig.bus.config_write(0, function >> 3, function & 7, offset, size, value)

    def _check(self, value: int, size: int) -> None:
        if not 0 <= value < 1 << 8 * size:
            raise ValueError(f"{value:#x} was read from {size} bytes")
        self._last_read = value

    def _step(self, nanoseconds: int) -> None:
        """Move time on, each timer's turn judged by itself; not so far when there are very many."""
        clock, machine = self.rig.machine.clock, self.rig.machine
        start = clock.now_ns()
        target = start + nanoseconds
        for _ in range(TIMER_TURNS_MAX):
            due = clock.next_deadline()
            if due is None or due > target:
                break
            before = time.process_time()
            with machine.lock:
                clock.advance(max(0, due - clock.now_ns()))
            took = time.process_time() - before
            if took > self.slowest[0]:
                self._note_time(took, Step(due - start))
        else:
            target = clock.now_ns()
        clock.advance(target - clock.now_ns())

    # -- DMA -----------------------------------------------------------------------------------------------

    def _answer_dma(self, gpa: int, length: int) -> None:
        """A device looks at ``length`` bytes: they hold something new."""
        if not self._answering or not 0 < length <= DMA_ANSWER_MAX or not 0 <= gpa <= RAM_BYTES - length:
            return
        data = self._structure(length)
        self.rig.machine.ram[gpa : gpa + length] = data
        self.done.append(Memory(gpa, data))

    def _structure(self, length: int) -> bytes:
        """Bytes as drivers lay them out: small numbers, flags, addresses in RAM, lengths; or noise."""
        rng = self.rng
        if rng.random() < 0.2:
            return rng.randbytes(length)
        made = bytearray()
        while len(made) < length:
            kind = rng.randrange(4)
            if kind == 0:
                made += struct.pack("<H", rng.choice((0, 1, 2, 3, 4, 8, 16, 255, 0xFFFF, rng.getrandbits(16))))
            elif kind == 1:
                made += struct.pack("<I", rng.choice((0, 1, 16, 512, 4096, 0xFFFF_FFFF, rng.getrandbits(32))))
            elif kind == 2:
                made += struct.pack("<Q", self._address())
            else:  # a descriptor: address, length, flags, next
                length_, flags = rng.choice((0, 1, 16, 512, 4096, 1 << 31)), rng.randrange(8)
                made += struct.pack("<QIHH", self._address(), length_, flags, rng.randrange(20))
        return bytes(made[:length])

    def _address(self) -> int:
        rng = self.rng
        edges = (RAM_BYTES - 1, RAM_BYTES - 16, RAM_BYTES, 0xE000_0000, 0xFEE0_0000, 0xFFFF_FFFF, (1 << 64) - 1)
        return rng.choice(edges) if rng.random() < 0.1 else rng.choice(self._given) + 16 * rng.randrange(64)

    # -- choosing ------------------------------------------------------------------------------------------

    def _value(self, size: int) -> int:
        rng, top = self.rng, (1 << 8 * size) - 1
        kind = rng.randrange(8)
        if kind == 0:
            return rng.choice((0, 1, top, top >> 1, top ^ top >> 1))
        if kind == 1:
            return 1 << rng.randrange(8 * size)
        if kind == 2:
            return (self._last_read ^ 1 << rng.randrange(8 * size)) & top
        if kind == 3:
            return rng.randrange(16)
        if kind == 4 and size >= 4:
            address = rng.randrange(0x1000, 0x9_0000) & ~0xF
            address = address >> 12 if rng.random() < 0.3 else address
            self._given.append(address if address >= 0x1000 else address << 12)
            return address
        return rng.getrandbits(8 * size)

    def _access(self, space: AddressSpace, at: int, size: int, *, write: bool) -> Access:
        if space is self.rig.machine.pio:
            return Out(at, size, self._value(size)) if write else In(at, size)
        return Write(at, size, self._value(size)) if write else Read(at, size)

    def _any_register(self) -> Access | None:
        rng = self.rng
        if self._register is None or self._register_left <= 0:
            self._register = self._any_place()
            self._register_left = rng.randrange(1, RUNS_OF_ONE_REGISTER)
        self._register_left -= 1
        if self._register is None:
            return None
        space, at, size = self._register
        if rng.random() < 0.2:
            size = rng.choice((1, 2, 4) if space is self.rig.machine.pio else (1, 2, 4, 8))
        return self._access(space, at, size, write=rng.random() < 0.6)

    def _any_place(self) -> tuple[AddressSpace, int, int] | None:
        rng, machine = self.rng, self.rig.machine
        spaces = [space for space in (machine.pio, machine.mmio) if space.ranges]
        if not spaces:
            return None
        space = rng.choice(spaces)
        entry = rng.choice(space.ranges)
        extent = entry.end - entry.base
        kind = rng.randrange(10)
        if kind < 5:
            offset = rng.randrange(min(extent, 64))
        elif kind < 9:
            offset = rng.randrange(min(extent, RANGE_SHOWN_BYTES))
        else:
            offset = extent - 1 - rng.randrange(min(extent, 16))
        size = rng.choice((1, 1, 2, 4) if space is machine.pio else (1, 2, 4, 4, 8))
        return space, entry.base + (offset & -size if rng.random() < 0.8 else offset), size

    def _any_config(self) -> Access:
        rng, function = self.rng, self.function or 0
        offset, size = rng.randrange(256), rng.choice((1, 2, 4))
        if rng.random() < 0.8:
            offset &= -size
        if rng.random() < 0.4:
            return ConfigRead(function, offset, size)
        if offset < 0x28 and rng.random() < 0.8:  # seldom: nothing can be hit afterwards
            offset = 0x28 + offset % 0xD0
        return ConfigWrite(function, offset, size, self._value(size))

    def _any_step(self) -> Access:
        rng = self.rng
        due = self.rig.machine.clock.next_deadline()
        if due is not None and rng.random() < 0.4:
            return Step(max(0, due - self.rig.machine.clock.now_ns() + rng.choice((-1, 0, 0, 1))))
        return Step(rng.randrange(10 ** rng.randrange(1, 10)))

    def _any_memory(self) -> Access:
        address = self.rng.choice(self._given) + self.rng.choice((0, 0, 16, 0x100, 0x1000))
        data = self._structure(self.rng.choice((2, 16, 64, 256)))
        return Memory(min(address, RAM_BYTES - len(data)), data)

    def _any_chardev_event(self) -> Access:
        return Backend(self.rng.choice(CHARDEV_EVENTS), self.rng.getrandbits(16))

    def _any_input_event(self) -> Access:
        return Backend(self.rng.choice(INPUT_EVENTS), self.rng.getrandbits(16))

    def _any_disk_event(self) -> Access:
        return Backend(self.rng.choice(DISK_EVENTS), self.rng.getrandbits(16))


def play(rig: Rig, script: str) -> None:
    """Do what a script says on a fresh device. Raises DeviceFault, as the run did that saved it."""
    accesses = Accesses(rig.type_name, "of a script", rig)
    bus_address = 0
    with _watched_log() as records:
        for line in script.splitlines():
            access = parse(line)
            if isinstance(access, Out) and access.port == PCI_ADDRESS:
                bus_address = access.value
                continue
            if access is not None:
                accesses.do(_as_config_access(access, bus_address), records)


def _as_config_access(access: Access, bus_address: int) -> Access:
    """What goes through the data port, as an access to the configuration space it means."""
    if not isinstance(access, (In, Out)) or not PCI_DATA <= access.port < PCI_DATA + 4:
        return access
    function, offset = bus_address >> 8 & 0xFF, bus_address & 0xFC | access.port - PCI_DATA
    if isinstance(access, In):
        return ConfigRead(function, offset, access.size)
    return ConfigWrite(function, offset, access.size, access.value)


# -- what the host does ------------------------------------------------------------------------------------


def _with_frontend(action: Callable[[Rig, int], None]) -> Callable[[Rig, int], None]:
    def run(rig: Rig, argument: int) -> None:
        if rig.chardev.frontend is not None:
            with rig.machine.lock:
                action(rig, argument)

    return run


def _write_ready(rig: Rig, argument: int) -> None:
    rig.chardev.room = None
    rig.chardev.frontend.write_ready()


def _no_room(rig: Rig, argument: int) -> None:
    rig.chardev.room = argument % 4


def _feed(rig: Rig, argument: int) -> None:
    if len(rig.chardev.input) < 1024:
        rig.chardev.feed(argument.to_bytes(2, "little") * (argument % 20))


def _fail(rig: Rig, argument: int) -> None:
    kind = ("read", "write", "flush", "zero")[argument % 4]
    rig.disk.fail = {} if argument & 0x100 else {kind: EIO if argument & 0x200 else ENOSPC}


def _eject(rig: Rig, argument: int) -> None:
    if rig.drive.media is not None:
        with rig.machine.lock:
            rig.drive.media.eject_request(bool(argument & 1))


def _key(rig: Rig, argument: int) -> None:
    key = ("a", "ret", "print", "pause", "shift", "f12", "power", "unmapped")[argument % 8]
    with rig.machine.lock:
        rig.machine.inputs.send([KeyEvent(key, bool(argument & 8))])


def _pointer(rig: Rig, argument: int) -> None:
    moved = RelativeEvent(("x", "y")[argument & 1], argument - 0x8000 >> argument % 12)
    pressed = ButtonEvent(BUTTONS[argument % len(BUTTONS)], bool(argument & 2))
    with rig.machine.lock:
        rig.machine.inputs.send([moved, pressed] if argument & 4 else [moved])


def _resize(rig: Rig, argument: int) -> None:
    if not rig.disk.held:
        rig.disk.data = bytearray(512 * (1 + argument % 1024))
        for callback in rig.disk.resize_callbacks:
            callback()


def _stop_and_cont(rig: Rig, argument: int) -> None:
    for begin in list(rig.machine.requests.quiesce_callbacks):
        begin(lambda: None)
    rig.complete()
    rig.loop.run()
    for resume in list(rig.machine.requests.resume_callbacks):
        resume()


BACKEND_EVENTS: dict[str, Callable[[Rig, int], None]] = {
    "chardev-input": _with_frontend(_feed),
    "chardev-opened": _with_frontend(lambda rig, _: rig.chardev.frontend.handle_event(CharEvent.OPENED)),
    "chardev-closed": _with_frontend(lambda rig, _: rig.chardev.frontend.handle_event(CharEvent.CLOSED)),
    "chardev-break": _with_frontend(lambda rig, _: rig.chardev.frontend.handle_event(CharEvent.BREAK)),
    "chardev-full": _no_room,
    "chardev-ready": _with_frontend(_write_ready),
    "disk-fails": _fail,
    "disk-hangs": lambda rig, _: rig.hold_back(),
    "disk-completes": lambda rig, argument: rig.complete(backwards=bool(argument & 1)),
    "disk-taken-out": lambda rig, _: rig.exchange(None),
    "disk-put-in": lambda rig, _: rig.exchange(rig.disk),
    "disk-wanted": _eject,
    "input-key": _key,
    "input-pointer": _pointer,
    "disk-resized": _resize,
    "stop-and-cont": _stop_and_cont,
}
CHARDEV_EVENTS = [name for name in BACKEND_EVENTS if name.startswith("chardev")]
INPUT_EVENTS = [name for name in BACKEND_EVENTS if name.startswith("input")]
DISK_EVENTS = [name for name in BACKEND_EVENTS if name.startswith(("disk", "stop"))]
