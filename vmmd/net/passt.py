# SPDX-License-Identifier: Apache-2.0
"""passt, the program behind ``-netdev user`` (docs/adr/0014): its arguments, and one process of it.

It is connected by a socket pair, and ends when our end of that is closed, however vmmd ends (``--fd``). It gives its
own privileges up: started by root it becomes nobody, in a user namespace of its own. That it has started is known by
the number that it writes where ``--pid`` says: to its standard output, a pipe.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from vmmd.errors import BackendError

if TYPE_CHECKING:
    from vmmd.net.options import UserNetwork

PROGRAM = "passt"
#: patience with its start, which takes 15 ms, and its end
_START_S = 10.0
_END_S = 2.0
#: QEMU-COMPAT: the host's address in the guest's network, after these two bytes
_MAC_START = bytes((0x52, 0x55))
#: what it says goes to the system's log too, if there is one; if not, it says so each time
_NO_SYSLOG = b" bytes to syslog"
_SAID_BYTES_MAX = 16_384


def find_program() -> str:
    """Raises BackendError."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise BackendError(
            f"-netdev user needs the program '{PROGRAM}', which is not there", "install the package passt"
        )
    return found


def arguments(network: UserNetwork, interface: str | None) -> list[str]:
    """What tells passt of the guest's network. ``interface``: has the host's routes, when it is not to find out."""
    given = ["--quiet", *([] if interface is None else ["--interface", interface])]
    mac_of = b"\x0a\x00\x02\x02"
    if network.ipv4 is None:
        given.append("--ipv6-only")
    else:
        ipv4 = network.ipv4
        mac_of = ipv4.host.packed
        given += ["--address", str(ipv4.guest), "--netmask", str(ipv4.network.netmask), "--gateway", str(ipv4.host)]
    if network.ipv6 is None:
        given.append("--ipv4-only")
    else:
        given += ["--address", str(network.ipv6.guest), "--gateway", str(network.ipv6.host)]
    given += ["--mac-addr", (_MAC_START + mac_of).hex(":")]
    # a domain called "none" has to be told from the word
    domains = [f"{each}." if each == "none" else each for each in network.search]
    given += ["--search", " ".join(domains) or "none"]
    if network.restrict:
        given += ["--no-tcp", "--no-udp", "--no-icmp"]
    for protocol, option in (("tcp", "--tcp-ports"), ("udp", "--udp-ports")):
        rules = [each for each in network.forwards if each.protocol == protocol]
        for each in rules:
            given += [option, f"{each.host}/{each.host_port}:{each.guest_port}"]
        if not rules:
            given += [option, "none"]
    return given


class Passt:
    """One process. ``sock`` is our end of the connection; whoever uses it closes it."""

    def __init__(self, program: str, given: list[str]) -> None:
        """Waits until it has started. Raises BackendError with what it said, and leaves nothing behind then."""
        self.ended_fd = -1
        with ExitStack() as undo, ExitStack() as until_started:
            try:
                ready = self._start(program, given, undo, until_started)
            except OSError as error:
                raise BackendError.from_os(f"could not start {program}", error) from error
            self._wait(ready)
            undo.pop_all()

    def _start(self, program: str, given: list[str], undo: ExitStack, until_started: ExitStack) -> int:
        """Where it will tell its number. Raises OSError."""
        self.sock, theirs = socket.socketpair()
        undo.callback(self.sock.close)
        with theirs:
            ready, told = os.pipe()
            until_started.callback(os.close, ready)
            try:
                os.fchmod(told, 0o666)  # it opens the pipe by its name in /proc, as nobody
                self._process = subprocess.Popen(
                    [program, "--foreground", "--fd", str(theirs.fileno()), "--pid", "/dev/stdout", *given],
                    stdin=subprocess.DEVNULL,
                    stdout=told,
                    stderr=subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Control-C on the terminal is for vmmd alone
                )
            finally:
                os.close(told)
        undo.callback(self.end)
        undo.callback(self.sock.close)  # first, so that it ends
        self.sock.setblocking(False)
        assert self._process.stderr is not None
        self.said_fd = self._process.stderr.fileno()
        os.set_blocking(self.said_fd, False)
        self.ended_fd = os.pidfd_open(self._process.pid)
        return ready

    @property
    def pid(self) -> int:
        return self._process.pid

    def _wait(self, ready: int) -> None:
        """Until it has told its number. Raises BackendError."""
        poller = select.poll()
        for fd in (ready, self.said_fd):
            poller.register(fd, select.POLLIN)
        deadline_s = time.monotonic() + _START_S
        said = b""
        while (left_s := deadline_s - time.monotonic()) > 0:
            came = {fd for fd, _ in poller.poll(left_s * 1000)}
            if self.said_fd in came:
                said = (said + self.read_said())[-_SAID_BYTES_MAX:]
            if ready in came:
                if os.read(ready, 64):
                    return
                break  # it has ended
        else:
            raise BackendError(f"{PROGRAM} has not started after {_START_S:.0f} s")
        self._process.wait()
        said += self.read_said()
        why = "; ".join(worth_reading(said)) or f"status {self._process.returncode}"
        raise BackendError(f"{PROGRAM} could not start: {why}", _hint(why))

    def read_said(self) -> bytes:
        """What it has written to its standard error, if anything."""
        try:
            return os.read(self.said_fd, _SAID_BYTES_MAX)
        except BlockingIOError:
            return b""

    def status(self) -> int | None:
        """How it has ended (as ``subprocess`` has it), or None while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """Our end of the connection is closed: wait for its end, and enforce it. Idempotent."""
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self.ended_fd >= 0:
            os.close(self.ended_fd)
            self.ended_fd = -1
        if self._process.stderr is not None:
            self._process.stderr.close()


def worth_reading(said: bytes) -> list[str]:
    """The lines, without those about what is as it should be."""
    lines = [line.decode("utf-8", "replace").strip() for line in said.splitlines() if not line.endswith(_NO_SYSLOG)]
    return [line for line in lines if line and not line.startswith("Don't run as root")]


def _hint(why: str) -> str | None:
    if "user namespace" in why:
        return "it needs a user namespace: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone"
    if "routable interface" in why or "not usable" in why:
        return "the host has no route of that kind: ipv4=off or ipv6=off leaves one out"
    return None
