# SPDX-License-Identifier: Apache-2.0
"""`Network`: a network of its own for a test: a bridge with an address, taps, DHCP and TFTP, TCP peers, captures.

It lives in a network namespace without a name, which this process holds by a descriptor. Whatever happens to the test,
the kernel removes it, its bridge and its taps when that descriptor and the emulators inside are gone; the host's own
network is never touched. Only the thread that calls `inside()` enters it, and the processes started from there.

    with Network() as network, network.inside(), Vm(...) as vm:     # -netdev tap,ifname=tap0,script=no,downscript=no
        ...                                                         # taps made before by network.add_tap()

Needs root, /dev/net/tun, iproute2, and dnsmasq for `start_dnsmasq()`; `network_problem()` says what is missing.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from tests.framework.wait import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BRIDGE = "br0"
ADDRESS, PREFIX_BITS = "10.66.0.1", 24
DHCP_RANGE = "10.66.0.10,10.66.0.200,255.255.255.0,1h"
TIMEOUT_S = 60.0
ETHERNET_FRAME_BYTES = 1514  # what leaves a NIC without segmentation offload

# A process namespace whose first process is a shell: dnsmasq changes its credentials, and the kernel then forgets the
# signal of PR_SET_PDEATHSIG; the shell keeps it, and all of its namespace ends with it.
DIES_WITH_US = [
    "setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "sh", "-c", '"$@"; exit', "-",
]  # fmt: skip

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x0100, 0x1000, 0x4000
ETH_P_ALL = 0x0003
SO_RCVBUFFORCE = 33
PACKET_OUTGOING = 4
CAPTURE_BUFFER_BYTES = 16 << 20
CAPTURED_HEAD_BYTES = 128
RECEIVE_BYTES = 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


@cache
def network_problem() -> str | None:
    """Why no `Network` can be made here, or None."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    if _program("ip") is None:
        return "ip (iproute2) is not installed"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
        os.close(_new_namespace())
    except OSError as error:  # in a container, for example
        return f"no network namespace with a tap: {error.filename or ''} {error.strerror}"
    return None


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


