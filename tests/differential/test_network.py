# SPDX-License-Identifier: Apache-2.0
"""netdevs and NICs on monitors and command lines: names, connections, texts and errors as QEMU 7.2's."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest

from tests.differential.same_lines import Row, check, run
from tests.framework.network import Network, network_problem
from tests.framework.vm import Vm, emulator

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.qemu,
    pytest.mark.skipif(network_problem() is not None, reason=str(network_problem())),
]

BASE = ["-machine", "pc,accel=kvm", "-m", "16", "-nodefaults", "-S"]
QUIET = "script=no,downscript=no"
ARGUMENTS = [
    *BASE,
    "-netdev", f"tap,id=t0,{QUIET}", "-device", "virtio-net-pci,netdev=t0,id=n0",
    "-netdev", f"tap,id=t1,queues=2,{QUIET}", "-device", "virtio-net-pci,netdev=t1,id=t0",
    "-netdev", f"tap,id=t2,queues=2,{QUIET}", "-device", "virtio-net-pci,mq=on,netdev=t2",
    "-netdev", "hubport,id=h0,hubid=0", "-netdev", "hubport,id=h1,hubid=0", "-netdev", "hubport,id=h3,hubid=0",
    "-device", "virtio-net-pci,netdev=h0,id=m0",
    "-netdev", f"tap,id=t5,{QUIET}", "-netdev", "hubport,id=h2,hubid=5,netdev=t5",
    "-device", "virtio-net-pci",
    "-device", "virtio-net-pci,mac=52:54:00:12:34:5b", "-device", "virtio-net-pci,id=last",
]  # fmt: skip


def add(arguments: str) -> str:
    return f'netdev_add {{"id": "a", {arguments}}}'


TAP = '"type": "tap"'
NO_SCRIPTS = f'{TAP}, "script": "no", "downscript": "no"'
ROWS = (
    Row("!info network"),
    Row("!netdev_del"), Row("!netdev_del a b"), Row("!netdev_del 5"), Row("!netdev_del n0"),
    Row("!set_link"), Row("!set_link t0"), Row("!set_link t0 perhaps"), Row("!set_link nobody on"),
    Row('set_link {"name": "nobody", "up": true}'),
    Row("!set_link t0 off"), Row("!set_link n0 on"), Row("!set_link h1 off"), Row("!set_link h2 off"),
    Row('device_add {"driver": "virtio-net-pci", "netdev": "nobody"}'),
    Row('device_add {"driver": "virtio-net-pci", "netdev": "t0"}'),
    Row('netdev_del {"id": "nobody"}'), Row("netdev_del"),
    Row('netdev_add {"id": "a"}'), Row('netdev_add {"type": "tap"}'), Row('netdev_add {"id": "a", "type": "foo"}'),
    Row('netdev_add {"id": "1a", "type": "hubport", "hubid": 1}'), Row('netdev_add {"id": "", "type": "tap"}'),
    Row('netdev_add {"id": "t5", "type": "hubport", "hubid": 1}'),
    Row(add('"type": "hubport"')), Row(add('"type": "hubport", "hubid": 1, "netdev": "nobody"')),
    Row(add(f'{TAP}, "fds": "3:5", "queues": 2')), Row(add(f'{TAP}, "fd": "3", "ifname": "x"')),
    Row(add(f'{TAP}, "helper": "/x", "fds": "3"')), Row(add(f'{TAP}, "helper": "/x", "ifname": "3"')),
    Row(add(f'{TAP}, "fd": ""')), Row(add(f'{TAP}, "fd": "nobody"')), Row(add(f'{TAP}, "fd": "5x"')),
    Row(add(f'{TAP}, "fd": "777"')),
    Row(add(f'{NO_SCRIPTS}, "ifname": "a/b"')), Row(add(f'{NO_SCRIPTS}, "ifname": "lo"')),
    Row(add(f'{TAP}, "helper": "/bin/false"')), Row(add('"type": "bridge", "helper": "/bin/false"')),
    Row(add(f'{NO_SCRIPTS}, "ifname": "x%d", "queues": 2, "sndbuf": 0, "vnet_hdr": false')), Row("!info network"),
    Row('netdev_del {"id": "a"}'),
    Row(add(f'{TAP}, "script": "", "downscript": ""')), Row("!info network"),
    # from under their NICs, whose names and netdevs' names are free then
    Row('netdev_del {"id": "t0"}'), Row("!netdev_del t1"), Row("!info network"),
    Row("!netdev_del t0"), Row('netdev_add {"id": "t0", "type": "hubport", "hubid": 7}'),
    Row(f"!netdev_add tap,id=n0,{QUIET}"), Row("!info network"), Row("!netdev_del h1"), Row("!info network"),
    Row("!netdev_del h0"), Row("!info network"),
)  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    def of(name: str) -> list[Any]:
        with Network() as network, network.inside():
            return run(name, ARGUMENTS, ROWS, tmp_path_factory.mktemp(name))

    return {name: of(name) for name in ("vmmd", "qemu")}


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[row.line[:90] for row in ROWS])
def test_it_is_answered_as_by_qemu(number: int, answers: dict[str, list[Any]]) -> None:
    check(ROWS[number], answers["vmmd"][number], answers["qemu"][number])


SHORT_FORMS = [
    f"-nic tap,{QUIET},model=virtio,id=zz -nic hubport,hubid=0,model=virtio,mac=02:00:00:00:00:01"
    " -net nic,model=virtio,id=foo,macaddr=52-54-0-0-0-1 -net nic,model=virtio,addr=7,vectors=5,macaddr=0x1234"
    f" -net tap,{QUIET},id=bar -netdev hubport,id=q,hubid=0",
    f"-netdev tap,id=t9,{QUIET} -net nic,netdev=t9,model=virtio-net-pci-transitional -nic none -net none"
    f" -net tap,{QUIET}",
]


def network_of(name: str, line: str) -> list[str]:
    """``info network``, what the board's NICs are, and the warnings."""
    with Network() as network, network.inside(), Vm(emulator(name), [*BASE, *line.split()], serial=False) as vm:
        texts = [vm.qmp.hmp("info network"), vm.qmp.hmp("netdev_del hub0port0")]
        listed = vm.qmp.cmd("qom-list", {"path": "/machine/unattached"})
        for each in sorted(listed, key=lambda child: str(child["name"])):
            if "virtio-net" in each["type"]:
                path = f"/machine/unattached/{each['name']}"
                shown = [vm.qmp.cmd("qom-get", {"path": path, "property": key}) for key in ("mac", "vectors", "addr")]
                texts.append(f"{each['type']} {shown}")
        vm.qmp.cmd("quit")
        vm.wait_exit(30)
        lines = [each.partition("warning: ")[2] for each in vm.stderr().splitlines()]
        warnings = [each for each in lines if "has no peer" in each or each.startswith("hub")]
    return [re.sub(r"#net\d+", "#net", text.partition("; ")[0].rstrip()) for text in (*texts, *warnings)]


