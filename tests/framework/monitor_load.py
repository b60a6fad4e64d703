# SPDX-License-Identifier: Apache-2.0
"""Many monitor clients, good and bad ones, beside a guest that leaves the vCPU as fast as it can.

The good clients issue commands with pauses of some 50 ms, now and then a heavy one; one client asks and never reads,
one sends garbage, one sends a byte now and then. Measured: how long a good client waits, with the guest running and at
rest, how long the guest's port writes take, and how the process grows. QEMU serves one client per monitor, so it gets a
monitor for each.

Other work makes the guest late too: that of the host, in bursts, and that of the clients themselves, where processors
are few. So slices of time take turns: without clients; with the clients on the monitor of another process, whose guest
is at rest; with the clients on the monitor of this one. ``lateness_z`` compares neighbours of the last two kinds: what
it finds is the monitor's doing. It compares time, not numbers: where processors are few, a thread that sleeps for
moments loses them more often, and for shorter, than one that never does.
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
    from collections.abc import Callable, Iterable
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
#: what takes long or says much; one command in HEAVY_ONE_IN, so that they are not the 99th percentile themselves
HEAVY = (
    b'{"execute": "query-qmp-schema"}\n',
    b'{"execute": "human-monitor-command", "arguments": {"command-line": "info registers -a"}}\n',
    b'{"execute": "memsave", "arguments": {"val": 1048576, "size": 4194304, "filename": "/dev/null"}}\n',
)
HEAVY_ONE_IN = 200
PAUSE_S = 0.05
BAD_PAUSE_S = 0.002
BAD_CLIENTS = 3
PORT = 0x80
GUEST_TIMEOUT_S = 60.0
REPLY_TIMEOUT_S = 20.0
PATIENCE_S = 1.0
SLICE_S = 0.8
#: the guest goes on measuring so long after the clients have come to rest
MARGIN_S = 0.2
GAPS = re.compile(
    r"@E gaps n=(\d+) .* khz=(\d+) worst=(\d+) late=(\d+) over2ms=(\d+) over4ms=(\d+) over8ms=(\d+) over16ms=(\d+)"
)


@dataclass
class Gaps:
    """Of the guest's port writes; `over` counts those of more than 2, 4, 8 and 16 ms, `late_s` is the time above 2 ms
    of all of them."""

    writes: int = 0
    worst_s: float = 0.0
    late_s: float = 0.0
    over: tuple[int, ...] = (0, 0, 0, 0)

    def __add__(self, other: Gaps) -> Gaps:
        over = tuple(map(sum, zip(self.over, other.over, strict=True)))
        return Gaps(self.writes + other.writes, max(self.worst_s, other.worst_s), self.late_s + other.late_s, over)


@dataclass
class LoadRun:
    """What came of it; `faults` is empty when every good client got its answers."""

    latency_s: list[float] = field(default_factory=list)
    stopped_s: list[float] = field(default_factory=list)  # latencies while the machine was stopped
    quiet: list[Gaps] = field(default_factory=list)  # slices without clients …
    elsewhere: list[Gaps] = field(default_factory=list)  # … with clients of another process …
    loaded: list[Gaps] = field(default_factory=list)  # … with clients
    growth_bytes: int = 0
    faults: list[str] = field(default_factory=list)


def quantile(values: list[float], fraction: float) -> float:
    """Of some values, in any order."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def lateness_z(runs: Iterable[LoadRun]) -> float:
    """Whether exits are later with the clients here than with the clients elsewhere (Wilcoxon's signed ranks over pairs
    of slices): some 0 when they are not, and then above 2.58 with a probability of 0.5 %. Single pairs that differ
    much, by a burst of other work, count little."""
    pairs = [pair for run in runs for pair in zip(run.elsewhere, run.loaded, strict=True)]
    differences = sorted((here.late_s - there.late_s for there, here in pairs if here.late_s != there.late_s), key=abs)
    if not differences:
        return 0.0
    ranks = range(1, len(differences) + 1)
    signed = sum(rank if difference > 0 else -rank for rank, difference in zip(ranks, differences, strict=True))
    return float(signed / sum(rank**2 for rank in ranks) ** 0.5)