class Network:
    """A namespace with the bridge br0, 10.66.0.1/24. A context manager; everything it made ends with it."""

    def __init__(self) -> None:
        self.directory = Path()
        self._namespace_fd = -1
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        with self._cleanup as cleanup:
            self.directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="vmmd-net-")))
            self._namespace_fd = _new_namespace()
            cleanup.callback(os.close, self._namespace_fd)
            with self.inside():
                ipv6 = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")  # its announcements are noise in captures
                if ipv6.exists():
                    ipv6.write_text("1")
            self.ip("link set lo up", f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up")
            self.ip(f"addr add {ADDRESS}/{PREFIX_BITS} dev {BRIDGE}")
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._cleanup.close()

    # The namespace

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread, and what it starts, is in the namespace; a socket stays where it was made."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self._namespace_fd)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)

    def ip(self, *commands: str) -> None:
        """Run each of *commands* by iproute2's `ip` in the namespace."""
        with self.inside():
            for command in commands:
                program = _program("ip") or "ip"
                done = subprocess.run([program, *command.split()], capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"ip {command}: {done.stderr}"

    # Taps

    def add_tap(self, name: str = "tap0", *, multi_queue: bool = False, bridge: str | None = BRIDGE) -> str:
        """A tap that stays, for `ifname=`: up, and a port of *bridge*. Returns *name*."""
        self.ip(f"tuntap add dev {name} mode tap vnet_hdr{' multi_queue' if multi_queue else ''}")
        self._set_up(name, bridge)
        return name

    def open_tap(
        self, name: str = "tap0", *, queues: int = 1, vnet_hdr: bool = True, bridge: str | None = BRIDGE
    ) -> list[int]:
        """Descriptors of a new tap's queues, for `fd=` and `fds=`; closed with the network. It is up, and a port of
        *bridge*; it goes with its last descriptor."""
        flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if vnet_hdr else 0) | (IFF_MULTI_QUEUE if queues > 1 else 0)
        fds = []
        with self.inside():
            for _ in range(queues):
                fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
                self._cleanup.callback(os.close, fd)
                fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
                fds.append(fd)
        self._set_up(name, bridge)
        return fds

    def _set_up(self, name: str, bridge: str | None) -> None:
        if bridge is not None:
            self.ip(f"link set {name} master {bridge}")
        self.ip(f"link set {name} up")

    # Peers

    def start_dnsmasq(self, tftp_root: Path | None = None) -> Dnsmasq:
        """DHCP on the bridge, and TFTP from *tftp_root*; serves when this returns."""
        with self.inside():
            dnsmasq = Dnsmasq(self.directory, tftp_root)
        self._cleanup.callback(dnsmasq.close)
        return dnsmasq

    def tcp_sink(self, port: int) -> TcpPeer:
        """Takes one connection to 10.66.0.1:*port* and keeps what comes until the peer closes it."""
        return self._tcp_peer(port, _receive_all)

    def tcp_source(self, port: int, data: bytes) -> TcpPeer:
        """Takes one connection to 10.66.0.1:*port*, sends *data* and closes it."""

        def send(connection: socket.socket) -> bytes:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return _receive_all(connection)  # until the peer has closed it too, so that no reset overtakes data

        return self._tcp_peer(port, send)

    def _tcp_peer(self, port: int, talk: Callable[[socket.socket], bytes]) -> TcpPeer:
        with self.inside():
            listener = socket.create_server((ADDRESS, port))
        peer = TcpPeer(listener, talk)
        self._cleanup.callback(peer.close)
        return peer

    def packet_socket(self, interface: str) -> socket.socket:
        """A raw socket on *interface*: frames both ways as recv() gives them, and send() puts one on the wire."""
        with self.inside():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._cleanup.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, CAPTURE_BUFFER_BYTES)
        sock.bind((interface, ETH_P_ALL))
        return sock

    def capture(self, interface: str = "tap0") -> Capture:
        """Watch *interface* from now on; of a tap, what the guest sends comes in and what it gets goes out."""
        capture = Capture(self.packet_socket(interface))
        self._cleanup.callback(capture.stop)
        return capture


