# SPDX-License-Identifier: Apache-2.0
"""U-Boot on a network: DHCP and TFTP from dnsmasq, a file with the host's checksum, a ping; over a tap on a bridge,
inherited open or opened by name, over a hub, user networking, and over vhost-user with DPDK's testpmd behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.network_scenarios import uboot_network
from tests.framework.testpmd import missing_testpmd
from tests.framework.vm import emulator

if TYPE_CHECKING:
    from tests.framework.scenarios import GuestRun

pytestmark = [pytest.mark.kvm, pytest.mark.network]
SLOW = pytest.mark.slow
TESTPMD = pytest.mark.skipif(missing_testpmd() is not None, reason=str(missing_testpmd()))
QEMU = (pytest.mark.qemu, SLOW)
RUNS = [
    pytest.param(("vmmd", "tap-fd"), id="vmmd-tap-fd"),
    pytest.param(("vmmd", "tap-ifname"), id="vmmd-tap-ifname", marks=SLOW),
    pytest.param(("vmmd", "hub"), id="vmmd-hub", marks=SLOW),
    pytest.param(("vmmd", "user"), id="vmmd-user", marks=SLOW),
    pytest.param(("vmmd", "vhost-user"), id="vmmd-vhost-user", marks=(SLOW, TESTPMD)),
    pytest.param(("vmmd", "vhost-user-listening"), id="vmmd-vhost-user-listening", marks=(SLOW, TESTPMD)),
    pytest.param(("qemu", "tap-fd"), id="qemu-tap-fd", marks=QEMU),
    pytest.param(("qemu", "tap-ifname"), id="qemu-tap-ifname", marks=QEMU),
    pytest.param(("qemu", "user"), id="qemu-user", marks=QEMU),
    pytest.param(("qemu", "vhost-user"), id="qemu-vhost-user", marks=(*QEMU, TESTPMD)),
]


def failed(run: GuestRun) -> list[str]:
    """The checks that failed."""
    return [check for check, passed in run.checks.items() if not passed]


@pytest.mark.parametrize("which", RUNS)
def test_uboot_gets_an_address_and_a_file(which: tuple[str, str]) -> None:
    emulator_name, link = which
    run = uboot_network(emulator(emulator_name), link)
    assert failed(run) == [], "\n".join(run.outputs.values())
    if link != "user":  # whose DHCP server is the emulator
        assert f" {run.outputs['address']} " in run.outputs["leases"]
        assert f"DHCPACK(br0) {run.outputs['address']}" in run.outputs["dnsmasq"]
