# SPDX-License-Identifier: Apache-2.0
"""QAPI types of statistics."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from typing_extensions import TypedDict

from vmmd.qmp.models.unions import Alternate, Tagged

StatsTarget = Literal["vm", "vcpu"]
"""What statistics are about."""

StatsProvider = Literal["kvm"]
"""Where statistics come from."""

StatsType = Literal["cumulative", "instant", "peak", "linear-histogram", "log2-histogram"]
"""How a statistic behaves."""

StatsUnit = Literal["bytes", "seconds", "cycles", "boolean"]
"""What a statistic counts."""

StatsValue = Annotated[int | bool | list[int], Alternate("StatsValue")]
"""The value of a statistic: a list for a histogram."""


class StatsRequest(TypedDict):
    """Which statistics of one provider: all of them without ``names``."""

    provider: StatsProvider
    names: NotRequired[list[str]]


class StatsFilterVm(TypedDict):
    """Statistics of the machine."""

    target: Literal["vm"]
    providers: NotRequired[list[StatsRequest]]


class StatsFilterVcpu(TypedDict):
    """Statistics of vCPUs: of all of them without ``vcpus``, which are QOM paths."""

    target: Literal["vcpu"]
    providers: NotRequired[list[StatsRequest]]
    vcpus: NotRequired[list[str]]


StatsFilter = Annotated[StatsFilterVm | StatsFilterVcpu, Tagged("target")]
"""Which statistics are wanted."""


class Stats(TypedDict):
    """A statistic and its value."""

    name: str
    value: StatsValue


StatsResult = TypedDict("StatsResult", {"provider": StatsProvider, "qom-path": NotRequired[str], "stats": list[Stats]})
"""The statistics of the machine, or of the vCPU at ``qom-path``."""

StatsSchemaValue = TypedDict(
    "StatsSchemaValue",
    {
        "name": str,
        "type": StatsType,
        "unit": NotRequired[StatsUnit],
        "base": NotRequired[int],
        "exponent": int,
        "bucket-size": NotRequired[int],
    },
)
"""What a statistic is: a value counts ``base`` to the power of ``exponent`` of ``unit``."""


class StatsSchema(TypedDict):
    """The statistics that there are of one kind of target."""

    provider: StatsProvider
    target: StatsTarget
    stats: list[StatsSchemaValue]
