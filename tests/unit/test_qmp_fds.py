# SPDX-License-Identifier: Apache-2.0
"""File descriptors over a monitor: SCM_RIGHTS, getfd, closefd, fd sets; and that none is ever left open."""

from __future__ import annotations

import os
import resource
import select
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.unit.qmp_support import Client, Monitor
from vmmd.core.fdsets import BUDGET_DIVISOR, FdBudget, FdSets
from vmmd.errors import VmmdError
from vmmd.qmp.passed_fds import MAX_NAMED, MAX_WAITING, PassedFds
from vmmd.qmp.session_fds import SessionDescriptors

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_FD = "No file descriptor supplied via SCM_RIGHTS"


@pytest.fixture(scope="module")
def monitor() -> Iterator[Monitor]:
    with Monitor() as found:
        yield found


@pytest.fixture
def client(monitor: Monitor) -> Iterator[Client]:
    found = Client(monitor)
    yield found
    found.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, Pipe]]:
    made = Pipe()
    yield made.write_end, made
    made.close()


class Pipe:
    """Its read end tells whether anybody holds a copy of ``write_end`` other than this object."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def forget(self) -> None:
        """Close the test's own copy."""
        os.close(self.write_end)
        self.write_end = -1

    def is_closed_elsewhere(self, within_s: float = 5) -> bool:
        """True once no copy is left; call ``forget`` first."""
        os.set_blocking(self.read_end, False)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            try:
                return os.read(self.read_end, 1) == b""
            except BlockingIOError:
                time.sleep(0.002)  # nothing tells a pipe's reader but polling it
        return False

    def close(self) -> None:
        os.close(self.read_end)
        if self.write_end >= 0:
            os.close(self.write_end)


def test_getfd_needs_a_descriptor(client: Client) -> None:
    assert client.run("getfd", fdname="a").startswith(NO_FD)
    assert client.run("add-fd").startswith(NO_FD)


def test_a_name_that_begins_with_a_digit_closes_the_descriptor(client: Client, pipe: tuple[int, Pipe]) -> None:
    assert client.run("getfd", [pipe[0]], fdname="1a") == "Parameter 'fdname' expects a name not starting with a digit"
    pipe[1].forget()
    assert pipe[1].is_closed_elsewhere()


def test_closefd(client: Client, pipe: tuple[int, Pipe]) -> None:
    assert client.run("getfd", [pipe[0]], fdname="a") == {}
    pipe[1].forget()
    assert not pipe[1].is_closed_elsewhere(within_s=0.05)
    assert client.run("closefd", fdname="a") == {}
    assert pipe[1].is_closed_elsewhere()
    assert client.run("closefd", fdname="a").startswith("File descriptor named 'a' not found")


def test_replacing_a_name_closes_the_old_descriptor(client: Client, pipe: tuple[int, Pipe]) -> None:
    assert client.run("getfd", [pipe[0]], fdname="a") == {}
    assert client.run("getfd", [0], fdname="a") == {}
    pipe[1].forget()
    assert pipe[1].is_closed_elsewhere()


def test_the_end_of_the_session_closes_everything(monitor: Monitor) -> None:
    client, pipes = Client(monitor), [Pipe() for _ in range(3)]
    assert client.run("getfd", [pipes[0].write_end], fdname="kept") == {}
    assert "status" in client.run("query-status", [pipes[1].write_end])  # nobody takes it
    client.send(b'{"execute": ', [pipes[2].write_end])
    for each in pipes:
        each.forget()
    client.close()
    assert all(each.is_closed_elsewhere() for each in pipes)
    for each in pipes:
        each.close()


def test_names_belong_to_the_session(monitor: Monitor, client: Client) -> None:
    other = Client(monitor)
    assert client.run("getfd", [0], fdname="mine") == {}
    assert other.run("closefd", fdname="mine").startswith("File descriptor named 'mine' not found")
    other.close()


def test_descriptors_that_nobody_took_are_replaced(client: Client, pipe: tuple[int, Pipe]) -> None:
    assert "status" in client.run("query-status", [pipe[0], pipe[0]])
    pipe[1].forget()
    assert "status" in client.run("query-status", [0])
    assert pipe[1].is_closed_elsewhere()
    assert client.run("getfd", fdname="left") == {}  # QEMU-COMPAT: the one of query-status


