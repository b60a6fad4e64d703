# SPDX-License-Identifier: Apache-2.0
"""Every W-statement of the QMP wire contract as one table, run on vmmd and on Debian's QEMU 7.2.

A row is what a client sends and what must come back before the reply to a probe. Rows where vmmd departs from QEMU on
purpose (V) give QEMU's answer apart (or None: not run there). Statements that need a dialogue are functions below the
table; W18 and W33 need control of time and are in tests/unit. Not here, because their devices come in later issues:
W34 and W35 (a guest that lets devices go), W43 to W45 (guest agent).
"""

from __future__ import annotations

import array
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.framework.vm import emulator
from tests.unit.qmp_support import Monitor
from vmmd.qmp.registry import load

if TYPE_CHECKING:
    from collections.abc import Iterator

Message = dict[str, Any]
NEGOTIATE = b'{"execute": "qmp_capabilities"}'
ENABLE_OOB = b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}'
PROBE = b'\n{"execute": "query-version", "id": "probe"}'
OK: Message = {"return": {}}
FLOOR_S = 0.2  # long enough to see that nothing comes


# -- the two emulators -------------------------------------------------------------------------------------------------


class Target:
    """An emulator with a QMP socket at ``path``."""

    def __init__(self, name: str, path: str, process: subprocess.Popen[bytes] | None = None) -> None:
        self.name = name
        self.path = path
        self.process = process

    def connect(self) -> Client:
        deadline = time.monotonic() + 20
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(20)
            try:
                sock.connect(self.path)
                return Client(sock)
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                ended = self.process is not None and self.process.poll() is not None
                assert not ended, f"{self.name} has ended"
                assert time.monotonic() < deadline, f"{self.name} does not listen"
                time.sleep(0.01)  # nothing tells when a socket begins to listen


@contextmanager
def spawn(name: str, machine: str = "none") -> Iterator[Target]:
    """Start emulator ``name``, stopped; ``monitor`` is vmmd's server alone, in this process."""
    if name == "monitor":
        with Monitor() as monitor:
            yield Target(name, monitor.path)
        return
    directory = tempfile.mkdtemp(prefix=f"vmmd-test-wire-{name}-")
    path = os.path.join(directory, "monitor.sock")
    argv = [*emulator(name).command, "-machine", machine, "-S", "-nodefaults", "-display", "none"]
    process = subprocess.Popen([*argv, "-qmp", f"unix:{path},server=on,wait=off"])
    try:
        target = Target(name, path, process)
        target.connect().close()  # it listens now
        yield target
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(directory)


class Client:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def line(self) -> bytes:
        return self.file.readline()

    def message(self) -> Message:
        """The next message; of an error QEMU's sentence, without the hint that vmmd adds."""
        found = json.loads(self.line())
        if "error" in found:
            found["error"]["desc"] = found["error"]["desc"].partition("; ")[0]
        return found

    def greet(self, negotiation: bytes | None = NEGOTIATE) -> Client:
        assert "QMP" in self.message()
        if negotiation is not None:
            self.send(negotiation)
            assert self.message() == OK
        return self

    def until_probe(self) -> list[Message]:
        """What comes before the reply to a probe, events without their time."""
        self.send(PROBE)
        found = []
        while (message := self.message()).get("id") != "probe":
            message.pop("timestamp", None)
            found.append(message)
        return found

    def ask(self, name: str, **arguments: object) -> Message:
        """The reply to a command."""
        self.send(json.dumps({"execute": name, "arguments": arguments}).encode())
        return self.message()

    def reply(self, name: str, **arguments: object) -> Any:
        """The return of a command."""
        return self.ask(name, **arguments)["return"]

    def close(self) -> None:
        self.file.close()
        self.sock.close()


OURS = ["monitor", pytest.param("vmmd", marks=pytest.mark.kvm)]


@pytest.fixture(scope="module", params=[*OURS, pytest.param("qemu", marks=pytest.mark.qemu)])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with spawn(request.param) as found:
        yield found


@pytest.fixture
def client(target: Target) -> Iterator[Client]:
    found = target.connect()
    yield found
    found.close()


# -- the table ---------------------------------------------------------------------------------------------------------


class Same:
    """QEMU answers as vmmd does."""


SAME = Same()


class Row(NamedTuple):
    number: str
    send: bytes
    expect: list[Message]
    #: QEMU's answer where it differs; None: the row is not run on QEMU
    qemu: list[Message] | Same | None = SAME
    #: how the session is opened; None: it is not negotiated
    opening: bytes | None = NEGOTIATE


def error(desc: str, error_class: str = "GenericError", **extra: object) -> Message:
    return {**extra, "error": {"class": error_class, "desc": desc}}


def syntax(what: str) -> Message:
    return error(f"JSON parse error, {what}")


