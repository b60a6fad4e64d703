# SPDX-License-Identifier: Apache-2.0
"""``-netdev user``: what passt is told, and a real passt in a network namespace of the test, with a guest that the test
plays frame by frame."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework import packets
from tests.framework.network import Network as HostNetwork
from tests.framework.network import network_problem
from tests.framework.packets import ACK, SYN, Guest, Packet, read_dhcp, read_packet
from tests.unit.net_support import FakeNic, Rig, options
from tests.unit.qmp_support import Client, Monitor
from vmmd.errors import UsageError, VmmdError
from vmmd.net import passt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT_S = 30


def told(*words: str, interface: str | None = None) -> list[str]:
    """What passt is told of ``-netdev user,id=u,WORDS``."""
    made: Any = options("user", "id=u", *words)
    return passt.arguments(made.network, interface)


def value(arguments: list[str], option: str) -> list[str]:
    """What stands behind each ``option``."""
    return [after for word, after in pairwise(arguments) if word == option]


def test_the_guest_sees_the_network_that_qemu_shows_it():
    arguments = told()
    assert value(arguments, "--address") == ["10.0.2.15", "fec0::15"]
    assert value(arguments, "--gateway") == ["10.0.2.2", "fec0::2"]
    assert value(arguments, "--netmask") == ["255.255.255.0"]
    assert value(arguments, "--mac-addr") == ["52:55:0a:00:02:02"]
    assert value(arguments, "--tcp-ports") == value(arguments, "--udp-ports") == ["none"]
    assert value(arguments, "--search") == ["none"]
    assert not {"--ipv4-only", "--ipv6-only", "--no-tcp", "--interface"} & set(arguments)


@pytest.mark.parametrize(
    ("words", "option", "expected"),
    [
        ("net=192.168.76.0/24", "--address", ["192.168.76.15", "fec0::15"]),
        ("net=192.168.76.0/24", "--mac-addr", ["52:55:c0:a8:4c:02"]),
        ("net=10.9.8.7", "--netmask", ["255.0.0.0"]),
        ("net=10.9.8.0/255.255.248.0", "--netmask", ["255.255.248.0"]),
        ("net=172.16.0.0", "--netmask", ["255.240.0.0"]),
        ("net=192.168.1.0", "--netmask", ["255.255.0.0"]),
        ("net=200.1.1.0", "--netmask", ["255.255.255.240"]),
        ("host=10.0.2.9", "--gateway", ["10.0.2.9", "fec0::2"]),
        ("dhcpstart=10.0.2.99", "--address", ["10.0.2.99", "fec0::15"]),
        ("ipv6-net=fd01::/64", "--address", ["10.0.2.15", "fd01::15"]),
        ("ipv6-prefix=fd01::,ipv6-host=fd01::7", "--gateway", ["10.0.2.2", "fd01::7"]),
        ("ipv6=off", "--address", ["10.0.2.15"]),
        ("ipv4=off", "--address", ["fec0::15"]),
        ("dnssearch=a.example,dnssearch=none", "--search", ["a.example none."]),
        ("hostfwd=tcp::2222-:22,hostfwd=tcp:127.0.0.1:80-10.0.2.15:8080", "--tcp-ports",
         ["0.0.0.0/2222:22", "127.0.0.1/80:8080"]),
        ("hostfwd=udp::53-:5353", "--udp-ports", ["0.0.0.0/53:5353"]),
        ("hostfwd=::99-:98", "--tcp-ports", ["0.0.0.0/99:98"]),
    ],
)  # fmt: skip
def test_keys_become_arguments(words: str, option: str, expected: list[str]):
    assert value(told(*words.split(",")), option) == expected


def test_switches_become_arguments():
    assert "--ipv4-only" in told("ipv6=off")
    assert "--ipv4-only" in told("ipv4=on")
    assert "--ipv6-only" in told("ipv6=on")
    assert {"--no-tcp", "--no-udp", "--no-icmp"} <= set(told("restrict=on"))
    assert value(told(interface="lo"), "--interface") == ["lo"]


WRONG = """\
hostfwd=foo|Invalid host forwarding rule 'foo' (No : separators)
hostfwd=sctp::1-:22|Invalid host forwarding rule 'sctp::1-:22' (Bad protocol name)
hostfwd=tcp::x-:22|Invalid host forwarding rule 'tcp::x-:22' (Bad host port)
hostfwd=tcp::99999-:22|Invalid host forwarding rule 'tcp::99999-:22' (Bad host port)
hostfwd=tcp:localhost:1-:22|Invalid host forwarding rule 'tcp:localhost:1-:22' (Bad host address)
hostfwd=tcp::1-|Invalid host forwarding rule 'tcp::1-' (Missing guest address)
hostfwd=tcp::1-:0|Invalid host forwarding rule 'tcp::1-:0' (Bad guest port)
hostfwd=tcp::1-:22/x|Invalid host forwarding rule 'tcp::1-:22/x' (Bad guest port)
net=foo|Failed to parse netmask
net=10.0.0.0/33|Invalid netmask provided (must be in range 4-32)
net=10.0.0.0/24,host=10.1.0.2|Host doesn't belong to network
host=foo|Failed to parse host
dhcpstart=1.2.3.4|DHCP doesn't belong to network
dhcpstart=10.0.2.2|DHCP must be different from host and DNS
dhcpstart=foo|Failed to parse DHCP start address
ipv4=off,ipv6=off|IPv4 and IPv6 disabled
ipv6=on,net=10.0.0.0/8|IPv4 disabled but netmask/host/dns provided
ipv4=on,ipv6-prefix=fec1::|IPv6 disabled but prefix/host6/dns6 provided
ipv6-prefix=foo|Failed to parse IPv6 prefix
ipv6-host=foo|Failed to parse IPv6 host
ipv6-prefixlen=127|Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)
ipv6-host=fec1::2|IPv6 Host doesn't belong to network
"""
_WRONG = [line.split("|") for line in WRONG.splitlines()]


@pytest.mark.parametrize(("words", "sentence"), _WRONG)
def test_wrong_values_are_refused_with_a_hint(words: str, sentence: str):
    with pytest.raises(UsageError) as caught:
        options("user", "id=u", *words.split(","))
    assert caught.value.desc == f"-netdev user,id=u: {sentence}"
    assert caught.value.hint


@pytest.mark.qemu
@pytest.mark.parametrize(("words", "sentence"), _WRONG)
def test_qemu_says_the_same(words: str, sentence: str):
    line = ["qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none", "-netdev", f"user,id=u,{words}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.stderr == f"qemu-system-x86_64: -netdev user,id=u,{words}: {sentence}\n"


@pytest.mark.parametrize(
    "words",
    ["dns=10.0.2.3", "domainname=x", "guestfwd=tcp:10.0.2.100:1-cmd:cat", "hostname=x", "ipv6-dns=fec0::3", "smb=/tmp",
     "smbserver=10.0.2.4", "tftp=/tmp", "bootfile=x", "tftp-server-name=x", "ip=10.0.2.0/24", "ipv6-prefixlen=48",
     "hostfwd=tcp::0-:22", "hostfwd=tcp::1-10.0.2.77:22", "restrict=on,hostfwd=tcp::1-:22"],
)  # fmt: skip
def test_what_passt_cannot_do_is_refused_by_name_with_what_can_be_done(words: str):
    with pytest.raises(UsageError) as caught:
        options("user", "id=u", *words.split(","))
    assert words.rpartition(",")[2].partition("=")[0] in caught.value.desc
    assert "not available" in caught.value.desc
    assert caught.value.hint


def test_a_rule_that_is_there_twice_is_refused():
    with pytest.raises(UsageError, match=r"Could not set up host forwarding rule 'tcp::1-:3'"):
        options("user", "id=u", "hostfwd=tcp::1-:2", "hostfwd=tcp::1-:3")
    options("user", "id=u", "hostfwd=tcp::1-:2", "hostfwd=udp::1-:2", "hostfwd=tcp:127.0.0.1:1-:2")


def test_a_missing_passt_is_named_with_its_package(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(VmmdError) as caught:
        Rig().add("user", "id=u")
    assert "passt" in caught.value.desc
    assert "package" in str(caught.value.hint)


@pytest.mark.parametrize("step", ["pipe", "fchmod", "set_blocking", "pidfd_open"])
def test_a_start_that_fails_half_way_leaves_nothing(monkeypatch, tmp_path, step: str):
    program = tmp_path / "passt"  # one that ends with its connection
    program.write_text(f"#!{sys.executable}\nimport socket, sys\nsocket.socket(fileno=int(sys.argv[3])).recv(1)\n")
    program.chmod(0o755)
    children: list[Any] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **given: Any) -> Any:
        children.append(popen(*arguments, **given))
        return children[-1]

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", start)
        patched.setattr(os, step, fail)
        with pytest.raises(VmmdError, match=r"could not start .*: Too many open files"):
            passt.Passt(str(program), [])
    assert len(children) == (step in ("set_blocking", "pidfd_open"))
    assert all(each.returncode is not None for each in children)
    assert set(os.listdir("/proc/self/fd")) <= before


# --- a real passt -----------------------------------------------------------------------------------------------------


def passt_problem() -> str | None:
    """Why there is no passt to be tried, or None."""
    missing = network_problem()
    if missing is not None:
        return missing
    if shutil.which("passt") is None:
        return "passt is not installed"
    namespace = subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False)
    return "passt needs user namespaces, which are not allowed here" if namespace.returncode else None


needs_passt = pytest.mark.skipif(passt_problem() is not None, reason=str(passt_problem()))


@pytest.fixture
def host() -> Iterator[HostNetwork]:
    with HostNetwork() as network, network.inside():
        network.ip("route add default via 10.66.0.2")
        yield network


class Side(Rig):
    """A user network, and the guest that the test plays."""

    def __init__(self, *words: str) -> None:
        super().__init__()
        self.netdev: Any = self.add("user", "id=u", *words)
        self.nic = FakeNic()
        self.connect(self.nic, "u")
        self.nic.use(self.netdev.queues[0])
        self.guest = Guest()

    def send(self, frame: bytes) -> None:
        assert self.netdev.queues[0].write([memoryview(frame)])

    def until(self, condition: Callable[[], Any]) -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline_s, "the awaited condition did not come true"
            self.loop.turn(100)

    def packet(self, protocol: int) -> Packet:
        """The next one of this protocol that is no DHCP."""
        found: list[Packet] = []

        def look() -> bool:
            while self.nic.frames and not found:
                packet = read_packet(self.nic.frames.pop(0))
                if packet is not None and packet.protocol == protocol and packet.source_port != 67:
                    found.append(packet)
            return bool(found)

        self.until(look)
        return found[0]

    def ask_dhcp(self, kind: int) -> packets.DhcpReply:
        self.send(self.guest.dhcp(kind))
        self.until(lambda: self.nic.frames)
        reply = read_dhcp(self.nic.frames.pop(0))
        assert reply is not None
        return reply

    def close(self) -> None:
        self.network.close()


@pytest.fixture
def side(host) -> Iterator[Callable[..., Side]]:
    every: list[Side] = []

    def make(*words: str) -> Side:
        every.append(Side(*words))
        return every[-1]

    yield make
    for each in every:
        each.close()


@needs_passt
def test_a_guest_gets_an_address_and_reaches_the_host(side):
    user = side("ipv6=off", "dnssearch=a.example")
    assert user.netdev.link_up
    offer = user.ask_dhcp(packets.DHCP_DISCOVER)
    assert (offer.kind, offer.address) == (packets.DHCP_OFFER, "10.0.2.15")
    assert offer.options[packets.OPTION_ROUTER] == socket.inet_aton("10.0.2.2")
    assert offer.options[packets.OPTION_MASK] == socket.inet_aton("255.255.255.0")
    assert offer.options[packets.OPTION_SEARCH] == b"\x01a\x07example\0"
    assert user.ask_dhcp(packets.DHCP_REQUEST).kind == packets.DHCP_ACK
    user.send(user.guest.arp_request("10.0.2.2"))
    user.until(lambda: user.nic.frames)
    assert user.nic.frames.pop(0)[6:12] == bytes.fromhex("52550a000202")
    with socket.create_server(("127.0.0.1", 7777)) as listener:
        listener.settimeout(TIMEOUT_S)
        user.send(user.guest.tcp((1111, 7777), 100, 0, SYN))
        answer = user.packet(packets.TCP)
        assert (answer.flags, answer.acknowledged, answer.source) == (SYN | ACK, 101, "10.0.2.2")
        user.send(user.guest.tcp((1111, 7777), 101, answer.sequence + 1, ACK))
        user.send(user.guest.tcp((1111, 7777), 101, answer.sequence + 1, ACK, b"from the guest"))
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(TIMEOUT_S)
            assert connection.recv(100) == b"from the guest"
            connection.sendall(b"from the host")
            user.until(lambda: user.packet(packets.TCP).data == b"from the host")


@needs_passt
def test_ports_of_the_host_lead_to_the_guest(side):
    user = side("ipv6=off", "hostfwd=tcp:127.0.0.1:2222-:22", "hostfwd=udp::5353-:53")
    user.ask_dhcp(packets.DHCP_REQUEST)
    with socket.create_connection(("127.0.0.1", 2222), TIMEOUT_S) as connection:
        asked = user.packet(packets.TCP)
        assert (asked.source, asked.target, asked.target_port, asked.flags) == ("10.0.2.2", "10.0.2.15", 22, SYN)
        ports = 22, asked.source_port
        user.send(user.guest.tcp(ports, 5000, asked.sequence + 1, SYN | ACK))
        connection.sendall(b"hello")
        user.until(lambda: user.packet(packets.TCP).data == b"hello")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_S)
        client.sendto(b"question", ("127.0.0.1", 5353))
        asked = user.packet(packets.UDP)
        assert (asked.target_port, asked.data) == (53, b"question")
        user.send(user.guest.udp(53, asked.source_port, b"answer", asked.source))
        assert client.recv(100) == b"answer"
    listening = subprocess.run(["ss", "-Hltun"], capture_output=True, text=True, check=True).stdout
    assert {line.split()[4] for line in listening.splitlines()} == {"127.0.0.1:2222", "0.0.0.0:5353"}


@needs_passt
def test_a_restricted_guest_gets_an_address_and_reaches_nobody(side):
    user = side("ipv6=off", "restrict=on")
    assert user.ask_dhcp(packets.DHCP_REQUEST).address == "10.0.2.15"
    with socket.create_server(("127.0.0.1", 7777)) as listener:
        listener.setblocking(False)
        user.send(user.guest.tcp((1111, 7777), 100, 0, SYN))
        user.send(user.guest.udp(1111, 7777, b"x", "10.0.2.2"))
        user.send(user.guest.arp_request("10.0.2.2"))  # answered after what came before
        user.until(lambda: user.nic.frames)
        assert user.nic.frames[0][12:14] == b"\x08\x06"
        with pytest.raises(BlockingIOError):
            listener.accept()


@needs_passt
def test_without_a_route_the_guest_still_reaches_the_host(host, side):
    host.ip("route del default")
    user = side("ipv6=off", "net=192.168.5.0/24")
    user.guest = Guest(address="192.168.5.15", gateway="192.168.5.2")
    assert user.ask_dhcp(packets.DHCP_REQUEST).address == "192.168.5.15"
    with socket.create_server(("127.0.0.1", 7777)):
        user.send(user.guest.tcp((1111, 7777), 100, 0, SYN))
        assert user.packet(packets.TCP).flags == SYN | ACK


@needs_passt
def test_ports_that_cannot_be_had_are_named_before_anything_is_done(host):
    rig = Rig()
    with socket.create_server(("127.0.0.1", 7070)):
        for words, hint in (
            ("hostfwd=tcp::7070-:22", "in use"),
            ("hostfwd=tcp:127.0.0.1:7070-:22", "in use"),
            ("hostfwd=tcp:203.0.113.9:7071-:22", "no address of this host"),
        ):
            with pytest.raises(VmmdError) as caught:
                rig.network.plan(options("user", "id=u", words), rig.descriptors)
            assert caught.value.desc == f"Could not set up host forwarding rule '{words.partition('=')[2]}'"
            assert hint in str(caught.value.hint)
        assert rig.network.plan(options("user", "id=u", "hostfwd=udp::7070-:22"), rig.descriptors)


@needs_passt
def test_ipv6_that_the_host_does_not_have_is_an_error_only_when_it_is_asked_for(host):
    rig = Rig()
    with pytest.raises(VmmdError, match="IPv6"):
        rig.network.plan(options("user", "id=u", "ipv6=on"), rig.descriptors)
    assert rig.network.plan(options("user", "id=u"), rig.descriptors)


@needs_passt
def test_the_end_of_passt_takes_the_link_down_and_leaves_nothing(side, capfd):
    user = side("ipv6=off")
    pid = user.netdev.passt.pid
    os.kill(pid, signal.SIGKILL)
    user.until(lambda: not os.path.exists(f"/proc/{pid}"))  # nor as a zombie
    assert not user.netdev.link_up
    assert user.nic.links == [False]
    assert "netdev u: passt has ended (status -9)" in capfd.readouterr().err
    assert user.netdev.queues[0].write([memoryview(user.guest.dhcp(packets.DHCP_REQUEST))])  # lost, not kept
    assert not user.loop.readers


@needs_passt
def test_passt_ends_with_the_netdev(side):
    before = set(os.listdir("/proc/self/fd"))
    user = side("ipv6=off")
    pid = user.netdev.passt.pid
    user.close()
    assert not os.path.exists(f"/proc/{pid}")
    assert set(os.listdir("/proc/self/fd")) <= before
    assert not user.loop.readers


@pytest.fixture
def monitor(host) -> Iterator[Monitor]:
    with Monitor() as made:
        yield made


@needs_passt
def test_a_client_makes_a_user_network_sees_its_ports_and_takes_it_away(monitor):
    client = Client(monitor)

    def say(line: str) -> str:
        return str(client.run("human-monitor-command", command_line=line)).replace("\r\n", "\n")

    try:
        assert say("info usernet") == ""
        assert say("hostfwd_add tcp::1-:2") == say("hostfwd_remove tcp::1") == "user mode network stack not in use\n"
        request = {
            "type": "user",
            "id": "u",
            "ipv6": False,
            "hostfwd": [{"str": "tcp::9205-:22"}, {"str": "udp:127.0.0.1:5-:6"}],
        }
        client.send(json.dumps({"execute": "netdev_add", "arguments": request}).encode())
        assert client.reply() == {}
        assert say("info network") == "u: index=0,type=user,net=10.0.2.0,restrict=off\n"
        # as QEMU's, but for the descriptor: that is passt's
        assert say("info usernet") == (
            "Hub -1 (u):\n"
            "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n"
            "  UDP[HOST_FORWARD]   -       127.0.0.1     5       10.0.2.15     6     0     0\n"
            "  TCP[HOST_FORWARD]   -               *  9205       10.0.2.15    22     0     0\n"
        )
        assert say("hostfwd_add x tcp::1-:2") == "unrecognized netdev id 'x'\n"
        assert say("hostfwd_add u foo") == "Invalid host forwarding rule 'foo' (No : separators)\n"
        assert "netdev_add user,id=u,hostfwd=tcp::1-:2" in say("hostfwd_add tcp::1-:2")
        assert say("hostfwd_remove tcp::7") == "host forwarding rule for tcp::7 not found\n"
        assert say("hostfwd_remove foo") == "invalid format\n"
        assert "netdev_del u" in say("hostfwd_remove u tcp::9205")
        pid = monitor.vm.net.netdevs["u"].passt.pid
        assert client.run("netdev_del", id="u") == {}
        assert not os.path.exists(f"/proc/{pid}")
        assert say("info usernet") == ""
    finally:
        client.close()


@needs_passt
def test_what_passt_says_when_it_cannot_start_is_told(host):
    with pytest.raises(VmmdError) as caught:
        passt.Passt(passt.find_program(), ["--address", "nonsense"])
    assert "passt could not start: " in caught.value.desc
    assert "syslog" not in caught.value.desc


@needs_passt
def test_passt_serves_a_user_that_is_not_root(host):
    """The guest's side runs in a child that has given its rights up."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            user = Side("ipv6=off", "hostfwd=tcp:127.0.0.1:2222-:22")
            status = user.ask_dhcp(packets.DHCP_REQUEST).address != "10.0.2.15"
            user.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