def test_surplus_descriptors_are_closed_at_once(client: Client, pipe: tuple[int, Pipe]) -> None:
    client.send(b" ", [pipe[0]] * (MAX_WAITING + 5))
    for number in range(MAX_WAITING):
        assert client.run("getfd", fdname=f"n{number}") == {}
    assert client.run("getfd", fdname="more") == f"{NO_FD}; it was sent, but lost: at most 16 come with one message"
    for number in range(MAX_WAITING):
        assert client.run("closefd", fdname=f"n{number}") == {}
    pipe[1].forget()
    assert pipe[1].is_closed_elsewhere()


def test_one_descriptor_for_each_of_two_pipelined_commands(client: Client) -> None:
    first, second = os.pipe()
    command = b'{"execute": "getfd", "arguments": {"fdname": "%s"}}'
    client.send(command % b"x1" + command % b"x2" + command % b"x3", [first, second])
    assert [client.reply(), client.reply()] == [{}, {}]
    assert client.reply().startswith(NO_FD)
    os.close(first)
    os.close(second)


def test_a_command_in_two_parts(client: Client) -> None:
    client.send(b'{"execute": "getfd", "argum', [0])
    client.send(b'ents": {"fdname": "parts"}}')
    assert client.reply() == {}


def test_names_are_bounded() -> None:
    held = PassedFds(FdBudget())
    for number in range(MAX_NAMED):
        held.arrived([os.dup(0)], commands_wait=False)
        held.give_name(f"n{number}")
    held.arrived([os.dup(0)], commands_wait=False)
    with pytest.raises(Exception, match="has named 512 file descriptors already"):
        held.give_name("more")
    assert len(held) == MAX_NAMED
    held.close()
    assert len(held) == 0


