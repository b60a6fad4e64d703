# SPDX-License-Identifier: Apache-2.0
"""Lines from the command line or from standard input, run one after the other, without a prompt.

With ``--json`` standard output has one line of JSON per line run, and an error is one line of JSON on standard error.
The first line that fails ends the run. Statuses are in ``Status``.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from vmmd.safe_text import safe
from vmmd.shell.errors import CommandFailed, ConnectionFailed, OutputFailed, ShellError
from vmmd.shell.executor import EventLog, Executor
from vmmd.shell.line import LineError
from vmmd.shell.link import Address, Session
from vmmd.shell.live import Live
from vmmd.shell.render import error_text, machine_json, with_caret
from vmmd.shell.words import repeated

if TYPE_CHECKING:
    from collections.abc import Iterable


class Status(IntEnum):
    """Exit statuses."""

    OK = 0
    COMMAND_FAILED = 1
    NO_CONNECTION = 2
    USAGE = 64
    NO_PACKAGES = 69
    NO_OUTPUT = 74
    INTERRUPTED = 130


_STATUSES: dict[type[Exception], Status] = {
    CommandFailed: Status.COMMAND_FAILED,
    ConnectionFailed: Status.NO_CONNECTION,
    OutputFailed: Status.NO_OUTPUT,
}
#: words whose answers are texts
FOR_PEOPLE = ("help", "top", "watch")


class Options(NamedTuple):
    """How lines are run and answers written."""

    json: bool
    colour: bool
    timeout_s: float


async def run_lines(to: Address, lines: Iterable[str], options: Options) -> Status:
    """Run every line over one connection."""
    log = EventLog()
    session = Session(to, log.add)
    live = Live(session)
    executor = Executor(
        lambda: session, log, lambda: live, lambda: shutil.get_terminal_size().columns, hasty=options.json
    )
    try:
        await session.open(options.timeout_s)
    except ConnectionFailed as error:
        return _failed(error, "", options)
    try:
        for line in lines:
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    _write(await _answer(line, executor, session, log, options))
                except (LineError, ShellError) as error:
                    return _failed(error, line, options)
        return Status.OK
    finally:
        live.close()
        await session.close()


async def _answer(line: str, executor: Executor, session: Session, log: EventLog, options: Options) -> str:
    word = line.split()[0]
    if options.json and word in FOR_PEOPLE:
        raise LineError(f"'{word}' has no answer in JSON", *_place(line, word), "leave out --json")
    if word == "top":
        from vmmd.shell.screens import TopScreen

        what = repeated(line)
        if not what.once:
            raise LineError("top needs --once here", *_place(line, line.strip()))
        return await TopScreen(lambda: session, log, options.colour).once(
            what.interval_s, shutil.get_terminal_size().columns
        )
    answer = await executor.run(line, options.timeout_s)
    return machine_json(answer.value) if options.json else answer.text(options.colour)


def _place(line: str, part: str) -> tuple[int, int]:
    start = line.index(part)
    return start, start + len(part)


def _write(text: str) -> None:
    """One answer; raises OutputFailed, and BrokenPipeError when its reader has gone."""
    try:
        put(sys.stdout, text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(f"standard output: {error.strerror}") from None


def put(stream: TextIO, text: str) -> None:
    """Write a line at once; after an OSError the stream takes everything and keeps nothing."""
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # the flush at exit must not fail again
        raise


def _failed(error: Exception, line: str, options: Options) -> Status:
    """Tell an error on standard error; the status for it."""
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), Status.USAGE)
    shown: dict[str, Any] = {"class": type(error).__name__, "desc": str(error)}
    if isinstance(error, CommandFailed):
        shown = error.error
    if options.json:
        text = machine_json({"error": shown})
    elif isinstance(error, LineError):
        text = with_caret(line, error)
    elif isinstance(error, CommandFailed):
        text = error_text(shown, False)
    else:
        text = f"vmmd-shell: {safe(str(error))}"
    with suppress(OSError):
        put(sys.stderr, text)
    return status
