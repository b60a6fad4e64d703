# SPDX-License-Identifier: Apache-2.0
"""A monitor without a guest for the QMP tests: the real Vm, server and loop port; fake vCPUs and disks.

``Monitor`` runs it on its own thread, so that tests talk to it over sockets like any client. ``python -m
tests.unit.qmp_support PATH`` serves PATH until ``quit``.
"""

from __future__ import annotations

import array
import asyncio
import json
import mmap
import os
import socket
import sys
import tempfile
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop

import vmmd.qmp.arguments  # noqa: F401  # so that no test is the one that waits for the models
from vmmd.core.address_space import IoRange
from vmmd.core.backend import BlockStats
from vmmd.core.memory import make_region
from vmmd.eventloop import EventLoopPort
from vmmd.kvm import abi
from vmmd.kvm.cpu_query import CpuModels
from vmmd.kvm.runloop import REASONS
from vmmd.kvm.stats import Statistic
from vmmd.machine.exit_meter import ExitMeter
from vmmd.machine.memory_map import Slot
from vmmd.machine.vm import Vm
from vmmd.options.models import Config
from vmmd.qmp.hmp import registry as hmp_registry
from vmmd.qmp.server import QmpServer
from vmmd.qmp.streams import DescriptorStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.notify import LoopPort

hmp_registry.load()  # so that no test is the one that waits for it

RAM_BYTES = 1 << 20
UUID = "11111111-2222-3333-4444-555555555555"


class FakeCpu(NamedTuple):
    index: int
    thread_id: int
    qom_path: str
    halted: bool
    node_id: int | None
    socket_id: int
    die_id: int | None
    core_id: int
    core_thread_id: int


HISTOGRAM = Statistic("halt_wait_hist", "log2-histogram", "seconds", 10, -9, 0, (0, 3, 1))


class FakeCpus:
    """Two vCPUs at rest whose page tables map one to one below 1 GiB."""

    all_parked = True
    typename = "qemu64-x86_64-cpu"

    def __init__(self) -> None:
        self.nmis = 0
        self.sregs = abi.Sregs()  # no paging
        self.infos = tuple(
            FakeCpu(i, 1000 + i, f"/machine/unattached/device[{i}]", False, None, 0, None, i, 0) for i in range(2)
        )

        self.exit_meter = ExitMeter([[0] * REASONS for _ in self.infos])

    def statistics(self, index: int) -> list[Statistic]:
        return [Statistic("exits", "cumulative", None, 10, 0, 0, (1000 + index,)), HISTOGRAM]

    def vm_statistics(self) -> list[Statistic]:
        return [Statistic("pages_4k", "instant", None, 10, 0, 0, (77,))]

    def control_registers(self, index: int) -> abi.Sregs:
        return self.sregs

    def registers(self, index: int) -> dict[str, int]:
        return {"rax": 0x1234, "rip": 0xFFF0, "rflags": 2, "cs": 0xF000, "cs_base": 0xFFFF_0000, "cs_limit": 0xFFFF}

    def registers_text(self, index: int) -> str:
        return "EAX=00001234\n"

    def translate(self, index: int, gva: int) -> int | None:
        return gva if gva < 1 << 30 else None

    def run_on_vcpu(self, index: int, function: Callable[..., object], done: Callable[..., None]) -> None:
        raise AssertionError("these vCPUs are parked")

    def inject_nmi(self, done: Callable[[Exception | None], None]) -> None:
        self.nmis += 1
        done(None)

    def pause_now(self) -> bool:
        return True

    def pause(self, done: Callable[[], None]) -> None:
        raise AssertionError("these vCPUs are at rest at once")

    def resume(self) -> None:
        """Nothing runs."""

    def hold(self) -> None:
        """Nothing runs."""

    def release(self) -> None:
        """Nothing runs."""


