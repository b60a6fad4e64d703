# SPDX-License-Identifier: Apache-2.0
"""Guests on a network: each scenario boots a guest on a `Network` of its own and returns what came of it.

As in `scenarios`: the same options whatever the emulator is.
"""

from __future__ import annotations

import re
import zlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.framework import guests, images
from tests.framework.network import ADDRESS, Network, fds_option
from tests.framework.scenarios import (
    COMMAND_TIMEOUT_S,
    CPU_MODEL,
    FIRMWARE_TIMEOUT_S,
    UBOOT_CRC32,
    UBOOT_PROMPT,
    GuestRun,
    comparable,
    machine_args,
)
from tests.framework.testpmd import Testpmd
from tests.framework.vm import Emulator, Vm

if TYPE_CHECKING:
    from collections.abc import Callable

FILE_NAME = "payload.bin"
FILE = images.random_bytes(5, 200_001)  # odd, and no multiple of TFTP's block
UBOOT_DHCP, UBOOT_TFTP = "dhcp", f"tftpboot 1000000 {ADDRESS}:{FILE_NAME}"
MEMORY_MIB = 128


@dataclass(frozen=True)
class Link:
    """How a guest is connected: options of the emulator, descriptors that it inherits, an address that answers."""

    args: list[str]
    fds: list[int]
    ping_address: str = ADDRESS
    peer: AbstractContextManager[object] = field(default_factory=nullcontext)  # runs while the guest does


def tap_by_fd(network: Network, device: str = "virtio-net-pci") -> Link:
    """A tap on the bridge that the emulator inherits open, as libvirt does it."""
    fds = network.open_tap()
    return Link(["-netdev", f"tap,id=net0,{fds_option(fds)}", "-device", f"{device},netdev=net0"], fds)


def tap_by_name(network: Network) -> Link:
    """A tap on the bridge that the emulator opens."""
    netdev = f"tap,id=net0,ifname={network.add_tap()},script=no,downscript=no"
    return Link(["-netdev", netdev, "-device", "virtio-net-pci,netdev=net0"], [])


def hub(network: Network) -> Link:
    """A tap, the guest's NIC and a second one at ports of a hub, by the old options."""
    tap = f"tap,ifname={network.add_tap()},script=no,downscript=no"
    second = ["-netdev", "hubport,id=other,hubid=0", "-device", "virtio-net-pci,netdev=other"]
    return Link(["-net", "nic,model=virtio", "-net", tap, *second], [])


def user_network(network: Network) -> Link:
    """Connections of the emulator, or of the passt that it starts, from inside the namespace."""
    network.ip(f"route add default via {ADDRESS}")  # what a host has that has a network
    with network.inside():  # what Debian lets everybody do: ICMP echo without privileges
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0\t2147483647")
    return Link(["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0"], [])


def vhost_user(network: Network, *, listens: bool = False) -> Link:
    """Rings in the guest's shared memory, served by DPDK's testpmd, which has a tap on the bridge. ``listens``: the
    emulator is the one that does."""
    path = network.directory / "vhost.sock"
    role = ",server=on" if listens else ""
    memory = f"memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on"
    args = ["-object", memory, "-machine", "memory-backend=ram", "-chardev", f"socket,id=vhost0,path={path}{role}"]
    args += ["-netdev", "vhost-user,id=net0,chardev=vhost0", "-device", "virtio-net-pci,netdev=net0"]
    return Link(args, [], peer=Testpmd(network, path, server=not listens))


LINKS: dict[str, Callable[[Network], Link]] = {
    "tap-fd": tap_by_fd,
    "tap-ifname": tap_by_name,
    "hub": hub,
    "user": user_network,
    "vhost-user": vhost_user,
    "vhost-user-listening": lambda network: vhost_user(network, listens=True),
}


def uboot_network(program: Emulator, link_name: str) -> GuestRun:
    """U-Boot: an address by DHCP, a file by TFTP and its checksum, and a ping."""
    run = GuestRun(f"uboot-{link_name}", program.name)
    with Network() as network:
        served = network.directory / "tftp"
        served.mkdir()
        (served / FILE_NAME).write_bytes(FILE)
        dnsmasq = network.start_dnsmasq(served)
        link = LINKS[link_name](network)
        args = [*machine_args(MEMORY_MIB, "pc,pit=off", CPU_MODEL), "-bios", str(guests.uboot().rom), *link.args]
        with network.inside(), link.peer, Vm(program, args, pass_fds=link.fds) as vm:
            vm.serial.expect("Hit any key", FIRMWARE_TIMEOUT_S)
            vm.serial.send(" ")
            vm.serial.expect(UBOOT_PROMPT, COMMAND_TIMEOUT_S)
            run.mark(vm, "prompt")
            ping, address = f"ping {link.ping_address}", "printenv ipaddr"
            for command in ("virtio scan", "setenv autoload no", UBOOT_DHCP, UBOOT_TFTP, UBOOT_CRC32, ping, address):
                vm.serial.send(f"{command}\r")
                run.outputs[command] = comparable(vm.serial.expect_until(UBOOT_PROMPT, COMMAND_TIMEOUT_S))
            run.mark(vm, "commands")
            run.outputs["leases"] = (network.directory / "leases").read_text(encoding="ascii")
            run.outputs["dnsmasq"] = dnsmasq.log
        bound = re.search(r"^ipaddr=(\S+)$", run.outputs[address], re.MULTILINE)
        run.outputs["address"] = bound[1] if bound else ""
        run.checks = {
            "bound by DHCP": f"DHCP client bound to address {run.outputs['address']}" in run.outputs[UBOOT_DHCP],
            "file of the right length": f"Bytes transferred = {len(FILE)} " in run.outputs[UBOOT_TFTP],
            "checksum of the file": run.outputs[UBOOT_CRC32].endswith(f"==> {zlib.crc32(FILE):08x}"),
            "ping": f"host {link.ping_address} is alive" in run.outputs[ping],
        }
    return run
