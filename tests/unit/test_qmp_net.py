# SPDX-License-Identifier: Apache-2.0
"""netdev_add, netdev_del, set_link and ``info network`` on a monitor, with real taps in a namespace of the test."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.framework.network import Network as HostNetwork
from tests.framework.network import network_problem
from tests.unit.net_support import FakeNic
from tests.unit.qmp_support import Client, Monitor
from vmmd.net import script

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(network_problem() is not None, reason=str(network_problem()))


@pytest.fixture
def host() -> Iterator[HostNetwork]:
    with HostNetwork() as network, network.inside():
        yield network


@pytest.fixture
def monitor(host) -> Iterator[Monitor]:
    with Monitor() as made:
        yield made


@pytest.fixture
def client(monitor) -> Iterator[Client]:
    made = Client(monitor)
    yield made
    made.close()


def say(client: Client, line: str) -> str:
    return client.run("human-monitor-command", command_line=line).replace("\r\n", "\n")


def add_queues(client: Client, names: str) -> object:
    request = {"execute": "netdev_add", "arguments": {"type": "tap", "id": "n", "fds": names}}
    client.send(json.dumps(request).encode())
    return client.reply()


def test_a_manager_attaches_a_nic_with_a_passed_descriptor(host, monitor, client):
    (tap,) = host.open_tap("tap10")
    before = len(os.listdir("/proc/self/fd"))
    assert client.run("getfd", [tap], fdname="tapfd-net10") == {}
    assert client.run("netdev_add", type="tap", fd="tapfd-net10", id="hostnet1") == {}
    # the name is used up
    assert client.run("closefd", fdname="tapfd-net10").startswith("File descriptor named 'tapfd-net10' not found")
    assert client.run("netdev_add", type="tap", fd="tapfd-net10", id="x").startswith(
        "File descriptor named 'tapfd-net10' has not been found"
    )
    assert say(client, "info network").startswith("hostnet1: index=0,type=tap,fd=")
    assert client.run("netdev_add", type="hubport", hubid=0, id="hostnet1").startswith("Duplicate ID 'hostnet1'")
    assert client.run("netdev_del", id="hostnet1") == {}
    assert client.run("netdev_del", id="hostnet1") == "Device 'hostnet1' not found"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_descriptor_that_does_not_fit_stays_the_sessions(host, client):
    first, second = host.open_tap("tap10", queues=2)
    (other,) = host.open_tap("tap11")
    for name, fd in (("a", first), ("b", other), ("c", second)):
        assert client.run("getfd", [fd], fdname=name) == {}
    assert "are of different interfaces" in add_queues(client, "a:b")
    assert add_queues(client, "a:a").startswith("n: file descriptor a is in use already")
    assert add_queues(client, "a:c") == {}
    assert client.run("closefd", fdname="b") == {}
    assert client.run("netdev_del", id="n") == {}


def test_a_set_of_descriptors_gives_a_duplicate(host, monitor, client):
    first, second = host.open_tap("tap10", queues=2)
    sets = [client.run("add-fd", [fd])["fdset-id"] for fd in (first, second)]
    with open("/dev/null", "r+b", buffering=0) as file:
        null = client.run("add-fd", [file.fileno()])["fdset-id"]
    before = len(os.listdir("/proc/self/fd"))
    paths = [f"/dev/fdset/{number}" for number in (*sets, null)]
    assert "Inappropriate ioctl for device" in add_queues(client, f"{paths[0]}:{paths[2]}")
    assert "is in use already" in add_queues(client, f"{paths[0]}:{paths[0]}")
    assert "Could not open '/dev/fdset/99': No such file or directory" in add_queues(
        client, f"{paths[0]}:/dev/fdset/99"
    )
    assert len(os.listdir("/proc/self/fd")) == before
    assert add_queues(client, f"{paths[0]}:{paths[1]}") == {}
    assert len(os.listdir("/proc/self/fd")) == before + 2
    assert client.run("netdev_del", id="n") == {}
    assert len(os.listdir("/proc/self/fd")) == before


def test_numbers_name_inherited_descriptors_only(client):
    wrong = "n: Can't use file descriptor 0: Bad file descriptor"
    os.set_inheritable(0, False)
    try:
        assert client.run("netdev_add", type="tap", fd="0", id="n").startswith(wrong)
    finally:
        os.set_inheritable(0, True)
    assert client.run("netdev_add", type="tap", fd="1x", id="n") == "Invalid file descriptor number '1x'"


def test_links_and_listing(monitor, client):
    script = ("script=no", "downscript=no")
    assert say(client, ",".join(["netdev_add tap,id=t0,ifname=tap%d,queues=2", *script])) == ""
    nic = FakeNic()
    vm = monitor.vm

    def connect() -> None:
        with vm.lock:
            vm.network().connect(nic, "t0", None)

    monitor.call(connect)
    assert say(client, "info network") == (
        "n0: index=0,type=nic,model=virtio-net-pci,macaddr=00:00:00:00:00:00\n"
        " \\ t0: index=0,type=tap,ifname=tap0,script=no,downscript=no\n"
        "n0: index=1,type=nic,\n"
        " \\ t0: index=1,type=tap,ifname=tap0,script=no,downscript=no\n"
    )
    assert say(client, "set_link t0 off") == ""
    assert client.run("__org.vmmd_query-network") == {
        "nics": [
            {"name": "n0", "model": "virtio-net-pci", "mac": "00:00:00:00:00:00", "link-up": False, "netdev": "t0"}
        ],
        "netdevs": [
            {
                "id": "t0",
                "type": "tap",
                "info": "ifname=tap0,script=no,downscript=no",
                "link-up": False,
                "queues": 2,
                "dropped": 0,
            }
        ],
    }
    assert say(client, "set_link n0 on") == ""
    assert nic.links == [False, True]
    assert say(client, "set_link x on") == "Error: Device 'x' not found\n"
    assert say(client, "netdev_del t0") == ""
    assert nic.removed == 1
    assert say(client, "netdev_del t0") == "Error: Device 't0' not found\n"


def test_a_script_runs_without_holding_up_the_monitor(monitor, client, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\nread line < {gate}\n")
    script.chmod(0o755)
    client.send(
        b'{"execute": "netdev_add", "arguments": {"type": "tap", "id": "t0", "script": "%s", "downscript": "no"}}'
        % os.fsencode(script)
    )
    other = Client(monitor)
    assert other.run("netdev_add", type="hubport", id="t0", hubid=0).startswith("Duplicate ID 't0'")
    assert other.run("netdev_add", type="hubport", id="t1", hubid=0, netdev="t0").startswith("netdev 't0' not found")
    gate.write_text("go\n")
    assert client.reply() == {}
    other.close()


@pytest.mark.parametrize("key", ["script", "helper"])
def test_a_program_that_makes_a_netdev_ends_with_vmmd(monitor, client, tmp_path, key):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nread line < {gate}\n")
    program.chmod(0o755)
    client.send(
        json.dumps({"execute": "netdev_add", "arguments": {"type": "tap", "id": "t0", key: str(program)}}).encode()
    )
    with gate.open("w"):  # it has begun to read
        while not script._making:
            time.sleep(0.001)
        monitor.call(monitor.vm.network().close)
        assert "status -15" in client.reply()


def test_help_and_completion_name_the_kinds(monitor, client):
    text = say(client, "netdev_add help")
    assert text.startswith("Available netdev backend types:\n")
    assert {"  tap", "  hubport", "  bridge"} <= set(text.splitlines())
    assert "Parameter 'id' is missing" in say(client, "netdev_add tap")
    assert "not available in this version" in say(client, "netdev_add l2tpv3,id=x")
