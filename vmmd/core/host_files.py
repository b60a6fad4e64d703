# SPDX-License-Identifier: Apache-2.0
"""Opening what a client names: a path may lead to a FIFO whose other end never comes."""

from __future__ import annotations

import os
import stat

PATH_ACCEPTS = "a path without NUL"


def checked_path(path: str) -> str:
    """``path``, when it can be given to the kernel. Raises ValueError."""
    if b"\0" in os.fsencode(path):
        raise ValueError(PATH_ACCEPTS)
    return path


def open_ready(path: str, flags: int) -> int:
    """An ``opener`` for ``open()`` that waits for nobody: takes files and devices. Raises OSError. Any thread."""
    try:
        _check(os.stat(path).st_mode)
    except FileNotFoundError:
        pass  # the flags say what happens then
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    try:
        _check(os.fstat(fd).st_mode)
    except OSError:
        os.close(fd)
        raise
    return fd


def _check(mode: int) -> None:
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        raise OSError("it is a pipe or a socket, whose other end may never come: name a file")
