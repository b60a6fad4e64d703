# SPDX-License-Identifier: Apache-2.0
"""Commands about statistics: those that KVM keeps of the machine and its vCPUs (Linux 5.14 and later).

They are read from descriptors that take no lock of a vCPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.kvm.stats import Statistic
    from vmmd.qmp.models.stats import (
        Stats,
        StatsFilter,
        StatsProvider,
        StatsResult,
        StatsSchema,
        StatsSchemaValue,
        StatsTarget,
        StatsType,
        StatsUnit,
        StatsValue,
    )


@command("query-stats", since="7.1", example=Example({"target": "vcpu", "providers": [{"provider": "kvm"}]}))
async def query_stats(ctx: Context, wanted: StatsFilter) -> list[StatsResult]:
    """Show KVM's statistics of the machine or of vCPUs.

    ``names`` of a provider choose statistics; names that there are not, and vCPUs that there are not, are left out.
    """
    from vmmd.core.background import Turn

    cpus = ctx.vm.cpus
    names = _wanted_names(wanted)
    if cpus is None or names == set():
        return []
    if wanted["target"] == "vm":
        found = _values(cpus.vm_statistics(), names)
        return [{"provider": "kvm", "stats": found}] if found else []
    results: list[StatsResult] = []
    turn = Turn(ctx.vm.loop)
    for each in cpus.infos:
        if "vcpus" not in wanted or each.qom_path in wanted["vcpus"]:
            await turn.pause()
            found = _values(cpus.statistics(each.index), names)
            if found:
                results.append({"provider": "kvm", "qom-path": each.qom_path, "stats": found})
    return results


def _wanted_names(wanted: StatsFilter) -> set[str] | None:
    """Names of the statistics to show; None: all."""
    if "providers" not in wanted:
        return None
    names: set[str] = set()
    for request in wanted["providers"]:
        if "names" not in request:
            return None
        names.update(request["names"])
    return names


def _values(statistics: Iterable[Statistic], names: set[str] | None) -> list[Stats]:
    return [{"name": each.name, "value": _value(each)} for each in statistics if names is None or each.name in names]


def _value(statistic: Statistic) -> StatsValue:
    if len(statistic.values) != 1 or statistic.kind.endswith("histogram"):
        return list(statistic.values)
    return bool(statistic.values[0]) if statistic.unit == "boolean" else statistic.values[0]


@command("query-stats-schemas", since="7.1")
def query_stats_schemas(ctx: Context, *, provider: StatsProvider | None = None) -> list[StatsSchema]:
    """List the statistics that ``query-stats`` can show, with type and unit."""
    cpus = ctx.vm.cpus
    if cpus is None or not cpus.infos:
        return []
    tables: list[tuple[StatsTarget, list[Statistic]]] = [("vcpu", cpus.statistics(0)), ("vm", cpus.vm_statistics())]
    return [
        {"provider": "kvm", "target": target, "stats": [_schema(each) for each in statistics]}
        for target, statistics in tables
        if statistics
    ]


def _schema(statistic: Statistic) -> StatsSchemaValue:
    schema: StatsSchemaValue = {
        "name": statistic.name,
        "type": cast("StatsType", statistic.kind),
        "exponent": statistic.exponent,
    }
    if statistic.unit is not None:
        schema["unit"] = cast("StatsUnit", statistic.unit)
    if statistic.exponent:
        schema["base"] = statistic.base
    if statistic.kind == "linear-histogram":
        schema["bucket-size"] = statistic.bucket_size
    return schema
