# SPDX-License-Identifier: Apache-2.0
"""-preconfig: monitors first, the machine when the client says so; beside QEMU."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.differential.test_qmp_wire import Client, Target
from tests.framework.vm import emulator
from vmmd.qmp.registry import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kvm

TOO_EARLY = "The command '{}' is permitted only after machine initialization has completed"
EMULATORS = ["vmmd", pytest.param("qemu", marks=pytest.mark.qemu)]


@contextmanager
def started(name: str, directory: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    path = str(directory / "monitor.sock")
    argv = [*emulator(name).command, "-preconfig", "-machine", "pc,accel=kvm", "-nodefaults", "-display", "none"]
    process = subprocess.Popen([*argv, "-qmp", f"unix:{path},server=on,wait=off", *arguments])
    try:
        client = Target(name, path, process).connect().greet()
        try:
            yield process, client
        finally:
            client.close()
    finally:
        process.kill()
        process.wait(20)


def first_sentence(client: Client, name: str) -> str:
    """The error of a command, without the hint."""
    client.send(b'{"execute": "%s"}' % name.encode())
    return str(client.message()["error"]["desc"]).split(";")[0]


@pytest.mark.parametrize("name", EMULATORS)
def test_the_machine_is_built_when_the_client_says_so(name: str, tmp_path: Path) -> None:
    with started(name, tmp_path, "-S") as (_process, client):
        assert client.reply("query-status")["status"] == "prelaunch"
        for command in ("query-cpus-fast", "stop", "cont", "query-kvm", "system_reset", "getfd", "chardev-add"):
            assert first_sentence(client, command) == TOO_EARLY.format(command)
        assert client.reply("query-block") == []
        assert client.reply("x-exit-preconfig") == {}
        assert len(client.reply("query-cpus-fast")) == 1
        assert client.reply("query-status")["status"] == "prelaunch"
        assert (
            first_sentence(client, "x-exit-preconfig") == "The command is permitted only before machine initialization"
        )


@pytest.mark.parametrize("name", EMULATORS)
def test_without_s_it_runs_then(name: str, tmp_path: Path) -> None:
    with started(name, tmp_path) as (_process, client):
        client.send(b'{"execute": "x-exit-preconfig", "id": 1}')
        found = [client.message(), client.message()]
        assert {each.get("event", "reply") for each in found} == {"RESUME", "reply"}
        assert client.reply("query-status")["running"] is True


def test_commands_that_may_run_early_do(tmp_path: Path) -> None:
    early = [spec for spec in load().values() if spec.preconfig and not spec.needs_arguments and not spec.oob]
    skipped = {"quit", "qmp_capabilities", "x-exit-preconfig"}
    with started("vmmd", tmp_path, "-S") as (_process, client):
        for spec in early:
            if spec.name not in skipped:
                client.send(b'{"execute": "%s"}' % spec.name.encode())
                assert "return" in client.message(), spec.name


@pytest.mark.qemu
def test_what_may_run_early_may_in_qemu_too(tmp_path: Path) -> None:
    """A client that gets no refusal here must not get one there."""
    early = [spec.name for spec in load().values() if spec.preconfig and not spec.name.startswith("__org.vmmd_")]
    with started("qemu", tmp_path, "-S") as (_process, client):
        for name in early:
            if name not in ("quit", "x-exit-preconfig"):
                client.send(b'{"execute": "%s"}' % name.encode())
                reply = client.message()
                assert "permitted only after" not in str(reply.get("error")), name


def test_a_machine_that_cannot_be_built_ends_the_process(tmp_path: Path) -> None:
    drive = f"file={tmp_path}/missing,if=none,id=d,format=raw"
    with started("vmmd", tmp_path, "-S", "-drive", drive) as (process, client):
        assert "Could not open" in first_sentence(client, "x-exit-preconfig")
        assert process.wait(20) == 1


def test_for_people(tmp_path: Path) -> None:
    with started("vmmd", tmp_path, "-S", "-chardev", f"socket,id=m,path={tmp_path}/hmp,server=on,wait=off",
                 "-mon", "m") as (_process, client):  # fmt: skip
        import socket

        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(tmp_path / "hmp"))
            sock.settimeout(20)
            sock.sendall(b"stop\nexit_preconfig\nexit_preconfig\n")
            text = b""
            while b"permitted only before" not in text:
                text += sock.recv(4096)
        assert b"Command 'stop' not available until machine initialization has completed." in text
        assert len(client.reply("query-cpus-fast")) == 1
