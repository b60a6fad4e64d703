# SPDX-License-Identifier: Apache-2.0
"""One monitor client: reads requests, runs them in order, writes replies and events. Loop thread only.

Bounds: input is read only while nothing waits to be run; output that the client does not take stops the reading, so at
most one reply is ever held; events for a client that does not read are dropped, oldest first, and counted: when it
reads again it gets ``__org.vmmd_EVENT_OVERFLOW`` with the count in the place of the lost ones.

Requests run one at a time. With the capability ``oob`` up to 8 wait behind the one that runs, and out-of-band requests
among them are served at once. A handler that is a coroutine is run at once up to its first wait, and becomes a task
for the rest; all others are called directly.
"""

from __future__ import annotations

from collections import deque
from time import monotonic_ns
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any, ClassVar, cast

from vmmd.core.background import once_on_thread
from vmmd.core.trace_events import HANDLE_QMP_COMMAND, MONITOR_QMP_RESPOND
from vmmd.errors import VmmdError
from vmmd.log import get_logger
from vmmd.qmp.registry import COMMANDS, Context, import_models, invoke, load, needs_models
from vmmd.qmp.session import NO_ID, QmpSession, error_reply, success_reply
from vmmd.qmp.streams import UnixStream
from vmmd.qmp.trace_text import request_text, response_text
from vmmd.qmp.wire import MAX_REPLY_BYTES, ParseFault, decode, decode_simple, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from vmmd.core.notify import LoopPort
    from vmmd.qmp.session import Request
    from vmmd.qmp.splitter import JsonSplitter
    from vmmd.qmp.streams import Stream
    from vmmd.qmp.vm_api import VmApi

log = get_logger("vmmd.qmp")

#: in-band requests that wait when out-of-band is enabled (QEMU: 8)
OOB_QUEUE = 8
#: messages of one client that are run in one turn of the loop
TURN_MESSAGES = 32
#: replies are gathered up to this size into one write
BATCH_BYTES = 1 << 16
#: events held for a client that does not read
MAX_HELD_EVENTS = 256
MAX_HELD_BYTES = 1 << 18

#: a client that sends its next command this soon after a reply is in a series of them …
LINGER_GAP_NS = 300_000
#: … and is looked for this often (some 60 µs) before the loop may sleep, at most this long in one turn of the loop.
#: Not when several clients take turns: each would wait for the others' looks.
LINGER_LOOKS = 48
LINGER_TURN_NS = 300_000


