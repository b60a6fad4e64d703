# SPDX-License-Identifier: Apache-2.0
"""virtio-serial with a guest that runs under KVM, and a manager at the other end of its channel.

``scripts/acceptance-serial`` does the same with a hundred megabytes and a thousand clients, beside QEMU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.serial_guest import (
    AGENT,
    SerialGuest,
    bulk,
    early_and_late,
    reboot,
    receive,
    reconnect,
    stop_and_cont,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kvm

BULK_BYTES = 3_000_001
CLIENTS = 30
DEADLINE_S = 60.0


def test_data_clients_and_reboots(tmp_path: Path) -> None:
    """One machine for all of it: bulk data through socat, clients that come and go, early ones, a reboot between."""
    with SerialGuest("vmmd", tmp_path) as guest:
        qmp = guest.vm.qmp
        early_and_late(guest)
        guest.command("O")
        bulk(guest, BULK_BYTES)
        reconnect(guest, CLIENTS)
        opened = {each["label"]: each["frontend-open"] for each in qmp.cmd("query-chardev")}
        assert opened["agent"] is True
        stop_and_cont(guest, BULK_BYTES, 10)
        reboot(guest)


def test_a_port_is_pulled_and_plugged_while_it_carries_data(tmp_path: Path) -> None:
    with SerialGuest("vmmd", tmp_path) as guest:
        qmp = guest.vm.qmp
        guest.command("O")
        for _ in range(5):
            with guest.connect() as peer:
                peer.sendall(b"in flight" * 2_000)
                qmp.cmd("device_del", id="channel0")
                assert qmp.wait_event("DEVICE_DELETED", timeout_s=DEADLINE_S)
                peer.sendall(b"for nobody yet")
                qmp.cmd(
                    "device_add", driver="virtserialport", bus="virtio-serial0.0", nr=1, chardev="agent", id="channel0",
                    name=AGENT,
                )  # fmt: skip
        guest.command("O")
        with guest.connect() as peer:
            peer.sendall(b"\xffthe last")
            heard = b""
            while not heard.endswith(b"\xffthe last"):  # what those before it had sent comes first, and is echoed
                heard += receive(peer, 1)
