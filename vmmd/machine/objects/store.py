# SPDX-License-Identifier: Apache-2.0
"""The objects of one machine by id: made, looked up, used, removed. On the loop's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmmd.errors import StateError, UsageError
from vmmd.options.objects import (
    IoThread,
    MemoryBackend,
    ObjectOptions,
    RngBuiltin,
    RngRandom,
    Secret,
    ThrottleGroup,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.core.tree import ObjectTree
    from vmmd.machine.objects.base import HostObject
    from vmmd.options.models import Config

#: each may hold a thread or a descriptor
MAX_OBJECTS = 512


class ObjectStore:
    """Keeps the objects and their places in the tree in step."""

    def __init__(self, tree: ObjectTree, config: Config) -> None:
        self._tree = tree
        self._config = config
        self._objects: dict[str, HostObject[Any]] = {}
        self._opening: set[str] = set()

    def __iter__(self) -> Iterator[HostObject[Any]]:
        return iter(self._objects.values())

    def get(self, id_: str) -> HostObject[Any] | None:
        return self._objects.get(id_)

    def add(self, options: ObjectOptions) -> HostObject[Any]:
        """At the start: make an object and open it. Raises VmmdError and leaves nothing behind then."""
        made = self.prepare(options)
        made.may_wait = True
        try:
            made.open()
        except BaseException:
            self.forget(made)
            raise
        self.publish(made)
        return made

    def prepare(self, options: ObjectOptions) -> HostObject[Any]:
        """The first step: the object, not opened; its id is taken. ``publish`` or ``forget`` follow.
        Raises UsageError."""
        if options.id in self._objects or options.id in self._opening:
            # QEMU-COMPAT: the sentence
            raise UsageError(
                f"attempt to add duplicate property '{options.id}' to object (type 'container')",
                "there is an object of this id",
            )
        if len(self._objects) + len(self._opening) >= MAX_OBJECTS:
            raise UsageError(f"There are {MAX_OBJECTS} objects already", "object-del takes one away")
        made = self._make(options)
        self._opening.add(options.id)
        return made

    def publish(self, made: HostObject[Any]) -> None:
        """The last step, when it is open: everybody sees it."""
        self._opening.discard(made.id)
        self._objects[made.id] = made
        self._tree.objects.add(made.id, made.node())

    def forget(self, made: HostObject[Any]) -> None:
        """Instead of ``publish``, when it could not be opened."""
        self._opening.discard(made.id)

    def remove(self, id_: str) -> None:
        """Close an object that nobody uses. Raises UsageError, StateError."""
        found = self._objects.get(id_)
        # QEMU-COMPAT: the sentences
        if found is None:
            raise UsageError(f"object '{id_}' not found")
        if found.users:
            raise StateError(f"object '{id_}' is in use, can not be deleted", f"used by {', '.join(found.users)}")
        del self._objects[id_]
        self._tree.objects.children[id_].remove()
        found.close()

    def close(self) -> None:
        """Close all, the latest first. Idempotent."""
        while self._objects:
            self._objects.popitem()[1].close()

    def _make(self, options: ObjectOptions) -> HostObject[Any]:
        if isinstance(options, MemoryBackend):
            from vmmd.machine.objects.memory import MemoryObject

            return MemoryObject(options, self._config.machine)
        if isinstance(options, IoThread):
            from vmmd.machine.objects.iothread import IoThreadObject

            return IoThreadObject(options)
        if isinstance(options, Secret):
            from vmmd.machine.objects.secret import SecretObject

            return SecretObject(options, self._key)
        return _small(options)

    def _key(self, id_: str) -> bytes:
        """The bytes of a secret. Raises UsageError."""
        from vmmd.machine.objects.secret import SecretObject

        found = self._objects.get(id_)
        # QEMU-COMPAT: the sentences
        if found is None:
            raise UsageError(f"No secret with id '{id_}'")
        if not isinstance(found, SecretObject):
            raise UsageError(f"Object with id '{id_}' is not a secret")
        return found.value


def _small(options: ObjectOptions) -> HostObject[Any]:
    from vmmd.machine.objects import rng, throttle

    if isinstance(options, RngRandom):
        return rng.RngRandomObject(options)
    if isinstance(options, RngBuiltin):
        return rng.RngBuiltinObject(options)
    assert isinstance(options, ThrottleGroup)
    return throttle.ThrottleGroupObject(options)
