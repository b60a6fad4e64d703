# SPDX-License-Identifier: Apache-2.0
"""Strict checking of QMP arguments: a pydantic model made from a handler's signature, refusals in QAPI's sentences.

Every argument is checked before the handler runs. Types are strict as QAPI's: no number from a string, no boolean from
a number, 1.0 is no integer, unknown members are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from orjson import JSONEncodeError, dumps
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from vmmd.errors import UsageError
from vmmd.options.fields import listed
from vmmd.qmp.introspect import arguments_of, resolved_hints, without_none
from vmmd.qmp.models.unions import CHOICE, NO_ARM
from vmmd.qmp.refusals import not_a_word, unexpected

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

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

_TOO_DEEP = "The arguments are nested too deeply"
_STRICT = ConfigDict(strict=True, extra="forbid")


class _Arguments(BaseModel):
    model_config = ConfigDict(**_STRICT, validate_by_name=False, validate_by_alias=True)


class _OpenArguments(_Arguments):
    """What is not declared comes as it is."""

    model_config = ConfigDict(extra="allow")


def argument_model(spec: CommandSpec) -> type[BaseModel]:
    """The model of a command's ``arguments`` object."""
    fields: dict[str, Any] = {}
    for name, hint, optional in arguments_of(spec, resolved_hints(spec)):
        exact = _exact(without_none(hint) if optional else hint)
        fields[name.replace("-", "_")] = (exact, Field(None if optional else ..., alias=name))
    return create_model(spec.name, __base__=_OpenArguments if spec.takes_more else _Arguments, **fields)


def _exact(hint: Any) -> Any:
    """Integers are bounded to 64 bits."""
    return Int64 if hint is int else hint


def argument_check(spec: CommandSpec) -> Callable[[dict[str, object]], dict[str, object]]:
    """A function from the ``arguments`` object to keyword arguments (of a boxed command: to the object itself,
    checked); it raises UsageError in QAPI's words."""
    return _boxed_check(spec, spec.boxed) if spec.boxed else _keyword_check(spec)


def _keyword_check(spec: CommandSpec) -> Callable[[dict[str, object]], dict[str, object]]:
    model = argument_model(spec)
    validate = model.model_validate_json
    known = [str(field.alias) for field in model.model_fields.values()]

    def check(arguments: dict[str, object]) -> dict[str, object]:
        try:
            # by way of JSON: only there does strict mode take a string for an enumeration
            checked = validate(_json(arguments))
        except ValidationError as error:
            raise refusal(error.errors(include_url=False)[0], known) from None
        more = checked.model_extra or {}
        return {name: getattr(checked, name) for name in checked.model_fields_set - more.keys()} | more

    return check


def _boxed_check(spec: CommandSpec, parameter: str) -> Callable[[dict[str, object]], dict[str, object]]:
    hint = resolved_hints(spec)[parameter]
    validate = TypeAdapter(hint, config=_STRICT).validate_json

    def check(arguments: dict[str, object]) -> dict[str, object]:
        try:
            checked: dict[str, object] = validate(_json(arguments))
        except ValidationError as error:
            raise refusal(error.errors(include_url=False)[0]) from None
        return checked

    return check


def _json(arguments: dict[str, object]) -> bytes:
    """Raises UsageError: the wire takes no value that JSON has not, but deeper nesting than this and pydantic do."""
    try:
        return dumps(arguments)
    except JSONEncodeError:
        raise UsageError(_TOO_DEEP) from None


def refusal(error: ErrorDetails, known: Collection[str] | None = None) -> UsageError:
    """A pydantic error in QAPI's words. ``known``: the names of the arguments."""
    kind, location = error["type"], error["loc"]
    if kind == "json_invalid":  # of JSON that was just made, for its depth
        return UsageError(_TOO_DEEP)
    # of all names only an unexpected one is the client's: it may look like the mark of a choice
    path = _path(location, is_last_given=kind == "extra_forbidden")
    if kind == "extra_forbidden":
        return unexpected(path, known if len(location) == 1 else None)
    if kind in ("literal_error", "enum") and isinstance(error["input"], str):
        # QEMU-COMPAT: 7.2 names the member without its path, and an element of a list 'null'
        shown = "null" if isinstance(location[-1], int) else location[-1]
        return not_a_word(shown, error["input"], _quoted(error["ctx"]["expected"]))
    if kind == NO_ARM:
        return _no_arm(error, path)
    return UsageError(_sentence(error, path))


def _sentence(error: ErrorDetails, path: str) -> str:
    kind = error["type"]
    if kind == "missing":
        return f"Parameter '{path}' is missing"
    if kind in ("literal_error", "enum"):
        return f"Invalid parameter type for '{path}', expected: string"
    for prefix, word in _EXPECTED:
        if kind.startswith(prefix):
            return f"Invalid parameter type for '{path}', expected: {word}"
    return f"Parameter '{path}' is invalid: {error['msg']}"


def _no_arm(error: ErrorDetails, path: str) -> UsageError:
    """A union (``models.unions``) of which no arm fits."""
    context, value = error["ctx"], error["input"]
    if "expected" in context:
        return UsageError(f"Invalid parameter type for '{path}', expected: {context['expected']}")
    if not isinstance(value, dict):
        return UsageError(f"Invalid parameter type for '{path}', expected: object")
    tag = context["tag"]
    inner = f"{path}.{tag}" if path else tag
    words = context["words"].split()
    if tag not in value:
        return UsageError(f"Parameter '{inner}' is missing", f"it takes {listed(words)}")
    if isinstance(value[tag], str):
        return not_a_word(tag, value[tag], words)
    return UsageError(f"Invalid parameter type for '{inner}', expected: string")


def _quoted(expected: str) -> list[str]:
    """The words of pydantic's «'on', 'off' or 'auto'»."""
    return expected.split("'")[1::2]


def _path(location: tuple[int | str, ...], *, is_last_given: bool = False) -> str:
    path = ""
    for number, part in enumerate(location, 1):
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith(CHOICE) or (is_last_given and number == len(location)):
            path += f".{part}" if path else part
    return path


#: the last line: another thread that sees it knows that the import is complete
READY = True