@contextmanager
def descriptor_limit(count: int) -> Iterator[None]:
    """Of this process, where the monitor runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def lowest_free_fd() -> int:
    free = os.dup(0)
    os.close(free)
    return free


def test_all_sessions_and_fd_sets_share_one_budget(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = monitor.vm.fdsets.budget
    first, second = Client(monitor), Client(monitor)
    held = monitor.call(lambda: budget.held)
    monkeypatch.setattr(FdBudget, "limit", held + 4)
    assert first.run("getfd", [0], fdname="a") == {}
    assert first.run("getfd", [0], fdname="b") == {}
    assert second.run("getfd", [0], fdname="a") == {}
    assert second.run("add-fd", [0], fdset_id=5)["fdset-id"] == 5
    refused = second.run("add-fd", [0])
    assert refused.startswith(f"{NO_FD}; it was sent, but lost: monitor clients hold {held + 4} file descriptors")
    assert first.run("getfd", [0], fdname="c") == refused
    assert second.run("remove-fd", fdset_id=5) == {}
    assert first.run("getfd", [0], fdname="c") == {}
    assert second.run("getfd", [0], fdname="a") == refused
    first.close()
    while monitor.call(lambda: budget.held) > held + 1:
        pass
    assert second.run("getfd", [0], fdname="a") == {}  # instead of the one that had the name
    assert second.run("closefd", fdname="a") == {}
    second.close()
    assert monitor.call(lambda: budget.held) == held


def test_the_budget_leaves_the_machine_its_share() -> None:
    budget = FdBudget()
    free = lowest_free_fd()
    with descriptor_limit(free * BUDGET_DIVISOR):
        assert budget.limit == free
        budget.held = free - 1
        assert [budget.take(), budget.take()] == [True, False]


def test_who_gets_a_descriptor_of_a_session_takes_it_out_of_the_budget() -> None:
    budget = FdBudget()
    held = PassedFds(budget)
    held.arrived([os.dup(0), os.dup(0)], commands_wait=False)
    held.give_name("a")
    assert budget.held == 2
    os.close(held.take())
    assert budget.held == 1
    with held.lent("a") as fd:
        os.close(fd)
    assert budget.held == 0


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("fits", [True, False])
def test_a_session_that_ends_during_a_command_does_not_close_what_the_command_uses(fits: bool) -> None:
    budget = FdBudget()
    held = PassedFds(budget)
    held.arrived([os.dup(0)], commands_wait=False)
    held.give_name("a")
    descriptors = SessionDescriptors(held, FdSets())
    fd = descriptors.find("a", "n0")
    held.close()
    assert is_open(fd)
    assert budget.held == 1
    if fits:
        descriptors.handed_over()
        assert is_open(fd)
        os.close(fd)
    else:
        descriptors.give_back()
        assert not is_open(fd)
    assert budget.held == 0


@pytest.mark.parametrize("replaced", [False, True])
def test_a_descriptor_that_was_of_no_use_has_its_name_again_unless_it_was_given_anew(replaced: bool) -> None:
    held = PassedFds(FdBudget())
    held.arrived([os.dup(0)], commands_wait=False)
    held.give_name("a")
    fd = held.claim("a")
    with pytest.raises(VmmdError, match="'a' has not been found"):
        held.claim("a")
    if replaced:
        held.arrived([os.dup(0)], commands_wait=False)
        held.give_name("a")
    held.give_back("a", fd)
    assert is_open(fd) is not replaced
    assert len(held) == 1
    held.close()


def test_a_descriptor_that_the_kernel_could_not_hand_over(client: Client) -> None:
    assert "status" in client.run("query-status")
    with descriptor_limit(lowest_free_fd()):
        said = client.run("getfd", [0], fdname="a")
    assert said == f"{NO_FD}; it was sent, but lost: the process cannot have more file descriptors (RLIMIT_NOFILE)"
    assert client.run("getfd", fdname="a") == f"{NO_FD}; send it with the command over a UNIX socket monitor"
    assert client.run("getfd", [0], fdname="a") == {}


def test_fd_sets(client: Client) -> None:
    fd = os.open("/dev/null", os.O_WRONLY)
    first = client.run("add-fd", [fd], opaque="é")
    assert first["fdset-id"] == 0
    second = client.run("add-fd", [fd], fdset_id=7)
    third = client.run("add-fd", [fd], fdset_id=7)
    os.close(fd)
    assert client.run("query-fdsets") == [
        {"fdset-id": 7, "fds": [{"fd": second["fd"]}, {"fd": third["fd"]}]},
        {"fdset-id": 0, "fds": [{"fd": first["fd"], "opaque": "é"}]},
    ]
    assert client.run("remove-fd", fdset_id=7, fd=1).startswith("File descriptor named 'fdset-id:7, fd:1' not found")
    assert client.run("remove-fd", fdset_id=8).startswith("File descriptor named 'fdset-id:8' not found")
    assert client.run("add-fd", [0], fdset_id=-1) == "Parameter 'fdset-id' expects a non-negative value"
    assert client.run("remove-fd", fdset_id=7, fd=second["fd"]) == {}
    assert client.run("remove-fd", fdset_id=7) == {}
    assert client.run("remove-fd", fdset_id=0) == {}
    assert client.run("query-fdsets") == []


def test_a_set_in_use_stays_until_what_was_opened_is_closed(monitor: Monitor, client: Client) -> None:
    assert client.run("add-fd", [0], fdset_id=3)["fdset-id"] == 3
    opened = monitor.call(lambda: monitor.vm.fdsets.open("/dev/fdset/3", os.O_RDONLY))
    assert client.run("remove-fd", fdset_id=3) == {}
    assert client.run("query-fdsets") == [{"fdset-id": 3, "fds": []}]
    os.close(opened)
    assert client.run("query-fdsets") == []


def test_unused_sets_go_with_the_last_client_of_a_running_machine() -> None:
    with Monitor() as monitor:
        first, second = Client(monitor), Client(monitor)
        unused, used = Pipe(), Pipe()
        for number, each in enumerate((unused, used)):
            first.run("add-fd", [each.write_end], fdset_id=number)
            each.forget()
        opened = monitor.call(lambda: monitor.vm.fdsets.open("/dev/fdset/1", os.O_WRONLY))
        first.close()
        assert len(second.run("query-fdsets")) == 2
        assert second.run("cont") == {}
        second.close()
        assert unused.is_closed_elsewhere()
        third = Client(monitor)
        assert [each["fdset-id"] for each in third.run("query-fdsets")] == [1]
        third.close()
        os.close(opened)
        unused.close()
        used.close()


def test_client_that_hangs_up_without_reading_leaves_nothing(
    monitor: Monitor, client: Client, pipe: tuple[int, Pipe]
) -> None:
    """Its socket then has an error beside the input, of which uvloop tells a reader once and never again."""
    leaver = Client(monitor)
    leaver.send(b'{"execute": "query-status"}')
    poller = select.poll()
    poller.register(leaver.sock, select.POLLIN)
    assert poller.poll(10_000)  # the reply is there and stays unread
    assert "status" in client.run("query-status")  # the leaver is not in a series of commands
    may_go_on = threading.Event()
    monitor.port.post(may_go_on.wait, 10)  # type: ignore[arg-type]  # the loop sees all of it at once
    leaver.send(b'{"half": "of a command', [pipe[0]])
    pipe[1].forget()
    leaver.close()
    may_go_on.set()
    assert pipe[1].is_closed_elsewhere()