class Connection:
    """A client of a monitor."""

    #: whose command came last
    latest: ClassVar[Connection | None] = None

    def __init__(
        self, vm: VmApi, loop: LoopPort, stream: Stream, on_closed: Callable[[Connection], None], pretty: bool = False
    ) -> None:
        self.pretty = pretty
        self.closed = False
        self._vm = vm
        self._loop = loop
        self._stream = stream
        self._on_closed = on_closed
        self._splitter: JsonSplitter | None = None  # made for the first message that is not of the usual kind
        self.session = QmpSession(COMMANDS, vm.fdsets.budget)
        self.session.when_left = self._when_left
        self._left: list[Callable[[], None]] = []  # who wants to know when the client leaves
        self._context = Context(vm, self.session)
        self._inbox: deque[object] = deque()  # messages (or ParseFaults) that have arrived
        self._queue: deque[object] = deque()  # those that have been admitted and wait for their turn
        self._busy = False  # a coroutine handler runs (in-band)
        self._ended = False  # the client sends no more
        self._reading = False
        self._pumping = False
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._unsent: bytes | memoryview = b""  # not empty: the client does not keep up
        self._held: deque[tuple[bytes, bool]] = deque()  # (message, is event) behind it
        self._held_events = 0
        self._held_bytes = 0
        self._dropped = 0
        self._linger_until = 0  # a command that comes before this time is one of a series
        if isinstance(stream, UnixStream):
            stream.on_fds = self._fds_arrived

    def start(self, greeting: bytes) -> None:
        """Send ``greeting`` (empty: it has been sent) and begin to read."""
        if greeting:
            self._send(greeting)
        self._set_reading(not self.closed)

    def close(self) -> None:
        """Give everything back; what can be written without waiting is. Idempotent."""
        if self.closed:
            return
        if not self._unsent:
            self._flush()
        if self.closed:
            return
        self._set_reading(False)
        if self._unsent:
            self._stream.unwatch_output(self._loop)
        self.closed = True
        if Connection.latest is self:
            Connection.latest = None
        self._stream.close()
        self.session.fds.close()
        self._inbox.clear()
        self._queue.clear()
        self._held.clear()
        self._on_closed(self)
        for callback in list(self._left):
            callback()

    def _when_left(self, callback: Callable[[], None]) -> Callable[[], None]:
        """``QmpSession.when_left``: the client has gone, or sends no more."""
        unwatch = self._stream.watch_hang_up(self._loop, callback)
        self._left.append(callback)

        def undo() -> None:
            self._left.remove(callback)
            unwatch()

        return undo

    # -- input -----------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Take what the client sent, until there is no more now. One that asks again and again is waited for a moment
        before the loop may sleep: being woken costs more than the whole command.

        ORDERING: it must not return with anything unread, unless it stopped the watching or comes again by itself: of a
        socket with an error (the client closed it and had not read its replies) uvloop tells once and never again.
        """
        read = self._stream.read
        now = monotonic_ns()
        looks = LINGER_LOOKS if Connection.latest is self and now < self._linger_until else 0
        turn_end = now + LINGER_TURN_NS
        Connection.latest = self
        while True:
            try:
                data = read()
            except (BlockingIOError, InterruptedError):
                if looks <= 0:
                    return
                looks -= 1
                continue
            except OSError:
                data = b""
            self._received(data)
            if not self._reading or self._busy:
                return
            now = monotonic_ns()
            self._linger_until = now + LINGER_GAP_NS
            if now > turn_end:
                self._loop.post(self._look_again)
                return
            looks = LINGER_LOOKS if looks else 0

    def _look_again(self) -> None:
        if self._reading:
            self._readable()

    def _fds_arrived(self, fds: list[int], lost: str) -> None:
        self.session.fds.arrived(fds, commands_wait=bool(self._busy or self._inbox or self._queue), lost=lost)

    def _received(self, data: bytes) -> None:
        if not data:
            self._ended = True
            self._set_reading(False)
            self._close_if_done()
            return
        if not (self._busy or self._unsent or self._queue) and (self._splitter is None or self._splitter.idle):
            message = decode_simple(data)
            if message is not None:  # the usual case: one command, all at once
                self._run(message)
                return
        self._take(data)
        self._pump()

    def _take(self, data: bytes) -> None:
        """Cut what has arrived into messages."""
        inbox = self._inbox
        rest = data
        while rest and (self._splitter is None or self._splitter.idle):
            line, newline, rest = rest.partition(b"\n")
            message = decode_simple(line)
            if message is not None:
                inbox.append(message)
            else:
                self._split(line + newline)
        if rest:
            self._split(rest)

    def _split(self, data: bytes) -> None:
        if self._splitter is None:
            from vmmd.qmp.splitter import JsonSplitter

            self._splitter = JsonSplitter()
        for text in self._splitter.feed(data):
            if isinstance(text, ParseFault):
                self._inbox.append(text)
                continue
            try:
                self._inbox.append(decode(text))
            except ParseFault as fault:
                self._inbox.append(fault)

    def _pump(self) -> None:
        """Run what may run now, then decide whether to read on."""
        if self._pumping:
            return
        self._pumping = True
        try:
            for _turn in range(TURN_MESSAGES):
                if self._unsent or self.closed or not self._pump_one():
                    break
                if self._batch_bytes >= BATCH_BYTES:
                    self._flush()
            else:
                self._loop.post(self._pump)  # others first
        finally:
            self._pumping = False
        if self._batch and not self._unsent:
            self._flush()
        if not self.closed:
            self._set_reading(not self._inbox and not self._unsent and not self._ended)
            self._close_if_done()

    def _pump_one(self) -> bool:
        if self._inbox and self.session.oob and len(self._queue) < OOB_QUEUE:
            message = self._inbox.popleft()
            if isinstance(message, dict) and "exec-oob" in message:
                self._run(message)
            else:
                self._queue.append(message)
            return True
        if self._busy:
            return False
        waiting = self._queue or self._inbox
        if not waiting:
            return False
        self._run(waiting.popleft())
        return True

    def _close_if_done(self) -> None:
        if self._ended and not (self._busy or self._inbox or self._queue or self._unsent):
            self.close()

    def _set_reading(self, wanted: bool) -> None:
        if wanted is not self._reading:
            self._reading = wanted
            if wanted:
                self._stream.watch_input(self._loop, self._readable)
            else:
                self._stream.unwatch_input(self._loop)

    # -- execution -------------------------------------------------------------------------------------------------

    def _run(self, message: object) -> None:
        """Execute one message and reply, now or, for a coroutine handler, later."""
        if isinstance(message, ParseFault):
            self._reply(error_reply("GenericError", message.desc))
            return
        load()
        request = self.session.receive(message)
        if isinstance(request, dict):
            self._reply(request)
            return
        if HANDLE_QMP_COMMAND.on:
            HANDLE_QMP_COMMAND(hex(id(self)), request_text(request))
        if needs_models(request):
            self._begin(request, self._with_models(request))
            return
        try:
            result = invoke(self._context, request)
        except Exception as error:
            self._reply(_failure(error, request))
            return
        if type(result) is CoroutineType:
            self._begin(request, cast("Coroutine[Any, Any, object]", result))
        else:
            self._reply(success_reply(result, request.id), request)

    async def _with_models(self, request: Request) -> object:
        """The first request whose arguments need it: pydantic is imported for it (0.1 s) on a thread, so that nobody
        else waits, and a VM whose manager never sends one does without."""
        await once_on_thread(self._loop, import_models, "settle")
        result = invoke(self._context, request)
        return await result if isinstance(result, CoroutineType) else result

    def _begin(self, request: Request, handler: Coroutine[Any, Any, object]) -> None:
        """Run a handler up to its first wait: most of them never wait, and ``stop`` kicks the vCPUs before a task is
        made. The first step has no current task, so a handler must not begin with ``asyncio.timeout`` or the like."""
        in_band = not request.oob
        self._busy = self._busy or in_band
        try:
            awaited = handler.send(None)
        except StopIteration as end:
            reply = success_reply(end.value, request.id)
        except Exception as error:
            reply = _failure(error, request)
        else:
            self._loop.spawn(self._finish(request, _rest(handler, awaited)), f"qmp {request.spec.name}")
            return
        self._busy = self._busy and not in_band
        self._reply(reply, request)

    async def _finish(self, request: Request, handler: Awaitable[object]) -> None:
        """Await a handler and reply in the same step, so that ``quit`` answers before the process ends."""
        try:
            reply = success_reply(await handler, request.id)
        except Exception as error:
            reply = _failure(error, request)
        self._busy = self._busy and request.oob  # an out-of-band command leaves the one that runs alone
        self._reply(reply, request)
        self._pump()

    def _reply(self, reply: dict[str, object], request: Request | None = None) -> None:
        try:
            data = encode(reply, self.pretty)
        except (TypeError, ValueError) as error:
            data = encode(
                error_reply("GenericError", "The reply is not JSON: a bug of vmmd", _id_of(request)), self.pretty
            )
            log.error("unencodable reply: %s", error, exc_info=error)
        if len(data) > MAX_REPLY_BYTES:
            data = encode(error_reply("GenericError", "The reply is larger than 10 MiB", _id_of(request)), self.pretty)
        self._send(data)

    # -- output ----------------------------------------------------------------------------------------------------

    def send_event(self, data: bytes) -> None:
        """Send an encoded event to a negotiated client; it may be dropped when the client does not read."""
        if not self._unsent:
            if self._busy:
                self._send_together(data)
            else:
                self._send(data)
            return
        self._held.append((data, True))
        self._held_events += 1
        self._held_bytes += len(data)
        while self._held_events > MAX_HELD_EVENTS or (self._held_bytes > MAX_HELD_BYTES and self._held_events > 1):
            self._drop_oldest_event()

    def _send_together(self, data: bytes) -> None:
        """An event of this client's own command: the reply often follows at once, and one write wakes it once."""
        if not self.closed:
            self._batch.append(data)
            self._batch_bytes += len(data)
            self._loop.post(self._flush)

    def _drop_oldest_event(self) -> None:
        for index, (data, is_event) in enumerate(self._held):
            if is_event:
                del self._held[index]
                self._held_events -= 1
                self._held_bytes -= len(data)
                self._dropped += 1
                return

    def _send(self, data: bytes) -> None:
        if MONITOR_QMP_RESPOND.on:
            MONITOR_QMP_RESPOND(hex(id(self)), response_text(data))
        if self.closed:
            return
        if self._unsent:
            self._held.append((data, False))
            return
        if not (self._pumping or self._batch):  # the usual case: one reply to one command
            self._put(data)
            return
        self._batch.append(data)
        self._batch_bytes += len(data)
        if not self._pumping:
            self._flush()

    def _flush(self) -> None:
        """Write the batch; what the client does not take now waits in ``_unsent``."""
        batch = self._batch
        if not batch:
            return
        data = batch[0] if len(batch) == 1 else b"".join(batch)
        batch.clear()
        self._batch_bytes = 0
        self._put(data)

    def _put(self, data: bytes) -> None:
        """Write; when the client does not take all of it, read nothing more from it before it has."""
        if self._write(data) and self._unsent:
            self._set_reading(False)
            self._stream.watch_output(self._loop, self._writable)

    def _write(self, data: bytes | memoryview) -> bool:
        try:
            taken = self._stream.write(data)
        except (BlockingIOError, InterruptedError):
            taken = 0
        except OSError:
            self._broken()
            return False
        self._unsent = memoryview(data)[taken:] if taken < len(data) else b""
        return True

    def _broken(self) -> None:
        """The client is gone: nothing more can be written."""
        if self._unsent:
            self._stream.unwatch_output(self._loop)
            self._unsent = b""
        self._batch.clear()
        self.close()

    def _writable(self) -> None:
        if not self._write(self._unsent) or self._unsent:
            return
        self._stream.unwatch_output(self._loop)
        self._release_held()
        self._pump()

    def _release_held(self) -> None:
        """The client reads again: put what was held, and the count of what was lost, into the batch."""
        lost = self._dropped
        for data, is_event in self._held:
            if lost and is_event:
                self._batch.append(_overflow(lost, self.pretty))
                lost = 0
            self._batch.append(data)
        self._held.clear()
        self._dropped = self._held_events = self._held_bytes = 0
        self._flush()


@coroutine
def _rest(handler: Any, awaited: object) -> Generator[object, Any, object]:
    """What is left of the coroutine ``handler``, which has run up to its first wait, which gave ``awaited``."""
    try:
        yield awaited
    except BaseException:
        handler.close()
        raise
    return (yield from handler)


def _overflow(dropped: int, pretty: bool) -> bytes:
    from vmmd.core.events import EventOverflowEvent
    from vmmd.qmp.events import event_message, wall_clock_ns

    return encode(event_message(EventOverflowEvent(dropped), wall_clock_ns()), pretty)


def _id_of(request: Request | None) -> object:
    return NO_ID if request is None else request.id


def _failure(error: Exception, request: Request) -> dict[str, object]:
    """The error reply for what a handler raised; a bug is logged with its traceback and gets a general text."""
    if isinstance(error, VmmdError):
        return error_reply(error.qmp_class, str(error), request.id)
    log.error("command %s failed", request.spec.name, exc_info=error)
    return error_reply("GenericError", f"Internal error in {request.spec.name}: {type(error).__name__}", request.id)
