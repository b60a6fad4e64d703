# SPDX-License-Identifier: Apache-2.0
"""The end of the process: everything is given back, in order, whatever fails on the way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vmmd.daemon import Daemon
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
