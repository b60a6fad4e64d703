# SPDX-License-Identifier: Apache-2.0
"""Linux with the devices a manager gives a guest: a NIC on a bridge, the guest agent's channel, a console and a port,
a balloon, entropy; a disk and a NIC come and go while it runs. Two boots, the second after a reboot from inside.

Each step fills `checks` of the `GuestRun`; a step that gets no answer ends the run.
"""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.framework import cache, guests, images
from tests.framework.guest_agent import GuestAgent
from tests.framework.network import ADDRESS, ETHERNET_FRAME_BYTES, Network, fds_option
from tests.framework.scenarios import (
    COMMAND_TIMEOUT_S,
    LINUX_COMMAND_TIMEOUT_S,
    LINUX_PROMPT,
    GuestRun,
    LinuxShell,
    linux_args,
)
from tests.framework.vm import Emulator, Vm

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tests.framework.network import Dnsmasq

MAC, SECOND_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
NO_AVX = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-ERMS,-FSRM"  # only FXSAVE state is kept
MEMORY_MIB, BALLOONED_MIB, TOUCHED_MIB = 96, 44, 20
SLOW_COMMAND_TIMEOUT_S = 900.0
QUEUES = 2
BULK = images.random_bytes(7, 3 << 20)
SMALL = BULK[: 64 << 10]
SOURCE_PORT, SINK_PORT = 5001, 5002
CONNECTIONS = 9  # each on a queue by its port numbers: all on one queue once in 250 runs
MIN_TSO_SEGMENTS = 20  # Linux leaves 2 segments to a NIC when the peer is as slow as this one
AGENT_RECONNECTS = 20
SECOND_NETWORK, SECOND_ADDRESS = "10.67.0.1", "10.67.0.2"
EVENT_TIMEOUT_S = 300.0
POLL_S = 0.1
MIB = 1 << 20
DISK_MIB = 256  # more than the guest reads until its disk is taken away
WRITTEN_BYTES = 64 << 10
AGENT_PROGRAM = "/bin/qemu-ga"  # in the guest: a file that the host has too


