# SPDX-License-Identifier: Apache-2.0
"""The connection to the peer, over qemu.qmp: one session, or sessions again and again with back-off.

Every wait has a limit. Event-loop thread only. Errors are ShellError; the schema and the greeting are fetched once per
connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import stat
from typing import TYPE_CHECKING, Any, Protocol

from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate
from qemu.qmp.error import ProtocolError
from qemu.qmp.message import DeserializationError
from qemu.qmp.qmp_client import GreetingError

from vmmd.shell.errors import CommandFailed, ConnectionFailed, ShellError
from vmmd.shell.schema import Schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qemu.qmp import Message

CONNECT_TIMEOUT_S = 5.0
SCHEMA_TIMEOUT_S = 10.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
#: a reply with more is the end of the connection (QEMU's schema has 0.2 MB)
REPLY_MAX_BYTES = 64 << 20
PORT_MAX = 65535

_ONE_CLIENT = "QEMU serves one client per monitor: is another one connected?"
#: how a UNIX socket whose listener's queue is full fails: asyncio takes EAGAIN for a connection in progress
_QUEUE_FULL = (errno.EAGAIN, errno.EINVAL, errno.ENOTCONN)

_HMP_GREETING = re.compile(rb"^QEMU \S+ monitor")
_ERRNO = re.compile(r"\[Errno (\d+)\]")
#: so much is shown of a greeting that is not QMP's
SAID_MAX_BYTES = 60

Address = str | tuple[str, int]

# qemu.qmp logs what it raises too; the shell tells it once, where it is waited for
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
logging.getLogger("qemu.qmp").propagate = False


def address(text: str) -> Address:
    """A UNIX socket's path (``unix:PATH`` too), or HOST:PORT (``tcp:HOST:PORT`` too). Raises ShellError."""
    if text.startswith("unix:"):
        return text.removeprefix("unix:")
    host, colon, port = text.removeprefix("tcp:").rpartition(":")
    if "/" not in text and colon and port.isascii() and port.isdigit() and not os.path.exists(text):
        if int(port) > PORT_MAX:
            raise ShellError(f"{port} is no port number")
        return host.strip("[]") or "localhost", int(port)
    if text.startswith("tcp:"):
        raise ShellError(f"'{text}' is not tcp:HOST:PORT")
    return text


