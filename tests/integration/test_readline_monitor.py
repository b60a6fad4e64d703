# SPDX-License-Identifier: Apache-2.0
"""The readline monitor of a real process: over a socket as scripts use it, and over a terminal as people do."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kvm

DEADLINE_S = 20.0
BASE = [
    sys.executable,
    "-m",
    "vmmd",
    "-M",
    "pc",
    "-m",
    "16",
    "-nodefaults",
    "-display",
    "none",
    "-S",
    "-name",
    "people",
]


class Peer:
    """What talks to a monitor: a socket or a terminal."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.text = ""

    def send(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def read_until(self, end: str) -> str:
        """Everything up to ``end``, which comes last."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.text.endswith(end):
            left = deadline - time.monotonic()
            assert left > 0, f"no {end!r} after {self.text!r}"
            if select.select([self.fd], [], [], left)[0]:
                data = os.read(self.fd, 65536)
                assert data, f"the end after {self.text!r}"
                self.text += data.decode()
        text, self.text = self.text, ""
        return text

    def ask(self, line: str) -> str:
        """The text of a command, as a script takes it out: without echo and prompt."""
        self.send(line + "\n")
        text = self.read_until("(qemu) ")
        assert text.startswith(line + "\r\n"), text
        return text[len(line) + 2 : -len("(qemu) ")]


class Socket(Peer):
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                self.socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < deadline
                select.select([], [], [], 0.02)
        super().__init__(self.socket.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def run(*arguments: str, **how: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*BASE, *arguments], **how)  # type: ignore[call-overload]


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    assert process.wait(DEADLINE_S) == 0


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    path = tmp_path_factory.mktemp("monitor") / "monitor.sock"
    process = run("-monitor", f"unix:{path},server=on,wait=off")
    yield path, process
    end(process)


def test_a_script_sees_banner_prompt_echo_and_text(monitor) -> None:
    with Socket(monitor[0]) as peer:
        greeting = peer.read_until("(qemu) ")
        assert re.fullmatch(r"QEMU 7\.2\.\d+ monitor .*type 'help' for more information\r\n\(qemu\) ", greeting)
        assert peer.ask("info status") == "VM status: paused (prelaunch)\r\n"
        assert peer.ask("info name") == "people\r\n"
        assert peer.ask("") == ""
        assert peer.ask("bogus") == "unknown command: 'bogus'\r\n"


def test_commands_in_one_piece_are_answered_though_the_peer_sends_no_more(monitor) -> None:
    with Socket(monitor[0]) as peer:
        peer.socket.sendall(b"info status\ninfo name\n" + b"info uuid\n" * 100)
        peer.socket.shutdown(socket.SHUT_WR)
        text = b""
        while data := peer.socket.recv(65536):
            text += data
        assert text.count(b"00000000-0000-0000-0000-000000000000\r\n(qemu) ") == 100


def test_bytes_may_come_one_by_one(monitor) -> None:
    with Socket(monitor[0]) as peer:
        peer.read_until("(qemu) ")
        for character in "info naxx\x7f\x7fm\t\x1b[D\x1b[C\r":
            peer.send(character)
            select.select([], [], [], 0.002)
        assert "people\r\n" in peer.read_until("(qemu) ")


def test_peers_come_and_go_without_a_trace(monitor) -> None:
    path, process = monitor
    fds = f"/proc/{process.pid}/fd"
    with Socket(path) as peer:
        peer.read_until("(qemu) ")
        before = len(os.listdir(fds))
    for number in range(50):
        with Socket(path) as peer:
            peer.read_until("(qemu) ")
            peer.send("info reg"[: number % 9])  # in the middle of a command
    with Socket(path) as peer:
        peer.read_until("(qemu) ")
        deadline = time.monotonic() + 30
        while len(os.listdir(fds)) != before:  # the last peer's end may be noticed after this one's beginning
            assert time.monotonic() < deadline
            assert peer.ask("info name") == "people\r\n"


def test_a_peer_that_never_reads_is_not_served_for_ever(monitor) -> None:
    path, process = monitor
    with Socket(path) as peer:
        peer.socket.setblocking(False)
        sent, refused = 0, 0
        while refused < 2 and sent < 1 << 24:
            try:
                sent += peer.socket.send(b"help\n" * 1000)
                refused = 0
            except BlockingIOError:
                refused += 1
                select.select([], [peer.socket], [], 0.2)
        assert sent < 1 << 20  # it takes no more
        with open(f"/proc/{process.pid}/status") as status:
            (rss_kib,) = [int(line.split()[1]) for line in status if line.startswith("VmRSS")]
        assert rss_kib < 200_000
    with Socket(path) as peer:
        peer.read_until("(qemu) ")
        assert peer.ask("info name") == "people\r\n"


def test_stdio_is_edited_and_quit_ends_the_process() -> None:
    master, slave = pty.openpty()
    as_it_was = termios.tcgetattr(slave)
    process = run("-monitor", "stdio", stdin=slave, stdout=slave)
    peer = Peer(master)
    peer.read_until("(qemu) ")
    peer.send("info nam\t\r")
    assert "people" in peer.read_until("(qemu) ")
    peer.send("\x1b[A")  # the last command again
    peer.send("\r")
    assert peer.read_until("(qemu) ").count("people") == 1
    peer.send("quit\r")
    assert process.wait(DEADLINE_S) == 0
    assert termios.tcgetattr(slave) == as_it_was
    os.close(master)
    os.close(slave)


def test_stdio_has_its_mode_again_after_the_process_was_stopped() -> None:
    master, slave = pty.openpty()
    cooked = termios.tcgetattr(slave)
    process = run("-monitor", "stdio", stdin=slave, stdout=slave)
    peer = Peer(master)
    peer.read_until("(qemu) ")
    process.send_signal(signal.SIGSTOP)
    termios.tcsetattr(slave, termios.TCSANOW, cooked)  # as a shell does
    process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + DEADLINE_S
    while termios.tcgetattr(slave)[3] & termios.ICANON:
        assert time.monotonic() < deadline
    peer.send("quit\r")
    assert process.wait(DEADLINE_S) == 0
    assert termios.tcgetattr(slave) == cooked
    os.close(master)
    os.close(slave)


def test_a_pty_greets_whoever_opens_it() -> None:
    process = run("-chardev", "pty,id=p", "-mon", "p", stdout=subprocess.PIPE)
    assert process.stdout is not None
    found = re.search(rb"redirected to (/dev/pts/\d+) ", process.stdout.readline())
    assert found is not None
    terminal = os.open(found.group(1), os.O_RDWR | os.O_NOCTTY)
    peer = Peer(terminal)
    peer.send("\n")
    assert peer.read_until("(qemu) \r\n(qemu) ").startswith("QEMU ")
    assert "VM status" in peer.ask("info status")
    os.close(terminal)
    end(process)
    process.stdout.close()
