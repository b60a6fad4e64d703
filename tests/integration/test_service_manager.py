# SPDX-License-Identifier: Apache-2.0
"""sd_notify: a datagram socket stands for systemd."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.framework.vm import Vm, emulator
from vmmd.service import watchdog_ns

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kvm


def received(manager: socket.socket, until: str) -> list[str]:
    """Lines up to one that begins with ``until``."""
    lines: list[str] = []
    deadline = time.monotonic() + 20
    while not any(line.startswith(until) for line in lines):
        manager.settimeout(max(deadline - time.monotonic(), 0.01))
        lines += manager.recv(4096).decode().split("\n")
    return lines


def test_manager_hears_ready_alive_and_why_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        with Vm(emulator("vmmd"), ["-S", "-machine", "pc", "-m", "16", "-nodefaults"], serial=False) as vm:
            first = received(manager, "STATUS=")
            assert first == ["READY=1", f"MAINPID={vm.pid}", "STATUS=prelaunch"]
            begin = time.monotonic()
            for _beat in range(4):
                received(manager, "WATCHDOG=1")
            assert 0.1 < time.monotonic() - begin < 5
            vm.qmp.cmd("cont")
            assert received(manager, "STATUS=")[-1] == "STATUS=running"
            vm.qmp.cmd("quit")
            assert received(manager, "STOPPING=1")[-2:] == ["STOPPING=1", "STATUS=ended: host-qmp-quit, status 0"]


def test_manager_that_does_not_read_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200")
        with Vm(emulator("vmmd"), ["-S", "-machine", "none", "-nodefaults"], serial=False) as vm:
            for _turn in range(100):
                assert vm.qmp.cmd("query-status")["status"] == "prelaunch"


@pytest.mark.parametrize(
    ("environment", "expected_ns"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "5000"}, 5_000_000),
        ({"WATCHDOG_USEC": "5000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "5000", "WATCHDOG_PID": str(os.getpid())}, 5_000_000),
        ({"WATCHDOG_USEC": "-5"}, 0),
        ({"WATCHDOG_USEC": "9" * 40}, 0),
    ],
)
def test_watchdog_interval_is_read_from_the_environment(environment: dict[str, str], expected_ns: int) -> None:
    assert watchdog_ns(environment) == expected_ns
