# SPDX-License-Identifier: Apache-2.0
"""The guest of ``tests/guests/serial.c`` on vmmd or QEMU: port 1 is the data channel, port 2 takes its commands.

with SerialGuest("vmmd", directory) as guest:
    guest.command("O")              # the guest opens port 1; also C, E, S, G, R: see the guest's source
    with guest.connect() as peer:   # the manager's side of port 1
        peer.sendall(b"echo"); peer.recv(4)
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.framework import cache
from tests.framework.vm import REPOSITORY, Vm, emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE = REPOSITORY / "tests" / "guests" / "serial.c"
CFLAGS = (
    "-m64", "-O2", "-ffreestanding", "-fno-pic", "-fno-pie", "-mno-red-zone", "-mgeneral-regs-only",
    "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns", "-Wall", "-Werror",
)  # fmt: skip
DEADLINE_S = 60.0
#: what command G sends
PATTERN = bytes((index * 7 + (index >> 8)) & 0xFF for index in range(1 << 16))
PATTERN_BYTES = 16 << 20
AGENT = "org.qemu.guest_agent.0"


def kernel() -> Path:
    """The guest for ``-kernel`` (multiboot), built with gcc."""
    bench = cache.shared_folder() / "bench" / "guest"

    def build(directory: Path) -> None:
        cache.program("gcc", "gcc")
        for name in ("boot.S", "link.ld"):
            shutil.copyfile(bench / name, directory / name)
        cache.run(["gcc", *CFLAGS, "-c", "-o", directory / "serial.o", SOURCE])
        cache.run(["gcc", *CFLAGS, "-c", "-o", directory / "boot.o", directory / "boot.S"])
        link = ("-m", "elf_x86_64", "-nostdlib", "-z", "max-page-size=4096", "-T", "link.ld", "-o", "serial64.elf")
        cache.run(["ld", *link, "boot.o", "serial.o"], cwd=directory)
        cache.run(["objcopy", "-O", "elf32-i386", directory / "serial64.elf", directory / "serial.elf"])

    made = cache.built(f"serial-{cache.hash_of_folder(bench)}-{cache.hash_of_files([SOURCE], SOURCE.parent)}", build)
    return made / "serial.elf"


class SerialGuest:
    """One run of it; the guest has opened its command port when the block is entered."""

    def __init__(self, program: str, directory: Path, *more: str, socket_options: str = "server=on,wait=off") -> None:
        self.directory = directory
        self.path = directory / "agent.sock"
        self.vm = Vm(
            emulator(program),
            [
                "-machine", "pc,accel=kvm", "-m", "64", "-nodefaults", "-kernel", str(kernel()),
                "-chardev", f"socket,id=agent,path={self.path},{socket_options}",
                "-chardev", f"socket,id=command,path={directory}/command.sock,server=on,wait=off",
                "-device", "virtio-serial-pci,id=virtio-serial0",
                "-device", f"virtserialport,bus=virtio-serial0.0,nr=1,chardev=agent,id=channel0,name={AGENT}",
                "-device", "virtserialport,bus=virtio-serial0.0,nr=2,chardev=command,id=command0,name=command",
                *more,
            ],
        )  # fmt: skip

    def __enter__(self) -> Self:
        self.vm.__enter__()
        self.commands = _connect(self.directory / "command.sock")
        return self

    def __exit__(self, *exc: Any) -> None:
        self.commands.close()
        self.vm.__exit__(*exc)

    def connect(self) -> socket.socket:
        """The manager's side of the data port."""
        return _connect(self.path)

    def command(self, letter: str) -> str:
        """Have the guest obey; its answer."""
        self.commands.sendall(letter.encode())
        answer = self.commands.recv(1).decode()
        while answer[0] == "r" and not answer.endswith("\n"):
            answer += self.commands.recv(64).decode()
        assert answer[0] == letter.lower(), answer
        return answer

    def counts(self) -> tuple[int, int]:
        """(bytes that the guest has received, how often it was told that the host has opened the port)."""
        _, received, opens = self.command("R").split()
        return int(received), int(opens)


