# SPDX-License-Identifier: Apache-2.0
"""Strict checking of QMP arguments: a pydantic model made from a handler's signature, refusals in QAPI's sentences.

Every argument is checked before the handler runs. Types are strict as QAPI's: no number from a string, no boolean from
a number, 1.0 is no integer, unknown members are refused.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from typing import TYPE_CHECKING, Annotated, Any

from orjson import dumps
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_core import ErrorDetails

    from vmmd.qmp.registry import CommandSpec

#: QAPI's ``int``: numbers above it are refused as no integers, as QEMU does
Int64 = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]

#: pydantic's error type (a prefix of it) -> QAPI's word for what was expected
_EXPECTED = (
    ("string", "string"),
    ("int", "integer"),
    ("greater_than", "integer"),
    ("less_than", "integer"),
    ("bool", "boolean"),
    ("float", "number"),
    ("finite", "number"),
    ("list", "array"),
    ("dict", "object"),
    ("model", "object"),
    ("none", "null"),
)


class _Arguments(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", validate_by_name=False, validate_by_alias=True)


def resolved_hints(spec: CommandSpec) -> dict[str, Any]:
    """The handler's annotations as types; names come from its ``models`` module too."""
    models = importlib.import_module(f"vmmd.qmp.models.{spec.module}")
    own = importlib.import_module(spec.handler.__module__)
    names = {**vars(typing), **vars(models), **vars(own)}
    wanted = {key: value for key, value in spec.handler.__annotations__.items() if key != "ctx"}
    holder = type("holder", (), {"__annotations__": wanted})
    return typing.get_type_hints(holder, globalns=names, include_extras=True)


def argument_model(spec: CommandSpec) -> type[BaseModel]:
    """The model of a command's ``arguments`` object."""
    hints = resolved_hints(spec)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(spec.handler).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        required = parameter.default is inspect.Parameter.empty
        hint = _exact(hints[name], optional=not required)
        fields[name] = (hint, Field(... if required else parameter.default, alias=name.replace("_", "-")))
    return create_model(spec.name, __base__=_Arguments, **fields)


def _exact(hint: Any, *, optional: bool) -> Any:
    """Bound integers to 64 bits; an optional QAPI member may be left out but not null."""
    if optional:
        arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        if len(arms) == 1 and type(None) in typing.get_args(hint):
            hint = arms[0]
    return Int64 if hint is int else hint


def argument_check(spec: CommandSpec) -> Callable[[dict[str, object]], dict[str, object]]:
    """A function from the ``arguments`` object to keyword arguments; it raises UsageError in QAPI's words."""
    model = argument_model(spec)
    validate = model.model_validate_json

    def check(arguments: dict[str, object]) -> dict[str, object]:
        try:
            # by way of JSON: only there does strict mode take a string for an enumeration
            checked = validate(dumps(arguments))
        except ValidationError as error:
            raise UsageError(sentence(error.errors(include_url=False, include_context=False)[0])) from None
        return {name: getattr(checked, name) for name in checked.model_fields_set}

    return check


def sentence(error: ErrorDetails) -> str:
    """A pydantic error in QAPI's words."""
    kind = error["type"]
    path = _path(error["loc"])
    if kind == "missing":
        return f"Parameter '{path}' is missing"
    if kind == "extra_forbidden":
        return f"Parameter '{path}' is unexpected"
    if kind in ("literal_error", "enum"):
        # QEMU-COMPAT: 7.2 names an element of a list 'null'
        shown = "null" if isinstance(error["loc"][-1], int) else path
        value = error["input"]
        if isinstance(value, str):
            return f"Parameter '{shown}' does not accept value '{value}'"
        return f"Invalid parameter type for '{path}', expected: string"
    for prefix, word in _EXPECTED:
        if kind.startswith(prefix):
            return f"Invalid parameter type for '{path}', expected: {word}"
    return f"Parameter '{path}' is invalid: {error['msg']}"


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


#: the last line: another thread that sees it knows that the import is complete
READY = True
