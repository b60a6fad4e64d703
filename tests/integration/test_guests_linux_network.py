# SPDX-License-Identifier: Apache-2.0
"""Linux with the devices a manager gives a guest: NIC, guest agent, console and port, entropy, balloon; disk and NIC
that come and go while it runs, idle and in use; and all of it again after a reboot from inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.linux_network import BALLOONED_MIB, MEMORY_MIB

if TYPE_CHECKING:
    from tests.integration.conftest import GuestRuns

pytestmark = [pytest.mark.kvm, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(2400)]
GUEST = "linux-network"
CHECKS = [
    "DHCP",
    "ping",
    "bulk TCP to the guest and back",
    "large frames to the guest",
    "large frames from the guest",
    "TCP over two queues",
    "both queues carry packets",
    "set_link moves the carrier",
    "ping after set_link",
    "agent: nothing is left of other connections",
    "agent: guest-info",
    "agent: guest-exec",
    "agent: interfaces",
    "console carries data",
    "port carries data",
    "hwrng is virtio-rng",
    "hwrng reads differ",
    "guest-stats follow the guest",
    "balloon gives memory to the host",
    "balloon takes memory again",
    "plugged disk is read",
    "plugged disk is written",
    "unplugged disk is gone",
    "disk is in use when it leaves",
    "disk in use is gone",
    "its reader was told",
    "plugged NIC works",
    "unplugged NIC is gone",
    "NIC is in use when it leaves",
    "NIC in use is gone",
    "the other NIC still works",
    "DHCP after the reboot",
    "ping after the reboot",
    "agent after the reboot: nothing is left of other connections",
    "agent after the reboot: guest-info",
    "agent after the reboot: guest-exec",
    "agent after the reboot: interfaces",
]


@pytest.mark.parametrize("check", CHECKS)
def test_linux_with_a_managers_devices(guest_runs: GuestRuns, emulator_name: str, check: str) -> None:
    run = guest_runs.get(GUEST, emulator_name)
    assert run.checks[check], run.outputs[check]


def test_no_check_is_left_out(guest_runs: GuestRuns, emulator_name: str) -> None:
    assert set(guest_runs.get(GUEST, emulator_name).checks) == set(CHECKS)


def test_linux_powers_off(guest_runs: GuestRuns, emulator_name: str) -> None:
    run = guest_runs.get(GUEST, emulator_name)
    assert run.shutdown_data() == {"guest": True, "reason": "guest-shutdown"}
    assert run.status == 0


def test_events_of_the_devices(guest_runs: GuestRuns, emulator_name: str) -> None:
    events = guest_runs.get(GUEST, emulator_name).events
    deleted = [event["data"].get("device") for event in events if event["event"] == "DEVICE_DELETED"]
    assert [each for each in deleted if each is not None] == ["disk0", "disk0", "nic1", "nic1"]
    ports = [event["data"] for event in events if event["event"] == "VSERPORT_CHANGE"]
    assert {"id": "agent-port", "open": True} in ports
    actual = [event["data"]["actual"] for event in events if event["event"] == "BALLOON_CHANGE"]
    assert min(actual) == BALLOONED_MIB << 20
    assert actual[-1] == MEMORY_MIB << 20
