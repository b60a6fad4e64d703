# SPDX-License-Identifier: Apache-2.0
"""rng-random and rng-builtin: where random bytes come from, and the sources that devices get of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.core.tree import Property
from vmmd.errors import BackendError
from vmmd.log import get_logger
from vmmd.machine.objects.base import HostObject
from vmmd.options.objects import RngBuiltin, RngRandom
from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmmd.core.notify import Cancellable, LoopPort

log = get_logger("vmmd.rng")

#: a file that gives nothing is asked again after this
RETRY_NS = NS_PER_S


class KernelEntropy:
    """Random bytes of getrandom(2), which come at once. ``core.backend.EntropySource``."""

    def read(self, count: int, done: Callable[[bytes], None]) -> None:
        done(os.getrandom(count))

    def cancel(self) -> None:
        """Nothing ever waits."""

    def close(self) -> None:
        """Nothing is open."""


class FileEntropy:
    """Random bytes of a file, for one device: waits on the loop until there are some. ``core.backend.EntropySource``.

    The descriptor is a copy of the object's, so that several devices may wait for the same file.
    """

    def __init__(self, loop: LoopPort, fd: int, name: str) -> None:
        self._loop = loop
        self._fd = os.dup(fd)
        self._name = name
        self._wanted = 0
        self._done: Callable[[bytes], None] | None = None
        self._waiting = False
        self._retry: Cancellable | None = None
        self._warned = False

    def read(self, count: int, done: Callable[[bytes], None]) -> None:
        self._wanted, self._done = count, done
        self._try()

    def _try(self) -> None:
        self._retry = None
        try:
            data = os.read(self._fd, self._wanted)
        except BlockingIOError:
            if not self._waiting:
                self._waiting = True
                self._loop.add_reader(self._fd, self._try)
            return
        except OSError as error:
            data = b""
            self._warn(error.strerror or str(error))
        if data:
            done, self._done = self._done, None
            self._stop_waiting()
            if done is not None:
                done(data)
            return
        self._warn("it is at its end")
        self._stop_waiting()
        self._retry = self._loop.call_later(RETRY_NS, self._try)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s gives no random bytes: %s", self._name, reason)

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.remove_reader(self._fd)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def cancel(self) -> None:
        self._done = None
        self._stop_waiting()

    def close(self) -> None:
        """Idempotent. Loop thread, or no loop runs."""
        if self._fd >= 0:
            self.cancel()
            os.close(self._fd)
            self._fd = -1


class RngBuiltinObject(HostObject[RngBuiltin]):
    """The kernel's random bytes: getrandom(2) needs nothing to be opened."""

    def source(self, loop: LoopPort) -> KernelEntropy:
        """For one device."""
        return KernelEntropy()

    def extra_properties(self) -> Iterable[Property]:
        yield Property("opened", "bool", lambda: True)


class RngRandomObject(HostObject[RngRandom]):
    """Random bytes from a file, which stays open."""

    def __init__(self, options: RngRandom) -> None:
        super().__init__(options)
        self._fd: int | None = None

    def open(self) -> None:
        path = self.options.filename
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            # QEMU-COMPAT: the sentence
            raise BackendError.from_os(f"Could not open '{path}'", error) from error

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def source(self, loop: LoopPort) -> FileEntropy:
        """For one device."""
        assert self._fd is not None  # an object that can be found is open
        return FileEntropy(loop, self._fd, f"rng-random {self.id}")

    def extra_properties(self) -> Iterable[Property]:
        yield Property("opened", "bool", lambda: self._fd is not None)
