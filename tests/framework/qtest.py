# SPDX-License-Identifier: Apache-2.0
"""Drive a whole machine without a guest: ``Qtest`` starts vmmd or QEMU with the same arguments.

    with Qtest("vmmd", "-device", "virtio-blk-pci,drive=d0,addr=4.0", "-drive", f"if=none,id=d0,file={path}") as vm:
        vm.outb(0x70, 0x0A)         # ports: inb inw inl outb outw outl, port_read(port, size), port_write
        status = vm.inb(0x71)
        vm.writel(0x100000, 1)      # memory: readb…readq, writeb…writeq, read/write/b64read/b64write (bytes), memset
        vm.irq_intercept_in()       # of the I/O APIC; vm.irq(8) is the level of input 8, vm.irq_edges all changes
        vm.clock_step(1_000_000)    # virtual time (vmmd only); the new time; without argument: to the next timer
        vm.qmp("stop")              # "return" of a command; raises QmpFailure. vm.hmp("info qtree")
        vm.wait_event("STOP")       # also one that has come before
        function = vm.pci(4)        # PciFunction of slot 4; pci(slot, function); vm.find_pci(vendor, device)
        function.enable()           # I/O, memory, bus mastering
        bar = function.place_bar(0) # sizes and places it; bar.read(offset, size), bar.write(offset, size, value)
        function.config_read(0x34, 1)

Leaving the block sends SIGTERM and demands exit status 0 (``close``). Both sockets listen here and the emulator is the
client of both, as test programs in the wild have it; ``endianness`` is asked before anything is read of QMP.

QEMU of Debian comes without the qtest accelerator: it runs ``-accel tcg -S``. Ports, memory, IRQ capture and QMP work
the same, its clock stands still at 0 and has no ``clock_step`` (``vm.has_clock`` is False), ``query-status`` says
prelaunch, and a wrong request (a port above 0xffff, a missing word) ends it. ``VMMD_QTEST_QEMU`` names a QEMU with the
accelerator, which is then used as vmmd is; tests that need it skip without. There is no ``-nodefaults`` unless given.
Every wait has a deadline; a failure shows stderr and the last lines of traffic. vmmd opens no /dev/kvm here.
``accel=("tcg", "kvm", "qtest")`` gives several -accel options.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.framework.vm import CONNECT_TIMEOUT_S, TERMINATE_TIMEOUT_S, Emulator, emulator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

REPLY_TIMEOUT_S = 20.0
#: names a QEMU that has the accelerator, with its arguments
QEMU_WITH_QTEST = "VMMD_QTEST_QEMU"
_LETTERS = {1: "b", 2: "w", 4: "l", 8: "q"}
#: where bars go, as public drivers place them
IO_BARS, MEMORY_BARS = 0xC000, 0xE000_0000


def _find(name: str) -> Emulator:
    """The emulator of that name; for QEMU the one with the accelerator, if there is one."""
    command = os.environ.get(QEMU_WITH_QTEST) if name == "qemu" else None
    return emulator(name) if command is None else Emulator(name, tuple(shlex.split(command)))


class QtestError(AssertionError):
    """The emulator died, or did not answer as it has to."""


class QtestRefusal(QtestError):
    """A reply that is not OK; ``reply`` is the line."""

    def __init__(self, request: str, reply: str) -> None:
        super().__init__(f"{request[:200]!r}: {reply[:200]!r}")
        self.reply = reply


class QmpFailure(Exception):
    """An error reply; ``error_class`` and ``desc``."""

    def __init__(self, command: str, error: dict[str, Any]) -> None:
        super().__init__(f"{command}: {error['class']}: {error['desc']}")
        self.error_class: str = error["class"]
        self.desc: str = error["desc"]


class _Lines:
    """A socket read by lines, each with a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._buffer = bytearray()
        self._scanned = 0

    def send(self, data: bytes) -> None:
        self.socket.settimeout(REPLY_TIMEOUT_S)
        self.socket.sendall(data)

    def receive(self, timeout_s: float = REPLY_TIMEOUT_S) -> bytes:
        """The next line, without its end. Raises TimeoutError, ConnectionError."""
        deadline = time.monotonic() + timeout_s
        while (end := self._buffer.find(b"\n", self._scanned)) < 0:
            self._scanned = len(self._buffer)
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionError("the emulator has closed the connection")
            self._buffer += data
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        del self._buffer[: end + 1]
        self._scanned = 0
        return line