def not_found(name: str, **extra: object) -> Message:
    return error(f"The command {name} has not been found", "CommandNotFound", **extra)


def echo(id_json: bytes) -> bytes:
    return b'{"execute": "qmp_nothing", "id": ' + id_json + b"}"


def echoed(id_: object) -> list[Message]:
    return [not_found("qmp_nothing", id=id_)]


def hmp(arguments: bytes) -> bytes:
    return b'{"execute": "human-monitor-command", "arguments": ' + arguments + b"}"


def char(name: str, arguments: bytes) -> bytes:
    return b'{"execute": "' + name.encode() + b'", "arguments": ' + arguments + b"}"


NOT_OBJECT = error("QMP input must be a JSON object")
VALUE = syntax("expecting value")
EXPECTING = error("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound")
ALREADY = error("Capabilities negotiation is already complete, command ignored", "CommandNotFound")
NO_COMMAND = b'{"execute": "qmp_nothing"}'
NOTHING = not_found("qmp_nothing")
DEPTH = error("JSON nesting depth limit exceeded")
STOP = b'{"execute": "stop"}'

TABLE = [
    # framing
    Row("W3", NO_COMMAND, [NOTHING]),
    Row("W3", NO_COMMAND + NO_COMMAND + b" \t\r\n" + NO_COMMAND, [NOTHING] * 3),
    Row("W3", b'{\n "execute"\r\n:\t"qmp_nothing"\n}', [NOTHING]),
    Row("W4", b"{'execute': 'qmp_nothing'}", [NOTHING]),
    Row("W4", b"{'execute': 'qmp\\'nothing'}", [not_found("qmp'nothing")]),
    Row("W4", b'{"execute": "qmp_n\\u006fthing"}', [NOTHING]),
    Row("W4", echo('"é😀\x7f/\\u00e9\\ud83d\\ude00\\u0000"'.encode()), echoed("é😀\x7f/é😀\0")),
    Row("W4", echo(b'"<\\/\\b\\f\\n\\r\\t\\"\\\\\'"'), echoed("</\b\f\n\r\t\"\\'")),
    # negotiation
    Row("W5", b'{"execute": "query-version"}', [EXPECTING], [EXPECTING], None),
    Row("W5", NO_COMMAND, [EXPECTING], SAME, None),
    Row("W5", b'{"foo": 1}', [error("QMP input member 'foo' is unexpected")], SAME, None),
    Row("W5", b'{"execute": 1, "id": 3}', [error("QMP input member 'execute' must be a string", id=3)], SAME, None),
    Row("W6", NEGOTIATE, [ALREADY]),
    Row("W6", ENABLE_OOB, [ALREADY]),
    Row(
        "W7",
        b'{"execute": "qmp_capabilities", "arguments": {"enable": ["foo"]}}' + NO_COMMAND + NEGOTIATE,
        [error("Parameter 'null' does not accept value 'foo'"), EXPECTING, OK],
        SAME,
        None,
    ),
    Row("W7", ENABLE_OOB.replace(b'["oob"]', b'["oob", "oob"]'), [OK], SAME, None),
    Row("W7", ENABLE_OOB.replace(b'["oob"]', b"[]"), [OK], SAME, None),
    Row(
        "W7",
        ENABLE_OOB.replace(b'["oob"]', b'"oob"') + NEGOTIATE,
        [error("Invalid parameter type for 'enable', expected: array"), OK],
        SAME,
        None,
    ),
    Row(
        "W7",
        ENABLE_OOB.replace(b'["oob"]', b"[1]") + NEGOTIATE,
        [error("Invalid parameter type for 'enable[0]', expected: string"), OK],
        SAME,
        None,
    ),
    Row(
        "W7",
        ENABLE_OOB.replace(b'["oob"]', b"null") + NEGOTIATE,
        [error("Invalid parameter type for 'enable', expected: array"), OK],
        SAME,
        None,
    ),
    # replies and id
    Row("W10", STOP, [OK]),
    Row("W10", b'{"execute": "stop", "id": 1}', [{"return": {}, "id": 1}]),
    Row("W11", echo(b"null"), echoed(None)),
    Row("W11", echo(b'{"a": [1, 2, {"b": null}]}'), echoed({"a": [1, 2, {"b": None}]})),
    Row("W11", echo(b"[]"), echoed([])),
    Row("W11", echo(b"true"), echoed(True)),
    Row("W11", echo(b"18446744073709551615"), echoed(18446744073709551615)),
    Row("W11", echo(b"-9223372036854775808"), echoed(-9223372036854775808)),
    Row("W11", echo(b"18446744073709551616"), echoed(1.8446744073709552e19)),
    Row("W11", echo(b"-9223372036854775809"), echoed(-9.2233720368547758e18)),
    Row("W11", echo(b"[100000000000000000000000]"), echoed([1e23])),
    Row("W39", echo(b"[18446744073709551615]"), echoed([18446744073709551615])),
    Row("W11", b'{"id": 5}', [error("QMP input lacks member 'execute'", id=5)]),
    Row("W12", b'{"id": 5, "execute": }', [VALUE]),
    Row("W12", b'["id", 5]', [NOT_OBJECT]),
    # shape of requests
    Row("W13", b'"x"', [NOT_OBJECT]),
    Row("W13", b"[]", [NOT_OBJECT]),
    Row("W13", b"5 null true 1.5 ", [NOT_OBJECT] * 4),
    Row("W13", b"{}", [error("QMP input lacks member 'execute'")]),
    Row("W13", b'{"execute": 1}', [error("QMP input member 'execute' must be a string")]),
    Row("W13", b'{"execute": null}', [error("QMP input member 'execute' must be a string")]),
    Row("W13", b'{"execute": "stop", "foo": 1}', [error("QMP input member 'foo' is unexpected")]),
    Row("W13", b'{"": 1}', [error("QMP input member '' is unexpected")]),
    Row("W13", b'{"execute": "stop", "control": {}}', [error("QMP input member 'control' is unexpected")]),
    Row("W13", b'{"execute": "stop", "arguments": 1}', [error("QMP input member 'arguments' must be an object")]),
    Row("W13", b'{"execute": "stop", "arguments": []}', [error("QMP input member 'arguments' must be an object")]),
    Row("W13", b'{"execute": "stop", "arguments": null}', [error("QMP input member 'arguments' must be an object")]),
    Row("W13", b'{"arguments": 1}', [error("QMP input member 'arguments' must be an object")]),
    Row("W14", b'{"execute": "bogus", "id": 1}', [not_found("bogus", id=1)]),
    Row("W14", b'{"execute": "bogus", "arguments": {"x": 1}}', [not_found("bogus")]),
    Row("W14", b'{"execute": ""}', [not_found("")]),
    Row("W14", b'{"execute": "x\\u0022\xc3\xa9\x7f"}', [not_found('x"é\x7f')]),
    # arguments
    Row("W15", b'{"execute": "stop", "arguments": {}}', [OK]),
    Row("W15", b'{"execute": "stop", "arguments": {"x": null}}', [error("Parameter 'x' is unexpected")]),
    Row("W15", b'{"execute": "quit", "arguments": {"x": 1}}', [error("Parameter 'x' is unexpected")]),
    Row("W15", b'{"execute": "human-monitor-command"}', [error("Parameter 'command-line' is missing")]),
    Row("W15", hmp(b'{"x": 2}'), [error("Parameter 'command-line' is missing")]),
    Row(
        "W15",
        hmp(b'{"command-line": 1, "x": 2}'),
        [error("Invalid parameter type for 'command-line', expected: string")],
    ),
    Row("W15", hmp(b'{"command-line": null}'), [error("Invalid parameter type for 'command-line', expected: string")]),
    *(
        Row(
            "W15",
            hmp(b'{"command-line": "quit", "cpu-index": ' + value + b"}"),
            [error("Invalid parameter type for 'cpu-index', expected: integer")],
        )
        for value in (b"1.5", b"1.0", b'"1"', b"true", b"null", b"99999999999999999999", b"9223372036854775808")
    ),
    Row(
        "W15",
        hmp(b'{"command-line": "quit", "cpu-index": 99}'),
        [error("Parameter 'cpu-index' expects a CPU number")],
    ),
    Row(
        "W15",
        b'{"execute": "query-blockstats", "arguments": {"query-nodes": 1}}',
        [error("Invalid parameter type for 'query-nodes', expected: boolean")],
    ),
    Row("W16", b'{"execute": "stop", "execute": "stop"}', [syntax("duplicate key")]),
    Row("W16", b'{"execute": "stop", "id": {"a": 1, "a": 1}}', [syntax("duplicate key")]),
    Row("W16", b'{"execute": "stop", "\\u0065xecute": "stop"}', [syntax("duplicate key")]),
    # order and out-of-band
    Row("W17", b"".join(echo(b"%d" % n) for n in range(40)), [echoed(n)[0] for n in range(40)]),
    Row("W17", b"".join(echo(b"%d" % n) for n in range(40)), [echoed(n)[0] for n in range(40)], SAME, ENABLE_OOB),
    Row("W19", b'{"exec-oob": "stop", "id": 1}', [error("QMP input member 'exec-oob' is unexpected", id=1)]),
    Row("W19", b'{"execute": "stop", "exec-oob": "stop"}', [error("QMP input member 'exec-oob' is unexpected")]),
    Row("W20", b'{"exec-oob": "query-name"}', [error("The command query-name does not support OOB")], SAME, ENABLE_OOB),
    Row("W20", b'{"exec-oob": "bogus"}', [not_found("bogus")], SAME, ENABLE_OOB),
    Row("W20", b'{"exec-oob": 1}', [error("QMP input member 'exec-oob' must be a string")], SAME, ENABLE_OOB),
    Row("W20", b'{"exec-oob": "stop", "foo": 4}', [error("QMP input member 'foo' is unexpected")], SAME, ENABLE_OOB),
    Row(
        "W20",
        b'{"execute": "stop", "exec-oob": "stop"}',
        [error("QMP input member 'execute' clashes with 'exec-oob'")],
        SAME,
        ENABLE_OOB,
    ),
    Row(
        "W20",
        b'{"exec-oob": "qmp_capabilities"}',
        [error("The command qmp_capabilities does not support OOB")],
        SAME,
        ENABLE_OOB,
    ),
    # run state
    Row(
        "W23",
        b'{"execute": "cont"}{"execute": "cont"}{"execute": "stop"}{"execute": "stop"}',
        [{"event": "RESUME"}, OK, OK, {"event": "STOP"}, OK, OK],
    ),
    Row("W24", hmp(b'{"command-line": "bogus x"}'), [{"return": "unknown command: 'bogus'\r\n"}]),
    Row("W24", hmp(b'{"command-line": "info bogus"}'), [{"return": "unknown command: 'info bogus'\r\n"}]),
    Row("W24", hmp(b'{"command-line": ""}'), [{"return": ""}]),
    # limits and recovery
    Row("W25", b"[" * 1023 + b"]" * 1023, [NOT_OBJECT]),
    Row("W25", b"[" * 1024 + b"]" * 1024, [NOT_OBJECT]),
    Row("W25", b"[" * 1025 + b"]" * 1025, [DEPTH], None),
    Row("W26", b"\x01" + NO_COMMAND, [syntax("stray '\x01'"), NOTHING]),
    Row("W26", b"\xff" + NO_COMMAND, [syntax("stray '�'"), NOTHING]),
    Row("W26", b"\x00" + NO_COMMAND, [syntax("stray ''"), NOTHING]),
    Row("W26", b'{"execute": "sto\x01' + NO_COMMAND, [syntax("stray '\"sto\x01'"), NOTHING]),
    Row("W26", b'{"execute": "stop", "id": "a\x01b"}', [syntax("stray '\"a\x01'")], [syntax("stray '\"a\x01'"), VALUE]),
    Row("W26", b'{"execute": "stop", "id": "a\xff"}', [syntax("stray '\"a�'")], [syntax("stray '\"a�'"), VALUE]),
    Row("W26", b'{"execute": "stop", "id": "a\nb"}', [syntax("stray '\"a\n'")], [syntax("stray '\"a\n'"), VALUE]),
    Row("W27", b'{"execute": }' + NO_COMMAND, [VALUE, NOTHING]),
    Row("W27", b'{"execute" "stop"}' + NO_COMMAND, [syntax("missing : in object pair"), NOTHING]),
    Row("W27", b'{"execute": "stop",}' + NO_COMMAND, [VALUE, NOTHING]),
    Row("W27", b"{,}[1,][,]" + NO_COMMAND, [VALUE, VALUE, VALUE, NOTHING]),
    Row("W27", b"{1: 2}", [syntax("key is not a string in object")]),
    Row("W27", b'{"a": [1}}', [syntax("expected separator in list")]),
    Row("W27", b'{"a": 1 "b": 2}', [syntax("expected separator in dict")]),
    Row("W27", b"abc " + NO_COMMAND, [syntax("invalid keyword 'abc'"), NOTHING]),
    Row("W27", b"[abc]" + NO_COMMAND, [syntax("invalid keyword 'abc'"), NOTHING]),
    Row("W27", b"}" + NO_COMMAND, [VALUE, NOTHING]),
    Row("W27", b"}}]" + NO_COMMAND, [VALUE, NOTHING], [VALUE, VALUE, VALUE, NOTHING]),
    Row("W27", b"[" * 1025 + b"\n" + NO_COMMAND, [DEPTH, NOTHING], None),
    Row("W28", b"[01]" + NO_COMMAND, [syntax("stray '01'"), NOTHING], [syntax("stray '01'"), VALUE, NOTHING]),
    Row("W28", b"[+1]" + NO_COMMAND, [syntax("stray '+'"), NOTHING], [syntax("stray '+'"), VALUE, NOTHING]),
    Row("W28", b"[NaN]" + NO_COMMAND, [syntax("stray 'N'"), NOTHING], None),
    Row("W28", b"[%d]" + NO_COMMAND, [syntax("stray '%'"), NOTHING], [syntax("stray '%'"), VALUE, NOTHING]),
    Row("W28", b"[1.]" + NO_COMMAND, [syntax("stray '1.]'"), NOTHING], SAME),
    Row("W28", echo(b"-0"), echoed(0)),
    Row("W28", echo(b"[0.1, -1.5e3, 1E2]"), echoed([0.1, -1500.0, 100.0])),
    Row("W29", echo(b"1e400"), [syntax("number '1e400' is too large")], None),
    Row("W29", echo(b'"\xc0\x80"'), [syntax("invalid UTF-8 sequence in string")], echoed("\0")),
    Row("W29", echo(b'"\\ud800"'), [syntax("\\ud800 is not a valid Unicode character")]),
    Row("W29", echo(b'"\\ud800\\u0041"'), [syntax("\\ud800 is not a valid Unicode character")]),
    Row("W29", echo(b'"\\uFFFE"'), [syntax("\\uFFFE is not a valid Unicode character")]),
    Row("W29", echo(b'"\\u12"'), [syntax('\\u12" is not a valid Unicode character')]),
    Row("W29", echo(b'"\\q"'), [syntax("invalid escape sequence in string")]),
    *(
        Row("W29", echo(b'"' + bad + b'"'), [syntax("invalid UTF-8 sequence in string")])
        for bad in (b"\x80", b"\xed\xa0\x80", b"\xef\xbf\xbe", b"\xf4\x90\x80\x80", b"\xe2\x82")
    ),
    # commands of the wire itself
    *(
        Row("W15", char(name, b'{"id": "x", "backend": ' + backend + b"}"), [error(desc)])
        for name in ("chardev-add", "chardev-change")
        for backend, desc in (
            (b"1", "Invalid parameter type for 'backend', expected: object"),
            (b'{"data": {}}', "Parameter 'backend.type' is missing"),
            (b'{"type": 1, "data": {}}', "Invalid parameter type for 'backend.type', expected: string"),
            (b'{"type": "bogus", "data": {}}', "Parameter 'type' does not accept value 'bogus'"),
            (b'{"type": "null"}', "Parameter 'backend.data' is missing"),
            (b'{"type": "null", "data": []}', "Invalid parameter type for 'backend.data', expected: object"),
            (b'{"type": "null", "data": {"x": 1}}', "Parameter 'backend.data.x' is unexpected"),
            (b'{"type": "null", "data": {}, "y": 1}', "Parameter 'backend.y' is unexpected"),
            (b'{"type": "file", "data": {}}', "Parameter 'backend.data.out' is missing"),
            (b'{"type": "socket", "data": {}}', "Parameter 'backend.data.addr' is missing"),
            (
                b'{"type": "socket", "data": {"addr": {"type": "unix", "data": {}}}}',
                "Parameter 'backend.data.addr.data.path' is missing",
            ),
            (
                b'{"type": "socket", "data": {"addr": {"type": "bogus", "data": {}}}}',
                "Parameter 'type' does not accept value 'bogus'",
            ),
        )
    ),
    Row("W15", char("chardev-remove", b'{"id": "x"}'), [error("Chardev 'x' not found")]),
    Row("W15", char("chardev-send-break", b'{"id": "x"}'), [error("Chardev 'x' not found")]),
    Row("W15", char("ringbuf-read", b'{"device": "x", "size": 1}'), [error("Device 'x' not found")]),
    Row(
        "W15",
        char("ringbuf-read", b'{"device": "x", "size": 1, "format": "hex"}'),
        [error("Parameter 'format' does not accept value 'hex'")],
    ),
    Row(
        "W15",
        b'{"execute": "transaction", "arguments": {"actions": [{"type": "abort", "data": {}}]}}',
        [error("Transaction aborted using Abort action")],
    ),
    Row(
        "W15",
        b'{"execute": "transaction", "arguments": {"actions": [{"type": "abort"}]}}',
        [error("Parameter 'actions[0].data' is missing")],
    ),
    Row("W15", b'{"execute": "transaction", "arguments": {"actions": []}}', [OK]),
    Row("W20", b'{"exec-oob": "yank", "arguments": {"instances": []}}', [OK], SAME, ENABLE_OOB),
    Row(
        "W20",
        b'{"exec-oob": "yank", "arguments": {"instances": [{"type": "bogus"}]}}',
        [error("Parameter 'type' does not accept value 'bogus'")],
        SAME,
        ENABLE_OOB,
    ),
    Row(
        "W20",
        b'{"exec-oob": "yank", "arguments": {"instances": [{"type": "chardev"}]}}',
        [error("Parameter 'instances[0].id' is missing")],
        SAME,
        ENABLE_OOB,
    ),
    Row("W37", b'{"execute": "query-fdsets"}', [{"return": []}]),
    # events of commands
    Row(
        "W36",
        b'{"execute": "system_powerdown"}{"execute": "system_powerdown"}',
        [{"event": "POWERDOWN"}, OK, {"event": "POWERDOWN"}, OK],
    ),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.number}-{row.send[:40].decode('latin-1')!a}")
