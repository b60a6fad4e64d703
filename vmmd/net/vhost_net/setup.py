# SPDX-License-Identifier: Apache-2.0
"""Whether a tap has vhost-net: its options, the descriptors that they name, and what is done when it cannot be had.

``vhost=on`` alone is a wish: without /dev/vhost-net the NIC's frames go through vmmd, with a warning (as QEMU means
to do; 7.2.22 aborts). With ``vhostforce=on``, or a descriptor that is none of vhost-net, the netdev fails: whoever
passes a descriptor wants it to be used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.core.vhost import VhostState
from vmmd.errors import BackendError, UsageError
from vmmd.log import get_logger
from vmmd.net.vhost_net import device as vhost
from vmmd.net.vhost_net.backend import VhostNet
from vmmd.net.vhost_net.device import VhostNetDevice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.net.base import Host
    from vmmd.net.options import TapOptions

log = get_logger("vmmd.net")


class VhostSetup:
    """Of one tap. ``check`` → ``open`` → ``close``."""

    def __init__(self, options: TapOptions, host: Host) -> None:
        self._options = options
        self._host = host
        names = options.vhostfds if options.vhostfds is not None else options.vhostfd
        self._names = [] if names is None else names.split(":")
        self.wanted = bool(options.vhost if options.vhost is not None else self._names or options.vhostforce)
        self._given: list[int] = []  # by somebody else, whose they stay when ``open`` fails
        self._fds: list[int] = []  # ours
        #: for people; None: nobody asked for it
        self.state = VhostState(False, "it has not been opened") if self.wanted else None
        self._ioctl: vhost.Ioctl = vhost.kernel_ioctl

    def check(self, tap_fds: int | None) -> None:
        """``tap_fds``: how many descriptors of the tap were passed; None: it is opened here. Raises VmmdError."""
        options = self._options
        if options.poll_us and not self.wanted:
            log.warning("netdev %s: poll-us= is of no use without vhost=on", options.id)
        # QEMU-COMPAT: the sentences
        if self._names and not self.wanted:
            raise UsageError("vhostfd(s)= is not valid without vhost", "vhost=on, or leave it out")
        if options.vhostfds is not None and options.fds is None:
            raise UsageError("vhostfds= is invalid if fds= wasn't specified", "vhostfd= goes with fd= and ifname=")
        if self._names and tap_fds is None and (options.queues or 1) > 1:
            raise UsageError(
                f"vhostfd= is one descriptor, and queues={options.queues} needs as many", "vhostfds= goes with fds="
            )
        if self._names and len(self._names) != (tap_fds or 1):
            raise UsageError("The number of fds passed does not match the number of vhostfds passed")
        self._given = [self._host.descriptors.find(name, options.id) for name in self._names]
        for name, fd in zip(self._names, self._given, strict=True):
            try:
                VhostNetDevice(fd, self._ioctl).features()
            except OSError as error:
                made = BackendError.from_os(f"vhostfd {name}: vhost_set_owner failed", error)
                made.hint = f"descriptor {fd} is not an open {vhost.PATH}"
                raise made from error

    def open(self, tap_fds: Sequence[int], *, has_header: bool, lost: Callable[[], None]) -> VhostNet | None:
        """None: it was not asked for, or cannot be had. Raises BackendError; ``close`` then."""
        if not self.wanted:
            return None
        try:
            for _ in () if self._given else tap_fds:
                self._fds.append(os.open(vhost.PATH, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            self._cannot(BackendError.from_os("tap: open vhost char device failed", error))
            return None
        devices = [VhostNetDevice(fd, self._ioctl) for fd in self._given or self._fds]
        try:
            made = VhostNet(
                self._options.id,
                devices,
                tap_fds,
                has_header=has_header,
                poll_us=self._options.poll_us or 0,
                lost=lost,
            )
        except OSError as error:
            self._cannot(BackendError.from_os("vhost-net requested but could not be initialized", error))
            return None
        for fd in self._given:
            os.set_inheritable(fd, False)
        self._fds += self._given
        return made

    def _cannot(self, error: BackendError) -> None:
        """Raises ``error`` when there is to be no other way."""
        self.close()
        if self._options.vhostforce or self._names:
            error.hint = "without vhostforce=on, frames would go through vmmd"
            raise error
        log.warning("netdev %s: %s; frames go through vmmd", self._options.id, error.desc)
        self.state = VhostState(False, error.desc)

    def close(self) -> None:
        """What ``open`` has opened or taken over. Idempotent."""
        while self._fds:
            os.close(self._fds.pop())
