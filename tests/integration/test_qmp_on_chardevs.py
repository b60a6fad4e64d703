# SPDX-License-Identifier: Apache-2.0
"""QMP on character devices other than listening sockets: stdio, pty, a socket that connects again; several monitors."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import tty
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.vm import emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEGOTIATE = b'{"execute": "qmp_capabilities"}\n'
STATUS = b'{"execute": "query-status"}\n'
QUIT = b'{"execute": "quit"}\n'

EMULATORS = ["vmmd", pytest.param("qemu", marks=pytest.mark.qemu)]


@pytest.fixture(params=EMULATORS)
def start(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Start the emulator with machine ``none`` and some more arguments."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str) -> subprocess.Popen[bytes]:
        argv = [*emulator(request.param).command, "-machine", "none", "-S", "-nodefaults", "-display", "none"]
        process = subprocess.Popen(
            [*argv, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def exchange(reader: Any, writer: Any) -> None:
    """Greeting, negotiation and one command."""
    assert "QMP" in json.loads(reader.readline())
    writer.write(NEGOTIATE + STATUS)
    writer.flush()
    assert json.loads(reader.readline()) == {"return": {}}
    assert json.loads(reader.readline())["return"]["status"] == "prelaunch"


def test_stdio(start: Any) -> None:
    process = start("-qmp", "stdio")
    exchange(process.stdout, process.stdin)
    process.stdin.write(QUIT)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["event"] == "SHUTDOWN"
    assert json.loads(process.stdout.readline()) == {"return": {}}
    assert process.wait(20) == 0


def test_stdio_whose_input_ends_at_once(start: Any) -> None:
    """``printf … | vmmd -qmp stdio``: what was sent is run and answered."""
    process = start("-qmp", "stdio")
    output, _ = process.communicate(NEGOTIATE + STATUS + QUIT, timeout=20)
    greeting, negotiated, status, *_rest = map(json.loads, output.splitlines())
    assert "QMP" in greeting
    assert negotiated == {"return": {}}
    assert status["return"]["status"] == "prelaunch"
    assert process.returncode == 0


def test_a_terminal_that_is_opened_twice(start: Any) -> None:
    process = start("-chardev", "pty,id=p", "-mon", "chardev=p,mode=control")
    line = process.stdout.readline().decode()
    assert line.startswith("char device redirected to /dev/pts/")
    path = line.split()[4]
    assert talk_on(path).startswith(b'{"QMP"')
    # who opens it again before the emulator saw the hang-up goes on with the old session, in QEMU too
    deadline = time.monotonic() + 20
    while not talk_on(path).startswith(b'{"QMP"'):
        assert time.monotonic() < deadline


def talk_on(path: str) -> bytes:
    """Open a terminal, negotiate and ask; what came."""
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    text = b""
    with open(fd, "r+b", buffering=0) as terminal:
        terminal.write(NEGOTIATE + STATUS)
        while b"prelaunch" not in text:
            text += terminal.read(4096)
    return text


def test_a_socket_that_connects_again(start: Any, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    listener.settimeout(20)
    log = tmp_path / "log"
    chardev = f"socket,id=m,path={tmp_path}/s,reconnect=1,logfile={log}"
    start("-chardev", chardev, "-mon", "chardev=m,mode=control")
    for _turn in range(2):
        connection, _ = listener.accept()
        connection.settimeout(20)
        with connection, connection.makefile("rwb") as file:
            exchange(file, file)
    listener.close()
    assert log.read_bytes().count(b'{"QMP"') == 2


@pytest.mark.parametrize("start", ["vmmd"], indirect=True)
def test_a_peer_that_leaves_while_its_command_waits(start: Any, tmp_path: Path) -> None:
    """The device that waits for its first client goes, as on a listening monitor."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.settimeout(20)
        start("-chardev", f"socket,id=m,path={tmp_path}/s,reconnect=1", "-mon", "chardev=m,mode=control")
        deadline = time.monotonic() + 20
        connection, _ = listener.accept()
        backend = {
            "type": "socket",
            "data": {"addr": {"type": "unix", "data": {"path": f"{tmp_path}/w"}}, "wait": True},
        }
        add = json.dumps({"execute": "chardev-add", "arguments": {"id": "w", "backend": backend}})
        connection.sendall(NEGOTIATE + add.encode())
        while not (tmp_path / "w").exists():
            assert time.monotonic() < deadline
        connection.close()
        while (tmp_path / "w").exists():
            assert time.monotonic() < deadline


def test_several_monitors_see_the_same_machine(start: Any, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"m{number}") for number in range(2)]
    process = start(
        "-qmp", f"unix:{paths[0]},server=on,wait=off", "-qmp-pretty", f"unix:{paths[1]},server=on,wait=off",
        "-qmp", "stdio",
    )  # fmt: skip
    exchange(process.stdout, process.stdin)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(paths[1])
        sock.settimeout(20)
        with sock.makefile("rwb") as pretty:
            pretty.write(NEGOTIATE + b'{"execute": "cont"}')
            pretty.flush()
            text = b""
            while b"RESUME" not in text:
                text += pretty.readline()
            assert text.startswith(b'{\r\n    "QMP"')
    assert json.loads(process.stdout.readline())["event"] == "RESUME"
