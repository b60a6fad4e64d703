# SPDX-License-Identifier: Apache-2.0
"""Hostile clients over real sockets against a monitor process (FakeVm), beside a client that behaves.

Some clients send mutated and split commands, descriptors and garbage, hang up half-way or never read; one asks
``query-status`` all the time and must get its answer. At the end the process is alive, has the descriptors it had at
first, has not grown, and its log is empty.
"""

from __future__ import annotations

import array
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: the witness's patience with one reply; the monitor's thread has two busy neighbours at most
REPLY_TIMEOUT_S = 10.0
CLIENTS = 12
MAX_GROWTH_BYTES = 48 << 20
SETTLE_S = 10.0

CORPUS: tuple[bytes, ...] = tuple(
    json.dumps(each).encode()
    for each in (
        {"execute": "qmp_capabilities"},
        {"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}},
        {"execute": "query-status", "id": [1, {"a": None}]},
        {"execute": "query-commands"},
        {"execute": "query-qmp-schema"},
        {"execute": "query-chardev"},
        {"execute": "query-fdsets"},
        {"execute": "stop"},
        {"execute": "cont"},
        {"execute": "system_powerdown"},
        {"execute": "getfd", "arguments": {"fdname": "a"}},
        {"execute": "closefd", "arguments": {"fdname": "a"}},
        {"execute": "add-fd", "arguments": {"fdset-id": 3, "opaque": "é😀"}},
        {"execute": "remove-fd", "arguments": {"fdset-id": 3}},
        {"execute": "chardev-add", "arguments": {"id": "n", "backend": {"type": "null", "data": {}}}},
        {"execute": "chardev-add", "arguments": {"id": "r", "backend": {"type": "ringbuf", "data": {"size": 64}}}},
        {
            "execute": "chardev-add",
            "arguments": {
                "id": "f",
                "backend": {
                    "type": "socket",
                    "data": {"addr": {"type": "fd", "data": {"str": "a"}}, "server": False},
                },
            },
        },
        {"execute": "chardev-change", "arguments": {"id": "n", "backend": {"type": "null", "data": {}}}},
        {"execute": "chardev-remove", "arguments": {"id": "n"}},
        {"execute": "chardev-remove", "arguments": {"id": "f"}},
        {"execute": "ringbuf-write", "arguments": {"device": "r", "data": "x" * 100}},
        {"execute": "ringbuf-read", "arguments": {"device": "r", "size": 100, "format": "base64"}},
        {"exec-oob": "query-yank", "id": 5},
        {"exec-oob": "yank", "arguments": {"instances": [{"type": "chardev", "id": "f"}]}},
        {"execute": "transaction", "arguments": {"actions": [{"type": "abort", "data": {}}]}},
        {"execute": "__org.vmmd_query-events", "arguments": {"since": 0, "limit": 3}},
        {"execute": "human-monitor-command", "arguments": {"command-line": "info status"}},
    )
)
TOKENS = (
    b"{", b"}", b"[", b"]", b'"', b"'", b"\\", b",", b":", b"\x00", b"\x01", b"\xff", b"\xc0\x80", b"\\ud800", b"1e999",
    b"-0", b"01", b"null", b"tru", b'"a":1', b"\n", b"9" * 400, b"[" * 1100, b"-1", b"99999999999999999999",
    b'"id":{},',
)  # fmt: skip


class Report(NamedTuple):
    """What a run has seen."""

    commands: int  # the witness's
    bytes_sent: int
    worst_s: float  # of the witness's replies
    growth_bytes: int
    faults: list[str]


class Monitor:
    """The process under test."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, "monitor.sock")
        self.log_path = os.path.join(directory, "log")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.unit.qmp_support", self.path], stderr=log, cwd=directory, env=environment
            )

    def connect(self) -> socket.socket:
        deadline = time.monotonic() + 20
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(self.path)
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.01)  # nothing tells when a socket begins to listen
            else:
                return sock

    @property
    def rss_bytes(self) -> int:
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def open_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def log(self) -> str:
        return Path(self.log_path).read_text(errors="replace").strip()


class Witness:
    """The client that behaves."""

    def __init__(self, monitor: Monitor) -> None:
        self.sock = monitor.connect()
        self.sock.settimeout(REPLY_TIMEOUT_S)
        self.file = self.sock.makefile("rb")
        self.commands = 0
        self.worst_s = 0.0
        assert b"QMP" in self.file.readline()
        self.run("qmp_capabilities")

    def run(self, name: str) -> None:
        """One command; raises TimeoutError or AssertionError."""
        self.commands += 1
        started = time.monotonic()
        self.sock.sendall(json.dumps({"execute": name, "id": self.commands}).encode())
        while True:
            line = self.file.readline()
            if not line:
                raise AssertionError("the witness's session has ended")
            message = json.loads(line)
            if "event" not in message:
                break
        if message.get("id") != self.commands or "return" not in message:
            raise AssertionError(f"the witness got {message}")
        self.worst_s = max(self.worst_s, time.monotonic() - started)

    def close(self) -> None:
        self.file.close()
        self.sock.close()


class Hostile:
    """One client that does not."""

    def __init__(self, monitor: Monitor, dice: random.Random) -> None:
        self.dice = dice
        self.sock = monitor.connect()
        self.sock.setblocking(False)
        # not ``sock`` itself: a monitor that holds its client's end never sees it close
        self._peer, self._other = socket.socketpair()
        self.reads = dice.random() < 0.8
        self.bytes_sent = 0
        if dice.random() < 0.8:
            self._send(CORPUS[dice.randrange(2)])

    def step(self) -> bool:
        """Do something; False when this client is gone."""
        if self.reads:
            try:
                if not self.sock.recv(1 << 16):
                    return False
            except BlockingIOError:
                pass
            except OSError:
                return False
        fate = self.dice.random()
        if fate < 0.02:
            return False
        if fate < 0.03:
            self.sock.shutdown(socket.SHUT_WR)
            self.reads = True
            return True
        return self._send(self._message())

    def close(self) -> None:
        for each in (self.sock, self._peer, self._other):
            each.close()

    def _message(self) -> bytes:
        data = bytearray(self.dice.choice(CORPUS))
        if self.dice.random() < 0.5:
            for _turn in range(self.dice.randint(1, 4)):
                self._mutate(data)
        if self.dice.random() < 0.3:
            data = data[: self.dice.randint(1, len(data))] if data else data
        if self.dice.random() < 0.3:
            data += b"\n"
        return bytes(data) or b" "

    def _mutate(self, data: bytearray) -> None:
        at = self.dice.randint(0, len(data))
        kind = self.dice.randrange(4)
        if kind == 0:
            data[at:at] = self.dice.choice(TOKENS)
        elif kind == 1:
            data[at : at + self.dice.randint(1, 12)] = b""
        elif kind == 2 and at < len(data):
            data[at] = self.dice.randrange(256)
        else:
            data[at:at] = data[self.dice.randint(0, len(data)) :][:40]

    def _send(self, data: bytes) -> bool:
        """In pieces, some with descriptors."""
        while data:
            size = self.dice.choice((1, 3, 17, len(data), len(data)))
            piece, data = data[:size], data[size:]
            control = []
            if self.dice.random() < 0.1:
                fds = array.array("i", [self._peer.fileno()] * self.dice.randint(1, 20))
                control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
            try:
                self.bytes_sent += self.sock.sendmsg([piece], control)
            except BlockingIOError:
                return True  # the monitor reads no more: as it should when we do not
            except OSError:
                return False
        return True


def fuzz(seconds: float, seed: int | None) -> Report:
    """Run for a time. The seed is in the first fault, so that a run can be repeated (timing apart)."""
    seed = random.randrange(1 << 32) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="vmmd-fuzz-wire-") as directory:
        monitor = Monitor(directory)
        try:
            return _run(monitor, random.Random(seed), seconds, seed)
        finally:
            monitor.process.terminate()
            monitor.process.wait(20)


def _run(monitor: Monitor, dice: random.Random, seconds: float, seed: int) -> Report:
    witness = Witness(monitor)
    _warm_up(monitor, witness)
    descriptors, rss_bytes = monitor.open_descriptors, monitor.rss_bytes
    hostile: list[Hostile] = []
    sent = 0
    faults: list[str] = []
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            while len(hostile) < CLIENTS:
                hostile.append(Hostile(monitor, dice))
            for each in list(hostile):
                if not each.step():
                    each.close()
                    sent += each.bytes_sent
                    hostile.remove(each)
            witness.run("query-status")
    except (OSError, AssertionError) as error:
        faults.append(f"{type(error).__name__}: {error}")
    for each in hostile:
        sent += each.bytes_sent
        each.close()
    faults += _end_state(monitor, witness, descriptors)
    growth = monitor.rss_bytes - rss_bytes if monitor.process.poll() is None else 0
    if growth > MAX_GROWTH_BYTES:
        faults.append(f"memory has grown by {growth >> 20} MiB")
    if monitor.log:
        faults.append(f"the log has: {monitor.log[-3000:]}")
    if faults:
        faults.insert(0, f"seed {seed}")
    witness.close()
    return Report(witness.commands, sent, witness.worst_s, growth, faults)


def _warm_up(monitor: Monitor, witness: Witness) -> None:
    """What is imported or made once is no growth."""
    for name in ("query-qmp-schema", "query-commands", "query-yank"):
        witness.run(name)
    with monitor.connect() as sock:
        sock.settimeout(REPLY_TIMEOUT_S)
        sock.sendall(b"".join(CORPUS) + b'{"execute": "query-name", "id": "warm"}')
        received = b""
        while b'"warm"' not in received:
            received += sock.recv(1 << 16)


def _end_state(monitor: Monitor, witness: Witness, descriptors: int) -> list[str]:
    """All hostile clients have gone: nothing of them may be left."""
    if monitor.process.poll() is not None:
        return [f"the monitor has ended with status {monitor.process.returncode}"]
    try:
        _tidy(monitor)
        deadline = time.monotonic() + SETTLE_S
        while monitor.open_descriptors > descriptors and time.monotonic() < deadline:
            witness.run("query-status")
    except (OSError, AssertionError) as error:
        return [f"after the clients had gone: {type(error).__name__}: {error}"]
    left = monitor.open_descriptors - descriptors
    return [f"{left} file descriptors are left"] if left > 0 else []


def _tidy(monitor: Monitor) -> None:
    """Remove the character devices and fd sets that hostile clients have made."""
    with monitor.connect() as sock, sock.makefile("rwb") as file:
        sock.settimeout(REPLY_TIMEOUT_S)

        def run(name: str, **arguments: object) -> dict[str, object]:
            wire = {key.replace("_", "-"): value for key, value in arguments.items()}
            file.write(json.dumps({"execute": name, "arguments": wire}).encode())
            file.flush()
            while True:
                message: dict[str, object] = json.loads(file.readline())
                if "event" not in message:
                    return message

        file.readline()
        run("qmp_capabilities")
        for device in run("query-chardev")["return"]:  # type: ignore[attr-defined]
            run("chardev-remove", id=device["label"])
        for fdset in run("query-fdsets")["return"]:  # type: ignore[attr-defined]
            run("remove-fd", fdset_id=fdset["fdset-id"])
