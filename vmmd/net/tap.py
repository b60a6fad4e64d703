# SPDX-License-Identifier: Apache-2.0
"""``-netdev tap``: a network interface of the host (linux/if_tun.h), one descriptor for each pair of queues.

Frames go between guest memory and the kernel by readv(2) and writev(2), with the vnet header (virtio 1.2 §5.1.6.1)
when the interface has one. Descriptors are opened here by the name of the interface, or come from outside (``fd=``,
``fds=``); those are checked before anything else is done. One that came from outside is made non-blocking, and put back
at the end: a queue of a tap has one reader by its nature, so nobody else can depend on the flag meanwhile.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from vmmd.core.backend import NetOffload
from vmmd.errors import BackendError, UsageError
from vmmd.log import get_logger
from vmmd.net import tun
from vmmd.net.base import Netdev
from vmmd.net.fd_queue import FdQueue
from vmmd.net.script import ask_helper, end_making, run_script
from vmmd.net.vhost_net.setup import VhostSetup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.core.backend import NetOffload as Offloads
    from vmmd.core.notify import LoopPort
    from vmmd.core.vhost import VhostState
    from vmmd.net.base import Host
    from vmmd.net.options import BridgeOptions, TapOptions
    from vmmd.net.vhost_net.backend import VhostNet

log = get_logger("vmmd.net")

#: QEMU-COMPAT: the scripts that are run when none is named; "no" and "" are none
DEFAULT_SCRIPT = "/etc/qemu-ifup"
DEFAULT_DOWNSCRIPT = "/etc/qemu-ifdown"
DEFAULT_BRIDGE = "br0"
#: bytes of struct virtio_net_hdr, without and with the number of buffers
HEADER_BYTES = 10
HEADER_LENGTHS = frozenset({HEADER_BYTES, 12})
#: QEMU-COMPAT: no limit but what an int holds
_SEND_BUFFER_MAX = 0x7FFF_FFFF
#: what a frame that is thrown away is read into: more than any header
_SCRAP_BYTES = 64

_readv = os.readv
_writev = os.writev


class TapQueue(FdQueue):
    """One descriptor of a tap."""

    def __init__(self, loop: LoopPort, fd: int, lost: Callable[[], None]) -> None:
        """``lost()`` is called when the interface is gone."""
        super().__init__(loop, fd)
        self._lost = lost
        self._scrap = bytearray(_SCRAP_BYTES)
        #: a header that the interface wants and the NIC does not
        self._hidden: memoryview | None = None

    def hide_header(self, length_bytes: int) -> None:
        """The NIC knows no header: empty ones are put before frames, those that come are dropped."""
        self._hidden = memoryview(bytearray(length_bytes)) if length_bytes else None

    @property
    def direct_fd(self) -> int | None:
        return self.fd if self._hidden is None and not self.cut else None

    def read(self, buffers: Sequence[memoryview]) -> int:
        if self.cut:
            return 0
        try:
            if self._hidden is None:
                return _readv(self.fd, buffers)
            return max(_readv(self.fd, [bytearray(len(self._hidden)), *buffers]) - len(self._hidden), 0)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._failed(error)
            return 0

    def write(self, buffers: Sequence[memoryview]) -> bool:
        if self.cut:
            self.dropped += 1
            return True
        try:
            _writev(self.fd, buffers if self._hidden is None else [self._hidden, *buffers])
        except BlockingIOError:
            self.wait_for_room()
            return False
        except OSError as error:
            self._failed(error)
        return True

    def discard(self) -> bool:
        try:
            return bool(_readv(self.fd, [self._scrap]))
        except BlockingIOError:
            return False
        except OSError as error:
            self._failed(error)
            return False

    def _failed(self, error: OSError) -> None:
        """The interface is down (EIO), dislikes the frame, or has gone."""
        self.dropped += 1
        if error.errno in (errno.EBADFD, errno.ENODEV):
            self.stop()
            self._lost()


class TapNetdev(Netdev):
    """One interface."""

    kind = "tap"

    def __init__(self, options: TapOptions, host: Host) -> None:
        super().__init__(options, host)
        self.options = options
        check_together(options)
        self.queues: Sequence[TapQueue] = ()
        self.ifname = ""
        self._fds: list[int] = []
        self._given: list[int] = []  # of self._fds, by somebody else
        self._made_nonblocking: list[int] = []  # of self._given
        self._inheritable = False  # self._given was
        self._downscript = ""
        self._has_header = False
        self._vhost_setup = VhostSetup(options, host)
        self._vhost: VhostNet | None = None

    # --- start and end ----------------------------------------------------------------------------------------

    def check(self) -> None:
        options = self.options
        names = [options.fd] if options.fd is not None else [] if options.fds is None else options.fds.split(":")
        self._vhost_setup.check(len(names) or None)
        if not names:
            return
        if len(names) > tun.MAX_QUEUES:
            raise UsageError(f"fds= names {len(names)} descriptors", f"a tap has {tun.MAX_QUEUES} queues at most")
        fds = [self.host.descriptors.find(name, self.id) for name in names]
        found = _check_given(fds)
        self.ifname = found.name
        self._has_header = found.has_header
        self._given = fds

    @property
    def open_may_wait(self) -> bool:
        return not self._given  # for scripts

    @property
    def close_may_wait(self) -> bool:
        return True  # for scripts, and for the kernel, which takes its time to remove an interface

    def open(self) -> None:
        try:
            self._attach()
            self._prepare()
            setup = self._vhost_setup
            self.vhost = self._vhost = setup.open(self._fds, has_header=self._has_header, lost=self._lost)
        except BaseException:
            self._give_back_given()
            self.close()
            raise

    def abandon(self) -> None:
        end_making()

    def _attach(self) -> None:
        options = self.options
        if self._given:
            self._take_given()
        elif options.helper is not None:
            self._ask_helper(options.helper, DEFAULT_BRIDGE if options.br is None else options.br)
        else:
            self._open_interface()

    def _ask_helper(self, helper: str, bridge: str) -> None:
        fd = ask_helper(helper, bridge)
        self._fds.append(fd)
        os.set_blocking(fd, False)
        found = tun.query(fd)
        self.ifname, self._has_header = found.name, found.has_header

    def _take_given(self) -> None:
        self._fds = list(self._given)
        for fd in self._fds:
            self._inheritable = os.get_inheritable(fd)
            os.set_inheritable(fd, False)
            if os.get_blocking(fd):
                os.set_blocking(fd, False)
                self._made_nonblocking.append(fd)

    def _give_back_given(self) -> None:
        """``open`` has failed: descriptors from outside are their owner's, as they were."""
        if self._given and self._fds:
            self._put_back_flags()
            for fd in self._fds:
                os.set_inheritable(fd, self._inheritable)
            self._fds = []

    def _put_back_flags(self) -> None:
        while self._made_nonblocking:
            os.set_blocking(self._made_nonblocking.pop(), True)

    def _open_interface(self) -> None:
        options = self.options
        count = options.queues or 1
        flags = tun.IFF_MULTI_QUEUE if count > 1 else 0
        if options.vnet_hdr is not False:
            flags |= tun.IFF_VNET_HDR
        name = options.ifname or ""
        for _ in range(count):
            fd = _open_queue(name, flags)
            self._fds.append(fd)
            if not self.ifname:
                self.ifname = name = tun.interface(fd).name
        self._has_header = bool(flags & tun.IFF_VNET_HDR)
        script = DEFAULT_SCRIPT if options.script is None else options.script
        if script not in ("", "no"):
            run_script(script, self.ifname, making=True)
        self._downscript = DEFAULT_DOWNSCRIPT if options.downscript is None else options.downscript

    def _prepare(self) -> None:
        """Send buffer, header and offloads. Raises BackendError."""
        sndbuf = self.options.sndbuf
        first = self._fds[0]
        try:
            if not self._given or sndbuf is not None:
                limit = min(sndbuf or _SEND_BUFFER_MAX, _SEND_BUFFER_MAX)
                for fd in self._fds:
                    tun.set_send_buffer(fd, limit)
            if self._has_header:
                self.header_lengths = HEADER_LENGTHS
                tun.set_header_length(first, HEADER_BYTES)
                self.offloads = tun.known_offloads(first)
        except OSError as error:
            raise BackendError.from_os(f"could not configure {tun.DEVICE} ({self.ifname})", error) from error
        self.queues = [TapQueue(self.host.loop, fd, self._lost) for fd in self._fds]
        self.set_header(0)

    def stop(self) -> None:
        if self._vhost is not None:
            self._vhost.stop()
        for queue in self.queues:
            queue.stop()

    def close(self) -> None:
        self.stop()
        self.queues = ()
        self.vhost = self._vhost = None
        self._vhost_setup.close()
        self._put_back_flags()
        script, self._downscript = self._downscript, ""
        if script not in ("", "no"):
            try:
                run_script(script, self.ifname, making=False)
            except BackendError as error:
                log.warning("netdev %s: %s", self.id, error)
        for fd in self._fds:
            os.close(fd)
        self._fds, self._given = [], []

    # --- in use -----------------------------------------------------------------------------------------------

    def describe(self, index: int) -> str:
        options = self.options
        if self._given:
            return f"fd={self._fds[index]}"
        if options.helper is not None:
            return f"helper={options.helper}"
        script = DEFAULT_SCRIPT if options.script is None else options.script
        downscript = DEFAULT_DOWNSCRIPT if options.downscript is None else options.downscript
        return f"ifname={self.ifname},script={script},downscript={downscript}"

    def set_header(self, length_bytes: int) -> None:
        assert length_bytes == 0 or length_bytes in self.header_lengths
        if not self._has_header:
            return
        try:
            tun.set_header_length(self._fds[0], length_bytes or HEADER_BYTES)
        except OSError as error:
            self._gone(error)
        for queue in self.queues:
            queue.hide_header(0 if length_bytes else HEADER_BYTES)

    def set_offloads(self, accepted: Offloads) -> None:
        assert accepted & ~self.offloads == NetOffload(0)
        if not self._has_header:
            return
        try:
            tun.set_offloads(self._fds[0], accepted)
        except OSError as error:
            self._gone(error)

    @property
    def vhost_state(self) -> VhostState | None:
        return self._vhost_setup.state if self._vhost is None else self._vhost.state

    def set_cut(self, cut: bool) -> None:
        super().set_cut(cut)
        if self._vhost is not None:
            self._vhost.set_cut(cut)

    def enable_queues(self, count: int) -> None:
        if self._vhost is not None:
            self._vhost.enable_pairs(count)
        if len(self.queues) == 1:
            return
        for index, queue in enumerate(self.queues):
            if queue.enabled is not (index < count):  # the kernel takes its time for each
                self._enable(queue, index < count)

    def _enable(self, queue: TapQueue, enabled: bool) -> None:
        try:
            tun.enable_queue(queue.fd, enabled)
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is as it shall be
                self._gone(error)
        queue.set_enabled(enabled)

    def _gone(self, error: OSError) -> None:
        """An ioctl that has worked before fails: the interface is no more."""
        log.warning("netdev %s: interface %s: %s", self.id, self.ifname, os.strerror(error.errno or 0))
        self._lost()

    def _lost(self) -> None:
        self.host.loop.post(self.set_alive, False)


