# SPDX-License-Identifier: Apache-2.0
"""A machine without KVM for unit tests: ``make_context()`` gives a DeviceContext of recording fakes.

machine = make_context()
device = IsaSerial(props(IsaSerial, chardev="c0"), machine.ctx)
device.plug()
machine.pio.write(0x3F8, 1, 0x41)
machine.clock.advance(1_000_000)
assert machine.interrupts.levels[4] == 1
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from vmmd.core.address_space import AddressSpace
from vmmd.core.backend import NetOffload
from vmmd.core.clock import ManualClock
from vmmd.core.device import DeviceContext, ShutdownCause
from vmmd.core.input import InputRouter
from vmmd.core.irq import GsiFanIn
from vmmd.core.memory import GuestMemory, make_region
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import Device
    from vmmd.core.props import PropSet

#: ``hva`` of guest address 0 in the fake memory: recognisable, never dereferenced
FAKE_HVA = 0x7F00_0000_0000
#: of NICs that were given no address
FIRST_MAC = bytes.fromhex("525400123456")


class RecordingInterrupts:
    """InterruptController: the level of every GSI, every edge, every message."""

    def __init__(self) -> None:
        self.levels: dict[int, int] = {}
        self.edges: list[tuple[int, int]] = []  # (gsi, level) in order
        self.messages: list[tuple[int, int]] = []  # (address, data) in order
        self.bound: dict[int, BoundMessage] = {}  # by eventfd

    def set_gsi(self, gsi: int, level: int) -> None:
        self.levels[gsi] = level
        self.edges.append((gsi, level))

    def signal_msi(self, address: int, data: int) -> None:
        self.messages.append((address, data))

    def bind_msi(self, fd: int, address: int, data: int) -> BoundMessage:
        bound = BoundMessage(self, address, data)
        self.bound[fd] = bound
        return bound

    def raised(self, gsi: int) -> int:
        """How many rising edges ``gsi`` had."""
        return self.edges.count((gsi, 1))


class BoundMessage:
    """MsiRoute: what it says now."""

    def __init__(self, owner: RecordingInterrupts, address: int, data: int) -> None:
        self._owner = owner
        self.message = (address, data)

    def update(self, address: int, data: int) -> None:
        self.message = (address, data)

    def close(self) -> None:
        bound = self._owner.bound
        for fd in [fd for fd, each in bound.items() if each is self]:
            del bound[fd]


class _Cancel:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ImmediateLoop:
    """LoopPort: ``post`` runs at once, or is queued for ``run`` when ``hold`` is set."""

    runs = True

    def __init__(self) -> None:
        self.hold = False
        self.pending: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self.later: list[tuple[int, Callable[..., None], tuple[object, ...], _Cancel]] = []
        self.readers: dict[int, Callable[[], None]] = {}

    def post(self, callback: Callable[..., None], *args: object) -> None:
        if self.hold:
            self.pending.append((callback, args))
        else:
            callback(*args)

    def run(self) -> None:
        """Run what was posted, including what that posts."""
        while self.pending:
            callback, args = self.pending.pop(0)
            callback(*args)

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: object) -> _Cancel:
        handle = _Cancel()
        self.later.append((delay_ns, callback, args, handle))
        return handle

    def run_later(self) -> None:
        """Run every ``call_later`` that is due, whatever its delay."""
        due, self.later = self.later, []
        for _, callback, args, handle in due:
            if not handle.cancelled:
                callback(*args)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def on_loop_thread(self) -> bool:
        return True


class FakeDoorbell:
    def __init__(self, factory: FakeDoorbells, key: tuple[str, int, int, int | None]) -> None:
        self._factory = factory
        self.key = key

    def close(self) -> None:
        self._factory.attached.pop(self.key, None)


class FakeDoorbells:
    """DoorbellFactory: remembers callbacks by (space, address, size, datamatch); ``ring`` calls one."""

    def __init__(self) -> None:
        self.attached: dict[tuple[str, int, int, int | None], Callable[[], None]] = {}

    def attach(
        self, space: str, address: int, size: int, datamatch: int | None, ring: Callable[[], None] | int
    ) -> FakeDoorbell:
        key = (space, address, size, datamatch)
        self.attached[key] = partial(os.eventfd_write, ring, 1) if isinstance(ring, int) else ring
        return FakeDoorbell(self, key)

    def ring(self, space: str, address: int, value: int) -> bool:
        """A guest write of ``value``; True when a doorbell took it."""
        for (kind, base, _, match), callback in list(self.attached.items()):
            if kind == space and base == address and match in (None, value):
                callback()
                return True
        return False


class RecordingEvents:
    """EventSink: the list of what was emitted."""

    def __init__(self) -> None:
        self.emitted: list[tuple[object, ...]] = []

    def emit(self, instance: tuple[object, ...]) -> None:
        self.emitted.append(instance)

    def of(self, kind: type) -> list[Any]:
        return [each for each in self.emitted if type(each) is kind]


class RecordingRequests:
    """SystemRequests: what was asked for, in order, as (verb, argument)."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, object]] = []
        self.resume_callbacks: list[Callable[[], None]] = []
        self.quiesce_callbacks: list[Callable[[Callable[[], None]], None]] = []

    def request_reset(self, cause: ShutdownCause) -> None:
        self.asked.append(("reset", cause))

    def request_shutdown(self, cause: ShutdownCause) -> None:
        self.asked.append(("shutdown", cause))

    def request_exit_code(self, status: int) -> None:
        self.asked.append(("exit", status))

    def request_io_error_stop(self) -> None:
        self.asked.append(("io-error", None))

    def request_panic(self) -> None:
        self.asked.append(("panic", None))

    def request_watchdog(self) -> None:
        self.asked.append(("watchdog", None))

    def request_internal_error(self, reason: str) -> None:
        self.asked.append(("internal-error", reason))

    def on_resume(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.resume_callbacks.append(callback)
        return lambda: self.resume_callbacks.remove(callback)

    def on_quiesce(self, begin: Callable[[Callable[[], None]], None]) -> Callable[[], None]:
        self.quiesce_callbacks.append(begin)
        return lambda: self.quiesce_callbacks.remove(begin)


class FakeChardev:
    """CharBackend: ``output`` collects what the device wrote; ``feed`` is the peer typing."""

    def __init__(self, label: str = "c0") -> None:
        self.label = label
        self.connected = True
        self.frontend: Any = None
        self.output = bytearray()
        self.room: int | None = None  # None: takes everything
        self.frontend_open = False
        self.dropped_bytes = 0
        self.input = bytearray()

    def attach(self, frontend: Any) -> None:
        if self.frontend is not None:
            raise UsageError(f"Chardev '{self.label}' is already in use")
        self.frontend = frontend

    def detach(self) -> None:
        self.frontend = None

    def set_open(self, is_open: bool) -> None:
        self.frontend_open = is_open

    def write(self, data: bytes) -> int:
        taken = len(data) if self.room is None else min(len(data), self.room)
        if self.room is not None:
            self.room -= taken
        self.output += bytes(data[:taken])
        return taken

    def write_now(self, data: bytes) -> int:
        return self.write(data)

    def write_views(self, views: Any) -> int:
        return self.write(b"".join(views))

    def accept_input(self) -> None:
        self._deliver()

    def feed(self, data: bytes) -> None:
        self.input += data
        self._deliver()

    def _deliver(self) -> None:
        while self.input and self.frontend is not None and (room := self.frontend.can_receive()) > 0:
            chunk = bytes(self.input[:room])
            del self.input[: len(chunk)]
            self.frontend.receive(chunk)


class FakeEntropy:
    """EntropySource: bytes that count up; ``hold`` keeps a request until ``give``."""

    def __init__(self) -> None:
        self.hold = False
        self.asked: list[int] = []
        self.waiting: tuple[int, Callable[[bytes], None]] | None = None
        self._next = 0

    def read(self, count: int, done: Callable[[bytes], None]) -> None:
        self.asked.append(count)
        self.waiting = (count, done)
        if not self.hold:
            self.give()

    def give(self, limit: int | None = None) -> None:
        """Answer the request, with at most ``limit`` bytes."""
        if self.waiting is not None:
            (count, done), self.waiting = self.waiting, None
            count = count if limit is None else min(count, limit)
            self._next += count
            done(bytes(each & 0xFF for each in range(self._next - count, self._next)))

    def cancel(self) -> None:
        self.waiting = None


class FakeNetQueue:
    """NetQueue: ``incoming`` waits for the guest, ``sent`` came from it. ``room``: frames that ``write`` will take."""

    def __init__(self) -> None:
        self.incoming: list[bytes] = []
        self.sent: list[bytes] = []
        self.room: int | None = None  # None: any number
        self.frontend: Any = None
        self.watched = False
        self.buffers: list[int] = []  # how many ``read`` was given, each time

    def attach(self, frontend: Any) -> None:
        self.frontend = frontend

    def detach(self) -> None:
        self.frontend, self.watched = None, False

    def read(self, buffers: Any) -> int:
        if not self.incoming:
            return 0
        frame = self.incoming.pop(0)
        self.buffers.append(len(buffers))
        at = 0
        for each in buffers:
            part = frame[at : at + len(each)]
            each[: len(part)] = part
            at += len(part)
        return at

    def write(self, buffers: Any) -> bool:
        if self.room is not None:
            if not self.room:
                return False
            self.room -= 1
        self.sent.append(b"".join(buffers))
        return True

    def watch(self, wanted: bool) -> None:
        self.watched = wanted

    def run(self, turns: int = 100) -> None:
        """What the loop does while frames wait."""
        while self.incoming and self.watched and turns:
            self.frontend.readable()
            turns -= 1

    def feed(self, *frames: bytes) -> None:
        """Frames come, and the loop has turns."""
        self.incoming += frames
        self.run()


class FakeNetdev:
    """NetBackend."""

    def __init__(self, id_: str = "n0", *, queues: int = 1, headers: tuple[int, ...] = (10, 12)) -> None:
        self.id = id_
        self.queues = [FakeNetQueue() for _ in range(queues)]
        self.header_lengths = frozenset(headers)
        self.offloads = ~NetOffload(0) if headers else NetOffload(0)
        self.vhost = None
        self.link_up = True
        self.header: int | None = None
        self.accepted: NetOffload | None = None
        self.enabled: int | None = None

    def set_header(self, length_bytes: int) -> None:
        assert not length_bytes or length_bytes in self.header_lengths
        self.header = length_bytes

    def set_offloads(self, accepted: NetOffload) -> None:
        assert not accepted & ~self.offloads
        self.accepted = accepted

    def enable_queues(self, count: int) -> None:
        self.enabled = count


class FakeNicPort:
    """NicPort."""

    def __init__(self, nic: Any, mac: bytes, backend: FakeNetdev | None) -> None:
        self.nic = nic
        self.name = nic.id or f"{nic.type_name}.0"
        self.mac = mac
        self.backend = backend
        self.link_up = True


class FakeBackends:
    """Backends: fill ``chardevs``, ``drives`` and ``netdevs`` before plugging."""

    def __init__(self) -> None:
        self.netdevs: dict[str, FakeNetdev] = {}
        self.chardevs: dict[str, Any] = {}
        self.drives: dict[str, Any] = {}
        self.entropy_source = FakeEntropy()
        self.claimed: list[object] = []

    def chardev(self, id_: str, user: str) -> Any:
        return self._claim(self.chardevs, id_, user, "chardev")

    def drive(
        self, id_: str, user: str, *, share_rw: bool = False, allow_empty: bool = False, writes: bool = True
    ) -> Any:
        drive = self._claim(self.drives, id_, user, "drive")
        drive.share_rw = share_rw
        return drive

    def entropy(self, id_: str | None, user: str) -> Any:
        return self.entropy_source

    def nic(self, nic: Any, netdev: str | None, mac: bytes | None = None) -> Any:
        backend: Any = self._claim(self.netdevs, netdev, nic.type_name, "netdev") if netdev else None
        return FakeNicPort(nic, mac or FIRST_MAC, backend)

    def _claim(self, known: dict[str, Any], id_: str, user: str, kind: str) -> Any:
        if id_ not in known:
            raise UsageError(f"Property '{user}.{kind}' can't find value '{id_}'")
        backend = known[id_]
        if any(each is backend for each in self.claimed):
            raise UsageError(f"Property '{user}.{kind}' can't take value '{id_}', it's in use")
        self.claimed.append(backend)
        return backend

    def release(self, backend: object) -> None:
        if isinstance(backend, FakeNicPort):
            backend = backend.backend
        self.claimed = [each for each in self.claimed if each is not backend]


class FakeBacking:
    """RamBacking: what was given back to the host, by host address; ``error``: it cannot be."""

    def __init__(self, page_bytes: int = 4096) -> None:
        self.page_bytes = page_bytes
        self.discarded: list[tuple[int, int]] = []
        self.error: OSError | None = None

    def discard(self, hva: int, length: int) -> None:
        if self.error is not None:
            raise self.error
        self.discarded.append((hva, length))


class FakeRom:
    """RomImage."""

    def __init__(self, data: bytes, size_bytes: int) -> None:
        self.view = memoryview(bytearray(data.ljust(size_bytes, b"\0")))

    @property
    def size_bytes(self) -> int:
        return len(self.view)


#: signature, 4 units of 512 bytes, the PCI data structure behind the header, whose ids are nobody's
ROM_IMAGE = (b"\x55\xaa\x04".ljust(0x18, b"\0") + b"\x1c\0\0\0PCIR\x01\0\x02\0").ljust(2048, b"\xcb")


class FakeRoms:
    """OptionRoms: ``images`` by file name; which are loaded, and where they are shown."""

    def __init__(self) -> None:
        self.images = {"efi-virtio.rom": ROM_IMAGE}
        self.loaded: list[FakeRom] = []
        self.shown: dict[int, int] = {}  # address by identity
        self.given: list[str] = []

    def load(self, romfile: str, name: str, size_bytes: int | None) -> FakeRom:
        if romfile not in self.images:
            raise UsageError(f'failed to find romfile "{romfile}"')
        data = self.images[romfile]
        image = FakeRom(data, size_bytes or max(2048, 1 << (len(data) - 1).bit_length()))
        self.loaded.append(image)
        return image

    def release(self, image: FakeRom) -> None:
        assert id(image) not in self.shown
        self.loaded.remove(image)

    def show(self, image: FakeRom, gpa: int) -> None:
        self.shown[id(image)] = gpa

    def hide(self, image: FakeRom) -> None:
        self.shown.pop(id(image), None)

    def give_to_firmware(self, romfile: str) -> Callable[[], None]:
        self.given.append(romfile)
        return lambda: self.given.remove(romfile)


class FakeMachine:
    """All fakes by name, and ``ctx``, the DeviceContext made of them."""

    def __init__(self, ram_bytes: int, host_ns: int) -> None:
        self.lock = threading.Lock()
        self.ram = bytearray(ram_bytes)
        self.backing = FakeBacking()
        self.memory = GuestMemory([make_region(0, memoryview(self.ram), FAKE_HVA, "ram", backing=self.backing)])
        self.pio = AddressSpace("io", 1 << 16)
        self.mmio = AddressSpace("memory", 1 << 64)
        self.interrupts = RecordingInterrupts()
        self.irqs = GsiFanIn(self.interrupts)
        self.clock = ManualClock(host_ns)
        self.loop = ImmediateLoop()
        self.doorbells = FakeDoorbells()
        self.events = RecordingEvents()
        self.requests = RecordingRequests()
        self.backends = FakeBackends()
        self.running = True
        self.inputs = InputRouter(lambda: self.clock, lambda: self.running)
        self.roms = FakeRoms()
        self.ctx = DeviceContext(
            lock=self.lock,
            memory=self.memory,
            pio=self.pio,
            mmio=self.mmio,
            interrupts=self.interrupts,
            irqs=self.irqs,
            clock=self.clock,
            loop=self.loop,
            doorbells=self.doorbells,
            events=self.events,
            requests=self.requests,
            backends=self.backends,
            inputs=self.inputs,
            roms=self.roms,
        )

    def discarded(self) -> list[tuple[int, int]]:
        """(guest address, length) of what was given back to the host."""
        return [(hva - FAKE_HVA, length) for hva, length in self.backing.discarded]


def make_context(ram_bytes: int = 1 << 20, host_ns: int = 1_700_000_000 * 1_000_000_000) -> FakeMachine:
    """A machine of fakes with ``ram_bytes`` of RAM at address 0 and the wall clock at ``host_ns``."""
    return FakeMachine(ram_bytes, host_ns)


def props(device: type[Device], **given: str) -> PropSet:
    """The device's properties, parsed from text; ``_`` in a keyword is ``-`` unless the wire name has ``_``."""
    values = device.Props()
    for name, text in given.items():
        wire = name if name in values.declared else name.replace("_", "-")
        values.set_text(wire, text, device.type_name)
    return values