def test_statement_of_the_table_holds(target: Target, client: Client, row: Row) -> None:
    expected = row.expect if target.name != "qemu" or isinstance(row.qemu, Same) else row.qemu
    if expected is None:
        pytest.skip("vmmd departs from QEMU here on purpose")
    client.greet(row.opening)
    client.send(row.send)
    negotiated = row.opening is not None or OK in expected
    if not negotiated:  # the probe would be refused
        client.send(NEGOTIATE)
        expected = [*expected, OK]
    assert client.until_probe() == expected


def test_every_error_of_the_table_has_one_of_the_five_classes() -> None:
    """W22."""
    classes = {message["error"]["class"] for row in TABLE for message in row.expect if "error" in message}
    assert classes <= {"GenericError", "CommandNotFound", "DeviceNotActive", "DeviceNotFound", "KVMMissingCap"}


# -- dialogues ---------------------------------------------------------------------------------------------------------


def test_w1_w2_greeting_is_one_ascii_line_before_any_input(client: Client) -> None:
    line = client.line()
    assert line.endswith(b"}\r\n")
    assert line.isascii()
    assert b"\r\n" not in line[:-2]
    greeting = json.loads(line)["QMP"]
    assert greeting["capabilities"] == ["oob"]
    assert greeting["version"]["qemu"].keys() == {"micro", "minor", "major"}
    assert isinstance(greeting["version"]["package"], str)