class FakeNode:
    """One node of its chain."""

    may_be_dirty = True
    filename = "/images/d.img"
    virtual_size = 1 << 20
    actual_size = 0
    read_only = False
    cache_direct = True
    cache_no_flush = False
    cache_writeback = True
    detect_zeroes = "off"

    def __init__(self, name: str, driver: str, below: FakeNode | None = None) -> None:
        self.node_name = name
        self.driver = driver
        self.file = below
        self.discards = (0, 0, 0) if driver == "file" else None


class FakeDisk(FakeNode):
    """A raw image behind virtio-blk."""

    name = "d0"
    qdev = "/machine/peripheral/disk0/virtio-backend"
    inserted = True
    removable = False
    tray_open = None
    medium_locked = False
    io_status = "ok"

    def __init__(self) -> None:
        super().__init__("#block137", "raw", FakeNode("#block051", "file"))
        self.node = self
        self.stats = BlockStats()


class FakeVm(Vm):
    """The real run-state machinery around the fakes."""

    name = "foo"
    uuid = UUID
    ram_bytes = RAM_BYTES

    def __init__(self, loop: LoopPort) -> None:
        config = Config()
        super().__init__(config, loop)
        self.accelerator = "kvm"
        self.cpu_models = CpuModels(None, (7, 2))
        self.cpus: Any = FakeCpus()
        disk = FakeDisk()
        self.block: Any = SimpleNamespace(
            query=lambda: [disk], all_nodes=lambda: [disk.file, disk], flush_all=lambda done: done(0)
        )
        device: Any = SimpleNamespace(
            filename="null", frontend_open=True, close=lambda: None, config=SimpleNamespace(backend="null")
        )
        self.chardevs["c0"] = device
        self._map = mmap.mmap(-1, RAM_BYTES)
        hva = 0x7F00_0000_0000
        self.memory.publish([make_region(0, memoryview(self._map), hva, "pc.ram")])
        slots = [Slot(0, RAM_BYTES, hva, False, "pc.ram")]
        self.memory_map: Any = SimpleNamespace(rom=None, roms=(), slots=lambda: slots)
        self.mmio.add(
            IoRange(0xFEE00000, 0x1000, lambda _o, size: (1 << 8 * size) - 1, lambda _o, _s, _v: None, name="apic")
        )
        self.pio.add(IoRange(0x70, 2, lambda _o, _s: 0, lambda _o, _s, _v: None, name="rtc"))


class ManualFuture:
    """An awaitable that a test resolves."""

    def __init__(self) -> None:
        self._waiters: list[Callable[[], None]] = []
        self._resolved = False

    def done(self) -> bool:
        return self._resolved

    def set_result(self, result: None) -> None:
        self._resolved = True
        for resume in self._waiters:
            resume()

    def __await__(self) -> Any:
        if not self._resolved:
            yield self

    def add_waiter(self, resume: Callable[[], None]) -> None:
        self._waiters.append(resume)


def run_to_end(coroutine: Any, loop: ManualLoop) -> Any:
    """What a coroutine returns, on this thread; whatever it waits for comes by ``loop.post``."""
    while True:
        try:
            future = coroutine.send(None)
        except StopIteration as end:
            return end.value
        while not future.done():
            loop.run_posted()
            time.sleep(0)  # another thread may have to post


