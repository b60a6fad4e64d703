# SPDX-License-Identifier: Apache-2.0
"""The readline monitor: prompt, editing and commands on a character device (``-monitor``, ``-mon mode=readline``).

It is the frontend of the device, as a serial port is of another: one peer at a time, flow control by ``can_receive``,
and what a peer does not read is held up to one command's text, then no more input is taken. Loop thread only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.backend import CharEvent
from vmmd.log import get_logger
from vmmd.qmp.hmp import registry
from vmmd.qmp.hmp.line_editor import LineEditor
from vmmd.qmp.secrets import hide_in_line
from vmmd.qmp.session import PACKAGE, version_info

if TYPE_CHECKING:
    import threading

    from vmmd.core.backend import CharBackend, CharFrontend
    from vmmd.core.notify import LoopPort
    from vmmd.qmp.hmp.monitor import HumanMonitor
    from vmmd.qmp.vm_api import VmApi

log = get_logger("vmmd.hmp")

PROMPT = "(qemu) "
#: input taken at once
INPUT_BYTES = 4096


def banner() -> str:
    """The first line that a peer sees; clients look for «QEMU» or for the prompt."""
    qemu = version_info()["qemu"]
    version = f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}"
    return f"QEMU {version} monitor ({PACKAGE}) - type 'help' for more information\r\n"


class ReadlineMonitor:
    """A monitor for people on ``chardev``; implements ``core.backend.CharFrontend``."""

    def __init__(self, vm: VmApi, loop: LoopPort, chardev: CharBackend) -> None:
        self._vm = vm
        self._loop = loop
        self._chardev = chardev
        self._editor = LineEditor(PROMPT, self._completions)
        self._monitor: HumanMonitor | None = None  # made when the first peer is there
        self._input: list[bytes] = []
        self._unsent = b""
        self._busy = True  # a command runs, or its modules are being imported
        self._pump_posted = False
        self._deaf = False  # the peer left without having read: what it had still sent is not run
        self._peer = 0  # counts peers: the text of a command goes to the one that gave it

    def attach(self, lock: threading.Lock) -> None:
        """Become the frontend of the chardev. Raises UsageError when it has one."""
        frontend: CharFrontend = self
        with lock:
            self._chardev.attach(frontend)
        self._chardev.set_open(True)

    # -- the frontend's side, called on the loop with the DeviceLock held --------------------------------------------

    def can_receive(self) -> int:
        if self._deaf:
            return INPUT_BYTES
        if self._busy or self._unsent or self._input:
            return 0
        return max(0, INPUT_BYTES - self._editor.pending)

    def receive(self, data: bytes) -> None:
        if not self._deaf:
            self._input.append(data)
            self._post_pump()

    def handle_event(self, event: CharEvent) -> None:
        if event is CharEvent.OPENED:
            self._peer += 1
            self._deaf = False
            self._loop.post(self._greet)
        elif event is CharEvent.CLOSED:
            self._peer += 1
            self._left()

    def write_ready(self) -> None:
        self._post_pump()

    def _left(self) -> None:
        """The peer is gone. One that hung up after its last command still has all of them run."""
        self._deaf = bool(self._unsent)
        self._unsent = b""
        if self._deaf:
            self._input.clear()
            self._editor.reset()
            self._chardev.accept_input()
        self._post_pump()

    def _post_pump(self) -> None:
        if not self._pump_posted:
            self._pump_posted = True
            self._loop.post(self._pump)

    # -- a peer ------------------------------------------------------------------------------------------------------

    def _greet(self) -> None:
        self._editor.reset()
        self._editor.show_prompt()
        self._send(banner() + self._editor.take_output())
        if self._monitor is None:
            self._loop.spawn(self._start(), "monitor start")
        else:
            self._post_pump()

    async def _start(self) -> None:
        """Import the commands while the peer reads the banner."""
        if self._monitor is None:
            await registry.ready(self._loop)
        if self._monitor is None:  # another peer may have come meanwhile
            from vmmd.qmp.hmp.monitor import HumanMonitor

            self._monitor = HumanMonitor(self._vm)
            self._monitor.history = self._editor.history
            self._busy = False
            self._post_pump()

    def _pump(self) -> None:
        """Act on what was typed, up to one command; then take more input."""
        self._pump_posted = False
        self._send("")
        if self._busy or self._unsent:
            return
        for data in self._input:
            self._editor.feed(data)
        self._input.clear()
        line = self._editor.step()
        if line is not None:
            self._busy = True
        self._send(self._editor.take_output())
        if line is not None:
            self._loop.spawn(self._execute(line), "monitor command")
        elif self._editor.more:
            self._post_pump()
        elif not self._unsent:
            self._chardev.accept_input()

    async def _execute(self, line: str) -> None:
        assert self._monitor is not None  # made before the first line is taken
        peer = self._peer
        try:
            text = await self._monitor.run(line)
        except Exception as error:
            log.error("command %r failed", hide_in_line(line)[:80], exc_info=error)
            text = f"Error: internal error: {type(error).__name__}\r\n"
        self._busy = False
        if peer == self._peer:
            if not self._monitor.ended:
                self._editor.show_prompt()
            self._send(text + self._editor.take_output())
        self._post_pump()

    def _send(self, text: str) -> None:
        """Write, after what the peer has not taken yet."""
        self._unsent += text.encode()
        if self._unsent:
            self._unsent = self._unsent[self._chardev.write(self._unsent) :]

    def _completions(self, before: str) -> list[str]:
        words = [] if self._monitor is None else self._monitor.completions(before)
        return [word for word in words if word.isprintable()]