class BridgeNetdev(TapNetdev):
    """``-netdev bridge``: a tap that a helper has made a port of a bridge."""

    def __init__(self, options: BridgeOptions, host: Host) -> None:
        from vmmd.net.options import TapFromHelper

        super().__init__(TapFromHelper(options.id, options.helper, options.br, options.removable), host)

    def describe(self, index: int) -> str:
        return f"{super().describe(index)},br={self.options.br}"


def check_together(options: TapOptions) -> None:
    """Raises UsageError for keys that exclude each other, in QEMU's words."""
    keys = ("ifname", "script", "downscript", "vnet_hdr", "helper", "queues", "fds", "fd", "br", "vhostfd", "vhostfds")
    given = {key for key in keys if getattr(options, key) is not None}
    if "fd" in given and given & {"ifname", "script", "downscript", "vnet_hdr", "helper", "queues", "fds", "vhostfds"}:
        raise UsageError(
            "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= are invalid with fd=",
            "a descriptor is an interface that is set up",
        )
    if "fds" in given and given & {"ifname", "script", "downscript", "vnet_hdr", "helper", "queues", "vhostfd"}:
        raise UsageError(
            "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, and vhostfd= are invalid with fds=",
            "as many queues as descriptors",
        )
    if "helper" in given and given & {"ifname", "script", "downscript", "vnet_hdr", "queues"}:
        raise UsageError(
            "ifname=, script=, downscript=, vnet_hdr=, queues=, and vhostfds= are invalid with helper=",
            "the helper makes the interface",
        )
    if "br" in given and "helper" not in given:
        raise UsageError(f"br={options.br} is for the bridge helper", "add helper=, or use -netdev bridge")
    if (options.queues or 1) > tun.MAX_QUEUES:
        raise UsageError(f"queues={options.queues}: a tap has {tun.MAX_QUEUES} queues at most")
    if options.ifname is not None and len(os.fsencode(options.ifname)) >= tun.IFNAME_BYTES:
        raise UsageError(f"ifname={options.ifname} is too long", f"{tun.IFNAME_BYTES - 1} bytes at most")