class Dnsmasq:
    """A dnsmasq on the bridge of the calling thread's namespace."""

    def __init__(self, directory: Path, tftp_root: Path | None) -> None:
        self._log = ""
        self._leases = directory / "leases"
        tftp = [] if tftp_root is None else ["--enable-tftp", f"--tftp-root={tftp_root}"]
        program = _program("dnsmasq")
        assert program is not None, "dnsmasq is missing: install the Debian package dnsmasq-base"
        self._process = subprocess.Popen(
            [*DIES_WITH_US, program, "--keep-in-foreground", "--conf-file=", "--user=root",
             "--port=0", "--no-resolv", "--no-hosts", "--no-ping", f"--interface={BRIDGE}", "--bind-interfaces",
             f"--dhcp-range={DHCP_RANGE}", f"--dhcp-leasefile={self._leases}", f"--pid-file={directory / 'pid'}",
             "--log-facility=-", *tftp],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stderr is not None
        self._stderr = self._process.stderr.fileno()
        os.set_blocking(self._stderr, False)
        self._reactor = Reactor()
        self._reactor.add(self._stderr, self._readable)
        last_line = "dnsmasq-dhcp" if tftp_root is None else "TFTP root is"
        if not self._reactor.wait(lambda: last_line in self._log, TIMEOUT_S):
            self.close()
            raise AssertionError(f"dnsmasq does not start:\n{self._log}")

    @property
    def log(self) -> str:
        """What it has said so far."""
        self._reactor.poll_now()
        return self._log

    def address_of(self, mac: str) -> str | None:
        """The address leased to the NIC *mac*, or None."""
        for line in self._leases.read_text(encoding="ascii").splitlines() if self._leases.exists() else ():
            _expires, lease_mac, address, *_rest = line.split()
            if lease_mac == mac.lower():
                return address
        return None

    def close(self) -> None:
        """End it; idempotent."""
        self._process.kill()
        self._process.wait()
        self._reactor.remove(self._stderr)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _readable(self) -> None:
        text = os.read(self._stderr, RECEIVE_BYTES).decode(errors="replace")
        self._log += text
        if not text:
            self._reactor.remove(self._stderr)


class TcpPeer:
    """One connection served by a thread; `result()` is what came from the other side."""

    def __init__(self, listener: socket.socket, talk: Callable[[socket.socket], bytes]) -> None:
        self._listener, self._talk = listener, talk
        self._outcome: bytes | Exception = TimeoutError("nothing came yet")
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def result(self, timeout_s: float = TIMEOUT_S) -> bytes:
        """Wait for the connection's end; raises what went wrong."""
        self._thread.join(timeout_s)
        if self._thread.is_alive() or isinstance(self._outcome, Exception):
            raise AssertionError(f"no whole TCP connection within {timeout_s} s") from (
                self._outcome if isinstance(self._outcome, Exception) else None
            )
        return self._outcome

    def close(self) -> None:
        """End the connection, whatever its state; idempotent."""
        for sock in (self._listener, self._connection):
            if sock is not None and sock.fileno() >= 0:
                try:
                    sock.shutdown(socket.SHUT_RDWR)  # wakes the thread, which close() would not
                except OSError:
                    pass
        self._thread.join(TIMEOUT_S)
        self._listener.close()

    def _serve(self) -> None:
        try:
            self._connection, _address = self._listener.accept()
            with self._connection:
                self._outcome = self._talk(self._connection)
        except OSError as error:
            self._outcome = error


def _receive_all(connection: socket.socket) -> bytes:
    received = bytearray()
    while data := connection.recv(RECEIVE_BYTES):
        received += data
    return bytes(received)


@dataclass(frozen=True)
class Frame:
    """The head of a captured frame, its whole length, and whether the interface sent it (of a tap: to the guest)."""

    head: bytes
    length: int
    outgoing: bool


class Capture:
    """Frames on one interface, collected by a thread until `stop()`."""

    def __init__(self, sock: socket.socket) -> None:
        self.frames: list[Frame] = []
        self._sock = sock
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def stop(self) -> list[Frame]:
        """End it when what has arrived by now is taken, and return all frames; idempotent."""
        if self._stop_write >= 0:
            os.close(self._stop_write)
            self._stop_write = -1
            self._thread.join(TIMEOUT_S)
            os.close(self._stop_read)
        return self.frames

    def longest(self, *, outgoing: bool, protocol: int = socket.IPPROTO_TCP) -> int:
        """Length in bytes of the longest IPv4 frame of *protocol* in one direction; 0 when there is none."""
        ipv4, protocol_offset = b"\x08\x00", 14 + 9
        return max(
            (
                frame.length
                for frame in self.frames
                if frame.outgoing == outgoing and frame.head[12:14] == ipv4 and frame.head[protocol_offset] == protocol
            ),
            default=0,
        )

    def _collect(self) -> None:
        reactor, stopped = Reactor(), threading.Event()
        reactor.add(self._sock.fileno(), self._take)
        reactor.add(self._stop_read, stopped.set)
        reactor.wait(stopped.is_set, float(24 * 3600))

    def _take(self) -> None:
        """All that has arrived."""
        while True:
            head = bytearray(CAPTURED_HEAD_BYTES)
            try:
                length, address = self._sock.recvfrom_into(head, 0, socket.MSG_TRUNC | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self.frames.append(Frame(bytes(head[:length]), length, address[2] == PACKET_OUTGOING))


def _new_namespace() -> int:
    """A descriptor of a new network namespace, made by a thread that ends in it."""
    outcome: list[int | OSError] = []

    def make() -> None:
        try:
            if _libc.unshare(CLONE_NEWNET) != 0:
                _raise_errno("unshare")
            outcome.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]


def _enter(namespace_fd: int) -> None:
    if _libc.setns(namespace_fd, CLONE_NEWNET) != 0:
        _raise_errno("setns")


def fds_option(fds: Sequence[int]) -> str:
    """`fd=N` for one descriptor, `fds=N:M…` for more, as `-netdev tap` takes them."""
    return f"fd={fds[0]}" if len(fds) == 1 else f"fds={':'.join(map(str, fds))}"


def _raise_errno(call: str) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}")
