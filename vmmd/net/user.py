# SPDX-License-Identifier: Apache-2.0
"""``-netdev user``: a network behind the host's own sockets, by the program passt (``passt``).

passt ends with vmmd, and its end is the end of the guest's link: that is logged, the guest goes on.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from vmmd.errors import BackendError, UsageError
from vmmd.log import RateLimiter, get_logger
from vmmd.net import passt
from vmmd.net.base import Netdev
from vmmd.net.stream_queue import StreamQueue

if TYPE_CHECKING:
    from vmmd.net.base import Host
    from vmmd.net.options import Forward, UserOptions

log = get_logger("vmmd.net")

_ROUTES_4 = "/proc/net/route"
_ROUTES_6 = "/proc/net/ipv6_route"
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class UserNetdev(Netdev):
    """One passt."""

    kind = "user"

    def __init__(self, options: UserOptions, host: Host) -> None:
        super().__init__(options, host)
        self.network = options.network
        self.queue = StreamQueue(host.loop, self._ended)
        self.queues = (self.queue,)
        self.alive = False
        self.passt: passt.Passt | None = None
        self._program = ""
        self._watched: list[int] = []
        self._may_log = RateLimiter()

    @property
    def open_may_wait(self) -> bool:
        return True  # for a process

    # --- start and end ----------------------------------------------------------------------------------------

    def check(self) -> None:
        self._program = passt.find_program()
        if self.network.ipv6 is not None and self.network.ipv6.demanded and default_route_6() is None:
            raise UsageError("IPv6 for the guest: the host has no IPv6 default route, which passt needs", "ipv6=off")
        for each in self.network.forwards:
            check_forward(each)

    def open(self) -> None:
        # without a route there is at least the host itself
        interface = None if has_default_route_4() or self.network.ipv4 is None else (default_route_6() or "lo")
        self.passt = passt.Passt(self._program, passt.arguments(self.network, interface))

    def start(self) -> None:
        running = self.passt
        assert running is not None
        self.queue.serve(running.sock)
        self._watched = [running.said_fd, running.ended_fd]
        self.host.loop.add_reader(running.said_fd, self._said)
        self.host.loop.add_reader(running.ended_fd, self._gone)
        self.set_alive(True)

    def stop(self) -> None:
        self._unwatch()
        self.queue.hang_up()

    def close(self) -> None:
        running, self.passt = self.passt, None
        if running is not None:
            running.sock.close()
            running.end()

    def _unwatch(self) -> None:
        watched, self._watched = self._watched, []
        for fd in watched:
            self.host.loop.remove_reader(fd)

    # --- in use -----------------------------------------------------------------------------------------------

    def describe(self, index: int) -> str:
        # QEMU-COMPAT: without IPv4 too
        net = "10.0.2.0" if self.network.ipv4 is None else self.network.ipv4.network.network_address
        return f"net={net},restrict={'on' if self.network.restrict else 'off'}"

    def _said(self) -> None:
        """passt has written something."""
        assert self.passt is not None
        said = self.passt.read_said()
        if not said:  # the end of it
            self._watched.remove(self.passt.said_fd)
            self.host.loop.remove_reader(self.passt.said_fd)
        for line in passt.worth_reading(said):
            if self._may_log():
                log.warning("netdev %s: passt: %s", self.id, line)

    def _ended(self, why: str) -> None:
        """The connection is of no use any more: passt ends, or is to."""
        self.queue.hang_up()
        if why:
            log.warning("netdev %s: the connection with passt: %s", self.id, why)
        self.set_alive(False)

    def _gone(self) -> None:
        """passt has ended."""
        assert self.passt is not None
        self._said_last()
        status = self.passt.status()
        log.error("netdev %s: passt has ended (status %s): the link is down; netdev_del and netdev_add give a new one",
                  self.id, status)  # fmt: skip
        self._unwatch()
        self.queue.hang_up()
        self.set_alive(False)

    def _said_last(self) -> None:
        if self.passt is not None and self.passt.said_fd in self._watched:
            self._said()


def check_forward(forward: Forward) -> None:
    """The port of the host is free, and we may have it. Raises BackendError."""
    with socket.socket(socket.AF_INET, _KINDS[forward.protocol]) as probe:
        try:
            if forward.protocol == "tcp":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as passt does: old connections do no harm
            probe.bind((forward.host, forward.host_port))
            if forward.protocol == "tcp":
                probe.listen(1)
        except OSError as error:
            # QEMU-COMPAT: the sentence
            made = BackendError(f"Could not set up host forwarding rule '{forward.rule}'")
            where = f"port {forward.host_port} of {forward.host}"
            made.hint = {
                errno.EADDRINUSE: f"{where} is in use",
                errno.EACCES: f"{where}: ports below 1024 are for root (sysctl net.ipv4.ip_unprivileged_port_start)",
                errno.EADDRNOTAVAIL: f"{forward.host} is no address of this host",
            }.get(error.errno or 0, f"{where}: {error.strerror}")
            raise made from error


def has_default_route_4() -> bool:
    """The host can send IPv4 packets to anybody (proc(5))."""
    return any(fields[1] == fields[7] == "0" * 8 for fields in _routes(_ROUTES_4)[1:])


def default_route_6() -> str | None:
    """The interface by which the host sends IPv6 packets to anybody."""
    for fields in _routes(_ROUTES_6):
        if fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
            return fields[9]
    return None


def _routes(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="ascii") as file:
            return [line.split() for line in file]
    except OSError:
        return []
