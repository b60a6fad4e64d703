# SPDX-License-Identifier: Apache-2.0
"""The prompt: lines are read with completion and history, run, and their answers printed; events come above it.

One task per prompt; the connection, the schema, live ids and the tool bar are kept by background tasks, so that the
prompt never waits for the peer. Ctrl-C stops the wait for an answer, Ctrl-D and ``exit`` leave.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from prompt_toolkit import PromptSession
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout

from vmmd.safe_text import safe
from vmmd.shell import completion
from vmmd.shell.completer import LineCompleter
from vmmd.shell.errors import CommandFailed, ShellError
from vmmd.shell.executor import EVENTS_KEPT, Answer, EventLog, Executor
from vmmd.shell.history import history_file, open_history
from vmmd.shell.line import LineError, places_in
from vmmd.shell.link import CONNECT_TIMEOUT_S, Link, Session
from vmmd.shell.live import Live
from vmmd.shell.render import error_text, event_text, one_line, styled, with_caret
from vmmd.shell.schema import Schema
from vmmd.shell.words import ends_machine, hmp_ends_machine, repeated

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from vmmd.shell.link import Address
    from vmmd.shell.view import View

T = TypeVar("T")

PROMPT = "vmmd> "
HMP_PROMPT = "hmp> "
STATUS_TIMEOUT_S = 2.0
STATUS_PAUSE_S = 0.1
#: a wait for an answer is told after this
SLOW_S = 3.0
#: and after this when an earlier command, not waited for, is not answered
BUSY_S = 0.5
NAME_CELLS = 24
PATH_CELLS = 40
_NO_SCHEMA = Schema(())


class Repl:
    """The interactive shell on one peer."""

    def __init__(self, to: Address, history: History, colour: bool) -> None:
        self._name = to if isinstance(to, str) else f"{to[0]}:{to[1]}"
        self._colour = colour
        self._out = sys.stdout
        self._log = EventLog()
        self._link = Link(to, self)
        self._executor = Executor(
            self._link.current, self._log, lambda: self.live, lambda: shutil.get_terminal_size().columns
        )
        self.live: Live | None = None
        #: texts that wait for the end of a full screen, when there is one
        self._held: deque[str] | None = None
        self._status = ""
        self._guest = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._stale = asyncio.Event()
        self._prompt = self._make_prompt(LineCompleter(self), history)
        self._hmp_prompt = self._make_prompt(LineCompleter(self, in_hmp=True), InMemoryHistory())
        self._ask_prompt: PromptSession[str] = PromptSession()

    @property
    def schema(self) -> Schema:
        """What the peer has, as far as is known."""
        session = self._link.session
        return session.schema if session is not None and session.schema is not None else _NO_SCHEMA

    def _make_prompt(self, completer: LineCompleter, history: History) -> PromptSession[str]:
        return PromptSession(
            completer=completer,
            history=history,
            complete_while_typing=True,
            key_bindings=completer.keys(),
            bottom_toolbar=self._toolbar,
        )

    # -- what the connection tells -------------------------------------------------------------------------------------

    def on_event(self, event: dict[str, Any]) -> None:
        """Print an event above the prompt."""
        self._log.add(event)
        self._stale.set()
        if self.live is not None:
            self.live.expire()
        self._news(event_text(event, self._colour))

    def on_news(self, text: str) -> None:
        """Print what has become of the connection."""
        self._news(styled(f"-- {safe(text)}", "dim", self._colour))

    def _news(self, text: str) -> None:
        """Print above the prompt, or once the full screen is left."""
        if self._held is None:
            print(text)
        else:
            self._held.append(text)

    def on_state(self) -> None:
        """Draw the tool bar again."""
        for prompt in (self._prompt, self._hmp_prompt):
            if prompt.app.is_running:
                prompt.app.invalidate()

    def on_session(self, session: Session) -> None:
        """Use a new connection."""
        if self.live is not None:
            self.live.close()
        self.live = Live(session)
        self._status = self._guest = ""
        self._start(self._load(session))

    async def _load(self, session: Session) -> None:
        with suppress(ShellError, asyncio.CancelledError):
            await session.load_schema()
        self._stale.set()

    async def _keep_status(self) -> None:
        """Refresh run state and name after events and commands, but not without pause: a peer may send many events."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            self._status = await self._text_of("query-status", "status")
            self._guest = self._guest or await self._text_of("query-name", "name")
            self.on_state()
            await asyncio.sleep(STATUS_PAUSE_S)

    async def _text_of(self, command: str, member: str) -> str:
        try:
            answer = await self._link.current().execute(command, timeout_s=STATUS_TIMEOUT_S)
        except ShellError:
            return ""
        return str(answer.get(member, "")) if isinstance(answer, dict) else ""

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _toolbar(self) -> str:
        session = self._link.session
        parts = [one_line(self._name, PATH_CELLS)]
        if session is None:
            return f" {parts[0]} | {one_line(self._link.state)}"
        parts.append("connected" if self.schema.commands else "connected, reading the schema")
        if self._status:
            parts.append(one_line(self._status))
        if self._guest:
            parts.append(one_line(self._guest, NAME_CELLS))
        parts.append(f"QMP {one_line(session.version, PATH_CELLS)}")
        return " " + " | ".join(parts)

    # -- lines ---------------------------------------------------------------------------------------------------------

    async def run(self, timeout_s: float, line: str = "") -> None:
        """Until the user leaves, or the line is done; raises ConnectionFailed without a first connection."""
        await self._link.open(timeout_s)
        self._start(self._link.keep())
        self._start(self._keep_status())
        try:
            with patch_stdout(raw=True):
                await (self._line(line) if line else self._loop())
        finally:
            for task in list(self._tasks):
                task.cancel()
            if self.live is not None:
                self.live.close()
            await self._link.close()

    def _say(self, text: str) -> None:
        """Print while there is no prompt: at once, not by way of the thread that keeps texts above a prompt."""
        self._out.write(f"{text}\n")
        self._out.flush()

    async def _loop(self) -> None:
        self._say(
            f"{safe(self._name)}: QMP {safe(self._link.current().version)}; help tells what can be typed, exit leaves"
        )
        while True:
            try:
                line = await self._prompt.prompt_async(PROMPT)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if line.strip() == "exit":
                return
            if line.strip():
                await self._line(line)

    async def _line(self, line: str) -> None:
        """Run a line and print what it gives; nothing that it does ends the shell."""
        word = line.split()[0]
        try:
            if word in ("top", "watch"):
                await self._repeat(line, word)
            elif word == "hmp":
                await self._hmp(line.strip().removeprefix("hmp").strip())
            elif word in completion.WORDS:
                await self._answer(self._executor.run(line))
            else:
                await self._command(line)
        except LineError as error:
            self._say(with_caret(line, error, self._colour))
        except CommandFailed as error:
            self._say(error_text(error.error, self._colour))
        except ShellError as error:
            self._say(styled(f"error: {safe(str(error))}", "red", self._colour))
        self._stale.set()
        if self.live is not None:
            self.live.expire()

    async def _command(self, line: str) -> None:
        request = await self._cancellable(self._executor.request(line))
        if request is not None and (not ends_machine(request) or await self._sure()):
            await self._answer(self._executor.send(request))

    async def _answer(self, work: Coroutine[Any, Any, Answer]) -> None:
        """Print an answer when it comes."""
        answer = await self._cancellable(work)
        if answer is not None and (text := answer.text(self._colour)):
            self._say(text)

    async def _cancellable(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Wait for work; Ctrl-C stops the wait (then None), and a slow answer is told."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        slow = loop.call_later(BUSY_S if self._busy_with() else SLOW_S, self._tell_slow)
        try:
            return await task
        except asyncio.CancelledError:
            self._say("-- not waited for")
            return None
        finally:
            slow.cancel()

    def _busy_with(self) -> str:
        return self._link.session.busy_with if self._link.session is not None else ""

    def _tell_slow(self) -> None:
        busy = self._busy_with()
        cause = f": the peer is still busy with {safe(busy)}" if busy else ""
        self._say(f"-- no answer yet{cause}; Ctrl-C stops waiting, the command goes on")

    async def _sure(self) -> bool:
        """Ask before the machine is ended."""
        question = "quit ends the virtual machine (exit leaves only the shell). End it? [y/N] "
        try:
            return (await self._ask_prompt.prompt_async(question)).strip().lower() in ("y", "yes")
        except (KeyboardInterrupt, EOFError):
            return False

    async def _hmp(self, line: str) -> None:
        """One line for the monitor for people, or a prompt for many."""
        if line:
            await self._hmp_line(line)
            return
        self._say("the monitor for people; Ctrl-D goes back")
        while True:
            try:
                line = (await self._hmp_prompt.prompt_async(HMP_PROMPT)).strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if line == "exit":
                return
            if line:
                try:
                    await self._hmp_line(line)
                except ShellError as error:
                    self._say(styled(f"error: {safe(str(error))}", "red", self._colour))

    async def _hmp_line(self, line: str) -> None:
        if hmp_ends_machine(line) and not await self._sure():
            return

        await self._answer(self._executor.run(f"hmp {line}"))

    async def _repeat(self, line: str, word: str) -> None:
        """``watch`` and ``top``."""
        from vmmd.shell.view import View

        what = repeated(line)
        if word == "top":
            from vmmd.shell.screens import TopScreen

            top = TopScreen(self._link.current, self._log, self._colour)
            if what.once:
                text = await self._cancellable(top.once(what.interval_s, shutil.get_terminal_size().columns))
                self._say(text or "")
                return
            await self._full_screen(View("top", top.text, what.interval_s))
            return
        with places_in(line, what.line):
            if await self._ends_machine(what.line):
                raise ShellError("quit cannot be watched")
        await self._full_screen(View(one_line(what.line), lambda _width: self._watched(what.line), what.interval_s))

    async def _ends_machine(self, line: str) -> bool:
        """Whether a line that is to be watched ends the machine; raises LineError when it is wrong."""
        word = line.split()[0]
        if word == "hmp":
            return hmp_ends_machine(line.removeprefix("hmp"))
        return word not in completion.WORDS and ends_machine(await self._executor.request(line))

    async def _full_screen(self, view: View) -> None:
        self._held = deque(maxlen=EVENTS_KEPT)
        try:
            await view.show()
        finally:
            held, self._held = self._held, None
            for text in held:
                self._say(text)

    async def _watched(self, line: str) -> str:
        try:
            return (await self._executor.run(line, STATUS_TIMEOUT_S)).text(self._colour)
        except (LineError, ShellError) as error:
            return safe(str(error))


async def interact(to: Address, keep_history: bool, timeout_s: float, line: str = "") -> None:
    """The interactive shell on the terminal; with a line, only this line (top, watch)."""
    history = open_history(history_file()) if keep_history else InMemoryHistory()
    await Repl(to, history, "NO_COLOR" not in os.environ and sys.stdout.isatty()).run(
        min(timeout_s, CONNECT_TIMEOUT_S), line
    )
