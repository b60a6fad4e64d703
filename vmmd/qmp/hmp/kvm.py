# SPDX-License-Identifier: Apache-2.0
"""What KVM is there, and what the vCPUs do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor
    from vmmd.qmp.models.vmmd import KvmCounter, KvmInsight, VcpuInsight

_VENDORS = {"vmx": "VMX (Intel)", "svm": "SVM (AMD)", "other": "other (neither VMX nor SVM)"}
_PAGING = {
    "ept": "EPT (two-dimensional)",
    "npt": "NPT (two-dimensional)",
    "shadow": "shadow page tables",
    "unknown": "unknown (the module does not tell)",
}
_COLUMNS = 100


@hmp("info kvm", help="whether KVM is used, what kind it is, and exits of the vCPUs by reason with rates")
async def info_kvm(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    found = await monitor.qmp("query-kvm")
    if not found["present"]:
        return "kvm support: not compiled\n"
    # QEMU-COMPAT: the first line is all that QEMU shows
    text = f"kvm support: {'enabled' if found['enabled'] else 'disabled'}\n"
    insight: KvmInsight = await monitor.qmp("__org.vmmd_query-kvm")
    text += f"vendor: {_VENDORS[insight['vendor']]}, module {insight['module']}\n"
    text += f"page tables: {_PAGING[insight['paging']]}\n"
    if not insight["vcpus"]:
        return text
    uptime_s, window_s = insight["uptime-ns"] / 1e9, insight["window-ns"] / 1e9
    text += f"up {uptime_s:.1f} s; rates over the last {window_s:.1f} s\n"
    text += "".join(_vcpu(each) for each in insight["vcpus"])
    return text + "VM:\n" + _counters(insight["counters"])


def _vcpu(vcpu: VcpuInsight) -> str:
    text = f"CPU #{vcpu['cpu-index']}: {vcpu['exits']} exits to vmmd, {vcpu['exits-per-second']:.1f}/s\n"
    for each in vcpu["reasons"]:
        text += f"    {each['reason']:<20}{each['count']:>14}{each['per-second']:>12.1f}/s\n"
    return text + _counters(vcpu["counters"])


def _counters(counters: Iterable[KvmCounter]) -> str:
    """KVM's counters that are not zero, several on a line."""
    lines, line = [], "    kvm:"
    for each in counters:
        if each["value"]:
            word = f" {each['name']}={each['value']}"
            if len(line) + len(word) > _COLUMNS:
                lines.append(line)
                line = "        "
            line += word
    return "".join(f"{each}\n" for each in [*lines, line]) if line.strip() != "kvm:" else "    kvm: all zero\n"