def _connect(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(DEADLINE_S)
    made.connect(str(path))
    return made


def receive(peer: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""
    data = bytearray()
    while len(data) < count:
        part = peer.recv(min(count - len(data), 1 << 20))
        if not part:
            raise ConnectionError(f"the peer has left after {len(data)} of {count} bytes")
        data += part
    return bytes(data)


# --- what a manager does, with socat at its end of the channel --------------------------------------------------------


class Rates(NamedTuple):
    """Megabytes (10^6) a second: echoed, from the host to the guest, from the guest to the host."""

    echo: float
    inward: float
    outward: float


@contextlib.contextmanager
def socat(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The channel's socket as standard input and output of a process."""
    with subprocess.Popen(
        [cache.program("socat", "socat"), "-b", "131072", "STDIO", f"UNIX-CONNECT:{path}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as made:
        try:
            yield made
        finally:
            made.kill()


def through(peer: subprocess.Popen[bytes], data: bytes, *, answer: int) -> bytes:
    """Send ``data`` while ``answer`` bytes are received."""
    assert peer.stdin is not None
    assert peer.stdout is not None
    stdin = peer.stdin

    def send() -> None:
        stdin.write(data)
        stdin.flush()

    sender = threading.Thread(target=send)
    sender.start()
    received = peer.stdout.read(answer)
    sender.join()
    return received


def pattern(count: int) -> bytes:
    """``count`` bytes in which every 64 KiB differ from those before."""
    blocks = (PATTERN[number % 251 :] + PATTERN[: number % 251] for number in range(count // len(PATTERN) + 1))
    return b"".join(blocks)[:count]


def bulk(guest: SerialGuest, count: int) -> Rates:
    """Data both ways through socat, each byte compared. The port is open and echoes."""
    data = pattern(count)
    with socat(guest.path) as peer:
        begin = time.monotonic()
        assert through(peer, data, answer=count) == data, "what was echoed is not what was sent"
        echoed = time.monotonic() - begin
        before, _ = guest.counts()
        guest.command("S")
        begin = time.monotonic()
        through(peer, data, answer=0)
        while guest.counts()[0] < before + count:
            assert time.monotonic() < begin + DEADLINE_S
        inward = time.monotonic() - begin
        assert guest.counts()[0] == before + count
        begin = time.monotonic()
        for _ in range(-(-count // PATTERN_BYTES)):
            guest.commands.sendall(b"G")
            assert through(peer, b"", answer=PATTERN_BYTES) == PATTERN * (PATTERN_BYTES // len(PATTERN))
            assert guest.commands.recv(1) == b"g"
        outward = time.monotonic() - begin
        guest.command("E")
    outcount = -(-count // PATTERN_BYTES) * PATTERN_BYTES
    return Rates(count / echoed / 1e6, count / inward / 1e6, outcount / outward / 1e6)


def reconnect(guest: SerialGuest, times: int) -> float:
    """Clients that come, say what an agent's client says first (0xFF and a line), hear it echoed, and go: seconds."""
    _, opens = guest.counts()
    begin = time.monotonic()
    for number in range(times):
        with guest.connect() as peer:
            line = b'\xff{"execute":"guest-sync-delimited","arguments":{"id":%d}}\n' % number
            peer.sendall(line)
            assert receive(peer, len(line)) == line, f"client {number}"
    took = time.monotonic() - begin
    _, told = guest.counts()
    assert told == opens + times, f"the guest was told of {told - opens} of {times} clients"
    return took


def reboot(guest: SerialGuest) -> None:
    """With a client there that says something before the guest has opened the port again."""
    qmp = guest.vm.qmp
    with guest.connect() as peer:
        qmp.cmd("system_reset")
        while qmp.wait_event("VSERPORT_CHANGE", timeout_s=DEADLINE_S)["data"] != {"id": "channel0", "open": False}:
            pass
        peer.sendall(b"\xffafter the reboot")
        guest.command("O")
        assert receive(peer, 17) == b"\xffafter the reboot"


def stop_and_cont(guest: SerialGuest, count: int, times: int) -> None:
    """Data is echoed while the machine is stopped and goes on."""
    data = pattern(count)
    with socat(guest.path) as peer:
        heard: list[bytes] = []
        echo = threading.Thread(target=lambda: heard.append(through(peer, data, answer=count)))
        echo.start()
        for _ in range(times):
            guest.vm.qmp.cmd("stop")
            guest.vm.qmp.cmd("query-status")
            guest.vm.qmp.cmd("cont")
        echo.join(DEADLINE_S)
        assert heard == [data]


def early_and_late(guest: SerialGuest) -> None:
    """A client that is there before the guest has opened the port, one that stays while it closes and opens again, and
    one that has left meanwhile: nothing is lost, nothing is read while the port is closed. The port is closed."""
    line = b"\xff" + bytes(range(256)) * 16
    before, _ = guest.counts()
    with guest.connect() as peer:
        peer.sendall(line)
        assert guest.counts()[0] == before
        guest.command("O")
        assert receive(peer, len(line)) == line
        guest.command("C")
        before, _ = guest.counts()
        peer.sendall(line * 4)
        assert guest.counts()[0] == before
        guest.command("O")
        assert receive(peer, 4 * len(line)) == line * 4
        guest.command("C")