def test_w2_output_is_ascii_ended_by_crlf(client: Client) -> None:
    client.greet()
    client.send(echo('"é😀\x7f\\n"'.encode()))
    line = client.line()
    assert line.isascii()
    assert line.endswith(b"}\r\n")
    assert b"\x7f" not in line
    assert re.search(rb"\\u00e9\\ud83d\\ude00\\u007f\\n", line, re.IGNORECASE)


def test_w5_events_are_not_delivered_before_negotiation(target: Target, client: Client) -> None:
    if target.name == "qemu":
        pytest.skip("QEMU serves one client of a socket at a time")
    silent = target.connect()
    assert "QMP" in silent.message()
    client.greet()
    client.send(b'{"execute": "system_powerdown"}')
    assert client.until_probe() == [{"event": "POWERDOWN"}, OK]
    silent.send(NEGOTIATE)
    assert silent.message() == OK
    silent.close()


def test_w8_reconnect_starts_in_negotiation_mode(target: Target) -> None:
    for _turn in range(2):
        client = target.connect()
        assert "QMP" in client.message()
        client.send(NO_COMMAND)
        assert client.message() == EXPECTING
        client.send(ENABLE_OOB)
        assert client.message() == OK
        client.close()


def test_w9_several_clients_are_greeted(target: Target, client: Client) -> None:
    if target.name == "qemu":
        pytest.skip("V: QEMU holds the second client back")
    others = [target.connect() for _turn in range(5)]
    for each in (client, *others):
        each.greet()
    for each in others:
        each.close()


