# SPDX-License-Identifier: Apache-2.0
"""rng-random and rng-builtin: where random bytes come from. LIMIT: no device asks for them yet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.core.tree import Property
from vmmd.errors import BackendError
from vmmd.machine.objects.base import HostObject
from vmmd.options.objects import RngBuiltin, RngRandom

if TYPE_CHECKING:
    from collections.abc import Iterable


class RngBuiltinObject(HostObject[RngBuiltin]):
    """The kernel's random bytes: getrandom(2) needs nothing to be opened."""

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

    def extra_properties(self) -> Iterable[Property]:
        yield Property("opened", "bool", lambda: self._fd is not None)
