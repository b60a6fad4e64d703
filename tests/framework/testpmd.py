# SPDX-License-Identifier: Apache-2.0
"""DPDK's testpmd as the vhost-user back end of a guest: a real one, which forwards between the guest and a tap.

    with Network() as network, Testpmd(network, path, server=True) as pmd:
        …                                       # -chardev socket,path=…; the tap pmd0 is a port of the bridge

It polls: one CPU is busy while it lives. No huge pages, no PCI, no telemetry; needs root for the tap.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Self

from tests.framework.network import BRIDGE
from tests.framework.wait import Reactor

if TYPE_CHECKING:
    from pathlib import Path

    from tests.framework.network import Network

TAP = "pmd0"
START_TIMEOUT_S = 60.0


def missing_testpmd() -> str | None:
    """Why it cannot run here, or None."""
    return None if shutil.which("dpdk-testpmd") else "dpdk-testpmd (Debian package dpdk-dev) is not installed"


class Testpmd:
    """The process. ``server``: it listens on ``path``; else it connects, again and again."""

    __test__ = False

    def __init__(self, network: Network, path: Path, *, server: bool, queues: int = 1) -> None:
        self._network, self._path = network, path
        self._vhost = f"net_vhost0,iface={path},queues={queues},client={0 if server else 1}"
        self._queues = queues
        self._log = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._reactor = Reactor()

    def __enter__(self) -> Self:
        cpus = sorted(os.sched_getaffinity(0))
        lcores = f"0@{cpus[0]},1@{cpus[-1]}"
        with self._network.inside():
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "stdbuf", "-o0", "dpdk-testpmd", "--lcores", lcores,
                 "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "--no-shconf",
                 "--file-prefix", f"test{os.getpid()}",
                 "--vdev", self._vhost, "--vdev", f"net_tap0,iface={TAP}", "--",
                 "-i", "--auto-start", "--no-mlockall", "--total-num-mbufs=4096",
                 f"--rxq={self._queues}", f"--txq={self._queues}"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._reactor.add(self._process.stdout.fileno(), self._readable)
        self.expect("Start automatic packet forwarding")
        self._network.ip(f"link set {TAP} master {BRIDGE}", f"link set {TAP} up")
        return self

    def __exit__(self, *exc: object) -> None:
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    self._reactor.remove(stream.fileno())
                    stream.close()

    @property
    def log(self) -> str:
        """What it has said so far."""
        self._reactor.wait(lambda: True, 0)
        return self._log

    def expect(self, text: str) -> None:
        """Wait until it has said that."""
        assert self._reactor.wait(lambda: text in self._log, START_TIMEOUT_S), f"no {text!r} in:\n{self._log}"

    def _readable(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        data = os.read(self._process.stdout.fileno(), 65536)
        self._log += data.decode(errors="replace")
        if not data:
            self._reactor.remove(self._process.stdout.fileno())