def test_w21_extensions_use_the_downstream_name_space(target: Target, client: Client) -> None:
    client.greet()
    names = [each["name"] for each in client.reply("query-commands")]
    assert "query-status" in names
    assert all(re.fullmatch(r"(x-)?[a-z][a-z0-9_-]*|__[a-z0-9.-]+_[a-z0-9-]+", name) for name in names)


@pytest.mark.parametrize("name", [*OURS, pytest.param("qemu", marks=pytest.mark.qemu)])
def test_w23_quit_sends_shutdown_then_reply_then_closes(name: str) -> None:
    with spawn(name) as target:
        client = target.connect().greet()
        client.send(b'{"execute": "quit", "id": 7}')
        event = client.message()
        assert (event["event"], event["data"]) == ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        assert client.message() == {"return": {}, "id": 7}
        assert client.line() == b""
        client.close()


def test_w31_a_long_string_does_not_stall_other_clients(target: Target, client: Client) -> None:
    if target.name == "qemu":
        pytest.skip("V: QEMU's main loop is busy for half a minute")
    client.greet()
    noisy = target.connect().greet()
    noisy.send(b'{"execute": "')
    worst = 0.0
    for _turn in range(64):
        noisy.send(b"x" * (64 << 10))
        start = time.monotonic()
        client.until_probe()
        worst = max(worst, time.monotonic() - start)
    noisy.close()
    assert worst < 1.0


