# SPDX-License-Identifier: Apache-2.0
"""vmmd-shell in a real terminal and in scripts: against the monitor alone, vmmd, and QEMU."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.differential.test_qmp_wire import Target, spawn
from tests.framework import shell_recording
from tests.framework.terminal import Terminal
from tests.unit.shell_support import ENTRIES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHELL = [sys.executable, "-m", "vmmd.shell"]
PEERS = ["monitor", pytest.param("vmmd", marks=pytest.mark.kvm), pytest.param("qemu", marks=pytest.mark.qemu)]
STATUS = {"status": "prelaunch", "singlestep": False, "running": False}


@pytest.fixture(scope="module", params=PEERS)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """A peer that no test changes."""
    with spawn(request.param) as found:
        yield found


@contextmanager
def terminal(path: str, home: Path, *options: str, words: tuple[str, ...] = ()) -> Iterator[Terminal]:
    """The shell in a terminal, with its history below *home*."""
    environment = {"XDG_STATE_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1"}
    with Terminal([*SHELL, *options, path, *words], columns=160, env=environment) as screen:
        yield screen


@pytest.fixture(scope="module", params=PEERS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A shell on a peer of its own, since QEMU serves one client only."""
    with spawn(request.param) as target, terminal(target.path, tmp_path_factory.mktemp("home")) as found:
        found.wait_for("vmmd>", "| connected |", "prelaunch")
        yield found


@pytest.fixture
def screen(shared: Terminal) -> Terminal:
    """A shell at its prompt, on an empty screen."""
    shared.press("C-u", "C-l")
    shared.wait(lambda shown: shown.startswith("vmmd>\n") and "| connected |" in shown, "an empty screen")
    return shared


