# SPDX-License-Identifier: Apache-2.0
"""``-chardev stdio``: standard input and output.

The descriptors are shared with whoever started us, so their flags are never changed (users.md wish 17): writes go
through a private non-blocking descriptor of the same file where the kernel gives one, else in pieces that do not block.
A terminal is put into a mode without echo and line editing, and restored when the device is closed or the process ends.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from vmmd.chardev.output_file import is_pollable
from vmmd.chardev.stream import StreamChardev
from vmmd.core.backend import CharEvent
from vmmd.errors import BackendError, UsageError

if TYPE_CHECKING:
    import threading

    from vmmd.chardev.logfile import LogFile
    from vmmd.chardev.options import CharOptions, StdioOptions
    from vmmd.core.notify import LoopPort

_in_use: list[str] = []


class StdioChardev(StreamChardev):
    config: StdioOptions

    def __init__(self, config: CharOptions, loop: LoopPort, lock: threading.Lock, log: LogFile | None = None) -> None:
        super().__init__(config, loop, lock, log)
        self._terminal: list[Any] | None = None
        self._output = -1
        self._private = False  # _output is an open file of our own, non-blocking

    def _open(self) -> None:
        if _in_use:
            raise UsageError("cannot use stdio by multiple character devices", f"'{_in_use[0]}' has it")
        try:
            mode = os.fstat(1).st_mode
            os.fstat(0)
            self._output, self._private = _private_output(1, mode)
        except OSError as error:
            raise BackendError.from_os("stdin or stdout cannot be used", error) from error
        _in_use.append(self.label)
        self._read_fd, self._write_fd = 0, self._output
        self._may_block = True
        self._pollable, self._output_pollable = is_pollable(0), is_pollable(self._output)
        self._set_terminal()

    def _set_terminal(self) -> None:
        """No echo, no line editing; Ctrl-C and its like are the guest's with signal=off."""
        if not os.isatty(0):
            return
        import atexit
        import termios

        self._terminal = termios.tcgetattr(0)
        self._make_raw()
        atexit.register(self._restore_terminal)

    def continued(self) -> None:
        """The process was stopped and goes on: the terminal gets our mode again. Loop thread."""
        if self._terminal is not None and not _in_background():  # there it is the shell's
            self._make_raw()

    def _make_raw(self) -> None:
        import termios

        raw = termios.tcgetattr(0)
        raw[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP)
        raw[0] &= ~(termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
        raw[1] |= termios.OPOST
        raw[2] = (raw[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
        if not self.config.signal:
            raw[3] &= ~termios.ISIG
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(0, termios.TCSANOW, raw)

    def _restore_terminal(self) -> None:
        saved, self._terminal = self._terminal, None
        if saved is not None:
            import termios

            try:
                termios.tcsetattr(0, termios.TCSANOW, saved)
            except (OSError, termios.error):
                pass  # the terminal is gone

    def _emit(self, chunk: bytearray) -> int:
        if self._private or self._write_fd < 0:
            return super()._emit(chunk)
        return self._emit_politely(chunk)

    def _hung_up(self) -> None:
        """End of input: the output goes on."""
        output = self._write_fd
        self._drop_peer()
        self._write_fd = output
        self._tell(CharEvent.CLOSED)
        if self._out:
            self._writable()

    def _write_failed(self, error: OSError) -> None:
        if error.errno != errno.ENOSPC:  # a full disk passes
            self._unwatch_output()
            self._write_fd = -1

    def _close(self) -> None:
        self._restore_terminal()
        self._drop_peer()
        if self._output >= 0:
            os.close(self._output)
            self._output = -1
            _in_use.clear()


def _in_background() -> bool:
    """True when another job of the shell has the terminal."""
    try:
        return os.tcgetpgrp(0) != os.getpgrp()
    except OSError:  # not our controlling terminal: no job control
        return False


def _private_output(fd: int, mode: int) -> tuple[int, bool]:
    """A descriptor to write to, and whether it is non-blocking without touching the one handed in."""
    if stat.S_ISREG(mode):
        return os.dup(fd), True
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags), True
        except OSError:
            pass  # not ours to open again: write politely
    return os.dup(fd), False