def monitor_load(program: Emulator, directory: Path, *, slices: int, clients: int = 50, seed: int = 1) -> LoadRun:
    """One run of *slices* of each kind, which take turns, and of a machine at rest."""
    run = LoadRun()
    slice_ms = int((SLICE_S + MARGIN_S) * 1000)
    script = f"tsc {_tsc_khz()}" + f"; gaps {slice_ms}ms {PORT}" * (3 * slices + 1)
    machines = []
    for name in ("here", "there"):
        paths = [str(directory / f"{name}{n}") for n in range(1 if program.name == "vmmd" else clients + BAD_CLIENTS)]
        monitors = [word for path in paths for word in ("-qmp", f"unix:{path},server=on,wait=off")]
        machines.append((paths * (1 if len(paths) > 1 else clients + BAD_CLIENTS), Vm(program, [
            "-machine", "pc,accel=kvm", "-cpu", "qemu64,-cx16,-pni,-xsave", "-m", "64", "-nodefaults",
            "-kernel", str(guests.gaps()), "-append", script, *monitors, *(["-S"] if name == "there" else []),
        ])))  # fmt: skip
    (paths, vm), (other_paths, other) = machines
    with vm, other:
        for command in (*COMMANDS, *HEAVY):  # vmmd imports at the first of a kind (the one for people: 30-50 ms, once)
            for each in (vm, other):
                each.qmp.send_raw(command)
                each.qmp.receive()
        load, other_load = Load(paths, random.Random(seed), run), Load(other_paths, random.Random(seed), run)
        _gaps(vm)  # while all that was imported and connected
        load.drive(0.1, [])
        before = vm.rss_bytes()
        for _turn in range(slices):
            run.quiet.append(_gaps(vm))
            vm.serial.expect("@S gaps", GUEST_TIMEOUT_S)
            other_load.drive(SLICE_S, [])
            run.elsewhere.append(_gaps(vm))
            vm.serial.expect("@S gaps", GUEST_TIMEOUT_S)
            load.drive(SLICE_S, run.latency_s)
            run.loaded.append(_gaps(vm))
        vm.qmp.cmd("stop")
        load.drive(SLICE_S * 2, run.stopped_s)
        run.growth_bytes = vm.rss_bytes() - before
        load.close()
        other_load.close()
    return run


def _gaps(vm: Vm) -> Gaps:
    match = vm.serial.expect(GAPS.pattern, SLICE_S + GUEST_TIMEOUT_S)
    writes, khz, worst, late, *over = (int(text) for text in match.groups())
    return Gaps(writes, worst / khz / 1000, late / khz / 1000, tuple(over))


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
        self.rest_until(start_s)

    def rest_until(self, start_s: float) -> None:
        """Begin to work then, not all at once."""
        self.due_s = start_s + self.dice.random() * PAUSE_S

    def act(self, now_s: float) -> None:
        """Ask the next question."""
        self.asked_s = time.perf_counter()
        self.due_s = float("inf")
        self.sock.send(self.dice.choice(COMMANDS if self.dice.randrange(HEAVY_ONE_IN) else HEAVY))

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
            elif not line.startswith(b'{"timestamp"'):
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

    def drive(self, seconds: float, latency_s: list[float]) -> None:
        """Let them work, then wait for the answers that are left. The collector is off: its pauses would be
        measured."""
        gc.disable()
        poller = select.epoll()
        by_fd = {client.sock.fileno(): client for client in self._clients}
        for fd, client in by_fd.items():
            if not isinstance(client, BadClient) or client.reads:
                poller.register(fd, select.EPOLLIN)
        try:
            self._work(poller, by_fd, time.perf_counter() + seconds, latency_s)
        except (OSError, AssertionError) as error:
            self._run.faults.append(f"{type(error).__name__}: {error}")
        finally:
            poller.close()
            gc.enable()

    def _work(self, poller: select.epoll, by_fd: dict[int, Client], end_s: float, latency_s: list[float]) -> None:
        for client in self._clients:
            client.rest_until(time.perf_counter())
        while (now_s := time.perf_counter()) < end_s:
            for client in self._clients:
                if client.due_s <= now_s:
                    client.act(now_s)
            next_s = min(client.due_s for client in self._clients)
            for fd, _events in poller.poll(max(0.0, min(next_s, end_s) - time.perf_counter())):
                by_fd[fd].readable(latency_s)
        while waiting := sum(1 for client in self._clients if client.asked_s):
            for fd, _events in poller.poll(max(0.0, end_s + PATIENCE_S - time.perf_counter())):
                by_fd[fd].readable(latency_s)
            if time.perf_counter() > end_s + PATIENCE_S:
                self._run.faults.append(f"{waiting} clients wait for more than a second")
                return

    def close(self) -> None:
        """Hang up."""
        for client in self._clients:
            client.sock.close()
