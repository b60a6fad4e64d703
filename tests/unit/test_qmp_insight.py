# SPDX-License-Identifier: Apache-2.0
"""What the monitor tells of KVM: insight and statistics."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.qmp_support import FakeVm, ManualLoop, run_to_end
from vmmd.errors import UsageError
from vmmd.kvm import abi
from vmmd.kvm.host import host_kvm
from vmmd.machine.exit_meter import ExitMeter
from vmmd.qmp.hmp.monitor import HumanMonitor

SECOND = 1_000_000_000
PATHS = ["/machine/unattached/device[0]", "/machine/unattached/device[1]"]


@pytest.fixture
def vm() -> FakeVm:
    """Two vCPUs; the first has left the guest 300 times for ports within the last two seconds."""
    vm = FakeVm(ManualLoop())
    now, counts = [0], [[0] * 64, [0] * 64]
    vm.cpus.exit_meter = ExitMeter(counts, now_ns=lambda: now[0])
    counts[0][abi.KVM_EXIT_MMIO] = 50
    now[0] = 3 * SECOND
    vm.cpus.exit_meter.report()
    counts[0][abi.KVM_EXIT_IO] = 300
    now[0] = 5 * SECOND
    return vm


def ask(vm: FakeVm, name: str, **arguments: object) -> Any:
    return run_to_end(HumanMonitor(vm).qmp(name, arguments), vm.loop)


def say(vm: FakeVm, line: str, cpu_index: int = 0) -> str:
    return run_to_end(HumanMonitor(vm, cpu_index).run(line), vm.loop)


def test_query_kvm_tells_exits_with_rates_and_kvms_counters(vm: FakeVm) -> None:
    found = ask(vm, "__org.vmmd_query-kvm")
    host = host_kvm()
    assert (found["vendor"], found["module"], found["paging"]) == host
    assert (found["uptime-ns"], found["window-ns"]) == (5 * SECOND, 2 * SECOND)
    assert found["counters"] == [{"name": "pages_4k", "value": 77}]
    first, second = found["vcpus"]
    assert first == {
        "cpu-index": 0,
        "exits": 350,
        "exits-per-second": 150.0,
        "reasons": [
            {"reason": "io", "count": 300, "per-second": 150.0},
            {"reason": "mmio", "count": 50, "per-second": 0.0},
        ],
        "counters": [{"name": "exits", "value": 1000}],
    }
    assert (second["exits"], second["reasons"]) == (0, [])


def test_info_kvm_begins_as_qemus_and_goes_on(vm: FakeVm) -> None:
    lines = say(vm, "info kvm").split("\r\n")
    assert lines[0] == "kvm support: enabled"
    assert lines[1].startswith("vendor: ")
    assert lines[1].endswith(f"module {host_kvm().module}")
    assert lines[2].startswith("page tables: ")
    assert lines[3] == "up 5.0 s; rates over the last 2.0 s"
    assert lines[4] == "CPU #0: 350 exits to vmmd, 150.0/s"
    assert lines[5].split() == ["io", "300", "150.0/s"]
    assert "    kvm: exits=1000" in lines
    assert lines[-3:-1] == ["VM:", "    kvm: pages_4k=77"]


def test_insight_without_a_machine_still_tells_the_host(vm: FakeVm) -> None:
    vm.cpus = None
    found = ask(vm, "__org.vmmd_query-kvm")
    assert (found["vendor"], found["vcpus"], found["counters"]) == (host_kvm().vendor, [], [])
    assert ask(vm, "query-stats", target="vm") == ask(vm, "query-stats", target="vcpu") == []
    assert ask(vm, "query-stats-schemas") == []


def test_query_stats_shows_numbers_and_histograms_per_target(vm: FakeVm) -> None:
    assert ask(vm, "query-stats", target="vm") == [{"provider": "kvm", "stats": [{"name": "pages_4k", "value": 77}]}]
    found = ask(vm, "query-stats", target="vcpu")
    assert [each["qom-path"] for each in found] == PATHS
    assert found[1]["stats"] == [{"name": "exits", "value": 1001}, {"name": "halt_wait_hist", "value": [0, 3, 1]}]


@pytest.mark.parametrize(
    ("arguments", "names_by_vcpu"),
    [
        ({"vcpus": PATHS[:1]}, [["exits", "halt_wait_hist"]]),
        ({"vcpus": ["/nope"]}, []),
        ({"vcpus": []}, []),
        ({"providers": []}, []),
        ({"providers": [{"provider": "kvm"}]}, [["exits", "halt_wait_hist"]] * 2),
        ({"providers": [{"provider": "kvm", "names": ["exits", "nope"]}]}, [["exits"]] * 2),
        ({"providers": [{"provider": "kvm", "names": ["nope"]}]}, []),
        ({"providers": [{"provider": "kvm", "names": []}]}, []),
    ],
)
def test_query_stats_filters_as_qemu(vm: FakeVm, arguments: dict[str, object], names_by_vcpu: list[list[str]]) -> None:
    found = ask(vm, "query-stats", target="vcpu", **arguments)
    assert [[each["name"] for each in vcpu["stats"]] for vcpu in found] == names_by_vcpu


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "Parameter 'target' is missing"),
        ({"target": "disk"}, "Parameter 'target' does not accept value 'disk'"),
        ({"target": "vm", "vcpus": ["a"]}, "Parameter 'vcpus' is unexpected"),
        ({"target": "vm", "providers": [{"provider": "xen"}]}, "Parameter 'provider' does not accept value 'xen'"),
    ],
)
def test_query_stats_refuses_in_qemus_words(vm: FakeVm, arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        ask(vm, "query-stats", **arguments)
    assert raised.value.desc == sentence


def test_query_stats_schemas_describe_units(vm: FakeVm) -> None:
    assert ask(vm, "query-stats-schemas", provider="kvm") == [
        {
            "provider": "kvm",
            "target": "vcpu",
            "stats": [
                {"name": "exits", "type": "cumulative", "exponent": 0},
                {"name": "halt_wait_hist", "type": "log2-histogram", "unit": "seconds", "base": 10, "exponent": -9},
            ],
        },
        {"provider": "kvm", "target": "vm", "stats": [{"name": "pages_4k", "type": "instant", "exponent": 0}]},
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("info stats vm", "provider: kvm\n    pages_4k (instant): 77\n"),
        ("info stats vm pages_4k,nope kvm", "    pages_4k (instant): 77\n"),
        ("info stats vcpu exits", "provider: kvm\n    exits (cumulative): 1001\n"),
        ("info stats vcpu halt_wait_hist kvm", "    halt_wait_hist (log2-histogram, ns): [1]=0 [2]=3 [3]=1 \n"),
        ("info stats foo", "invalid stats target foo\n"),
        ("info stats vm * foo", "invalid stats provider foo\n"),
        ("info stats", 'stats: string expected\nTry "help info stats" for more information\n'),
    ],
)
def test_info_stats_looks_as_qemus(vm: FakeVm, line: str, text: str) -> None:
    assert say(vm, line, cpu_index=1) == text.replace("\n", "\r\n")
