# SPDX-License-Identifier: Apache-2.0
"""Many monitor clients, good and bad ones, beside a guest that leaves the vCPU as fast as it can.

The good clients issue commands with pauses of some 50 ms; one client asks and never reads, one sends garbage, one sends
a byte now and then. Measured: how long a good client waits, how long the guest's port writes take with and without the
load, and how the process grows. QEMU serves one client per monitor, so it gets a monitor for each.
"""

from __future__ import annotations

import gc
import random
import re
import select
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.framework import guests
from tests.framework.vm import Emulator, Vm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS = (
    b'{"execute": "query-status"}\n',
    b'{"execute": "query-cpus-fast"}\n',
    b'{"execute": "query-block"}\n',
    b'{"execute": "query-chardev"}\n',
    b'{"execute": "query-version"}\n',
    b'{"execute": "human-monitor-command", "arguments": {"command-line": "info status"}}\n',
)
NEGOTIATE = b'{"execute": "qmp_capabilities"}\n'
BIG = b'{"execute": "query-commands"}\n'
PAUSE_S = 0.05
BAD_PAUSE_S = 0.002
BAD_CLIENTS = 3
PORT = 0x80
GUEST_TIMEOUT_S = 60.0
REPLY_TIMEOUT_S = 20.0
GAPS = re.compile(r"@E gaps n=(\d+) .* khz=(\d+) worst=(\d+) over2ms=(\d+)")


@dataclass
class Gaps:
    """Of the guest's port writes."""

    writes: int
    worst_s: float
    over_2ms: int


@dataclass
class LoadRun:
    """What came of it; `faults` is empty when every good client got its answers."""

    latency_s: list[float] = field(default_factory=list)  # sorted
    quiet: Gaps = field(default_factory=lambda: Gaps(0, 0.0, 0))
    loaded: Gaps = field(default_factory=lambda: Gaps(0, 0.0, 0))
    growth_bytes: int = 0
    faults: list[str] = field(default_factory=list)

    def quantile(self, fraction: float) -> float:
        """Of the latencies, in seconds."""
        return self.latency_s[min(len(self.latency_s) - 1, int(len(self.latency_s) * fraction))]


def monitor_load(program: Emulator, directory: Path, *, seconds: float, clients: int = 50, seed: int = 1) -> LoadRun:
    """One run of *seconds* without load and *seconds* with it."""
    run = LoadRun()
    shared = program.name == "vmmd"
    paths = [str(directory / f"m{number}") for number in range(1 if shared else clients + BAD_CLIENTS)]
    monitors = [word for path in paths for word in ("-qmp", f"unix:{path},server=on,wait=off")]
    script = f"tsc {_tsc_khz()}; gaps {int(seconds * 1000)}ms {PORT}; gaps {int(seconds * 1000) + 1000}ms {PORT}"
    vm = Vm(program, [
        "-machine", "pc,accel=kvm", "-cpu", "qemu64,-cx16,-pni,-xsave", "-m", "64", "-nodefaults",
        "-kernel", str(guests.gaps()), "-append", script, *monitors,
    ])  # fmt: skip
    with vm:
        for command in COMMANDS:  # vmmd imports at the first of a kind (the one for people: 30-50 ms, once)
            vm.qmp.send_raw(command)
            vm.qmp.receive()
        run.quiet = _gaps(vm, seconds)
        vm.serial.expect("@S gaps", GUEST_TIMEOUT_S)
        load = Load([paths[0]] * (clients + BAD_CLIENTS) if shared else paths, random.Random(seed), run)
        before = vm.rss_bytes()
        load.drive(seconds)
        run.growth_bytes = vm.rss_bytes() - before
        load.close()
        run.loaded = _gaps(vm, seconds)
    run.latency_s.sort()
    return run


def _gaps(vm: Vm, seconds: float) -> Gaps:
    match = vm.serial.expect(GAPS.pattern, seconds + GUEST_TIMEOUT_S)
    writes, khz, worst, over = (int(text) for text in match.groups())
    return Gaps(writes, worst / khz / 1000, over)


def _tsc_khz() -> int:
    with open("/proc/cpuinfo") as file:
        found = re.search(r"cpu MHz\s*: ([\d.]+)", file.read())
    return int(float(found[1]) * 1000) if found else 2_600_000


