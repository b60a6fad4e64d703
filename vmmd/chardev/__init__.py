# SPDX-License-Identifier: Apache-2.0
"""Character devices: ``create`` makes one from the options of ``-chardev``.

    config = check(options)                       # UsageError, no side effect
    backend = create(config, loop, lock, fdsets)  # no side effect either
    backend.open()                                # binds, opens; BackendError
    backend.close()

``ListenSocket`` (``listen_socket``) is for the monitor, which serves several clients on one socket chardev.
Every backend has ``label``, ``filename`` and ``frontend_open`` for query-chardev, and ``dropped_bytes``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.chardev.config import ChardevConfig, check

if TYPE_CHECKING:
    import threading

    from vmmd.chardev.base import Chardev
    from vmmd.chardev.listen import ListenSocket
    from vmmd.core.fdsets import FdSets
    from vmmd.core.notify import LoopPort

__all__ = ["ChardevConfig", "check", "create", "listen_socket"]


def create(options: object, loop: LoopPort, lock: threading.Lock, fdsets: FdSets | None = None) -> Chardev:
    """The backend of one ``-chardev``; ``lock`` is the DeviceLock. Raises UsageError; nothing is opened yet."""
    config = options if isinstance(options, ChardevConfig) else check(options)
    log = None
    if config.logfile is not None:
        from vmmd.chardev.logfile import LogFile

        log = LogFile(config.logfile, config.logappend, fdsets)
    if config.kind == "socket":
        from vmmd.chardev.socket import SocketChardev

        return SocketChardev(config, loop, lock, log)
    if config.kind == "file":
        from vmmd.chardev.file import FileChardev

        made = FileChardev(config, loop, lock, log)
        made.fdsets = fdsets
        return made
    if config.kind == "pty":
        from vmmd.chardev.pty import PtyChardev

        return PtyChardev(config, loop, lock, log)
    if config.kind == "stdio":
        from vmmd.chardev.stdio import StdioChardev

        return StdioChardev(config, loop, lock, log)
    if config.kind == "ringbuf":
        from vmmd.chardev.ringbuf import RingbufChardev

        return RingbufChardev(config, loop, lock, log)
    from vmmd.chardev.null import NullChardev

    return NullChardev(config, loop, lock, log)


def listen_socket(options: object) -> ListenSocket:
    """The socket of a monitor's ``-chardev socket``. Raises UsageError; nothing is opened yet."""
    from vmmd.chardev.listen import ListenSocket

    return ListenSocket(options if isinstance(options, ChardevConfig) else check(options))
