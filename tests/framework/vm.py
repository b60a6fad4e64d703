# SPDX-License-Identifier: Apache-2.0
"""`Vm`: one emulator process (QEMU or vmmd) in its own directory, with serial port, debug console and QMP.

Every wait has a deadline, serves all channels of the emulator, and ends early with the whole story (command line,
exit status, stderr, tail of the output) when the emulator dies. Only the process that was started here is ended,
by its pid. Linux only (pidfd, per-process CPU clocks).
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.framework.qmp import Qmp
from tests.framework.serial import TextChannel
from tests.framework.wait import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

REPOSITORY = Path(__file__).resolve().parents[2]
CONNECT_TIMEOUT_S = 30.0
CONNECT_RETRY_S = 0.01
TERMINATE_TIMEOUT_S = 10.0
TAIL_CHARACTERS = 3000
CPU_CLOCK_OF_PROCESS = 2  # CPUCLOCK_SCHED of clock_getcpuclockid(3): (~pid << 3) | 2


class VmError(AssertionError):
    """An emulator died or did not do something in time; the text holds everything needed to see why."""


@dataclass(frozen=True)
class Emulator:
    """An emulator under test: short name and command prefix."""

    name: str
    command: tuple[str, ...]

    @property
    def installed(self) -> bool:
        """Whether the program can be started at all."""
        return shutil.which(self.command[0]) is not None


def emulator(name: str) -> Emulator:
    """The emulator `qemu` or `vmmd`; VMMD_TEST_QEMU and VMMD_TEST_VMMD replace the command."""
    default = {"qemu": "qemu-system-x86_64", "vmmd": f"{shlex.quote(_python())} -m vmmd"}[name]
    return Emulator(name, tuple(shlex.split(os.environ.get(f"VMMD_TEST_{name.upper()}", default))))


def _python() -> str:
    """This interpreter when it is a virtual environment's, else the one of the repository's environment."""
    local = REPOSITORY / ".venv" / "bin" / "python"
    return str(local) if sys.prefix == sys.base_prefix and local.exists() else sys.executable


class Vm:
    """One run of an emulator; use as a context manager.

    *args* are passed as they are, after `-display none`. `serial=True` adds `-serial stdio`, `debugcon=True` a debug
    console at port 0x402, `qmp=True` a monitor socket that is connected and negotiated by `start()`. The emulator
    inherits *pass_fds* under the numbers they have here.
    """

    def __init__(
        self,
        program: Emulator,
        args: Sequence[str],
        *,
        serial: bool = True,
        debugcon: bool = False,
        qmp: bool = True,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"vmmd-test-{program.name}-"))
        self.argv = [*program.command, "-display", "none", *args]
        self.reactor = Reactor()
        self.started_at_s = 0.0
        self._want_serial, self._want_debugcon, self._want_qmp = serial, debugcon, qmp
        self._pass_fds = tuple(pass_fds)
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._exit_status: int | None = None
        self._exited = False
        self._final_cpu_s = 0.0
        self._channels: dict[str, TextChannel] = {}
        self._qmp: Qmp | None = None

    # Life cycle

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if exc is not None and not isinstance(exc, VmError):
            self.reactor.poll_now()
            exc.add_note(self.describe())
        self.close()

    def start(self) -> Self:
        """Spawn the emulator and, with `qmp=True`, connect and negotiate."""
        if self._want_debugcon:
            self._add_debugcon()
        monitor_path = self.directory / "monitor.sock"
        if self._want_qmp:
            self.argv += ["-qmp", f"unix:{monitor_path},server=on,wait=off"]
        if self._want_serial:
            self.argv += ["-serial", "stdio"]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        pipe = subprocess.PIPE if self._want_serial else subprocess.DEVNULL
        with (self.directory / "stderr").open("wb") as stderr:
            self.started_at_s = time.monotonic()
            self._process = subprocess.Popen(
                self.argv, stdin=pipe, stdout=pipe, stderr=stderr, cwd=self.directory, env=environment,
                pass_fds=self._pass_fds,
            )  # fmt: skip
        self._pidfd = os.pidfd_open(self._process.pid)
        self.reactor.add(self._pidfd, self._reap)
        if self._process.stdout is not None and self._process.stdin is not None:
            fds = os.dup(self._process.stdout.fileno()), os.dup(self._process.stdin.fileno())
            self._process.stdout.close()
            self._process.stdin.close()
            self._add_channel("serial", TextChannel(self.reactor, *fds))
        if self._want_qmp:
            self._qmp = self.connect_qmp(monitor_path)
        return self

    def close(self) -> None:
        """End the process if it still runs (SIGTERM, then SIGKILL), and remove the directory; idempotent."""
        if self._process is not None and not self._exited:
            self._process.send_signal(signal.SIGTERM)
            if not self.reactor.wait(lambda: self._exited, TERMINATE_TIMEOUT_S):
                self._process.kill()
                self.reactor.wait(lambda: self._exited, TERMINATE_TIMEOUT_S)
        if self._qmp is not None:
            self._qmp.close()
        for channel in self._channels.values():
            channel.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        shutil.rmtree(self.directory, ignore_errors=True)

    # Channels

    @property
    def serial(self) -> TextChannel:
        """COM1."""
        return self._channels["serial"]

    @property
    def debugcon(self) -> TextChannel:
        """What the firmware writes to port 0x402."""
        return self._channels["debugcon"]

    @property
    def qmp(self) -> Qmp:
        """The negotiated monitor."""
        assert self._qmp is not None, "this Vm has no monitor"
        return self._qmp

    def connect_qmp(self, path: Path | None = None, *, negotiate: bool = True) -> Qmp:
        """One more connection to the monitor socket *path* (default: the one of `qmp=True`)."""
        client = Qmp(self.connect_unix(path or self.directory / "monitor.sock"), self.reactor)
        if negotiate:
            client.negotiate()
        return client

    def connect_unix(self, path: Path) -> socket.socket:
        """Connect to a UNIX socket of the emulator as soon as it listens."""
        connected: list[socket.socket] = []

        def try_connect() -> bool:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                return False
            connected.append(sock)
            return True

        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while not try_connect():
            # Nothing tells a client that a socket has begun to listen: wait for the process's end in short turns.
            if self.reactor.wait(lambda: self._exited, CONNECT_RETRY_S) or time.monotonic() > deadline:
                raise VmError(f"no connection to {path.name}\n{self.describe()}")
        return connected[0]

    # Waiting and measuring

    def wait(self, until: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until *until* is true; VmError when the emulator ends first or *timeout_s* passes."""
        done = self.reactor.wait(lambda: until() or self._exited, timeout_s)
        if done and until():
            return
        reason = "the emulator ended" if self._exited else f"{timeout_s} s passed"
        raise VmError(f"{reason} while waiting for {what}\n{self.describe()}")

    def wait_exit(self, timeout_s: float) -> int:
        """Wait for the emulator's end and return its exit status (negative: signal number)."""
        if not self.reactor.wait(lambda: self._exited, timeout_s):
            raise VmError(f"the emulator did not end within {timeout_s} s\n{self.describe()}")
        assert self._exit_status is not None
        return self._exit_status

    def kill(self, signal_number: int) -> None:
        """Send a signal to the emulator, if it still runs."""
        if self._process is not None and not self._exited:
            self._process.send_signal(signal_number)

    @property
    def pid(self) -> int:
        """Process id of the emulator."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def elapsed_s(self) -> float:
        """Wall-clock seconds since the emulator was spawned."""
        return time.monotonic() - self.started_at_s

    def cpu_seconds(self) -> float:
        """Processor time of the whole emulator process so far (all threads, user and system)."""
        self.reactor.poll_now()
        if self._exited:
            return self._final_cpu_s
        return time.clock_gettime((~self.pid << 3) | CPU_CLOCK_OF_PROCESS)

    def rss_bytes(self) -> int:
        """Resident memory of the emulator, guest memory included."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stderr(self) -> str:
        """What the emulator has written to its standard error."""
        path = self.directory / "stderr"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def describe(self) -> str:
        """Command line, state, stderr and the tail of every channel, for failure reports."""
        state = f"status {self._exit_status}" if self._exited else f"running for {self.elapsed_s:.1f} s"
        parts = [f"argv: {shlex.join(self.argv)}", state, f"stderr:\n{self.stderr()[-TAIL_CHARACTERS:]}"]
        parts += [f"{name}, last output:\n{ch.text[-TAIL_CHARACTERS:]}" for name, ch in self._channels.items()]
        if self._qmp is not None:
            parts.append(f"QMP, last messages: {self._qmp.transcript[-5:]}")
        return "\n".join(parts)

    # Internal

    def _add_debugcon(self) -> None:
        fifo = self.directory / "debugcon"  # a FIFO, because a growing regular file cannot be polled
        os.mkfifo(fifo)
        self._add_channel("debugcon", TextChannel(self.reactor, os.open(fifo, os.O_RDWR | os.O_NONBLOCK)))
        self.argv += ["-chardev", f"file,id=debugcon,path={fifo}"]
        self.argv += ["-device", "isa-debugcon,iobase=0x402,chardev=debugcon"]

    def _add_channel(self, name: str, channel: TextChannel) -> None:
        channel.wait = self.wait
        self._channels[name] = channel

    def _reap(self) -> None:
        assert self._process is not None
        _pid, status, usage = os.wait4(self._process.pid, 0)
        self.reactor.remove(self._pidfd)
        self._exit_status = self._process.returncode = os.waitstatus_to_exitcode(status)
        self._final_cpu_s = usage.ru_utime + usage.ru_stime
        for channel in self._channels.values():
            channel.drain()
        self._exited = True