class LinuxNetworkGuest:
    """One run; see the module."""

    def __init__(self, program: Emulator, network: Network) -> None:
        self.run = GuestRun("linux-network", program.name)
        self.network = network
        linux = guests.linux_network()
        self.taps = network.open_tap(queues=QUEUES)
        self.vm = Vm(program, [], pass_fds=self.taps)
        args = linux_args(linux.vmlinux, linux.initramfs, NO_AVX, MEMORY_MIB)
        args.remove("-no-reboot")
        self.vm.argv += [*args, *self._devices()]
        self.disk = guests.random_disk()
        self.address = ""
        self.shell: LinuxShell

    def _devices(self) -> list[str]:
        devices = [
            "virtio-net-pci,netdev=net0,id=nic0,mq=on,vectors=6,mac=" + MAC,
            "virtio-serial-pci,id=serial0",
            "virtserialport,bus=serial0.0,nr=1,chardev=agent,name=org.qemu.guest_agent.0,id=agent-port",
            "virtserialport,bus=serial0.0,nr=2,chardev=port,name=org.vmmd.test.0,id=test-port",
            "virtconsole,bus=serial0.0,nr=3,chardev=console,id=console0",
            "virtio-balloon-pci,id=balloon0",
            "virtio-rng-pci,id=rng0,rng=entropy",
        ]
        args = ["-netdev", f"tap,id=net0,{fds_option(self.taps)}"]
        args += ["-object", "rng-random,id=entropy,filename=/dev/urandom"]
        # resident from the start, so that what the balloon takes is what the host gets
        memory = f"memory-backend-ram,id=ram,size={MEMORY_MIB}M,prealloc=on"
        args += ["-machine", "memory-backend=ram", "-object", memory]
        for name in ("agent", "port", "console"):
            args += ["-chardev", f"socket,id={name},path={self._socket(name)},server=on,wait=off"]
        return args + [part for device in devices for part in ("-device", device)]

    def _socket(self, name: str) -> Path:
        return self.vm.directory / f"{name}.sock"

    def all_steps(self) -> GuestRun:
        """Boot, every step, reboot, the agent again, power off."""
        dnsmasq = self.network.start_dnsmasq()
        with self.network.inside(), self.vm as vm:
            self.boot("shell")
            self.address_and_ping(dnsmasq)
            self.bulk_transfers()
            self.two_queues()
            self.link_state()
            self.mark("network")
            self.agent(AGENT_RECONNECTS, "agent")
            self.console_and_port()
            self.mark("channels")
            self.entropy()
            self.statistics()
            self.balloon()
            self.mark("balloon")
            self.hotplug_disk()
            self.hotplug_nic()
            self.mark("hotplug")
            vm.serial.send("reboot -f\n")
            vm.qmp.wait_event("RESET", LINUX_COMMAND_TIMEOUT_S)
            self.boot("shell after the reboot")
            self.address_and_ping(dnsmasq, "after the reboot")
            self.agent(2, "agent after the reboot")
            vm.serial.send("poweroff -f\n")
            self.run.end(vm, LINUX_COMMAND_TIMEOUT_S)
        return self.run

    def boot(self, milestone: str) -> None:
        """Wait for the shell."""
        self.shell = LinuxShell(self.vm)
        self.mark(milestone)

    def mark(self, milestone: str) -> None:
        """Note the time of *milestone*."""
        self.run.mark(self.vm, milestone)

    def check(self, name: str, passed: object, output: object = "") -> None:
        """Keep the outcome, with what it was judged by."""
        self.run.checks[name] = bool(passed)
        self.run.outputs[name] = str(output)

    # Network

    def address_and_ping(self, dnsmasq: Dnsmasq, when: str = "") -> None:
        """An address by DHCP, as dnsmasq tells it too, and three pings."""
        text = self.shell.run("ip link set eth0 up; udhcpc -n -q -i eth0 -s /etc/udhcpc")
        bound = re.search(r"^BOUND eth0 (\S+)$", text, re.MULTILINE)
        self.address = bound[1] if bound else ""
        self.check(f"DHCP {when}".strip(), bound and self.address == dnsmasq.address_of(MAC), text)
        text = self.shell.run(f"ping -c 3 {ADDRESS}")
        self.check(f"ping {when}".strip(), "3 packets transmitted, 3 packets received" in text, text)

    def bulk_transfers(self) -> None:
        """Random data to the guest and back, and the largest frames each way: segments are left to the host."""
        Path("/proc/sys/net/ipv4/tcp_min_tso_segs").write_text(f"{MIN_TSO_SEGMENTS}")
        self.shell.run(f"echo {MIN_TSO_SEGMENTS} >/proc/sys/net/ipv4/tcp_min_tso_segs")
        capture = self.network.capture()
        self.download(BULK, "bulk")
        received = self.upload("bulk")
        self.check("bulk TCP to the guest and back", received == BULK, f"{len(received)} of {len(BULK)} bytes")
        capture.stop()
        for direction, outgoing in (("to", True), ("from", False)):
            longest = capture.longest(outgoing=outgoing)
            self.check(f"large frames {direction} the guest", longest > ETHERNET_FRAME_BYTES, longest)

    def download(self, data: bytes, name: str) -> None:
        """The guest fetches *data* into its file /tmp/*name*."""
        source = self.network.tcp_source(SOURCE_PORT, data)
        self.shell.run(f"nc {ADDRESS} {SOURCE_PORT} -e dd of=/tmp/{name} bs=64k", SLOW_COMMAND_TIMEOUT_S)
        source.close()

    def upload(self, name: str) -> bytes:
        """What comes when the guest sends /tmp/*name*."""
        sink = self.network.tcp_sink(SINK_PORT)
        self.shell.run(f"nc {ADDRESS} {SINK_PORT} -e cat /tmp/{name}", SLOW_COMMAND_TIMEOUT_S)
        received = sink.result(SLOW_COMMAND_TIMEOUT_S)
        sink.close()
        return received

    def two_queues(self) -> None:
        """A second queue pair by ethtool; both carry packets, and the data is whole."""
        self.shell.run(f"ethtool -L eth0 combined {QUEUES}")
        before = self.queue_interrupts()
        self.download(SMALL, "small")
        whole = [self.upload("small") == SMALL for _ in range(CONNECTIONS)]
        self.check("TCP over two queues", all(whole), whole)
        after = self.queue_interrupts()
        used = {name for name, count in after.items() if count > before.get(name, 0)}
        self.check("both queues carry packets", used >= {"input.0", "input.1"}, f"{before} {after}")

    def queue_interrupts(self) -> dict[str, int]:
        """Interrupts by queue of the NIC."""
        text = self.shell.run("grep -E 'virtio[0-9]+-(input|output)' /proc/interrupts")
        found = re.findall(r"^ *\d+: +(\d+) .*virtio\d+-((?:input|output)\.\d+)$", text, re.MULTILINE)
        return {name: int(count) for count, name in found}

    def link_state(self) -> None:
        """set_link is what the guest sees as carrier; traffic goes on afterwards."""
        for up in (False, True):
            self.vm.qmp.cmd("set_link", name="nic0", up=up)
            self._guest_sees(f'[ "$(cat /sys/class/net/eth0/carrier)" = {int(up)} ]')
        self.check("set_link moves the carrier", True)
        text = self.shell.run(f"ping -c 2 {ADDRESS}")
        self.check("ping after set_link", "2 packets received" in text, text)

    # Channels

    def agent(self, connections: int, name: str) -> None:
        """Debian's guest agent through *connections* connections, one after the other."""
        answers: dict[str, Any] = {}
        unasked = []
        for number in range(connections):
            with GuestAgent(self.vm, self.vm.connect_unix(self._socket("agent"))) as agent:
                unasked.append(agent.sync(1000 + number))
                assert agent.call("guest-ping") == {}
                if number == 0:
                    answers = self._ask(agent)
        # it answers the delimiter itself, which is not JSON, by an error
        expected = all(text.count(b"\n") == 1 and b"parse error" in text for text in unasked)
        self.check(f"{name}: nothing is left of other connections", expected, unasked)
        enabled = [each["name"] for each in answers["guest-info"]["supported_commands"] if each["enabled"]]
        self.check(f"{name}: guest-info", {"guest-exec", "guest-ping"} <= set(enabled), answers["guest-info"])
        self.check(f"{name}: guest-exec", answers["guest-exec"] == b"agent\n", answers["guest-exec"])
        (nic,) = [each for each in answers["interfaces"] if each["name"] == "eth0"]
        addresses = [each["ip-address"] for each in nic.get("ip-addresses", [])]
        self.check(f"{name}: interfaces", nic["hardware-address"] == MAC and addresses == [self.address], nic)

    def _ask(self, agent: GuestAgent) -> dict[str, Any]:
        """guest-info, a command's output by guest-exec, guest-network-get-interfaces."""
        answers = {"guest-info": agent.call("guest-info")}
        process = agent.call("guest-exec", path="/bin/echo", arg=["agent"], **{"capture-output": True})
        status: dict[str, Any] = {"exited": False}
        while not status["exited"]:  # each asks the guest, which takes 10 to 70 ms
            status = agent.call("guest-exec-status", pid=process["pid"])
        answers["guest-exec"] = base64.b64decode(status["out-data"])
        answers["interfaces"] = agent.call("guest-network-get-interfaces")
        return answers

    def console_and_port(self) -> None:
        """hvc0 and the port carry a line each way."""
        for name, node in (("console", "/dev/hvc0"), ("port", "/dev/virtio-ports/org.vmmd.test.0")):
            with self.vm.connect_unix(self._socket(name)) as sock:
                self._line_each_way(name, node, sock)

    def _line_each_way(self, name: str, node: str, sock: socket.socket) -> None:
        received = bytearray()
        self.vm.reactor.add(sock.fileno(), lambda: received.extend(sock.recv(4096)))
        self.shell.run(f"echo 'from the guest' >{node}")
        self.vm.wait(lambda: b"from the guest" in received, COMMAND_TIMEOUT_S, f"a line of {name}")
        self.vm.serial.send(f"head -n 1 <{node}; echo re''ad\n")
        sock.sendall(b"from the host\n")
        text = self.vm.serial.expect_until("read", LINUX_COMMAND_TIMEOUT_S)
        self.vm.serial.expect(LINUX_PROMPT, COMMAND_TIMEOUT_S)
        self.check(f"{name} carries data", "\nfrom the host" in text, text)
        self.vm.reactor.remove(sock.fileno())

    # Entropy and memory

    def entropy(self) -> None:
        """/dev/hwrng is virtio-rng and gives different bytes each time."""
        text = self.shell.run("cat /sys/class/misc/hw_random/rng_current")
        self.check("hwrng is virtio-rng", "virtio_rng" in text, text)
        read = "dd if=/dev/hwrng bs=32 count=1 2>/dev/null | md5sum"
        sums = re.findall(r"^[0-9a-f]{32}", self.shell.run(f"{read}; {read}"), re.MULTILINE)
        self.check("hwrng reads differ", len(set(sums)) == 2, sums)

    def statistics(self) -> None:
        """guest-stats are there, and follow what the guest does with its memory."""
        qmp, path = self.vm.qmp, "/machine/peripheral/balloon0"
        qmp.cmd("qom-set", path=path, property="guest-stats-polling-interval", value=1)
        first = self._statistics_after(int(time.time()))
        self.shell.run("rm /tmp/bulk")
        second = self._statistics_after(int(time.time()))
        freed = second["stats"]["stat-free-memory"] - first["stats"]["stat-free-memory"]
        self.check("guest-stats follow the guest", freed > len(BULK) // 2, f"{first} {second}")
        qmp.cmd("qom-set", path=path, property="guest-stats-polling-interval", value=0)

    def _statistics_after(self, time_s: int) -> dict[str, Any]:
        """The first statistics that are newer than *time_s*."""
        last: dict[str, Any] = {}

        def updated() -> bool:
            last.update(self.vm.qmp.cmd("qom-get", path="/machine/peripheral/balloon0", property="guest-stats"))
            return bool(last["last-update"] > time_s)

        self._poll(updated, "new statistics of the guest")
        return dict(last)

    def _poll(self, until: Callable[[], bool], what: str) -> None:
        """Ask until it is so: nothing tells. The other channels are served in between."""
        for _ in range(int(EVENT_TIMEOUT_S / POLL_S)):
            if until():
                return
            self.vm.reactor.wait(lambda: False, POLL_S)
        raise AssertionError(f"{what}: not within {EVENT_TIMEOUT_S} s\n{self.vm.describe()}")

    def balloon(self) -> None:
        """The guest gives memory back and gets it again; the host's resident memory follows."""
        sizes = {"full": self.vm.rss_bytes()}
        self._balloon_to(BALLOONED_MIB)
        sizes["shrunk"] = self.vm.rss_bytes()
        total = self.shell.run("grep MemTotal /proc/meminfo")
        self._balloon_to(MEMORY_MIB)
        self.shell.run(f"dd if=/dev/zero of=/tmp/fill bs=1M count={TOUCHED_MIB}; rm /tmp/fill", SLOW_COMMAND_TIMEOUT_S)
        sizes["grown"] = self.vm.rss_bytes()
        text = f"{sizes} {total}"
        inflated = (MEMORY_MIB - BALLOONED_MIB) * MIB
        self.check("balloon gives memory to the host", sizes["full"] - sizes["shrunk"] > 0.8 * inflated, text)
        # about a half of what the guest uses now was there all the time
        self.check("balloon takes memory again", sizes["grown"] - sizes["shrunk"] > TOUCHED_MIB * MIB // 5, text)

    def _balloon_to(self, mib: int) -> None:
        self.vm.qmp.cmd("balloon", value=mib * MIB)
        self._poll(lambda: self.vm.qmp.cmd("query-balloon")["actual"] == mib * MIB, f"{mib} MiB in the guest")

    # Devices that come and go

    def hotplug_disk(self) -> None:
        """A disk: read, written, unplugged while idle; and a larger one, unplugged while it is read."""
        image = self.disk.copy_to(self.vm.directory)
        self._plug_disk(image)
        text = self.shell.run("md5sum /dev/vda")
        self.check("plugged disk is read", self.disk.md5 in text, text)
        self.shell.run(f"dd if={AGENT_PROGRAM} of=/dev/vda bs=4096 count={WRITTEN_BYTES // 4096} conv=fsync")
        self._unplug_disk()
        written = cache.program("qemu-guest-agent", "qemu-ga").read_bytes()[:WRITTEN_BYTES]
        expected = written + self.disk.path.read_bytes()[WRITTEN_BYTES:]
        self.check("plugged disk is written", image.read_bytes() == expected)
        self.check("unplugged disk is gone", self._guest_says("[ ! -e /dev/vda ]"))

        large = self.vm.directory / "large.img"
        with large.open("wb") as file:
            file.truncate(DISK_MIB * MIB)
        self._plug_disk(large)
        self.shell.run("dd if=/dev/vda of=/dev/null bs=64k 2>/tmp/reader &")
        before = self._disk_reads()
        self._poll(lambda: self._disk_reads() > before, "a request of the disk's reader")
        self.check("disk is in use when it leaves", self._guest_says("pidof dd"))
        self._unplug_disk()
        self.check("disk in use is gone", self._guest_says("wait; [ ! -e /dev/vda ]"))
        text = self.shell.run("cat /tmp/reader")
        self.check("its reader was told", "error" in text or f"{DISK_MIB * 16}+0 records" not in text, text)

    def _disk_reads(self) -> int:
        """How often the disk has been read."""
        (found,) = [each for each in self.vm.qmp.cmd("query-blockstats") if "disk0" in each.get("qdev", "")]
        return int(found["stats"]["rd_operations"])

    def _unplug_disk(self) -> None:
        self._unplug("disk0")
        self.vm.qmp.cmd("blockdev-del", node_name="node0")

    def _guest_says(self, condition: str) -> bool:
        """Whether *condition* of the guest's shell is true."""
        return "\nyes" in self.shell.run(f"{condition} && echo yes")

    def _plug_disk(self, image: Path) -> None:
        file = {"driver": "file", "filename": str(image)}
        self.vm.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "node0", "file": file})
        self.vm.qmp.cmd("device_add", driver="virtio-blk-pci", id="disk0", drive="node0")
        self._guest_sees("[ -e /dev/vda ]")

    def hotplug_nic(self) -> None:
        """A NIC on a subnet of its own: pinged, unplugged while idle; and once more, in the middle of pings."""
        self.network.ip(f"addr add {SECOND_NETWORK}/24 dev br0")
        self.network.add_tap("tap1")
        self._plug_nic()
        text = self.shell.run(f"ping -c 3 {SECOND_NETWORK}")
        self.check("plugged NIC works", "3 packets received" in text, text)
        self._unplug_nic()
        self.check("unplugged NIC is gone", self._guest_says("[ ! -e /sys/class/net/eth1 ]"))
        self._plug_nic()
        self.shell.run(f"ping -i 0.05 {SECOND_NETWORK} >/tmp/pings 2>&1 &")
        self._guest_sees("grep -q 'bytes from' /tmp/pings")
        self.check("NIC is in use when it leaves", self._guest_says("pidof ping"))
        self._unplug_nic()
        self.check("NIC in use is gone", self._guest_says("kill %%; [ ! -e /sys/class/net/eth1 ]"))
        text = self.shell.run(f"ping -c 2 {ADDRESS}")
        self.check("the other NIC still works", "2 packets received" in text, text)

    def _plug_nic(self) -> None:
        qmp = self.vm.qmp
        qmp.cmd("netdev_add", {"type": "tap", "id": "net1", "ifname": "tap1", "script": "no", "downscript": "no"})
        qmp.cmd("device_add", driver="virtio-net-pci", id="nic1", netdev="net1", mac=SECOND_MAC)
        self._guest_sees("[ -e /sys/class/net/eth1 ]")
        self.shell.run(f"ip addr add {SECOND_ADDRESS}/24 dev eth1; ip link set eth1 up")

    def _unplug_nic(self) -> None:
        self._unplug("nic1")
        self.vm.qmp.cmd("netdev_del", id="net1")

    def _guest_sees(self, condition: str) -> None:
        """Wait in the guest until *condition* of its shell is true."""
        text = self.shell.run(f"n=0; until {condition} || [ $n = 300 ]; do n=$((n+1)); usleep 100000; done; echo n=$n.")
        assert "n=300." not in text, f"the guest never saw {condition}\n{self.vm.describe()}"

    def _unplug(self, device: str) -> None:
        """device_del, and its event."""
        self.vm.qmp.cmd("device_del", id=device)
        event = self.vm.qmp.wait_event("DEVICE_DELETED", EVENT_TIMEOUT_S)
        while event["data"].get("device") != device:
            event = self.vm.qmp.wait_event("DEVICE_DELETED", EVENT_TIMEOUT_S)


def linux_network(program: Emulator) -> GuestRun:
    """The whole run on a network of its own."""
    with Network() as network:
        return LinuxNetworkGuest(program, network).all_steps()