class ManualLoop:
    """A LoopPort without a loop: the test calls readers, writers and timers."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}
        self.posted: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self.timers: list[tuple[int, Callable[..., None], tuple[object, ...]]] = []
        self._thread = threading.get_ident()

    def post(self, callback: Callable[..., None], *args: object) -> None:
        self.posted.append((callback, args))

    def run_posted(self) -> None:
        while self.posted:
            callback, args = self.posted.pop(0)
            callback(*args)

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: object) -> Any:
        self.timers.append((delay_ns, callback, args))

    def fire_timers(self) -> None:
        timers, self.timers = self.timers, []
        for _delay, callback, args in timers:
            callback(*args)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> None:
        self.writers.pop(fd, None)

    def on_loop_thread(self) -> bool:
        return threading.get_ident() == self._thread

    def create_future(self) -> Any:
        return ManualFuture()

    def spawn(self, coroutine: Any, name: str) -> None:
        try:
            future = coroutine.send(None)
        except StopIteration:
            return
        future.add_waiter(lambda: self.spawn(coroutine, name))


class FakeStream(DescriptorStream):
    """A client that the test plays: ``room`` is how much it takes before it stops reading."""

    read_fd = write_fd = 5

    def __init__(self) -> None:
        self.arrived: list[bytes] = []
        self.sent = bytearray()
        self.room = 1 << 30
        self.closed = False
        self.broken = False

    def read(self) -> bytes:
        if not self.arrived:
            raise BlockingIOError
        return self.arrived.pop(0)

    def write(self, data: bytes | memoryview) -> int:
        if self.broken:
            raise BrokenPipeError
        if not self.room:
            raise BlockingIOError
        taken = min(self.room, len(data))
        self.sent += data[:taken]
        self.room -= taken
        return taken

    def close(self) -> None:
        self.closed = True

    def messages(self) -> list[dict[str, Any]]:
        """What came since the last call."""
        lines = bytes(self.sent).split(b"\r\n")
        self.sent = bytearray(lines.pop())
        return [json.loads(line) for line in lines]


class Monitor:
    """A FakeVm and its QmpServer on a thread with uvloop."""

    def __init__(self, path: str | None = None, **listen: Any) -> None:
        self.directory = tempfile.mkdtemp(prefix="vmmd-test-qmp-")
        self.path = path or os.path.join(self.directory, "monitor.sock")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(self.path)
        sock.listen(64)
        self.port = EventLoopPort()
        self.vm = FakeVm(self.port)
        self.server = QmpServer(self.vm, self.port)
        self.listener = self.server.listen(sock, **listen)
        self.vm.events.sink = self.server
        self.vm.on_end = self._end
        self.exit_status: int | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self.thread = threading.Thread(target=self._serve, name="monitor")
        self.thread.start()
        self._ready.wait(10)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self.port.bind(asyncio.get_running_loop())
        self._ready.set()
        await self._stop.wait()
        self.server.close()
        self.vm.chardevs.close()
        if self.vm.net is not None:
            self.vm.net.close()

    def _end(self, status: int) -> None:
        self.exit_status = status
        assert self._stop is not None
        self._stop.set()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a function on the loop thread and return its result."""
        box: list[Any] = []
        done = threading.Event()

        def run() -> None:
            box.append(function())
            done.set()

        self.port.post(run)
        assert done.wait(10)
        return box[0]

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(10)
        sock.connect(self.path)
        return sock

    def close(self) -> None:
        if self.thread.is_alive():
            self.port.post(self._end, 0)
            self.thread.join(10)
        for name in os.listdir(self.directory):
            os.unlink(os.path.join(self.directory, name))
        os.rmdir(self.directory)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Client:
    """One negotiated session that can send descriptors."""

    def __init__(self, monitor: Monitor, *, oob: bool = False) -> None:
        self.sock = monitor.connect()
        self._file = self.sock.makefile("rb")
        json.loads(self._file.readline())
        assert self.run("qmp_capabilities", **({"enable": ["oob"]} if oob else {})) == {}

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], control)

    def message(self) -> dict[str, Any]:
        """The next message that is no event."""
        while "event" in (message := json.loads(self._file.readline())):
            pass
        return message

    def reply(self) -> Any:
        message = self.message()
        return message["error"]["desc"] if "error" in message else message["return"]

    def run(self, name: str, fds: list[int] | None = None, **arguments: object) -> Any:
        """The return of a command, or its error's sentence."""
        wire = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.send(json.dumps({"execute": name, "arguments": wire}).encode(), fds)
        return self.reply()

    def close(self) -> None:
        self._file.close()
        self.sock.close()


if __name__ == "__main__":
    Monitor(sys.argv[1]).thread.join()
