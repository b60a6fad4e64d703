# SPDX-License-Identifier: Apache-2.0
"""The end of the process: everything is given back, in order, whatever fails on the way."""

from __future__ import annotations

import gc
import os
from types import SimpleNamespace
from typing import Any

import pytest

from vmmd.daemon import Daemon
from vmmd.errors import UsageError, VmmdError
from vmmd.options import cmdline


def failing(name: str, done: list[str]) -> Any:
    def close() -> None:
        done.append(name)
        raise OSError(5, "Input/output error")

    return SimpleNamespace(close=close, remove=close, unrealize=close)


def test_what_fails_at_the_end_does_not_keep_the_rest() -> None:
    daemon = Daemon(cmdline.parse(["-nodefaults", "-display", "none"]))
    done: list[str] = []
    daemon.vm.devices.append(failing("device", done))
    daemon.vm.on_close(failing("kvm", done).close)
    daemon.vm.on_close(failing("image", done).close)
    daemon.vm.chardevs.update({name: failing(name, done) for name in ("chardev", "second chardev")})
    daemon.server = failing("monitors", done)
    daemon.monitor_sockets = [(None, failing("socket", done))]  # type: ignore[list-item]  # only closed
    daemon.pidfile = failing("pid file", done)
    daemon._close()
    assert done == ["device", "image", "kvm", "chardev", "second chardev", "monitors", "socket", "pid file"]
    assert daemon.pidfile is None


def added(fd: int) -> Daemon:
    daemon = Daemon(cmdline.parse(["-nodefaults", "-display", "none", "-add-fd", f"fd={fd},set=1"]))
    daemon._plan_chardevs()
    return daemon


def test_only_an_inherited_descriptor_enters_a_set() -> None:
    """All others are vmmd's own, or will be."""
    reader, writer = os.pipe()
    os.close(writer)
    try:
        for fd in (reader, writer):
            with pytest.raises(UsageError, match=f"^-add-fd fd={fd},set=1: fd is not valid or already in use"):
                added(fd)
        os.set_inheritable(reader, True)
        assert [each.fd for each in added(reader).vm.fdsets.query()[1]] == [reader]
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["-monitor", "unix:/proc/nope/x,server=on,wait=off"],
            "-monitor unix:/proc/nope/x,server=on,wait=off: Failed",
        ),
        (["-qmp", "unix:/proc/nope/x,server=on,wait=off"], "-qmp unix:/proc/nope/x,server=on,wait=off: Failed to bind"),
        (["-qmp", "unix:/proc/nope/x"], "-qmp unix:/proc/nope/x: Failed to connect to"),
        (["-chardev", "file,id=a,path=/proc/nope/x"], "-chardev file,id=a: Could not open '/proc/nope/x'"),
        (["-D", "/proc/nope/x"], "-D: Error opening logfile /proc/nope/x"),
        (["-trace", "file=/proc/nope/x"], "-trace file=/proc/nope/x: Error opening logfile /proc/nope/x"),
    ],
)
def test_a_start_that_fails_names_the_option(options: list[str], sentence: str) -> None:
    daemon = Daemon(cmdline.parse(["-machine", "none", "-nodefaults", "-display", "none", *options]))
    try:
        with pytest.raises(VmmdError) as caught:
            daemon.run()
    finally:
        gc.enable()
    assert str(caught.value).startswith(sentence)
