# SPDX-License-Identifier: Apache-2.0
"""Marks that say which thread runs a function. Documentation without cost, unless ``VMMD_DEBUG=affinity``.

``on_vcpu``: a vCPU thread. ``on_loop``: the event-loop thread. ``locked``: the caller holds the DeviceLock.
``any_thread``: whoever. With VMMD_DEBUG=affinity, ``on_loop`` and ``on_vcpu`` check the thread that calls.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from vmmd.core.lock import DEBUG

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")

#: vCPU by its thread
_vcpu_threads: dict[int, int] = {}
_loop_thread: list[int] = []


def register_vcpu_thread(index: int) -> None:
    """Called by a vCPU's thread when it starts."""
    _vcpu_threads[threading.get_ident()] = index


def current_vcpu() -> int:
    """The vCPU whose thread this is; -1 on other threads."""
    return _vcpu_threads.get(threading.get_ident(), -1)


def register_loop_thread() -> None:
    """Called by the thread that is about to run the event loop."""
    _loop_thread[:] = [threading.get_ident()]


def _checked(function: F, allowed: Callable[[], bool], where: str) -> F:
    import functools

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        if not allowed():
            raise RuntimeError(f"{function.__qualname__} must run on {where}, not on {threading.current_thread().name}")
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]  # same signature by construction


def on_vcpu(function: F) -> F:
    if DEBUG:
        return _checked(function, lambda: threading.get_ident() in _vcpu_threads, "a vCPU thread")
    return function


def on_loop(function: F) -> F:
    if DEBUG:
        return _checked(function, lambda: not _loop_thread or threading.get_ident() in _loop_thread, "the event loop")
    return function


def locked(function: F) -> F:
    return function


def any_thread(function: F) -> F:
    return function