def script(path: str, *arguments: str, options: tuple[str, ...] = ("--json",), text: str = "") -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a run without a terminal."""
    done = subprocess.run(
        [*SHELL, *options, path, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


# -- the prompt --------------------------------------------------------------------------------------------------------


def test_a_command_is_completed_run_and_answered(screen: Terminal) -> None:
    screen.type("query-stat")
    screen.wait_for("query-stats", "query-status")  # the menu, without a key
    screen.type("us")
    screen.press("Enter")
    screen.wait_for('"status": "prelaunch"')


def test_exit_leaves_with_status_0(tmp_path: Path) -> None:
    with spawn("monitor") as target, terminal(target.path, tmp_path) as screen:
        screen.wait_for("| connected |")
        screen.line("exit")
        assert screen.status() == 0
        client = target.connect().greet()
        assert client.reply("query-status") == STATUS  # the machine goes on
        client.close()


def test_arguments_and_paths_of_the_object_tree_are_completed(screen: Terminal) -> None:
    screen.type("qom-li")
    screen.press("Tab")
    screen.wait_for("vmmd> qom-list")
    screen.press("C-u")
    screen.type("qom-list ")
    screen.press("Tab")
    screen.wait_for("vmmd> qom-list path=")
    screen.type("/mach")
    screen.press("Tab")
    screen.wait_for("vmmd> qom-list path=/machine")
    screen.type("/peripheral")
    screen.press("Enter")
    screen.wait_for('"name": "type"')


def test_a_wrong_line_is_not_sent_and_has_a_caret(screen: Terminal) -> None:
    screen.line("qom-list paht=/machine")
    shown = screen.wait_for("there is no argument 'paht'; did you mean 'path'?")
    lines = shown.split("\n")
    at = lines.index("there is no argument 'paht'; did you mean 'path'?")
    assert lines[at - 2 : at] == ["qom-list paht=/machine", "         ^^^^"]


def test_the_monitor_for_people_has_its_own_prompt(screen: Terminal) -> None:
    screen.line("hmp info status")
    screen.wait_for("VM status: paused (prelaunch)")
    screen.line("hmp")
    screen.wait_for_last("hmp>")
    screen.line("info status")
    screen.wait(lambda shown: shown.count("VM status") == 2, "the status again")
    screen.wait_for_last("hmp>")
    screen.press("C-d")
    screen.wait_for_last("vmmd>")


def test_help_shows_what_a_command_takes(screen: Terminal) -> None:
    screen.line("help qom-set")
    screen.wait_for("  path      required  str", "  value     required  any")


def test_watch_fills_the_screen_until_q(screen: Terminal) -> None:
    screen.line("watch -n 0.2 query-status")
    screen.wait_for("every 0.2 s", '"running": false')
    screen.press("q")
    screen.wait_for_last("vmmd>")


@pytest.mark.parametrize(
    ("line", "caret", "text"),
    [
        ("watch top", "      ^^^", "'top' cannot be watched"),
        ("watch hmp quit", "", "error: quit cannot be watched"),
        ("watch -n 1 qom-get path=/x foo=1", "                           ^^^", "there is no argument 'foo'"),
    ],
)
def test_what_cannot_be_watched_is_told_with_its_place(line: str, caret: str, text: str, screen: Terminal) -> None:
    screen.line(line)
    shown = screen.wait_for(f"\n{text}", "prelaunch")
    assert not caret or f"\n{line}\n{caret}\n{text}" in shown


def test_top_fills_the_screen_until_q(screen: Terminal) -> None:
    screen.line("top -n 0.2")
    screen.wait_for("prelaunch", "every 0.2 s")
    screen.press("q")
    screen.wait_for_last("vmmd>")


@pytest.mark.parametrize("words", [("top", "-n", "0.2"), ("watch", "-n", "0.2", "query-status")])
def test_a_live_view_can_be_all_there_is(words: tuple[str, ...], target: Target, tmp_path: Path) -> None:
    with terminal(target.path, tmp_path, words=words) as screen:
        screen.wait_for("prelaunch", "every 0.2 s")
        screen.press("q")
        assert screen.status() == 0


def test_lines_are_kept_in_a_private_file(target: Target, tmp_path: Path) -> None:
    with terminal(target.path, tmp_path) as screen:
        screen.wait_for("| connected |")
        screen.line("query-status")
        screen.wait_for("running")
        screen.wait_for_last("vmmd>")
        screen.line("hmp secret")
        screen.wait_for("unknown command: 'secret'")
        screen.wait_for_last("vmmd>")
        screen.press("C-d")
        assert screen.status() == 0
    kept = tmp_path / "vmmd" / "shell-history"
    assert "+query-status" in kept.read_text().splitlines()
    assert "secret" not in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600
    with terminal(target.path, tmp_path) as screen:
        screen.wait_for("| connected |")
        screen.press("Up")
        screen.wait_for_last("vmmd> query-status")  # the line with a secret was kept in memory only
    with terminal(target.path, tmp_path, "--no-history") as screen:
        screen.wait_for("| connected |")
        screen.line("query-version")
        screen.wait_for('"qemu"')
    assert "query-version" not in kept.read_text()


def test_events_come_above_the_line_being_typed(tmp_path: Path) -> None:
    with spawn("monitor") as target, terminal(target.path, tmp_path) as screen:
        screen.wait_for("| connected |", "| prelaunch |")
        screen.type("query-na")
        screen.wait_for("vmmd> query-na")
        client = target.connect().greet()
        client.send(b'{"execute": "cont"}')
        shown = screen.wait_for(" RESUME", "| running |").split("\n")
        assert [line[:14] for line in shown if line.startswith("vmmd>")] == ["vmmd> query-na"]  # one prompt, unbroken
        assert next(at for at, line in enumerate(shown) if line.endswith(" RESUME")) < shown.index("vmmd> query-na")
        client.close()
        screen.type("me")
        screen.press("Enter")
        screen.wait_for('"name": "foo"')
        screen.line("events")
        screen.wait(lambda shown: shown.count(" RESUME") == 2, "the event again")


@pytest.mark.parametrize("line", ["quit", "hmp quit", '{"execute": "quit"}', "human-monitor-command command-line=quit"])
def test_quit_ends_the_machine_only_when_confirmed(line: str, screen: Terminal) -> None:
    screen.line(line)
    screen.wait_for("End it? [y/N]")
    screen.line("")
    screen.wait_for_last("vmmd>")
    screen.line("query-status")
    screen.wait_for('"status": "prelaunch"')


@pytest.mark.parametrize("name", ["monitor", pytest.param("qemu", marks=pytest.mark.qemu)])
def test_a_lost_connection_is_told_and_made_again(name: str, tmp_path: Path) -> None:
    with spawn(name) as first:
        path = tmp_path / "monitor.sock"
        path.symlink_to(first.path)
        with terminal(str(path), tmp_path) as screen:
            screen.wait_for("| connected |")
            screen.line("quit")
            screen.wait_for("End it? [y/N]")
            screen.line("y")
            screen.wait_for("connection lost", "next try in")
            screen.line("query-status")
            screen.wait_for("error: no connection")
            with spawn(name) as second:
                path.unlink()
                path.symlink_to(second.path)
                screen.wait_for("connected again", "| prelaunch |")
                screen.line("query-status")
                screen.wait_for('"status": "prelaunch"')


def test_control_c_stops_waiting_for_an_answer(tmp_path: Path) -> None:
    with peer(tmp_path, silent=("query-status",)) as path, terminal(path, tmp_path) as screen:
        screen.wait_for("| connected |")
        screen.line("query-status")
        screen.wait_for("no answer yet")
        screen.press("C-c")
        screen.wait_for("not waited for")
        screen.line("qom-list path=/x")
        screen.wait_for('"answer"')


def test_lines_after_a_command_that_blocks_the_peer_tell_why_they_wait(tmp_path: Path) -> None:
    with peer(tmp_path, blocks="yank") as path, terminal(path, tmp_path) as screen:
        screen.wait_for("| connected |")
        screen.line("yank")
        screen.wait_for("-- no answer yet; Ctrl-C")
        screen.press("C-c")
        screen.wait_for("not waited for")
        screen.line("query-status")
        screen.wait_for("-- no answer yet: the peer is still busy with yank; Ctrl-C")
        screen.press("C-c")


@pytest.mark.parametrize("name", PEERS[1:])
def test_a_device_is_added_with_properties_of_the_right_types(name: str) -> None:
    with spawn(name, "pc") as target:
        status, out, error = script(
            target.path,
            "blockdev-add driver=null-co node-name=n0 size=1M",
            "device_add driver=virtio-blk-pci drive=n0 id=d0 share-rw=on num-queues=1 serial=5 addr=7",
            "qom-get path=/machine/peripheral/d0 property=serial",
            "qom-get path=/machine/peripheral/d0 property=addr",
            "qom-get path=/machine/peripheral/d0 property=share-rw",
        )
        assert (status, error) == (0, "")
        assert [json.loads(line) for line in out.splitlines()] == [{}, {}, "5", 7 << 3, True]
        status, _out, error = script(target.path, "device_add driver=virtio-blk-pci drvie=n0")
        assert status == 64
        assert "there is no property 'drvie'; did you mean 'drive'" in error


@pytest.mark.parametrize("name", PEERS[1:])
def test_ids_are_offered_as_soon_as_they_exist(name: str, tmp_path: Path) -> None:
    with spawn(name, "pc") as target, terminal(target.path, tmp_path) as screen:
        screen.wait_for("| connected |")
        for node in ("first", "second"):
            screen.line(f"blockdev-add driver=null-co node-name={node} size=1M")
            screen.wait_for("\nOK\nvmmd>\n")
            screen.type(f"blockdev-del node-name={node[0]}")
            screen.press("Tab")
            screen.wait_for(f"\nvmmd> blockdev-del node-name={node}\n")
            screen.press("C-u", "C-l")
            screen.wait(lambda shown: shown.startswith("vmmd>\n"), "an empty screen")


@pytest.mark.kvm
def test_the_recording_in_the_document_is_what_the_shell_shows(tmp_path: Path) -> None:
    with shell_recording.guest() as vm:
        scenes = shell_recording.record(vm, tmp_path)
    now, then = shell_recording.text(scenes), shell_recording.recorded()
    assert shell_recording.constant(now) == shell_recording.constant(then), "run scripts/record-shell"


# -- a peer of our own, for what real ones do not do -------------------------------------------------------------------

DEADLY = "yank"  # the peer closes the connection instead of answering
HOSTILE = "\x1b]0;evil\x07\x1b[2J\x9b5m\u202e\r\x7f"


def requests(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """The requests of a client, which sends JSON without line ends."""
    text, decoder = "", json.JSONDecoder()
    while data := connection.recv(65536):
        text += data.decode()
        while text.strip():
            try:
                request, end = decoder.raw_decode(text.lstrip())
            except json.JSONDecodeError:
                break
            text = text.lstrip()[end:]
            yield request


@contextmanager
def peer(directory: Path, silent: tuple[str, ...] = (), greet: bool = True, blocks: str = "") -> Iterator[str]:
    """A server that answers every command with hostile strings, never answers those in *silent*, or never greets.

    After *blocks* it answers nothing more.
    """
    path = str(directory / "peer.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:  # the client may go at any time
            if greet:
                version = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": HOSTILE}
                send(connection, {"QMP": {"version": version, "capabilities": []}})
            blocked = False
            for request in requests(connection):
                name = request["execute"]
                blocked = blocked or name == blocks
                if name in silent or blocked:
                    continue
                if name == DEADLY:
                    return
                if name not in ("qmp_capabilities", "query-status", "query-name"):
                    send(connection, {"event": HOSTILE, "data": {HOSTILE: HOSTILE}})
                answers: dict[str, Any] = {"qmp_capabilities": {}, "query-qmp-schema": ENTRIES}
                send(connection, {"return": answers.get(name, {"answer": HOSTILE}), "id": request.get("id")})

    def send(connection: socket.socket, message: object) -> None:
        connection.sendall(json.dumps(message).encode() + b"\n")

    def accept() -> None:
        while True:
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield path
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def test_a_peer_that_does_not_greet_is_told_in_time(tmp_path: Path) -> None:
    with peer(tmp_path, greet=False) as path:
        status, out, error = script(path, "query-status", options=("--json", "--timeout", "0.3"))
        assert (status, out) == (2, "")
        assert json.loads(error)["error"]["desc"].startswith("no greeting within 0.3 s; QEMU serves one client")
        with terminal(path, tmp_path, "--timeout", "0.3") as screen:
            assert screen.status() == 2
            assert "no greeting within 0.3 s" in screen.screen(history=True).replace("\n", "")


@pytest.mark.parametrize(
    ("greeting", "text"),
    [
        (b"QEMU 7.2.0 monitor - type 'help' for more information\r\n", "this is the monitor for people, not QMP"),
        (b"SSH-2.0-\x1bOpenSSH_9.2\r\n", r"the peer does not speak QMP; it says 'SSH-2.0-\x1bOpenSSH_9.2'"),
        (b"\xff\xfb\x01\n", "the peer does not speak QMP"),
        (b"[1]\n", "the peer does not speak QMP"),
        (b"{}\n", "the peer does not speak QMP"),
    ],
)
def test_a_peer_that_does_not_speak_qmp_is_told(greeting: bytes, text: str, tmp_path: Path) -> None:
    path = str(tmp_path / "other.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with subprocess.Popen([*SHELL, "--json", path, "query-status"], stderr=subprocess.PIPE) as running:
            connection, _address = listener.accept()
            with connection:
                connection.sendall(greeting)
                _out, error = running.communicate(timeout=60)
    assert running.returncode == 2
    assert json.loads(error)["error"]["desc"].startswith(text)


def test_a_port_where_nobody_listens_is_told() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        status, _out, error = script(f"127.0.0.1:{nobody.getsockname()[1]}", "query-status")
    assert (status, json.loads(error)["error"]["desc"]) == (2, "Connection refused")


def test_a_peer_whose_queue_is_full_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "full.sock")
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                waiting.connect(path)
        status, _out, error = script(path, "query-status", options=("--json", "--timeout", "5"))
    assert status == 2
    assert "QEMU serves one client per monitor" in error


def test_a_peer_that_does_not_answer_is_told_in_time(tmp_path: Path) -> None:
    with peer(tmp_path, silent=("query-status",)) as path:
        status, out, error = script(path, "query-status", options=("--json", "--timeout", "0.3"))
    assert (status, out) == (2, "")
    assert json.loads(error)["error"] == {
        "class": "ConnectionFailed",
        "desc": "no answer to query-status within 0.3 s",
    }


def test_a_command_that_runs_while_the_connection_is_lost_is_told_so(tmp_path: Path) -> None:
    with peer(tmp_path) as path:
        status, out, error = script(path, DEADLY)
        assert (status, out) == (2, "")
        assert "the connection was lost before yank was answered; it may have run" in error
        with terminal(path, tmp_path) as screen:
            screen.wait_for("| connected |")
            screen.line(DEADLY)
            screen.wait_for("it may have run", "connection lost: the peer closed the connection", "connected again")


def test_strings_of_a_hostile_peer_do_not_steer_the_terminal(tmp_path: Path) -> None:
    with peer(tmp_path) as path:
        status, out, error = script(path, "query-status", "hmp info", "help", "top --once -n 0.1", options=())
        assert (status, error) == (0, "")
        assert "\\u001b]0;evil\\u0007" in out
        assert not set(out) & set("\x1b\x07\x9b\u202e\r\x7f")
        with terminal(path, tmp_path) as screen:
            screen.wait_for("| connected |")
            screen.line("query-status")
            screen.wait_for('"answer": "\\u001b]0;evil\\u0007\\u001b[2J\\u009b5m\\u202e')


# -- scripts -----------------------------------------------------------------------------------------------------------


def test_one_command_gives_only_its_return(target: Target) -> None:
    status, out, error = script(target.path, "query-status")
    assert (status, json.loads(out), error) == (0, STATUS, "")
    assert out.count("\n") == 1


def test_several_commands_give_a_line_each_and_the_first_failure_ends_the_run(target: Target) -> None:
    status, out, error = script(target.path, "query-status", "qom-list path=/nowhere", "query-status")
    assert status == 1
    assert [json.loads(line) for line in out.splitlines()] == [STATUS]
    assert json.loads(error)["error"]["class"] == "DeviceNotFound"


def test_lines_come_from_standard_input(target: Target) -> None:
    text = '# a comment\n\nquery-status\n{"execute": "query-status"}\nhmp info status\n'
    for arguments in (("-",), ()):
        status, out, error = script(target.path, *arguments, text=text)
        assert (status, error) == (0, "")
        expected = [STATUS, STATUS, "VM status: paused (prelaunch)\r\n"]
        assert [json.loads(line) for line in out.splitlines()] == expected


def test_hmp_lines_are_sent_as_they_are(target: Target) -> None:
    status, out, _error = script(target.path, "info status", options=("--hmp",))
    assert (status, out) == (0, "VM status: paused (prelaunch)\n")


@pytest.mark.parametrize("line", ["qom-list path=/ x", "qom-list paht=/", "events x", "top"])
def test_a_wrong_line_is_status_64_and_nothing_is_sent(line: str, target: Target) -> None:
    status, out, error = script(target.path, "query-status", line)
    assert (status, json.loads(out)) == (64, STATUS)
    assert json.loads(error)["error"]["class"] in ("LineError", "ShellError")


@pytest.mark.parametrize("line", ["top --once", "help", "watch query-status"])
def test_what_has_no_answer_in_json_is_told_so(line: str, target: Target) -> None:
    status, out, error = script(target.path, line)
    assert (status, out) == (64, "")
    assert json.loads(error)["error"]["desc"] == f"'{line.split()[0]}' has no answer in JSON; leave out --json"


def test_output_that_cannot_be_written_is_status_74(target: Target) -> None:
    for redirection, text in ((">/dev/full", "No space left on device"), (">&-", "it is closed")):
        command = f"{shlex.join([*SHELL, '--json', target.path, 'query-status'])} {redirection}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (74, 1)
        assert f"standard output: {text}" in done.stderr


def test_a_reader_that_goes_ends_the_run_silently(target: Target) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            [*SHELL, target.path, "query-status"], stdout=gone, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (74, b"")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_errors_that_cannot_be_written_keep_their_status(redirection: str, target: Target) -> None:
    command = f"{shlex.join([*SHELL, target.path, 'qom-list path=/nowhere'])} {redirection}"
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_help_and_top_work_without_a_terminal(target: Target) -> None:
    status, out, _error = script(target.path, "help", "query-status", options=())
    assert (status, out.splitlines()[:2]) == (0, ["query-status", "  no arguments"])
    status, out, _error = script(target.path, "top", "--once", "-n", "0.1", options=())
    assert status == 0
    assert "prelaunch" in out


def test_no_connection_is_status_2(tmp_path: Path) -> None:
    missing, plain, dead = (tmp_path / name for name in ("missing", "plain", "dead"))
    plain.write_text("")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    for path, text in ((missing, "no such socket"), (plain, "this is not a socket"), (dead, "Connection refused")):
        status, out, error = script(str(path), "query-status")
        assert (status, out) == (2, "")
        assert text in json.loads(error)["error"]["desc"]


def test_wrong_options_are_status_64(tmp_path: Path) -> None:
    for arguments, text in (
        (["--no-such"], "there is no option '--no-such'"),
        (["--no-such", "x", "query-status"], "there is no option '--no-such'"),
        (["--json"], "SOCKET is missing"),
        (["--timeout", "-1", "x"], "argument --timeout: it takes seconds, more than 0, at most 86400"),
        (["--timeout", "x", "x"], "argument --timeout: it takes seconds, more than 0, at most 86400"),
        (["tcp:nowhere", "query-status"], "'tcp:nowhere' is not tcp:HOST:PORT"),
    ):
        done = subprocess.run([*SHELL, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (64, "")
        assert done.stderr.splitlines()[-1] == f"vmmd-shell: {text}"


def test_missing_packages_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "qemu").mkdir()
    (tmp_path / "qemu" / "__init__.py").write_text("raise ModuleNotFoundError('no', name='qemu')")
    done = subprocess.run(
        [*SHELL, "x", "query-status"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == "vmmd-shell: the package qemu is missing; install vmmd[shell]\n"


def test_the_prompt_costs_less_than_half_a_second(target: Target, tmp_path: Path) -> None:
    """Of processor time, since other tests may run beside; the best of three."""
    found = []
    for _turn in range(3):
        with terminal(target.path, tmp_path) as screen:
            screen.wait_for("vmmd>")
            found.append(screen.cpu_seconds())
    assert min(found) < 0.5