@pytest.mark.parametrize("line", SHORT_FORMS)
def test_short_forms_make_the_same_network(line: str) -> None:
    assert network_of("vmmd", line) == network_of("qemu", line)


WRONG = [
    "-net nic,foo=1", "-nic tap,foo=1", "-net tap,fd=99", "-net hubport,hubid=1", "-net nic,macaddr=525400000001",
    "-net nic,macaddr=01:00:00:00:00:00", "-nic foo", "-net name=x", "-net nic,netdev=q",
    "-netdev hubport,id=h,hubid=1,netdev=q", "-netdev tap,id=a,fd=5x", "-netdev tap,id=a,ifname=lo,script=no",
    "-netdev hubport,id=a,hubid=1 -netdev hubport,id=b,hubid=2,netdev=nobody",
]  # fmt: skip


def refusal(name: str, line: str) -> str:
    """The first line that the emulator ends with, without its own name, and the hint."""
    with Network() as network, network.inside():
        command = [*emulator(name).command, "-display", "none", *BASE, *line.split()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    return re.sub(r"#net\d+", "#net", done.stderr.splitlines()[0].partition(": ")[2].partition("; ")[0])


@pytest.mark.parametrize("line", WRONG)
def test_wrong_lines_are_refused_with_the_same_sentence(line: str) -> None:
    ours, qemus = refusal("vmmd", line), refusal("qemu", line)
    option = "-" + line.rpartition(" -")[2] if " -" in line else line
    assert qemus.startswith(f"{option}: ")
    assert ours.startswith(option[: len("-nic ta")])
    assert ours.endswith(qemus.removeprefix(option))
