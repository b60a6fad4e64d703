# SPDX-License-Identifier: Apache-2.0
"""Nobody reads vmmd's stderr, and its pipe is full: the monitors of a machine that is there answer all the same."""

from __future__ import annotations

import os
import select
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.differential.test_qmp_wire import Target
from tests.framework.vm import emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kvm


def test_what_is_to_be_told_after_the_start_holds_nobody_up(tmp_path: Path) -> None:
    path, image = str(tmp_path / "monitor.sock"), tmp_path / "image"
    image.write_bytes(bytes(512))
    read_end, write_end = os.pipe()
    # the guest's CPU gets a warning when it is built, the image when it is added
    argv = [*emulator("vmmd").command, "-preconfig", "-S", "-cpu", "qemu64,+hle", "-m", "16", "-nodefaults", "-display",
            "none", "-qmp", f"unix:{path},server=on,wait=off"]  # fmt: skip
    process = subprocess.Popen(argv, stderr=write_end)
    try:
        client = Target("vmmd", path, process).connect().greet()
        fill(write_end)
        assert client.reply("x-exit-preconfig") == {}
        client.send(
            b'{"execute": "human-monitor-command", "arguments": {"command-line": "drive_add 0 if=none,id=d0,file=%s"}}'
            % os.fsencode(image)
        )
        assert client.message() == {"return": "OK\r\n"}
        assert client.reply("query-status")["status"] == "prelaunch"
        client.close()
        told = read_until(read_end, b"give format=raw to lift this\n")
        assert b"vmmd: warning: host doesn't support requested feature" in told
    finally:
        process.kill()
        process.wait(20)
        os.close(read_end)
        os.close(write_end)


def read_until(pipe: int, end: bytes) -> bytes:
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    text = b""
    while not text.endswith(end):
        assert poller.poll(20_000), text[-1000:]
        text += os.read(pipe, 65536)
    return text


def fill(pipe: int) -> None:
    """Until not one byte more goes in."""
    os.set_blocking(pipe, False)
    try:
        for piece in (4096, 1):
            try:
                while True:
                    os.write(pipe, b"." * piece)
            except BlockingIOError:
                continue
    finally:
        os.set_blocking(pipe, True)
