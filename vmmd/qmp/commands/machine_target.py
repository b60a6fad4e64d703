# SPDX-License-Identifier: Apache-2.0
"""Commands about CPU models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.background import on_thread
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.kvm.cpu_query import Definition
    from vmmd.qmp.models.machine_target import (
        CpuDefinitionInfo,
        CpuModelExpansionInfo,
        CpuModelExpansionType,
        CpuModelInfo,
    )


@command("query-cpu-definitions", since="1.2")
async def query_cpu_definitions(ctx: Context) -> list[CpuDefinitionInfo]:
    """The CPU models that -cpu takes, and which features of each this host does not have. Without KVM each lacks
    ``kvm``."""
    definitions = await on_thread(ctx.vm.loop, ctx.vm.cpu_models.definitions, "cpu models")
    return list(map(_definition, definitions))


def _definition(found: Definition) -> CpuDefinitionInfo:
    info: CpuDefinitionInfo = {
        "name": found.name,
        "typename": found.typename,
        "unavailable-features": list(found.unavailable),
        "static": found.static,
        "migration-safe": found.migration_safe,
        "deprecated": False,
    }
    if found.alias_of is not None:
        info["alias-of"] = found.alias_of
    return info


@command(
    "query-cpu-model-expansion",
    since="2.8",
    example=Example({"type": "full", "model": {"name": "qemu64", "props": {"avx": True}}}),
)
async def query_cpu_model_expansion(
    ctx: Context,
    *,
    type: CpuModelExpansionType,  # noqa: A002  # QAPI's name
    model: CpuModelInfo,
) -> CpuModelExpansionInfo:
    """What a CPU model, changed by properties, stands for: all its properties (``full``), or as the model ``base`` and
    the properties that mean the same on every host (``static``). What the host lacks is not taken away."""
    models, name, static = ctx.vm.cpu_models, model["name"], type == "static"
    given = model.get("props")
    # QEMU-COMPAT: props that are no object change nothing
    changes = given if isinstance(given, dict) else {}
    found = await on_thread(ctx.vm.loop, lambda: models.expand(name, changes, static=static), "cpu models")
    return {"model": {"name": "base" if static else name, "props": found}}