def test_w30_a_message_above_ten_mib_is_refused_and_the_session_goes_on(target: Target, client: Client) -> None:
    if target.name == "qemu":
        pytest.skip("V: QEMU takes 64 MiB")
    client.greet()
    client.send(b'{"execute": "' + b"x" * (11 << 20) + b'"}\n')
    assert client.until_probe() == [error("JSON token size limit exceeded")]


def test_w32_events_carry_a_time(client: Client) -> None:
    client.greet()
    before = int(time.time())
    client.send(b'{"execute": "system_powerdown"}')
    event = client.message()
    assert event.keys() == {"timestamp", "event"}
    assert before <= event["timestamp"]["seconds"] <= time.time() + 1
    assert 0 <= event["timestamp"]["microseconds"] < 1_000_000


def test_w36_reset_event_names_its_cause(client: Client) -> None:
    client.greet()
    client.send(b'{"execute": "system_reset"}')
    assert client.until_probe() == [
        {"event": "RESET", "data": {"guest": False, "reason": "host-qmp-system-reset"}},
        OK,
    ]


def with_fds(client: Client, count: int, name: str, **arguments: object) -> Any:
    """The return of a command that *count* descriptors come with, or the first sentence of its error."""
    data = json.dumps({"execute": name, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}).encode()
    with open(os.devnull, "rb") as file:
        fds = array.array("i", [file.fileno()] * count)
        client.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if count else [])
    message = client.message()
    return message["return"] if "return" in message else message["error"]["desc"].split(";")[0]


