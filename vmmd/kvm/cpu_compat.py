# SPDX-License-Identifier: Apache-2.0
"""What older pc-i440fx machine types change in CPU models, observed by expanding QEMU 7.2's models on each machine.

Applies to models named without a version, as there. Key: the newest machine version that has the change.
"""

from __future__ import annotations

_ALL = "*"
_SKYLAKE = ("Skylake-Server-IBRS", "Skylake-Server", "Skylake-Client-IBRS", "Skylake-Client")
_EPYC = (
    "EPYC", "EPYC-IBPB", "EPYC-v1", "EPYC-v2", "EPYC-v3", "EPYC-Rome", "EPYC-Rome-v1", "EPYC-Rome-v2", "EPYC-Milan",
    "EPYC-Milan-v1", "Dhyana", "Dhyana-v1", "Dhyana-v2",
)  # fmt: skip

#: (machine version, models, properties), newest first. LIMIT: hv-* and migration-only properties are left out.
CHANGES: tuple[tuple[tuple[int, int], tuple[str, ...], dict[str, str]], ...] = (
    ((6, 0), ("qemu64",), {"family": "6", "model": "6", "stepping": "3"}),
    ((6, 0), (_ALL,), {"x-vendor-cpuid-only": "off"}),
    ((3, 1), (*_SKYLAKE, "Icelake-Server", "Cascadelake-Server"), {"mpx": "on"}),
    ((3, 1), ("Opteron_G3", "Opteron_G4", "Opteron_G5"), {"rdtscp": "off"}),
    ((3, 1), ("Cascadelake-Server",), {"stepping": "5"}),
    ((3, 0), ("Skylake-Server", "Skylake-Server-IBRS"), {"pku": "off"}),
    ((2, 12), _EPYC, {"legacy-cache": "on", "topoext": "off"}),
    ((2, 12), ("EPYC", "EPYC-IBPB"), {"xlevel": "0x8000000a"}),
    ((2, 11), ("Skylake-Server",), {"clflushopt": "off"}),
    ((2, 8), ("Haswell",), {"stepping": "1"}),
    ((2, 8), (_ALL,), {"vmware-cpuid-freq": "off"}),
    ((2, 7), ("Opteron_G3",), {"family": "15", "model": "6", "stepping": "1"}),
    ((2, 7), (_ALL,), {"full-cpuid-auto-level": "off", "l3-cache": "off"}),
    ((2, 6), (_ALL,), {"cpuid-0xb": "off"}),
)


def properties(model: str, machine: tuple[int, int]) -> dict[str, str]:
    """Property values that a machine version gives a model."""
    result: dict[str, str] = {}
    for version, models, values in CHANGES:
        if machine <= version and (models == (_ALL,) or model in models):
            result.update(values)
    return result