class Client:
    """A connection; `due_s` is when it does something next."""

    def __init__(self, path: str, dice: random.Random, start_s: float) -> None:
        self.dice = dice
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(REPLY_TIMEOUT_S)
        self.sock.connect(path)
        with self.sock.makefile("rb") as file:
            file.readline()
            self.sock.sendall(NEGOTIATE)
            file.readline()
        self.sock.setblocking(False)
        self.asked_s = 0.0  # 0: nothing is awaited
        self.received = b""
        self.due_s = start_s + dice.random() * PAUSE_S

    def act(self, now_s: float) -> None:
        """Ask the next question."""
        self.asked_s = time.perf_counter()
        self.due_s = float("inf")
        self.sock.send(self.dice.choice(COMMANDS))

    def readable(self, latency_s: list[float]) -> None:
        """Take what came."""
        self.received += self.sock.recv(1 << 16)
        now_s = time.perf_counter()
        *lines, self.received = self.received.split(b"\r\n")
        for line in lines:
            if line.startswith(b'{"return"'):
                latency_s.append(now_s - self.asked_s)
                self.asked_s = 0.0
                self.due_s = now_s + self.dice.expovariate(1 / PAUSE_S)
            elif b'"event"' not in line:
                raise AssertionError(f"a good client got {line[:200]!r}")


class BadClient(Client):
    """One that never gets a latency: `send` is what it does."""

    def __init__(
        self, path: str, dice: random.Random, start_s: float, send: Callable[[BadClient], bytes], *, reads: bool
    ) -> None:
        super().__init__(path, dice, start_s)
        self._send = send
        self.reads = reads
        self.sent = 0

    def act(self, now_s: float) -> None:
        """Do some harm, if the monitor takes it."""
        self.due_s = now_s + BAD_PAUSE_S
        try:
            self.sent += self.sock.send(self._send(self))
        except BlockingIOError:
            pass

    def readable(self, latency_s: list[float]) -> None:
        """Throw it away."""
        self.sock.recv(1 << 16)


def _dribble(client: BadClient) -> bytes:
    text = COMMANDS[0]
    return text[client.sent % len(text) :][:1]


class Load:
    """All clients, driven by one thread."""

    def __init__(self, paths: list[str], dice: random.Random, run: LoadRun) -> None:
        self._run = run
        start_s = time.perf_counter()
        *good, silent, garbage, dribble = paths
        self._clients = [Client(path, dice, start_s) for path in good]
        self._clients += [
            BadClient(silent, dice, start_s, lambda _client: BIG * 20, reads=False),
            BadClient(garbage, dice, start_s, lambda _client: dice.randbytes(200), reads=True),
            BadClient(dribble, dice, start_s, _dribble, reads=True),
        ]

    def drive(self, seconds: float) -> None:
        """Let them work. The collector is off: its pauses would be measured."""
        gc.disable()
        poller = select.epoll()
        by_fd = {client.sock.fileno(): client for client in self._clients}
        for fd, client in by_fd.items():
            if not isinstance(client, BadClient) or client.reads:
                poller.register(fd, select.EPOLLIN)
        try:
            end_s = time.perf_counter() + seconds
            while (now_s := time.perf_counter()) < end_s:
                for client in self._clients:
                    if client.due_s <= now_s:
                        client.act(now_s)
                next_s = min(client.due_s for client in self._clients)
                for fd, _events in poller.poll(max(0.0, min(next_s, end_s) - time.perf_counter())):
                    by_fd[fd].readable(self._run.latency_s)
        except (OSError, AssertionError) as error:
            self._run.faults.append(f"{type(error).__name__}: {error}")
        finally:
            poller.close()
            gc.enable()
        now_s = time.perf_counter()
        late = sum(1 for client in self._clients if client.asked_s and now_s - client.asked_s > 1)
        if late:
            self._run.faults.append(f"{late} clients wait for more than a second")
        if not self._run.latency_s:
            self._run.faults.append("no good client got an answer")

    def close(self) -> None:
        """Hang up."""
        for client in self._clients:
            client.sock.close()