NO_FD = "No file descriptor supplied via SCM_RIGHTS"


def test_w37_getfd_takes_the_descriptor_that_came_with_it(client: Client) -> None:
    client.greet()
    assert with_fds(client, 0, "getfd", fdname="a") == NO_FD
    assert with_fds(client, 1, "getfd", fdname="1a") == "Parameter 'fdname' expects a name not starting with a digit"
    assert with_fds(client, 0, "getfd", fdname="a") == NO_FD
    assert with_fds(client, 1, "getfd", fdname="a") == {}
    assert with_fds(client, 1, "getfd", fdname="a") == {}
    assert with_fds(client, 0, "closefd", fdname="a") == {}
    assert with_fds(client, 0, "closefd", fdname="a") == "File descriptor named 'a' not found"
    assert with_fds(client, 0, "closefd", fdname="b") == "File descriptor named 'b' not found"


def test_w37_descriptors_wait_for_a_command_that_takes_them(client: Client) -> None:
    client.greet()
    assert "status" in with_fds(client, 2, "query-status")
    assert with_fds(client, 0, "getfd", fdname="a") == {}
    assert "status" in with_fds(client, 1, "query-status")  # replaces the one that was left
    assert with_fds(client, 0, "getfd", fdname="b") == {}
    assert with_fds(client, 0, "getfd", fdname="c") == NO_FD
    for name in "ab":
        assert with_fds(client, 0, "closefd", fdname=name) == {}


def test_w37_fd_sets(client: Client) -> None:
    client.greet()
    client.send(b'{"execute": "cont"}')  # QEMU closes no member before the machine runs
    while client.message() != OK:
        pass
    assert with_fds(client, 0, "add-fd") == NO_FD
    assert with_fds(client, 1, "add-fd", fdset_id=-1) == "Parameter 'fdset-id' expects a non-negative value"
    first = with_fds(client, 1, "add-fd")
    assert first["fdset-id"] == 0
    second = with_fds(client, 1, "add-fd", fdset_id=7, opaque="é")
    assert with_fds(client, 1, "add-fd")["fdset-id"] == 1
    third = with_fds(client, 1, "add-fd", fdset_id=7)
    sets = {each["fdset-id"]: each["fds"] for each in client.reply("query-fdsets")}
    assert sets[0] == [{"fd": first["fd"]}]
    assert sorted(sets[7], key=lambda each: each["fd"]) == [{"fd": second["fd"], "opaque": "é"}, {"fd": third["fd"]}]
    missing = "File descriptor named 'fdset-id:7, fd:1' not found"
    assert with_fds(client, 0, "remove-fd", fdset_id=7, fd=1) == missing
    assert with_fds(client, 0, "remove-fd", fdset_id=99) == "File descriptor named 'fdset-id:99' not found"
    assert with_fds(client, 0, "remove-fd", fdset_id=7, fd=second["fd"]) == {}
    for number in (0, 1, 7):
        assert with_fds(client, 0, "remove-fd", fdset_id=number) == {}
    assert client.reply("query-fdsets") == []
    client.send(b'{"execute": "stop"}')
    while client.message() != OK:
        pass


