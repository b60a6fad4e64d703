# SPDX-License-Identifier: Apache-2.0
"""Doorbells when the host has nothing left: the device is told, and serves the register by exits."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.fakes import ImmediateLoop
from vmmd.errors import BackendError
from vmmd.machine.doorbells import KvmDoorbells


def no_descriptors(*_: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_doorbell_without_a_descriptor_left_is_a_backend_error(monkeypatch: pytest.MonkeyPatch) -> None:
    vm: Any = SimpleNamespace(ioeventfd=lambda *_, **__: None)
    doorbells = KvmDoorbells(vm, ImmediateLoop())  # type: ignore[arg-type]  # what it uses of a loop
    monkeypatch.setattr(os, "eventfd", no_descriptors)
    with pytest.raises(BackendError, match="Too many open files"):
        doorbells.attach("mmio", 0xFE00_0000, 2, None, lambda: None)