class Session:
    """One connection, from greeting to end."""

    def __init__(self, to: Address, on_event: Callable[[dict[str, Any]], None] = lambda _event: None) -> None:
        self._to = to
        self._client = QMPClient("vmmd-shell", readbuflen=REPLY_MAX_BYTES)

        def hand_on(event: Message) -> bool:
            on_event(dict(event))
            return False  # the library's own listener would keep every event for ever

        self._client.events.event_filter = hand_on
        #: commands without an answer yet, in the order sent; of these, the ones that nobody waits for any more
        self._unanswered: dict[asyncio.Task[object], str] = {}
        self._left: set[asyncio.Task[object]] = set()
        self.schema: Schema | None = None
        self._schema_task: asyncio.Task[Schema] | None = None

    @property
    def version(self) -> str:
        """What the greeting says of the peer: ``7.2.22 (Debian …)``."""
        greeting = self._client.greeting
        if greeting is None:
            return ""
        try:
            version: Any = greeting.QMP.version
            number, package = version["qemu"], version.get("package", "")
            return f"{number['major']}.{number['minor']}.{number['micro']} {package}".strip()
        except (KeyError, TypeError, AttributeError):
            return "unknown version"

    async def open(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Connect and negotiate; raises ConnectionFailed."""
        _check_path(self._to)
        try:
            await asyncio.wait_for(self._client.connect(self._to), timeout_s)
        except TimeoutError:
            raise ConnectionFailed(self._silence(timeout_s)) from None
        except ConnectError as error:
            raise ConnectionFailed(_no_connection(error.exc)) from None
        except (OSError, QMPError, AssertionError) as error:
            raise ConnectionFailed(str(error)) from None

    def _silence(self, timeout_s: float) -> str:
        if self._client.greeting is not None:
            return f"the peer greets but does not answer qmp_capabilities within {timeout_s:g} s"
        return f"no greeting within {timeout_s:g} s; {_ONE_CLIENT}"

    def has(self, command: str) -> bool:
        """Whether the peer has a command, as far as is known yet."""
        return self.schema is not None and command in self.schema

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        out_of_band: bool = False,
        timeout_s: float | None = None,
    ) -> Any:
        """The return of a command; CommandFailed for QMP's errors, ConnectionFailed when there is no answer."""
        running = asyncio.get_running_loop().create_task(self._client.execute(command, arguments, oob=out_of_band))
        self._unanswered[running] = command
        running.add_done_callback(self._answered)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(running)
        except TimeoutError:
            raise ConnectionFailed(f"no answer to {command} within {timeout_s:g} s") from None
        except ExecuteError as error:
            answer = error.received.get("error")
            raise CommandFailed(answer if isinstance(answer, dict) else {"desc": str(error)}) from None
        except ExecInterruptedError:
            raise ConnectionFailed(f"the connection was lost before {command} was answered; it may have run") from None
        except (QMPError, OSError, EOFError) as error:
            raise ConnectionFailed(f"not connected: {_reason(error)}") from None
        finally:
            if not running.done():
                self._left.add(running)

    def _answered(self, running: asyncio.Task[object]) -> None:
        del self._unanswered[running]
        self._left.discard(running)
        if not running.cancelled():
            running.exception()  # seen, also when nobody waits for it

    @property
    def busy_with(self) -> str:
        """The earliest command that is not answered, if nobody waits for it any more; else empty."""
        first = next(iter(self._unanswered), None)
        return self._unanswered[first] if first is not None and first in self._left else ""

    async def load_schema(self) -> Schema:
        """The peer's schema, asked until it is there; without query-qmp-schema the names of its commands."""
        if self.schema is not None:
            return self.schema
        if self._schema_task is None or self._schema_task.done():
            self._schema_task = asyncio.get_running_loop().create_task(self._fetch_schema())
        return await asyncio.shield(self._schema_task)

    async def _fetch_schema(self) -> Schema:
        try:
            answer = await self.execute("query-qmp-schema", timeout_s=SCHEMA_TIMEOUT_S)
            schema = Schema(answer if isinstance(answer, list) else [])
        except CommandFailed:
            answer = await self.execute("query-commands", timeout_s=SCHEMA_TIMEOUT_S)
            names = [each.get("name") for each in answer if isinstance(each, dict)] if isinstance(answer, list) else []
            schema = Schema.untyped(str(name) for name in names)
        self.schema = schema
        return schema

    async def ended(self) -> str:
        """Wait until the connection ends; why it did."""
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        return await self.close()

    async def close(self) -> str:
        """End the connection; what had ended it before, if anything."""
        if self._schema_task is not None:
            self._schema_task.cancel()
        try:
            await asyncio.wait_for(self._client.disconnect(), CONNECT_TIMEOUT_S)
        except Exception as error:  # whatever the reader died of; it is told, not handled
            return _reason(error)
        return "closed"


def _check_path(to: Address) -> None:
    """A better sentence than the kernel's for the two common mistakes."""
    if isinstance(to, tuple):
        return
    try:
        mode = os.stat(to).st_mode
    except FileNotFoundError:
        raise ConnectionFailed(
            "no such socket; is the machine running, with -qmp unix:PATH,server=on,wait=off?"
        ) from None
    except OSError as error:
        raise ConnectionFailed(error.strerror or str(error)) from None
    if not stat.S_ISSOCK(mode):
        raise ConnectionFailed("this is not a socket")


def _no_connection(cause: Exception) -> str:
    """Why there is no connection."""
    if isinstance(cause, EOFError):
        return "the peer closed the connection before its greeting"
    if isinstance(cause, GreetingError | ValueError):
        return _other_greeting(cause.__cause__)
    if isinstance(cause, OSError):
        if cause.errno in _QUEUE_FULL:
            return f"the peer does not accept connections now; {_ONE_CLIENT}"
        return _system_reason(cause)
    return str(cause) or type(cause).__name__


def _other_greeting(cause: BaseException | None) -> str:
    """What to say of a peer that begins as QMP does not."""
    said = cause.raw if isinstance(cause, DeserializationError) else b""
    if _HMP_GREETING.search(said):
        return "this is the monitor for people, not QMP; give the socket of -qmp (or of -mon mode=control)"
    shown = f"; it says {said[:SAID_MAX_BYTES].decode('latin-1').strip()!a}" if said else ""
    return f"the peer does not speak QMP{shown}"


def _system_reason(error: OSError) -> str:
    """The system's own words, without asyncio's, which joins the failures of several addresses to one text."""
    numbers = {error.errno} if error.errno else {int(each) for each in _ERRNO.findall(str(error))}
    if not numbers or min(numbers) < 0:  # the resolver's are negative
        return error.strerror or str(error)
    return ", ".join(os.strerror(number) for number in sorted(numbers))


def _reason(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "the peer closed the connection"
    if isinstance(error, ProtocolError):
        return f"the peer does not speak QMP: {str(error).splitlines()[0]}"
    return str(error) or type(error).__name__


class Listener(Protocol):
    """Who is told what happens to a link."""

    def on_event(self, event: dict[str, Any]) -> None:
        """An event of the peer."""
        ...

    def on_session(self, session: Session) -> None:
        """There is a new connection."""
        ...

    def on_news(self, text: str) -> None:
        """The connection was lost or made again, for people."""
        ...

    def on_state(self) -> None:
        """``state`` has changed."""
        ...


class Link:
    """Keeps a session with the peer: connects again, with growing pauses, when one ends."""

    def __init__(self, to: Address, listener: Listener) -> None:
        self._to = to
        self._listener = listener
        self.session: Session | None = None
        self.state = "connecting"

    async def open(self, timeout_s: float) -> None:
        """The first connection; raises ConnectionFailed."""
        session = Session(self._to, self._listener.on_event)
        await session.open(timeout_s)
        self._use(session)

    def _use(self, session: Session) -> None:
        self.session = session
        self._listener.on_session(session)
        self._set_state("connected")

    def _set_state(self, state: str) -> None:
        self.state = state
        self._listener.on_state()

    async def keep(self) -> None:
        """Connect again whenever the connection ends; runs until it is cancelled."""
        while True:
            if self.session is not None:
                reason = await self.session.ended()
                self.session = None
                self._listener.on_news(f"connection lost: {reason}; connecting again")
                self._set_state("connection lost")
            await self._connect_again()

    async def _connect_again(self) -> None:
        pause_s = BACKOFF_FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            session = Session(self._to, self._listener.on_event)
            try:
                await session.open()
            except ConnectionFailed as error:
                pause_s = min(2 * pause_s, BACKOFF_MAX_S)
                self._set_state(f"no connection, next try in {pause_s:.1f} s: {error}")
                continue
            self._listener.on_news("connected again")
            self._use(session)
            return

    def current(self) -> Session:
        """The session; raises ConnectionFailed when there is none."""
        if self.session is None:
            raise ConnectionFailed(self.state)
        return self.session

    async def close(self) -> None:
        """End the session."""
        if self.session is not None:
            await self.session.close()