def test_w38_a_chardev_that_comes_and_goes(client: Client, tmp_path: Any) -> None:
    client.greet()
    unix = {"type": "unix", "data": {"path": str(tmp_path / "s")}}

    def added(id_: str, kind: str, **data: object) -> Any:
        return with_fds(client, 0, "chardev-add", id=id_, backend={"type": kind, "data": data})

    def changed(id_: str, kind: str, **data: object) -> Any:
        return with_fds(client, 0, "chardev-change", id=id_, backend={"type": kind, "data": data})

    assert added("s", "socket", addr=unix) == {}
    assert added("s", "null") == "Chardev with id 's' already exists"
    assert added("f", "file", out="/nonexistent/x") == (
        "Failed to add chardev 'f': Could not open '/nonexistent/x': No such file or directory"
    )
    missing = {"type": "fd", "data": {"str": "nofd"}}
    named = "File descriptor named 'nofd' has not been found"
    assert added("f", "socket", addr=missing, server=False).endswith(named)
    found = {each["label"]: each["filename"] for each in client.reply("query-chardev")}
    assert found["s"] == f"disconnected:unix:{tmp_path}/s,server=on"
    assert {"type": "chardev", "id": "s"} in client.reply("query-yank")
    assert changed("x", "null") == "Chardev 'x' does not exist"
    assert changed("s", "ringbuf", size=64) == {}
    assert with_fds(client, 0, "ringbuf-write", device="s", data="hello") == {}
    assert with_fds(client, 0, "ringbuf-read", device="s", size=2) == "he"
    assert with_fds(client, 0, "ringbuf-read", device="s", size=9, format="base64") == "bGxv"
    assert with_fds(client, 0, "ringbuf-read", device="s", size=0) == "size must be greater than zero"
    assert with_fds(client, 0, "chardev-remove", id="s") == {}
    assert with_fds(client, 0, "chardev-remove", id="s") == "Chardev 's' not found"


def test_w42_enumerations_have_members_and_values(client: Client) -> None:
    client.greet()
    enums = [each for each in client.reply("query-qmp-schema") if each["meta-type"] == "enum"]
    assert enums
    for each in enums:
        assert [member["name"] for member in each["members"]] == each["values"]


def test_w38_query_chardev_has_label_filename_and_frontend_open(client: Client) -> None:
    client.greet()
    for info in client.reply("query-chardev"):
        assert info.keys() == {"label", "filename", "frontend-open"}


def test_w40_w41_version_is_the_greetings_and_query_kvm_is_offered(client: Client) -> None:
    greeting = client.message()["QMP"]["version"]
    client.send(NEGOTIATE)
    assert client.message() == OK
    assert client.reply("query-version") == greeting
    assert client.reply("query-kvm").keys() == {"enabled", "present"}


# -- structure of replies ----------------------------------------------------------------------------------------------


def kind(value: object) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def foreign(ours: object, theirs: list[object], path: str) -> list[str]:
    """Where ``ours`` has a member or a type that none of ``theirs`` has."""
    if kind(ours) not in {kind(each) for each in theirs}:
        return [f"{path}: {kind(ours)}"]
    if isinstance(ours, dict):
        found = []
        for key, value in ours.items():
            candidates = [each[key] for each in theirs if isinstance(each, dict) and key in each]
            found += foreign(value, candidates, f"{path}.{key}") if candidates else [f"{path}.{key}: unknown"]
        return found
    if isinstance(ours, list):
        items = [item for each in theirs if isinstance(each, list) for item in each]
        return [text for each in ours for text in (foreign(each, items, f"{path}[]") if items else [])]
    return []


@pytest.mark.qemu
def test_replies_are_a_structural_subset_of_qemus(tmp_path: Any) -> None:
    image = tmp_path / "d.img"
    image.write_bytes(bytes(1 << 20))
    path = tmp_path / "q.sock"
    argv = [*emulator("qemu").command, "-machine", "pc", "-accel", "tcg", "-S", "-nodefaults", "-display", "none"]
    argv += ["-name", "guest=g", "-qmp", f"unix:{path},server=on,wait=off"]
    argv += ["-drive", f"file={image},format=raw,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0,id=disk0"]
    process = subprocess.Popen(argv)
    try:
        theirs = Target("qemu", str(path)).connect().greet()
        with Monitor() as monitor:
            ours = Target("vmmd", monitor.path).connect().greet()
            known = {each["name"] for each in theirs.reply("query-commands")}
            problems = []
            compared = 0
            for name, spec in load().items():
                if not name.startswith("query-") or spec.needs_arguments or name == "query-qmp-schema":
                    continue
                if name in known and "return" in (mine := ours.ask(name)) and "return" in (other := theirs.ask(name)):
                    problems += foreign(mine["return"], [other["return"]], name)
                    compared += 1
            assert compared > 15
            ours.close()
        theirs.close()
    finally:
        process.terminate()
        process.wait(20)
    assert problems == []


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q"]))
