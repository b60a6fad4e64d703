# SPDX-License-Identifier: Apache-2.0
"""The table of QMP commands. A command is declared once, at its handler:

    @command("query-status", since="0.14")
    def query_status(ctx: Context) -> StatusInfo:
        '''The run state.'''

From the declaration follow: ``query-commands``, argument checking (the signature: keyword-only parameters are the QMP
arguments, ``cpu_index`` is ``cpu-index``, a default makes it optional), and the return type that tests check replies
against and that introspection will publish. Handlers run on the loop; one that may wait is ``async``. They return plain
dicts typed by the TypedDicts in ``models``. Neither declarations nor commands with plain arguments (``quick_check``)
need pydantic, which costs 0.1 s to import: it is loaded when the first command with others is sent.

A handler with a second positional parameter is *boxed*: that parameter's type is the whole arguments object, which may
then be a union (``models.unions``), and the handler gets the checked object.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from vmmd.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.qmp.session import QmpSession, Request
    from vmmd.qmp.vm_api import VmApi
    from vmmd.runstate import RunState

F = TypeVar("F", bound="Callable[..., object]")

#: one module per QAPI module, here and in ``models``
MODULES = (
    "control", "introspect", "misc", "machine", "machine_target", "run_state", "qom", "qdev", "char", "block", "pci",
    "net", "stats", "job", "migration", "tpm", "trace", "transaction", "ui", "yank", "vmmd",
)  # fmt: skip

#: CO_VARKEYWORDS of ``inspect``, which is not worth its import
_HAS_VARKEYWORDS = 0x08

COMMANDS: dict[str, CommandSpec] = {}
_loaded: list[bool] = []


class Context:
    """What a handler works with: the machine, and the session that asks."""

    __slots__ = ("session", "vm")

    def __init__(self, vm: VmApi, session: QmpSession) -> None:
        self.vm = vm
        self.session = session


class Example(NamedTuple):
    """A runnable example of a command: shown in docs/qmp, and run by a test on the machine of
    ``tests/conformance/test_qmp_examples.py``."""

    arguments: dict[str, object] = {}  # noqa: RUF012  # never written to
    #: commands that must have been given before: (name, arguments)
    before: tuple[tuple[str, dict[str, object]], ...] = ()
    #: class of the error that it ends with there ("DeviceNotActive")
    error: str | None = None


class CommandSpec:
    """One command."""

    __slots__ = (
        "argument_check", "boxed", "example", "features", "handler", "has_arguments", "module", "name",
        "needs_arguments", "oob", "preconfig", "since", "states",
    )  # fmt: skip

    def __init__(self, name: str, handler: Callable[..., object], since: str, **traits: Any) -> None:
        self.name = name
        self.handler = handler
        self.since = since
        self.states: frozenset[RunState] | None = traits.get("states")  # None: any
        self.oob: bool = traits.get("oob", False)
        #: may run before the machine is built (-preconfig)
        self.preconfig: bool = traits.get("preconfig", False)
        #: QAPI features: "deprecated", "unstable", …
        self.features: tuple[str, ...] = traits.get("features", ())
        self.example: Example = traits.get("example", Example())
        self.module = handler.__module__.rpartition(".")[2]
        code = handler.__code__
        #: the parameter that takes the whole arguments object, or None
        self.boxed: str | None = code.co_varnames[1] if code.co_argcount > 1 else None
        #: the command takes arguments (keyword-only parameters of the handler, or a boxed one)
        self.has_arguments = code.co_kwonlyargcount > 0 or self.boxed is not None
        #: an argument has no default
        self.needs_arguments = code.co_kwonlyargcount > len(handler.__kwdefaults__ or ()) or self.boxed is not None
        #: made by ``quick_check`` or ``arguments`` when the first request with arguments comes
        self.argument_check: Callable[[dict[str, object]], dict[str, object]] | None = None

    @property
    def doc(self) -> str:
        return self.handler.__doc__ or ""

    @property
    def takes_more(self) -> bool:
        """Members that are not declared are arguments too (``**properties``); the handler checks them."""
        return bool(self.handler.__code__.co_flags & _HAS_VARKEYWORDS)


def command(  # noqa: PLR0913  # the traits of a command, by name
    name: str,
    *,
    since: str,
    states: frozenset[RunState] | None = None,
    oob: bool = False,
    preconfig: bool = False,
    features: tuple[str, ...] = (),
    example: Example | None = None,
) -> Callable[[F], F]:
    """Declare the handler of QMP command ``name``. ``since``: QEMU's first with it; ``states``: where legal."""

    def register(handler: F) -> F:
        COMMANDS[name] = CommandSpec(
            name,
            handler,
            since,
            states=states,
            oob=oob,
            preconfig=preconfig,
            features=features,
            example=example or Example(),
        )
        return handler

    return register


def load() -> dict[str, CommandSpec]:
    """Import every command module (once) and return the table."""
    if not _loaded:
        for module in MODULES:
            importlib.import_module(f"vmmd.qmp.commands.{module}")
        _loaded.append(True)
    return COMMANDS


def models_loaded() -> bool:
    """True when checking arguments imports nothing more."""
    return getattr(sys.modules.get("vmmd.qmp.arguments"), "READY", False)


def needs_models(request: Request) -> bool:
    """True when checking the request's arguments would import pydantic first."""
    spec = request.spec
    if not request.arguments or spec.argument_check is not None or not spec.has_arguments:
        return False
    from vmmd.qmp.quick_check import quick_check

    spec.argument_check = quick_check(spec)
    return spec.argument_check is None and not models_loaded()


def import_models() -> None:
    """Import pydantic (0.1 s, 10 MiB). Any thread."""
    import vmmd.qmp.arguments  # noqa: F401


def _make_check(spec: CommandSpec) -> Callable[[dict[str, object]], dict[str, object]]:
    from vmmd.qmp.quick_check import quick_check

    check = quick_check(spec)
    if check is None:
        from vmmd.qmp.arguments import argument_check

        check = argument_check(spec)
    spec.argument_check = check
    return check


def invoke(ctx: Context, request: Request) -> object:
    """Check state and arguments, then call the handler: its result, or a coroutine. Raises VmmdError."""
    spec = request.spec
    if ctx.vm.preconfig and not spec.preconfig:
        raise StateError(
            f"The command '{spec.name}' is permitted only after machine initialization has completed",
            "x-exit-preconfig completes it",
        )
    if spec.states is not None and ctx.vm.runstate.state not in spec.states:
        legal = ", ".join(sorted(state.value for state in spec.states))
        raise StateError(
            f"{spec.name} is not possible in state '{ctx.vm.runstate.state.value}'", f"possible in: {legal}"
        )
    arguments = request.arguments
    if not arguments and not spec.needs_arguments:
        return spec.handler(ctx)
    if not spec.has_arguments:
        from vmmd.qmp.refusals import unexpected

        raise unexpected(next(iter(arguments)), ())
    checked = (spec.argument_check or _make_check(spec))(arguments)
    return spec.handler(ctx, checked) if spec.boxed else spec.handler(ctx, **checked)
