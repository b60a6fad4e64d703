# SPDX-License-Identifier: Apache-2.0
"""vhost-net on a host without it: a wish is a warning and a reason, force and wrong descriptors fail. QEMU 7.2.22 says
the same, but aborts where it means to go on."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.framework.network import fds_option
from tests.framework.qtest import Qtest
from tests.framework.vm import emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.framework.network import Network

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(os.path.exists("/dev/vhost-net"), reason="this host has /dev/vhost-net"),
]
REASON = "tap: open vhost char device failed: No such file or directory"
NIC = ["-device", "virtio-net-pci,netdev=n0"]
START_TIMEOUT_S = 60.0


@pytest.fixture
def null() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_RDWR)
    yield fd
    os.close(fd)


def refused(netdev: str, fds: list[int]) -> str:
    """What vmmd says before it ends."""
    done = subprocess.run(
        [*emulator("vmmd").command, "-nodefaults", "-accel", "qtest", "-display", "none", "-netdev", netdev, *NIC],
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


def test_wish_is_a_warning_and_frames_go_through_vmmd(network: Network) -> None:
    (tap,) = network.open_tap()
    netdev = f"tap,id=n0,fd={tap},vhost=on"
    with network.inside(), Qtest("vmmd", "-nodefaults", "-netdev", netdev, *NIC, pass_fds=[tap]) as vm:
        state = {"netdev": "n0", "type": "tap", "on": False, "reason": REASON}
        assert vm.qmp("__org.vmmd_query-vhost") == [state]


def test_force_fails(network: Network) -> None:
    (tap,) = network.open_tap()
    said = refused(f"tap,id=n0,fd={tap},vhost=on,vhostforce=on", [tap])
    assert f"vmmd: -netdev tap,id=n0: {REASON}" in said


def test_descriptor_of_something_else_is_named(network: Network, null: int) -> None:
    """The line of an OpenStack host passes fd=179,vhostfd=183."""
    (tap,) = network.open_tap()
    said = refused(f"tap,{fds_option([tap])},id=n0,vhost=on,vhostfd={null}", [tap, null])
    assert said == (
        f"vmmd: -netdev tap,id=n0: vhostfd {null}: vhost_set_owner failed: Inappropriate ioctl for device; "
        f"descriptor {null} is not an open /dev/vhost-net\n"
    )


def test_descriptor_that_was_not_passed_is_named(network: Network, null: int) -> None:
    (tap,) = network.open_tap()
    said = refused(f"tap,id=n0,fd={tap},vhost=on,vhostfd={null}", [tap])
    assert f"n0: Can't use file descriptor {null}: Bad file descriptor" in said
