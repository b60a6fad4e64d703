# SPDX-License-Identifier: Apache-2.0
"""Random netdev_add, netdev_del and set_link on a whole process: every answer is a sentence, and nothing is left."""

from __future__ import annotations

import json
import os
import random
import socket
from typing import Any

import pytest

from tests.framework.network import Network, network_problem
from tests.framework.qtest import Qtest
from vmmd.options.netdevs import NETDEVS

pytestmark = pytest.mark.skipif(network_problem() is not None, reason=str(network_problem()))

REQUESTS = 150
KINDS = ("bridge", "hubport", "tap")  # they wait for nobody
IDS = "abcd"
#: by key; wrong ones among them
VALUES: dict[str, list[object]] = {
    "fd": ["0", "1", "3", "999", "x", "", "5x", "4294967296"],
    "fds": ["0:1", "", "::", "3:3", "x:y"],
    "ifname": ["", "tap%d", "a/b", "lo", "x" * 20, "é", "a\0b", "%s%n", "."],
    "script": ["no", "", "/bin/true", "/bin/false", "/nope"],
    "downscript": ["no", "", "/bin/true", "/bin/false", "/nope"],
    "helper": ["/bin/true", "/bin/false", "/nope", ""],
    "sndbuf": [0, 1, -1, 1 << 40, 1 << 64],
    "queues": [0, 1, 2, 3, 300, -1, 1 << 33],
    "hubid": [0, 1, -1, 1 << 31, -(1 << 31), 1 << 40],
    "netdev": [*IDS, "nope", ""],
    "vhostfd": ["1", "x"],
    "poll-us": [0, 5, 1 << 33],
}
ODD: list[object] = [None, True, 1.5, [], {}, "", -1]
#: by kind: what keeps it off the host's own scripts and helpers, most of the time
USUAL: dict[str, dict[str, object]] = {
    "tap": {"script": "no", "downscript": "no"},
    "bridge": {"helper": "/bin/false"},
    "hubport": {"hubid": 0},
}


def request(random_: random.Random) -> dict[str, Any]:
    choice = random_.random()
    if choice < 0.35:
        return {"execute": "netdev_del", "arguments": {"id": random_.choice(IDS)}}
    if choice < 0.45:
        return {"execute": "set_link", "arguments": {"name": random_.choice(IDS), "up": choice < 0.4}}
    kind = random_.choice(KINDS)
    keys = [each.wire_name for each in NETDEVS[kind].each() if each.wire_name != "id"]
    arguments: dict[str, object] = {"type": kind, "id": random_.choice(IDS), **USUAL[kind]}
    for key in random_.sample(keys, random_.randint(0, min(4, len(keys)))):
        odd = random_.random() < 0.1
        arguments[key] = random_.choice(ODD if odd else VALUES.get(key, ["x", "", 1, True, False]))
    return {"execute": "netdev_add", "arguments": arguments}


def test_every_answer_is_a_sentence_and_nothing_is_left() -> None:
    random_ = random.Random(None if os.environ.get("VMMD_RANDOM") == "1" else 7)
    with Network() as network, network.inside(), Qtest("vmmd", "-nodefaults") as vm:
        there = socket.if_nameindex()
        descriptors = f"/proc/{vm.process.pid}/fd"
        before = len(os.listdir(descriptors))
        succeeded = 0
        for _ in range(REQUESTS):
            asked = request(random_)
            vm.qmp_send(json.dumps(asked).encode() + b"\n")
            reply = vm.qmp_reply()
            succeeded += "return" in reply
            assert "nternal error" not in reply.get("error", {}).get("desc", ""), asked
        assert succeeded > REQUESTS / 10  # it is not the wrong ones only
        for netdev in vm.qmp("__org.vmmd_query-network")["netdevs"]:
            vm.qmp("netdev_del", id=netdev["id"])
        assert socket.if_nameindex() == there
        assert len(os.listdir(descriptors)) == before
    assert "Traceback" not in vm.stderr
