# SPDX-License-Identifier: Apache-2.0
"""throttle-group: limits for disks. LIMIT: no disk follows them yet; ``throttle-group=`` of disks is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmmd.core.tree import Property
from vmmd.errors import UsageError
from vmmd.machine.objects.base import HostObject
from vmmd.options.objects import LIMITS, ThrottleGroup, check_limits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.core.props import Prop


class ThrottleGroupObject(HostObject[ThrottleGroup]):
    """``limits`` are the limits in force, by name; they may change as a whole or in part."""

    def __init__(self, options: ThrottleGroup) -> None:
        super().__init__(options)
        self.limits = options.limits()

    def extra_properties(self) -> Iterable[Property]:
        yield Property("limits", "ThrottleLimits", lambda: dict(self.limits), self.set_limits, "all limits")

    def shown(self, declared: Prop[Any]) -> object:
        return self.limits[declared.wire_name.removeprefix("x-")]

    def refusal(self, declared: Prop[Any]) -> str:
        return "Property cannot be set after initialization"  # QEMU-COMPAT

    def set_limits(self, value: object) -> None:
        """Replace the limits that ``value`` names. Raises UsageError."""
        if not isinstance(value, dict):
            raise UsageError("Invalid parameter type for 'limits', expected: object")
        for name, limit in value.items():
            if name not in LIMITS:
                raise UsageError(f"Parameter 'limits.{name}' is unexpected")
            if type(limit) is not int:
                raise UsageError(f"Invalid parameter type for 'limits.{name}', expected: integer")
        limits = {**self.limits, **value}
        check_limits(limits)
        self.limits = limits