def _check_given(fds: Sequence[int]) -> tun.Interface:
    """Each descriptor is a queue of the same tap. No side effect. Raises VmmdError."""
    found = [tun.query(fd) for fd in fds]
    first = found[0]
    for fd, each in zip(fds, found, strict=True):
        if fds.count(fd) > 1:
            raise UsageError(f"fds= names descriptor {fd} twice", "each queue has one of its own")
        if each.has_header is not first.has_header:
            # QEMU-COMPAT: the sentence
            raise UsageError("vnet_hdr not consistent across given tap fds", f"fd {fd} differs from fd {fds[0]}")
        if each.name != first.name:
            raise UsageError(
                f"fd {fds[0]} and fd {fd} are of different interfaces", f"{first.name} and {each.name}; one per netdev"
            )
        if len(fds) > 1 and not each.is_multi_queue:
            raise UsageError(f"fd {fd} is of an interface without IFF_MULTI_QUEUE", "open each with that flag")
    return first


def _open_queue(name: str, flags: int) -> int:
    """Raises BackendError."""
    try:
        return tun.create(name, flags)
    except OSError as error:
        shown = name or "tap%d"
        if error.filename is not None:
            raise BackendError.from_os(f"could not open {tun.DEVICE}", error) from error
        # QEMU-COMPAT: the sentence
        made = BackendError.from_os(f"could not configure {tun.DEVICE} ({shown})", error)
        made.hint = {
            errno.EBUSY: "another process has this interface open",
            errno.EPERM: "it takes CAP_NET_ADMIN, or an interface made for this user (ip tuntap add … user NAME)",
            errno.EINVAL: "the interface is no tap, or has other flags (multi_queue, vnet_hdr) than are asked for",
        }.get(error.errno or 0)
        raise made from error
