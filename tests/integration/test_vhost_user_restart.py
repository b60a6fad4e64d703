# SPDX-License-Identifier: Apache-2.0
"""DPDK's testpmd dies under a running guest, and another one takes its place: U-Boot goes on fetching files.

pytest --run-slow tests/integration/test_vhost_user_restart.py     # needs the Debian package dpdk-dev
"""

from __future__ import annotations

import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.framework import guests
from tests.framework.network import Network
from tests.framework.network_scenarios import FILE, FILE_NAME, MEMORY_MIB, UBOOT_DHCP, UBOOT_TFTP, vhost_user
from tests.framework.scenarios import (
    COMMAND_TIMEOUT_S,
    CPU_MODEL,
    FIRMWARE_TIMEOUT_S,
    UBOOT_CRC32,
    UBOOT_PROMPT,
    machine_args,
)
from tests.framework.testpmd import Testpmd, missing_testpmd
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from pathlib import Path

PROBLEM = missing_testpmd()
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM)),
]


def fetch(vm: Vm) -> None:
    """Address, file, checksum."""
    for command in ("setenv autoload no", UBOOT_DHCP, UBOOT_TFTP, UBOOT_CRC32):
        vm.serial.send(f"{command}\r")
        output = vm.serial.expect_until(UBOOT_PROMPT, COMMAND_TIMEOUT_S)
    assert f"==> {zlib.crc32(FILE):08x}" in output


def connected(vm: Vm) -> bool:
    (state,) = vm.qmp.cmd("__org.vmmd_query-vhost")
    return bool(state["on"])


def test_guest_goes_on_with_the_next_back_end() -> None:
    with Network() as network:
        served: Path = network.directory / "tftp"
        served.mkdir()
        (served / FILE_NAME).write_bytes(FILE)
        network.start_dnsmasq(served)
        link = vhost_user(network, listens=True)
        args = [*machine_args(MEMORY_MIB, "pc,pit=off", CPU_MODEL), "-bios", str(guests.uboot().rom), *link.args]
        with network.inside(), ExitStack() as first:
            first.enter_context(link.peer)  # the start waits for it
            with Vm(emulator("vmmd"), args) as vm:
                vm.serial.expect("Hit any key", FIRMWARE_TIMEOUT_S)
                vm.serial.send(" ")
                vm.serial.expect(UBOOT_PROMPT, COMMAND_TIMEOUT_S)
                vm.serial.send("virtio scan\r")
                vm.serial.expect(UBOOT_PROMPT, COMMAND_TIMEOUT_S)
                fetch(vm)
                first.close()
                vm.wait(lambda: not connected(vm), COMMAND_TIMEOUT_S, "the end of the connection")
                with Testpmd(network, network.directory / "vhost.sock", server=False):
                    vm.wait(lambda: connected(vm), COMMAND_TIMEOUT_S, "the next back end")
                    fetch(vm)
