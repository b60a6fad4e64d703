# SPDX-License-Identifier: Apache-2.0
"""Character devices: ``create`` makes one from the options of ``-chardev``.

    backend = create(options, loop, lock, fdsets)  # no side effect
    backend.open()                                 # binds, opens; BackendError
    backend.close()

``ListenSocket`` (``listen_socket``) is for the monitor, which serves several clients on one socket chardev.
Every backend has ``label``, ``filename`` and ``frontend_open`` for query-chardev, and ``dropped_bytes``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vmmd.errors import UsageError

if TYPE_CHECKING:
    import threading

    from vmmd.chardev.base import Chardev
    from vmmd.chardev.listen import ListenSocket
    from vmmd.chardev.options import CharOptions, SocketOptions
    from vmmd.core.fdsets import FdSets
    from vmmd.core.notify import LoopPort

__all__ = ["create", "listen_socket"]


def create(config: CharOptions, loop: LoopPort, lock: threading.Lock, fdsets: FdSets | None = None) -> Chardev:
    """The backend of one ``-chardev``; ``lock`` is the DeviceLock. Nothing is opened yet."""
    log = None
    if config.logfile is not None:
        from vmmd.chardev.logfile import LogFile

        log = LogFile(config.logfile, config.logappend, fdsets, limit_bytes=config.logmax, keep=config.logkeep)
    if config.backend == "socket":
        from vmmd.chardev.socket import SocketChardev

        return SocketChardev(cast("SocketOptions", config), loop, lock, log)
    if config.backend == "file":
        from vmmd.chardev.file import FileChardev

        made = FileChardev(config, loop, lock, log)
        made.fdsets = fdsets
        return made
    if config.backend == "pty":
        from vmmd.chardev.pty import PtyChardev

        return PtyChardev(config, loop, lock, log)
    if config.backend == "stdio":
        from vmmd.chardev.stdio import StdioChardev

        return StdioChardev(config, loop, lock, log)
    if config.backend == "ringbuf":
        from vmmd.chardev.ringbuf import RingbufChardev

        return RingbufChardev(config, loop, lock, log)
    from vmmd.chardev.null import NullChardev

    return NullChardev(config, loop, lock, log)


def listen_socket(config: SocketOptions) -> ListenSocket:
    """The socket of a QMP monitor's ``-chardev socket``, not opened yet. Raises UsageError for what a monitor lacks."""
    from vmmd.chardev.listen import ListenSocket

    # LIMIT: which of the clients' output would it be, and whose input?
    given = [
        ("logfile", config.logfile is not None),
        ("replay", config.replay > 0),
        ("stale-input", config.stale_input != "keep"),
    ]
    for key, is_given in given:
        if is_given:
            raise UsageError(
                f"-chardev socket,id={config.id}: {key}= of a QMP server is not available in this version",
                "it serves several clients; -trace or a client's own log show what is said",
            )
    return ListenSocket(config)
