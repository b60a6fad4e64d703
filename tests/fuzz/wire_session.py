# SPDX-License-Identifier: Apache-2.0
"""A hostile client against one session (splitter, session, connection), as a hypothesis state machine.

Whatever garbage, partial messages, pauses in reading, events, waiting commands and descriptors are mixed: every
message that comes out is JSON, every command gets exactly one reply, in order (out-of-band ones apart), and what is
held for the client is bounded.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.test_qmp_connection import Rig
from vmmd.core.events import PowerdownEvent, ResetEvent, RtcChangeEvent
from vmmd.qmp.connection import MAX_HELD_BYTES, MAX_HELD_EVENTS, OOB_QUEUE
from vmmd.qmp.passed_fds import MAX_WAITING
from vmmd.qmp.registry import COMMANDS, CommandSpec

if TYPE_CHECKING:
    from collections.abc import Callable

#: ends whatever was begun, also inside a string; at most one error of its own
RESYNC = b"\x01"

FRAGMENTS = (
    b"{", b"}", b"[", b"]", b'"', b"'", b"\\", b",", b":", b"\n", b"\r", b"\t", b"\x00", b"\x7f", b"\xff", b"\xc0\x80",
    b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b'"\\ud800"', b'"\\u0000"', b"1e999", b"-0", b"01", b"+1", b"NaN", b"tru",
    b"nulll", b'{"execute":', b'"arguments":', b'{"a":1,"a":2}', b'{"execute":"stop"', b'{"execute":"query-status"}',
    b"[" * 1030,
    b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}', b'{"exec-oob":"query-yank"}', b'{"execute":1}',
    b'{"execute":"chardev-add","arguments":{"id":"x","backend":{"type":"null","data":{}}}}',
    b'{"execute":"chardev-add","arguments":{"id":"x","backend":{"type":["null"],"data":{}}}}',
    b'{"execute":"chardev-remove","arguments":{"id":"x"}}', b'{"execute":"getfd","arguments":{"fdname":"a"}}',
    b'{"execute":"ringbuf-read","arguments":{"device":"c0","size":99999999999999999999}}', b"9" * 5000,
    b'"' + b"a" * 5000,
)  # fmt: skip


async def _wait(ctx: Any) -> dict[str, object]:
    """Waits until the machine lets it go."""
    future = ctx.vm.loop.create_future()
    _waiting.append(future)
    await future
    return {}


_waiting: list[Any] = []


class WireSession(RuleBasedStateMachine):
    """One session and the client that abuses it."""

    def __init__(self) -> None:
        super().__init__()
        COMMANDS["x-fuzz-wait"] = CommandSpec("x-fuzz-wait", _wait, "0")
        COMMANDS["x-fuzz-oob"] = CommandSpec("x-fuzz-oob", lambda ctx: {"oob": True}, "0", oob=True)
        _waiting.clear()
        self.rig = Rig()
        self.received: list[dict[str, Any]] = []
        self.expected: list[str] = []
        self.expected_oob: set[str] = set()
        self.emitted = 0
        self.oob = False

    @initialize(oob=st.booleans())
    def negotiate(self, oob: bool) -> None:
        """The session is negotiated anew with or without out-of-band."""
        self.rig = Rig(b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}') if oob else Rig()
        self.oob = oob

    def teardown(self) -> None:
        """The client reads again and everything ends: each command has its one reply."""
        self._settle()
        # garbage may be a message with an id of its own
        answered = [each["id"] for each in self.received if re.fullmatch(r"[co]\d+", str(each.get("id")))]
        in_band = [id_ for id_ in answered if id_ not in self.expected_oob]
        assert in_band == self.expected
        assert sorted(set(answered) - set(in_band)) == sorted(self.expected_oob)
        assert len(answered) == len(self.expected) + len(self.expected_oob)
        for event in (each for each in self.received if "event" in each):
            assert set(event) <= {"event", "timestamp", "data"}
        self.rig.connection.close()
        assert len(self.rig.connection.session.fds) == 0
        del COMMANDS["x-fuzz-wait"], COMMANDS["x-fuzz-oob"]

    def _settle(self) -> None:
        """Let everything go on until nothing is left to do."""
        rig = self.rig
        while True:
            rig.client_reads()
            while _waiting:
                _waiting.pop(0).set_result(None)
            rig.loop.run_posted()
            self._arrive(b"")
            if not (rig.stream.arrived or _waiting or rig.loop.posted or 5 in rig.loop.writers):
                break
        self._collect()

    def _collect(self) -> None:
        """Every message that came is one line of JSON."""
        self.received += self.rig.stream.messages()

    def _arrive(self, data: bytes, pieces: int = 1) -> None:
        step = max(1, -(-len(data) // pieces))
        self.rig.arrive(*(data[at : at + step] for at in range(0, len(data), step)))

    # -- what the client does --------------------------------------------------------------------------------------

    @rule(data=st.one_of(st.binary(min_size=1, max_size=40), st.sampled_from(FRAGMENTS)), pieces=st.integers(1, 8))
    def garbage(self, data: bytes, pieces: int) -> None:
        """Bytes without meaning, or a part of some."""
        self._arrive(data, pieces)

    @rule(
        name=st.sampled_from(["query-status", "x-fuzz-wait", "query-name", "qmp_nothing", "stop", "query-fdsets"]),
        pieces=st.integers(1, 60),
    )
    def command(self, name: str, pieces: int) -> None:
        """A good command, in pieces."""
        id_ = f"c{len(self.expected)}"
        self.expected.append(id_)
        self._arrive(RESYNC + json.dumps({"execute": name, "id": id_}).encode(), pieces)

    @rule(names=st.lists(st.sampled_from(["query-status", "x-fuzz-wait"]), min_size=2, max_size=30))
    def pipeline(self, names: list[str]) -> None:
        """Many at once."""
        data = RESYNC
        for name in names:
            data += b'{"execute": "%s", "id": "c%d"}' % (name.encode(), len(self.expected))
            self.expected.append(f"c{len(self.expected)}")
        self._arrive(data)

    @rule()
    def out_of_band(self) -> None:
        """An out-of-band command, if the session has them."""
        if self.oob:
            id_ = f"o{len(self.expected_oob)}"
            self.expected_oob.add(id_)
            self._arrive(RESYNC + json.dumps({"exec-oob": "x-fuzz-oob", "id": id_}).encode())

    @rule(room=st.integers(0, 200))
    def reads_little(self, room: int) -> None:
        """The client takes ``room`` bytes and then no more."""
        self.rig.client_reads(room)

    @rule()
    def reads_again(self) -> None:
        """The client takes everything."""
        self.rig.client_reads()

    @rule(count=st.integers(1, 16))
    def sends_descriptors(self, count: int) -> None:
        """Descriptors come with the next bytes."""
        self.rig.connection._fds_arrived([os.dup(0) for _ in range(count)], "")

    # -- what the machine does -------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 400), make=st.sampled_from([PowerdownEvent, lambda: RtcChangeEvent(1, "/rtc")]))
    def events(self, count: int, make: Callable[[], tuple[object, ...]]) -> None:
        """Events, as many as a guest can make."""
        for _turn in range(count):
            self.rig.server.emit(make())

    @rule()
    def reset(self) -> None:
        """A reset lets events go that were held back."""
        self.rig.server.emit(ResetEvent(True, "guest-reset"))

    @rule()
    def a_command_ends(self) -> None:
        """What waited goes on."""
        if _waiting:
            _waiting.pop(0).set_result(None)

    @rule()
    def time_passes(self) -> None:
        """Timers fire, posted calls run."""
        self.rig.loop.fire_timers()
        self.rig.loop.run_posted()

    # -- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def output_is_json(self) -> None:
        """Also while the session goes on."""
        self._collect()

    @invariant()
    def bounded(self) -> None:
        """What is held for this client."""
        connection = self.rig.connection
        assert not connection.closed
        assert connection._held_events <= MAX_HELD_EVENTS
        assert connection._held_bytes <= MAX_HELD_BYTES
        assert len(connection._queue) <= OOB_QUEUE
        assert len(connection.session.fds._waiting) <= MAX_WAITING
