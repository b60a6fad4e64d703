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
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, get_common_complete_suffix
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.patch_stdout import patch_stdout

from vmmd.shell import completion
from vmmd.shell.errors import CommandFailed, ShellError
from vmmd.shell.executor import Answer, EventLog, Executor
from vmmd.shell.line import LineError
from vmmd.shell.link import CONNECT_TIMEOUT_S, Link, Session
from vmmd.shell.live import Item, Key, Live
from vmmd.shell.render import error_text, event_text, one_line, safe, styled, with_caret
from vmmd.shell.schema import Schema
from vmmd.shell.words import ends_machine, hmp_ends_machine, repeated

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterable

    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyPressEvent

    from vmmd.shell.link import Address
    from vmmd.shell.request import Request

T = TypeVar("T")

PROMPT = "vmmd> "
HMP_PROMPT = "hmp> "
STATUS_TIMEOUT_S = 2.0
#: a wait for an answer is told after this
SLOW_S = 3.0
NAME_CELLS = 24
PATH_CELLS = 40


def history_file() -> Path:
    """Where lines are kept: below XDG_STATE_HOME or ~/.local/state; readable by the user only."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "vmmd" / "shell-history"


def open_history(path: Path) -> History:
    """The history in this file, made with mode 0600; in memory when it cannot be written."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


class LineCompleter(Completer):
    """prompt_toolkit's view of ``completion``: what is known comes at once, what must be asked comes later.

    Tab is bound here: prompt_toolkit's own ignores it while the completion begun by typing still runs.
    """

    def __init__(self, repl: Repl, in_hmp: bool = False) -> None:
        self._repl = repl
        self._in_hmp = in_hmp

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What is known now."""
        return self._known(document, [])

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """What is known now, then what the peer answers."""
        asked: list[Key] = []
        first = self._known(document, asked)
        for each in first:
            yield each
        live = self._repl.live
        if asked and live is not None:
            await live.settle(asked)
            shown = {(each.text, each.start_position) for each in first}
            for each in self._known(document, []):
                if (each.text, each.start_position) not in shown:
                    yield each

    def keys(self) -> KeyBindings:
        """Tab: the next candidate of the menu, or as much as all candidates have in common."""
        keys = KeyBindings()

        @keys.add("tab")
        def _tab(event: KeyPressEvent) -> None:
            menu = event.current_buffer.complete_state
            if menu is not None and menu.completions:
                event.current_buffer.complete_next()
            else:
                event.app.create_background_task(self._complete(event.current_buffer))

        return keys

    async def _complete(self, buffer: Buffer) -> None:
        document = buffer.document
        found = [each async for each in self.get_completions_async(document, CompleteEvent(completion_requested=True))]
        if buffer.document != document:
            return  # something was typed meanwhile
        common = get_common_complete_suffix(document, found)
        if len(found) == 1:
            buffer.apply_completion(found[0])
        elif common:
            buffer.insert_text(common)
        else:
            buffer.start_completion()

    def _known(self, document: Document, asked: list[Key]) -> list[Completion]:
        live = self._repl.live

        def lookup(key: Key) -> tuple[Item, ...] | None:
            items = live.get(key) if live is not None else ()
            if items is None:
                asked.append(key)
            return items

        before = document.text_before_cursor
        if self._in_hmp:
            found = completion.hmp(before, lookup)
        else:
            found = completion.complete(before, document.text_after_cursor, self._repl.schema, lookup)
        return [Completion(each.text, each.start - len(before), display_meta=one_line(each.note, 60)) for each in found]


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
        self.schema = Schema(())
        self._status = ""
        self._guest = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._stale = asyncio.Event()
        self._prompt = self._make_prompt(LineCompleter(self), history)
        self._hmp_prompt = self._make_prompt(LineCompleter(self, in_hmp=True), InMemoryHistory())
        self._ask_prompt: PromptSession[str] = PromptSession()

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
        print(event_text(event, self._colour))

    def on_news(self, text: str) -> None:
        """Print what has become of the connection."""
        print(styled(f"-- {safe(text)}", "dim", self._colour))

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
        self.schema = Schema(())
        self._start(self._load(session))

    async def _load(self, session: Session) -> None:
        with suppress(ShellError, asyncio.CancelledError):
            self.schema = await session.load_schema()
        self._stale.set()

    async def _keep_status(self) -> None:
        """Refresh run state and name after events and commands."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            self._status = await self._text_of("query-status", "status")
            self._guest = self._guest or await self._text_of("query-name", "name")
            self.on_state()

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
        slow = loop.call_later(SLOW_S, self._say, "-- no answer yet; Ctrl-C stops waiting, the command goes on")
        try:
            return await task
        except asyncio.CancelledError:
            self._say("-- not waited for")
            return None
        finally:
            slow.cancel()

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
            await View("top", top.text, what.interval_s).show()
            return
        if not what.line.startswith("hmp "):
            request: Request = await self._executor.request(what.line)
            if ends_machine(request):
                raise ShellError("quit cannot be watched")
        await View(one_line(what.line), lambda _width: self._watched(what.line), what.interval_s).show()

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
