# SPDX-License-Identifier: Apache-2.0
"""``-nic`` and ``-net``: the netdevs and NICs that they make, in order; what is refused."""

from __future__ import annotations

import pytest

from vmmd.errors import UsageError
from vmmd.options import availability, nics
from vmmd.options import help as option_help
from vmmd.options.cmdline import HelpRequested, parse


def line(text: str):
    return parse(["-nodefaults", *text.split()])


def test_netdevs_come_before_nics_and_these_before_net():
    config = line(
        "-net nic,model=virtio,vectors=3,addr=7 -net tap,script=no,id=t -nic tap,model=virtio,script=no,mac=2:0:0:0:0:1"
        " -netdev hubport,id=h,hubid=0"
    )
    assert [(each.kind, each.id, each.removable) for each in config.netdevs] == [
        ("hubport", "h", True),
        ("tap", "#net001", True),
        ("hubport", "hub0port1", False),
        ("tap", "t", False),
        ("hubport", "hub0port2", False),
    ]
    assert [(each.driver, each.items, each.of_board) for each in config.nics] == [
        (
            "virtio-net-pci",
            [("vectors", "0"), ("mac", "02:00:00:00:00:01"), ("netdev", "#net001")],
            True,
        ),
        ("virtio-net-pci", [("addr", "7"), ("vectors", "3"), ("netdev", "hub0port1")], True),
    ]
    assert config.netdevs[4].netdev == "t"
    assert config.netdevs[1].where == "-nic tap,model=virtio,script=no,mac=2:0:0:0:0:1"
    availability.check(config)


def test_none_makes_nothing():
    config = line("-nic none -net none")
    assert (config.netdevs, config.nics) == ([], [])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("-nic tap", "-nic tap (a NIC of model e1000; model=virtio is there): not available in this version"),
        ("-net nic,model=rtl8139", "-net nic,model=rtl8139 (a NIC of model rtl8139; model=virtio is there): "
         "not available in this version"),
        ("-nic l2tpv3,src=a,dst=b,model=virtio", "-nic l2tpv3,src=a,dst=b,model=virtio: not available in this version"),
    ],
)  # fmt: skip
def test_what_comes_later_is_refused_by_name(text, sentence):
    with pytest.raises(UsageError) as caught:
        availability.check(line(text))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("-nic none,model=virtio", "-nic none,model=virtio: 'model' goes with a network, none has none"),
        ("-net none,id=x", "-net none,id=x: 'id' goes with a network, none has none"),
        ("-nic tap,model=foo", "-nic tap,model=foo: Unsupported NIC model: foo; known are: "
         "virtio-net-pci, virtio-net-pci-non-transitional, virtio-net-pci-transitional"),
        ("-nic tap,mac=1:2:3:4:5,model=virtio", "-nic tap,mac=1:2:3:4:5,model=virtio: invalid syntax for ethernet "
         "address; it takes the form 52:54:00:12:34:56, not 1:2:3:4:5"),
        ("-nic tap,mac=2:2:3:4:5:333,model=virtio", "-nic tap,mac=2:2:3:4:5:333,model=virtio: invalid syntax for "
         "ethernet address; it takes the form 52:54:00:12:34:56, not 2:2:3:4:5:333"),
        ("-net nic,macaddr=0x1000000", "-net nic,macaddr=0x1000000: invalid syntax for ethernet address; "
         "it takes the form 52:54:00:12:34:56, not 0x1000000"),
        ("-nic tap,mac=3:0:0:0:0:0", "-nic tap,mac=3:0:0:0:0:0: NIC cannot have multicast MAC address (odd 1st byte)"),
        ("-nic tap,id=a,model=virtio -nic tap,id=a,model=virtio", "-nic tap,id=a: Duplicate ID 'a' for netdev"),
        ("-nic tap,id=1", "-nic id=1: Parameter 'id' expects an identifier; "
         "letters, digits, '-', '.', '_', starting with a letter"),
    ],
)  # fmt: skip
def test_wrong_ones(text, sentence):
    with pytest.raises(UsageError) as caught:
        line(text)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("text", ["-net nic,model=help", "-nic tap,model=help", "-net nic,model=?"])
def test_help_names_the_models(text):
    with pytest.raises(HelpRequested) as asked:
        line(text)
    assert option_help.render(asked.value, cpu_text=str).splitlines() == ["Supported NIC models:", *nics.models()]


@pytest.mark.parametrize("option", ["-net", "-nic", "-netdev"])
def test_help_names_the_backends(option):
    with pytest.raises(HelpRequested) as asked:
        line(f"{option} help")
    assert {"  tap", "  hubport"} <= set(option_help.render(asked.value, cpu_text=str).splitlines())
