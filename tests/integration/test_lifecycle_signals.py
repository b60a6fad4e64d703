# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, SIGINT and SIGHUP at any moment: status 0, nothing left behind, the image undamaged."""

from __future__ import annotations

import random
import signal
import time
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from tests.framework.endings import (
    BLOCK_BYTES,
    MOMENTS,
    EndedRun,
    check_image,
    end_at,
    guest_blocks,
    make_image,
)
from tests.framework.vm import Vm, emulator
from tests.integration.test_lifecycle_states import machine

if TYPE_CHECKING:
    import socket
    from pathlib import Path

pytestmark = pytest.mark.kvm
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("options", [(), ("-S",), ("-no-shutdown",)], ids=["running", "never ran", "no-shutdown"])
def test_signal_is_announced_and_ends_with_status_0(
    emulator_name: str, number: signal.Signals, options: tuple[str, ...]
) -> None:
    with machine(emulator_name, *options) as vm:
        vm.kill(number)
        assert vm.wait_exit(10) == 0
        event = vm.qmp.wait_event("SHUTDOWN")
        assert event["data"] == {"guest": False, "reason": "host-signal"}
        assert not (vm.directory / "monitor.sock").exists()
        assert not any("error" in line for line in vm.stderr().splitlines())


@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_is_left_and_the_image_is_whole(tmp_path: Path, moment: str) -> None:
    chance = random.Random(moment)
    # Python itself answers SIGINT with a traceback until vmmd's first line
    for number in (signal.SIGTERM, signal.SIGHUP if moment == "exec" else signal.SIGINT):
        run: EndedRun = end_at(emulator("vmmd"), tmp_path, moment, number, chance)
        assert run.faults == [], run


def test_a_damaged_image_is_noticed(tmp_path: Path) -> None:
    """The check above can fail: a torn, a stray and a lost write."""
    image = tmp_path / "disk"
    make_image(image)
    assert check_image(image) == (0, [])
    first = [number for number, _ in zip(guest_blocks(), range(300), strict=False)]
    with image.open("r+b") as file:
        for number in first:
            file.seek(number * BLOCK_BYTES)
            file.write(bytes(BLOCK_BYTES))
    assert check_image(image) == (len(set(first)), [])
    stray = next(number for number in islice(guest_blocks(), 1000, None) if number not in first)
    with image.open("r+b") as file:
        file.seek(stray * BLOCK_BYTES)
        file.write(bytes(BLOCK_BYTES))
    assert "lost" in str(check_image(image))  # that block's turn would have come much later
    with image.open("r+b") as file:
        file.seek(first[7] * BLOCK_BYTES)
        file.write(b"torn")
    assert f"block {first[7]} is damaged" in str(check_image(image))
    assert f"[{first[7]}, " in str(check_image(image))


def test_signal_ends_a_start_that_waits_for_a_monitor(tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    options = ["-machine", "none", "-qmp", f"unix:{path},server=on,wait=on", "-pidfile", str(tmp_path / "pid")]
    with Vm(emulator("vmmd"), options, serial=False, qmp=False) as vm:
        deadline = time.monotonic() + 10
        while "waiting for connection" not in vm.stderr():
            assert time.monotonic() < deadline, vm.describe()
            time.sleep(0.01)
        vm.kill(signal.SIGTERM)
        assert vm.wait_exit(5) == 0
    assert list(tmp_path.iterdir()) == []


def test_signal_in_the_middle_of_the_build_ends_it(tmp_path: Path) -> None:
    """The greeting comes before the machine is built; a signal right after it falls into the build."""
    path = tmp_path / "monitor"
    options = [
        "-machine",
        "pc",
        "-cpu",
        "kvm64,-cx16,-pni,-xsave",
        "-m",
        "64",
        "-nodefaults",
        "-qmp",
        f"unix:{path},server=on,wait=off",
    ]
    with Vm(emulator("vmmd"), options, serial=False, qmp=False) as vm:
        with vm.connect_unix(path) as client:
            client.sendall(b'{"execute": "qmp_capabilities"}\n{"execute": "query-status"}\n')
            vm.kill(signal.SIGTERM)
            assert vm.wait_exit(5) == 0
            client.settimeout(5)
            text = b""
            while data := _receive(client):
                text += data
        assert text.startswith(b'{"QMP"') or text == b""
        assert vm.stderr() == ""
    assert list(tmp_path.iterdir()) == []


def _receive(client: socket.socket) -> bytes:
    try:
        return client.recv(65536)
    except ConnectionResetError:
        return b""


def test_second_signal_changes_nothing() -> None:
    with machine("vmmd") as vm:
        for number in (*SIGNALS, *SIGNALS):
            vm.kill(number)
        assert vm.wait_exit(10) == 0
        assert [event["event"] for event in vm.qmp.events] == ["SHUTDOWN"]