class Qtest:
    """One run of an emulator; see the module's text."""

    def __init__(
        self,
        program: str | Emulator,
        *args: str,
        accel: Sequence[str] | None = None,
        log: str | None = None,
        pass_fds: Sequence[int] = (),
        negotiate: bool = True,
        connect_qtest: bool = True,
    ) -> None:
        """``connect_qtest=False``: no -qtest is given, the arguments have one or do without."""
        self.program = _find(program) if isinstance(program, str) else program
        self.name = self.program.name
        #: the client moves virtual time
        self.has_clock = self.name != "qemu" or QEMU_WITH_QTEST in os.environ
        self.directory = Path(tempfile.mkdtemp(prefix=f"qtest-{self.name}-"))
        self.log_file = log
        self.events: deque[dict[str, Any]] = deque()
        self.irq_edges: list[tuple[int, int]] = []  # (input, level) in order
        self._levels: dict[int, int] = {}
        self._traffic: deque[str] = deque(maxlen=12)
        self._accel = tuple(accel) if accel is not None else ("qtest",) if self.has_clock else ("tcg",)
        self._args = args if self.has_clock else ("-S", *args)
        self._pass_fds = pass_fds
        self._negotiate = negotiate
        self._connect_qtest = connect_qtest
        self._next_io, self._next_memory = IO_BARS, MEMORY_BARS
        self.start_s = 0.0

    # --- life ---

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if exc is None:
            self.close()
            return
        exc.add_note(self.describe())
        self.kill()

    def start(self) -> Self:
        """Start the emulator, connect, ask for ``endianness``, then negotiate QMP."""
        paths = [self.directory / name for name in ("qtest.sock", "qmp.sock")]
        listeners = [socket.socket(socket.AF_UNIX) for _ in paths]
        for listener, path in zip(listeners, paths, strict=True):
            listener.bind(str(path))
            listener.listen(1)
            listener.settimeout(CONNECT_TIMEOUT_S)
        self.argv = [*self.program.command]
        if self._connect_qtest:
            self.argv += ["-qtest", f"unix:{paths[0]}"]
        self.argv += ["-qtest-log", self.log_file or "/dev/null"]
        self.argv += ["-chardev", f"socket,path={paths[1]},id=char0", "-mon", "chardev=char0,mode=control"]
        self.argv += ["-display", "none", *self._args]
        for name in self._accel:
            self.argv += ["-accel", name]
        self._stderr = (self.directory / "stderr").open("wb")
        begin = time.monotonic()
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.DEVNULL, stdout=self._stderr, stderr=self._stderr, pass_fds=self._pass_fds
        )
        try:
            if self._connect_qtest:
                self._qtest = _Lines(self._accept(listeners[0]))
            self._qmp = _Lines(self._accept(listeners[1]))
            if self._connect_qtest:
                self.endianness = self.ask("endianness")
            self.start_s = time.monotonic() - begin
            if self._negotiate:
                self.greeting = self.qmp_receive()
                self.qmp("qmp_capabilities")
        except BaseException as error:
            error.add_note(self.describe())
            self.kill()
            raise
        finally:
            for listener in listeners:
                listener.close()
        return self

    def _accept(self, listener: socket.socket) -> socket.socket:
        """The emulator's connection, unless it ends before."""
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        listener.settimeout(0.05)
        while True:
            try:
                return listener.accept()[0]
            except TimeoutError:
                if self.process.poll() is not None:
                    raise QtestError(f"ended with status {self.process.returncode} before it connected") from None
                if time.monotonic() > deadline:
                    raise QtestError("it does not connect") from None

    def close(self) -> None:
        """SIGTERM; the exit status must be 0."""
        status = self.terminate()
        if status != 0:
            error = QtestError(f"exit status {status} after SIGTERM")
            error.add_note(self.describe())
            raise error

    def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(TERMINATE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise QtestError("it does not end after SIGTERM") from None
        self._clean()
        return status

    def kill(self) -> None:
        """Take it away, whatever state it is in."""
        self.process.kill()
        self.process.wait()
        self._clean()

    def _clean(self) -> None:
        for each in (getattr(self, "_qtest", None), getattr(self, "_qmp", None)):
            if each is not None:
                each.socket.close()
        self._stderr.close()
        self.stderr = (self.directory / "stderr").read_text("utf-8", "replace")
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()

    def cpu_s(self) -> float:
        """Processor time that the emulator has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def describe(self) -> str:
        """Command line, stderr, last traffic."""
        path = self.directory / "stderr"
        stderr = path.read_text("utf-8", "replace") if path.exists() else self.__dict__.get("stderr", "")
        return "\n".join([shlex.join(self.argv), stderr[-3000:], *self._traffic])

    # --- the protocol ---

    def ask_line(self, request: str) -> str:
        """The reply to a request, whatever it is; IRQ lines before it are noted."""
        self._traffic.append(f"> {request[:200]}")
        self._qtest.send(request.encode() + b"\n")
        return self.reply_line()

    def reply_line(self, timeout_s: float = REPLY_TIMEOUT_S) -> str:
        """The next line that is a reply."""
        while True:
            line = self._qtest.receive(timeout_s).decode()
            self._traffic.append(f"< {line[:200]}")
            if not line.startswith("IRQ "):
                return line
            _, word, number = line.split(" ")
            level = {"raise": 1, "lower": 0}[word]
            self._levels[int(number)] = level
            self.irq_edges.append((int(number), level))

    def send_raw(self, data: bytes) -> None:
        """Bytes as they are; ``reply_line`` reads what comes back."""
        self._qtest.send(data)

    def drop_qtest(self) -> None:
        """Hang up, with replies unread."""
        self._qtest.socket.close()

    def drop_qmp(self) -> None:
        """Hang up the monitor."""
        self._qmp.socket.close()

    def ask(self, request: str) -> str:
        """What follows OK. Raises QtestRefusal."""
        reply = self.ask_line(request)
        word, _, value = reply.partition(" ")
        if word != "OK":
            raise QtestRefusal(request, reply)
        return value

    def port_read(self, port: int, size: int) -> int:
        return int(self.ask(f"in{_LETTERS[size]} {port:#x}"), 16)

    def port_write(self, port: int, size: int, value: int) -> None:
        self.ask(f"out{_LETTERS[size]} {port:#x} {value:#x}")

    def inb(self, port: int) -> int:
        return self.port_read(port, 1)

    def inw(self, port: int) -> int:
        return self.port_read(port, 2)

    def inl(self, port: int) -> int:
        return self.port_read(port, 4)

    def outb(self, port: int, value: int) -> None:
        self.port_write(port, 1, value)

    def outw(self, port: int, value: int) -> None:
        self.port_write(port, 2, value)

    def outl(self, port: int, value: int) -> None:
        self.port_write(port, 4, value)

    def load(self, gpa: int, size: int) -> int:
        return int(self.ask(f"read{_LETTERS[size]} {gpa:#x}"), 16)

    def store(self, gpa: int, size: int, value: int) -> None:
        self.ask(f"write{_LETTERS[size]} {gpa:#x} {value:#x}")

    def readb(self, gpa: int) -> int:
        return self.load(gpa, 1)

    def readw(self, gpa: int) -> int:
        return self.load(gpa, 2)

    def readl(self, gpa: int) -> int:
        return self.load(gpa, 4)

    def readq(self, gpa: int) -> int:
        return self.load(gpa, 8)

    def writeb(self, gpa: int, value: int) -> None:
        self.store(gpa, 1, value)

    def writew(self, gpa: int, value: int) -> None:
        self.store(gpa, 2, value)

    def writel(self, gpa: int, value: int) -> None:
        self.store(gpa, 4, value)

    def writeq(self, gpa: int, value: int) -> None:
        self.store(gpa, 8, value)

    def read(self, gpa: int, size: int) -> bytes:
        return bytes.fromhex(self.ask(f"read {gpa:#x} {size:#x}").removeprefix("0x"))

    def write(self, gpa: int, data: bytes) -> None:
        self.ask(f"write {gpa:#x} {len(data):#x} 0x{data.hex()}")

    def b64read(self, gpa: int, size: int) -> bytes:
        return base64.b64decode(self.ask(f"b64read {gpa:#x} {size:#x}"))

    def b64write(self, gpa: int, data: bytes) -> None:
        self.ask(f"b64write {gpa:#x} {len(data):#x} {base64.b64encode(data).decode()}")

    def memset(self, gpa: int, size: int, value: int) -> None:
        self.ask(f"memset {gpa:#x} {size:#x} {value:#x}")

    def clock_step(self, nanoseconds: int | None = None) -> int:
        """Let virtual time pass, or jump to the next timer; the new time."""
        return int(self.ask("clock_step" if nanoseconds is None else f"clock_step {nanoseconds}"))

    def clock_set(self, nanoseconds: int) -> int:
        return int(self.ask(f"clock_set {nanoseconds}"))

    def irq_intercept_in(self, path: str = "ioapic") -> None:
        self.ask(f"irq_intercept_in {path}")

    def irq(self, number: int) -> int:
        """The level of an intercepted input now."""
        self.inb(0)  # a reply has to come for what happened before it to be seen
        return self._levels.get(number, 0)

    def set_irq_in(self, path: str, number: int, level: int, name: str = "unnamed-gpio-in") -> None:
        self.ask(f"set_irq_in {path} {name} {number} {level}")

    # --- QMP ---

    def qmp(self, command: str, /, **arguments: Any) -> Any:
        """The result of a command. ``_`` in the names of arguments becomes ``-`` (a trailing one is dropped: ``id_``).
        Raises QmpFailure."""
        named = {key.rstrip("_").replace("_", "-"): value for key, value in arguments.items()}
        return self.qmp_raw(command, named)

    def qmp_raw(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """The same with names as they are."""
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self.qmp_send(json.dumps(message).encode() + b"\n")
        reply = self.qmp_reply()
        if "error" in reply:
            raise QmpFailure(command, reply["error"])
        return reply["return"]

    def qmp_send(self, data: bytes) -> None:
        """Bytes as they are."""
        self._qmp.send(data)

    def qmp_receive(self, timeout_s: float = REPLY_TIMEOUT_S) -> dict[str, Any]:
        """The next message, of whatever kind."""
        message: dict[str, Any] = json.loads(self._qmp.receive(timeout_s))
        self._traffic.append(f"QMP {str(message)[:300]}")
        return message

    def qmp_reply(self, timeout_s: float = REPLY_TIMEOUT_S) -> dict[str, Any]:
        """The next reply; events on the way are stashed."""
        while "event" in (message := self.qmp_receive(timeout_s)):
            self.events.append(message)
        return message

    def hmp(self, line: str) -> str:
        """What the monitor for people says."""
        text: str = self.qmp_raw("human-monitor-command", {"command-line": line})
        return text

    def wait_event(self, name: str, timeout_s: float = REPLY_TIMEOUT_S) -> dict[str, Any]:
        """The first event of that name that nobody has waited for; those before it stay."""
        for event in self.events:
            if event["event"] == name:
                self.events.remove(event)
                return event
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.qmp_receive(max(0.001, deadline - time.monotonic()))
            if message.get("event") == name:
                return message
            self.events.append(message)

    # --- PCI ---

    def pci(self, slot: int, function: int = 0) -> PciFunction:
        """A function of bus 0, which need not exist."""
        return PciFunction(self, slot << 3 | function)

    def find_pci(self, vendor: int, device: int) -> PciFunction:
        """The first function with these ids. Raises QtestError."""
        for devfn in range(256):
            function = PciFunction(self, devfn)
            if function.config_read(0, 4) == device << 16 | vendor:
                return function
        raise QtestError(f"no PCI function {vendor:04x}:{device:04x}")

    def take_bar(self, size: int, *, is_io: bool) -> int:
        """An address for a BAR, aligned to its size."""
        free = self._next_io if is_io else self._next_memory
        address = (free + size - 1) // size * size
        if is_io:
            self._next_io = address + size
        else:
            self._next_memory = address + size
        return address


class Bar(NamedTuple):
    """A BAR that has a place."""

    vm: Qtest
    address: int
    size: int
    is_io: bool

    def read(self, offset: int, size: int) -> int:
        if self.is_io:
            return self.vm.port_read(self.address + offset, size)
        return self.vm.load(self.address + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        if self.is_io:
            self.vm.port_write(self.address + offset, size, value)
        else:
            self.vm.store(self.address + offset, size, value)


class PciFunction:
    """One function of bus 0, through 0xCF8 with the full byte offset, and 0xCFC, as public drivers do it."""

    def __init__(self, vm: Qtest, devfn: int) -> None:
        self.vm = vm
        self.devfn = devfn

    def config_read(self, offset: int, size: int) -> int:
        self.vm.outl(0xCF8, 0x8000_0000 | self.devfn << 8 | offset)
        return self.vm.port_read(0xCFC, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.vm.outl(0xCF8, 0x8000_0000 | self.devfn << 8 | offset)
        self.vm.port_write(0xCFC, size, value)

    @property
    def exists(self) -> bool:
        return self.config_read(0, 2) != 0xFFFF

    def enable(self) -> None:
        """Decode I/O and memory, master the bus."""
        self.config_write(4, 2, self.config_read(4, 2) | 7)

    def place_bar(self, index: int) -> Bar:
        """Size a BAR by all-ones (of a 64-bit one, the low half) and give it an address. Raises QtestError."""
        offset = 0x10 + 4 * index
        self.config_write(offset, 4, 0xFFFF_FFFF)
        value = self.config_read(offset, 4)
        is_io = bool(value & 1)
        mask = value & (0xFFFF_FFFC if is_io else 0xFFFF_FFF0)
        if not mask:
            raise QtestError(f"{self.devfn >> 3:x}.{self.devfn & 7} has no BAR {index}")
        size = (~mask & (0xFFFF if is_io else 0xFFFF_FFFF)) + 1
        address = self.vm.take_bar(size, is_io=is_io)
        self.config_write(offset, 4, address)
        return Bar(self.vm, address, size, is_io)

    def capabilities(self) -> list[tuple[int, int]]:
        """(id, offset) of each, in the order of the list."""
        found: list[tuple[int, int]] = []
        offset = self.config_read(0x34, 1) if self.config_read(6, 2) & 0x10 else 0
        while offset and len(found) < 48:
            found.append((self.config_read(offset, 1), offset))
            offset = self.config_read(offset + 1, 1) & ~3
        return found


def uses_kvm(vm: Qtest) -> bool:
    """The emulator has /dev/kvm open."""
    for each in Path(f"/proc/{vm.process.pid}/fd").iterdir():
        try:
            if os.readlink(each) == "/dev/kvm":
                return True
        except FileNotFoundError:  # closed meanwhile
            pass
    return False
