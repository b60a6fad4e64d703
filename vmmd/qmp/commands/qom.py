# SPDX-License-Identifier: Apache-2.0
"""Commands about objects: the tree of devices, backends and CPUs, and their properties."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.tree import AmbiguousPathError
from vmmd.errors import DeviceNotFoundError
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.core.tree import Node
    from vmmd.qmp.models.qom import ObjectPropertyInfo


@command("qom-list", since="1.2", example=Example({"path": "/machine"}))
def qom_list(ctx: Context, *, path: str) -> list[ObjectPropertyInfo]:
    """The properties and children of an object. A path that does not begin with ``/`` is looked for everywhere."""
    return [{"name": name, "type": kind} for name, kind in ctx.vm.qom.resolve(path).entries()]


@command("qom-get", since="1.2", example=Example({"path": "/machine", "property": "type"}))
def qom_get(ctx: Context, *, path: str, property: str) -> object:  # noqa: A002  # the argument's name
    """The value of one property of an object; for a child or a link the other object's path."""
    return _one(ctx, path).get(property)


@command(
    "qom-set",
    since="1.2",
    example=Example({"path": "/machine", "property": "type", "value": "x"}, error="GenericError"),
)
def qom_set(
    ctx: Context,
    *,
    path: str,
    property: str,  # noqa: A002  # the argument's name
    value: object,
) -> dict[str, object]:
    """Change a property of an object; most can be set only before it is in use."""
    _one(ctx, path).set(property, value)
    return {}


def _one(ctx: Context, path: str) -> Node:
    try:
        return ctx.vm.qom.resolve(path)
    except AmbiguousPathError as error:
        # QEMU-COMPAT: qom-list says that it is ambiguous, these say that there is none
        raise DeviceNotFoundError(f"Device '{path}' not found", str(error)) from None
