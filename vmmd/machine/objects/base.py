# SPDX-License-Identifier: Apache-2.0
"""HostObject: what all objects of ``-object`` and object-add have in common, and what they show in the object tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vmmd.core.tree import Link, Node, Property
from vmmd.errors import UsageError
from vmmd.options.objects import ObjectOptions, type_word

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vmmd.core.props import Prop

OptionsT = TypeVar("OptionsT", bound=ObjectOptions)


class HostObject(Generic[OptionsT]):
    """One object. Life: construct (no side effects) → ``open`` → ``close``. All on the loop, except ``open``, which may
    take long and runs on a thread of its own when the machine is there already."""

    def __init__(self, options: OptionsT) -> None:
        self.options = options
        self.users: list[str] = []  # who uses it: it stays then
        self.may_wait = False  # open() may wait for others without limit: at the start, where no session would hang

    @property
    def id(self) -> str:
        return self.options.id

    def open(self) -> None:
        """Acquire what it holds of the host. Raises VmmdError, and leaves nothing behind then. Any thread."""

    def close(self) -> None:
        """Give it back."""

    # --- the object tree --------------------------------------------------------------------------------------

    def node(self) -> Node:
        """Its node, not yet in the tree."""
        return Node(self.options.qom_type, self._describe, subject=self, has_links=False)

    def _describe(self) -> Iterator[Property | Link]:
        for declared in self.options.visible():
            get = None if declared.wire_name in self.options.write_only else self._getter(declared)
            change = self._setter(declared)
            yield Property(declared.wire_name, type_word(declared), get, change, declared.doc)
        yield from self.extra_properties()

    def extra_properties(self) -> Iterable[Property]:
        """What it shows besides its declared properties."""
        return ()

    def _getter(self, declared: Prop[Any]) -> Callable[[], object]:
        return lambda: self.shown(declared)

    def shown(self, declared: Prop[Any]) -> object:
        """The value of a property as JSON."""
        return declared.shown(self.options.values.get(declared.name))

    def _setter(self, declared: Prop[Any]) -> Callable[[object], None]:
        def refuse(value: object) -> None:
            declared.checked(value)
            raise UsageError(self.refusal(declared), "it is fixed when the object is made")

        def change(value: object) -> None:
            self.change(self.options.changed(declared.name, declared.checked(value)), declared)

        return change if declared.live else refuse

    def refusal(self, declared: Prop[Any]) -> str:
        """The sentence for a change that is not possible any more."""
        return f"Property '{declared.wire_name}' can no longer be set"

    def change(self, options: OptionsT, declared: Prop[Any]) -> None:
        """A live property changes: ``options`` are the checked new ones. Raises VmmdError; nothing has changed then."""
        self.options = options
