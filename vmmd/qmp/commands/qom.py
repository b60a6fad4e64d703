# SPDX-License-Identifier: Apache-2.0
"""Commands about objects: the tree of devices, backends and CPUs, and their properties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmmd.core.background import on_thread
from vmmd.core.tree import AmbiguousPathError
from vmmd.errors import DeviceNotFoundError, UsageError
from vmmd.options import objects
from vmmd.options.fields import IDENTIFIER_FORM, is_identifier
from vmmd.qmp.boxed import read_options
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmmd.core.tree import Node
    from vmmd.machine.types import ObjectType, PropertyInfo
    from vmmd.qmp.models.qom import ObjectOptions, ObjectPropertyInfo, ObjectTypeInfo
    from vmmd.qmp.vm_api import VmApi


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


@command("qom-list-types", since="1.2", preconfig=True, example=Example({"implements": "isa-device"}))
async def qom_list_types(ctx: Context, *, implements: str = "object", abstract: bool = False) -> list[ObjectTypeInfo]:
    """The types of objects that vmmd has: those that are ``implements`` or inherit from it; abstract ones on demand."""
    from vmmd.machine import types

    found: list[ObjectTypeInfo] = []
    for each in (await known_types(ctx.vm)).values():
        if (abstract or not each.abstract) and types.is_a(each, implements):
            info: ObjectTypeInfo = {"name": each.name}
            if each.parent is not None:
                info["parent"] = each.parent
            if each.abstract:
                info["abstract"] = True
            found.append(info)
    return found


@command("qom-list-properties", since="2.12", preconfig=True, example=Example({"typename": "memory-backend-ram"}))
async def qom_list_properties(ctx: Context, *, typename: str) -> list[ObjectPropertyInfo]:
    """The properties that objects of a type have."""
    from vmmd.machine import types

    found = (await known_types(ctx.vm)).get(typename)
    if found is None:
        raise DeviceNotFoundError(f"Class '{typename}' not found")
    if types.is_a(found, "interface"):
        raise UsageError("Parameter 'typename' expects a QOM type")
    return [property_info(each, with_default=False) for each in types.properties(found)]


async def known_types(vm: VmApi) -> Mapping[str, ObjectType]:
    """All types by name. The first time all device modules are imported: on a thread, so that nobody waits for it."""
    from vmmd.machine import types

    return types.all_types() if types.known() else await on_thread(vm.loop, types.all_types, "types")


def property_info(info: PropertyInfo, *, with_default: bool) -> ObjectPropertyInfo:
    """As QMP shows it."""
    shown: ObjectPropertyInfo = {"name": info.name, "type": info.type}
    if info.description is not None:
        shown["description"] = info.description
    if with_default and info.default is not None:
        shown["default-value"] = info.default
    return shown


@command(
    "object-add",
    since="2.0",
    preconfig=True,
    example=Example({"qom-type": "memory-backend-ram", "id": "mem1", "size": 1 << 20}),
)
async def object_add(ctx: Context, options: ObjectOptions) -> dict[str, object]:
    """Make an object: memory, a thread, a source of random bytes, a secret, limits. Takes the keys of ``-object``."""
    await make_object(ctx.vm, read_object(options))
    return {}


async def make_object(vm: VmApi, options: objects.ObjectOptions) -> None:
    """Make an object while the machine is there. Raises VmmdError and leaves nothing behind then."""
    made = vm.objects.prepare(options)
    try:
        # touching gigabytes, or a file on a slow disk: everybody else goes on meanwhile
        await on_thread(vm.loop, made.open, "object-add")
    except BaseException:
        vm.objects.forget(made)
        raise
    vm.objects.publish(made)


def read_object(arguments: dict[str, Any]) -> objects.ObjectOptions:
    """Checked arguments as the option model. Raises UsageError."""
    if not is_identifier(arguments["id"]):
        raise UsageError("Parameter 'id' expects an identifier", IDENTIFIER_FORM)
    where = "object-add"
    try:
        return read_options(objects.OBJECTS, "qom-type", arguments, where)
    except UsageError as error:
        error.desc = error.desc.removeprefix(f"{where}: ")
        raise


@command(
    "object-del",
    since="2.0",
    preconfig=True,
    example=Example(
        {"id": "mem1"}, before=(("object-add", {"qom-type": "memory-backend-ram", "id": "mem1", "size": 1 << 20}),)
    ),
)
def object_del(ctx: Context, *, id: str) -> dict[str, object]:  # noqa: A002  # the argument's name
    """Remove an object that nobody uses; its memory, file or thread goes back to the host."""
    ctx.vm.objects.remove(id)
    return {}


def _one(ctx: Context, path: str) -> Node:
    try:
        return ctx.vm.qom.resolve(path)
    except AmbiguousPathError as error:
        # QEMU-COMPAT: qom-list says that it is ambiguous, these say that there is none
        raise DeviceNotFoundError(f"Device '{path}' not found", str(error)) from None
