# SPDX-License-Identifier: Apache-2.0
"""KVM's statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor
    from vmmd.qmp.models.stats import StatsSchemaValue, StatsValue

_SECONDS = {0: "s", -3: "ms", -6: "us", -9: "ns"}
_BYTES = {0: "B", 10: "KiB", 20: "MiB", 30: "GiB", 40: "TiB"}


def _words(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    return ("vm", "vcpu") if not words else ("*",) if len(words) == 1 else ("kvm",)


@hmp(
    "info stats",
    params="target [names] [provider]",
    help="KVM's statistics of the target, vm or vcpu (the current one); names: comma-separated, or * for all",
    complete=_words,
)
async def info_stats(monitor: HumanMonitor, arguments: Arguments) -> str:
    target, names, provider = arguments.string(), arguments.word(), arguments.word()
    arguments.done()
    # QEMU-COMPAT: these are no errors
    if target not in ("vm", "vcpu"):
        return f"invalid stats target {target}\n"
    if provider not in ("", "kvm"):
        return f"invalid stats provider {provider}\n"
    request: dict[str, object] = {"provider": "kvm"}
    if names not in ("", "*"):
        request["names"] = names.split(",")
    wanted: dict[str, object] = {"target": target, "providers": [request]}
    if target == "vcpu":
        wanted["vcpus"] = [monitor.cpus.infos[monitor.cpu_index].qom_path]
    schemas = await monitor.qmp("query-stats-schemas")
    described = {each["name"]: each for schema in schemas if schema["target"] == target for each in schema["stats"]}
    # QEMU-COMPAT: the heading is left out when one provider was asked for
    text = "" if provider else "provider: kvm\n"
    for result in await monitor.qmp("query-stats", wanted):
        for each in result["stats"]:
            text += f"    {_heading(described[each['name']])}: {_shown(each['value'])}\n"
    return text


def _heading(schema: StatsSchemaValue) -> str:
    """ "halt_wait_ns (cumulative, ns)"."""
    unit, exponent, base = schema.get("unit"), schema["exponent"], schema.get("base", 10)
    words: list[str] = [schema["type"]]
    if unit == "seconds" and base == 10 and exponent in _SECONDS:
        words.append(_SECONDS[exponent])
    elif unit == "bytes" and (base == 2 or not exponent) and exponent in _BYTES:
        words.append(_BYTES[exponent])
    else:
        scale = f"* {base}^{exponent}" if exponent else ""
        words += [f"{unit or ''} {scale}".strip()] if unit or scale else []
    if "bucket-size" in schema:
        words.append(f"bucket size={schema['bucket-size']}")
    return f"{schema['name']} ({', '.join(words)})"


def _shown(value: StatsValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return "".join(f"[{number}]={each} " for number, each in enumerate(value, 1))
