# SPDX-License-Identifier: Apache-2.0
"""Schema and checks of unions, alternates and option models, on types that only this test has."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal, NotRequired

import pytest
from typing_extensions import TypedDict

from vmmd.errors import UsageError
from vmmd.options.backends import BLOCK_CHILD, BLOCKDEVS
from vmmd.options.objects import OBJECTS
from vmmd.qmp.arguments import argument_check
from vmmd.qmp.boxed import read_options
from vmmd.qmp.introspect import SchemaBuilder, build_schema
from vmmd.qmp.models.options import option_union
from vmmd.qmp.models.unions import Alternate, Tagged
from vmmd.qmp.registry import COMMANDS, CommandSpec, load


class Cat(TypedDict):
    kind: Literal["cat"]
    name: str
    lives: NotRequired[int]


class Dog(TypedDict):
    kind: Literal["dog", "wolf"]
    name: str
    owner: NotRequired[Person]


class Person(TypedDict):
    pets: list[Pet]


Pet = Annotated[Cat | Dog, Tagged("kind")]
PetRef = Annotated[str | Pet, Alternate("PetRef")]

ObjectOptions = option_union(__name__, "qom-type", OBJECTS)
BlockdevOptions = option_union(__name__, "driver", BLOCKDEVS, {BLOCK_CHILD: "BlockdevRef"})
BlockdevRef = Annotated[str | BlockdevOptions, Alternate("BlockdevRef")]


def spec_of(handler: Any) -> CommandSpec:
    handler.__module__ = "vmmd.qmp.commands.control"  # a module that has a ``models`` module
    handler.__annotations__ = {
        name: eval(hint, globals()) if isinstance(hint, str) else hint for name, hint in handler.__annotations__.items()
    }
    return CommandSpec("x-test", handler, "1.0")


def boxed(ctx: Any, pet: Pet) -> dict[str, object]:
    return {}


def by_reference(ctx: Any, *, pet: PetRef) -> dict[str, object]:
    return {}


def an_object(ctx: Any, options: ObjectOptions) -> dict[str, object]:
    return {}


def a_node(ctx: Any, options: BlockdevOptions) -> dict[str, object]:
    return {}


def described(hint: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The entity of a type, and all entities by name."""
    builder = SchemaBuilder()
    name = builder.type_of(hint)
    entities: dict[str, dict[str, Any]] = {str(each["name"]): each for each in builder.entities}
    return entities[name], entities


def test_union_has_base_tag_and_variants() -> None:
    entity, entities = described(Pet)
    assert entity["tag"] == "kind"
    assert {member["name"] for member in entity["members"]} == {"kind", "name"}
    assert [variant["case"] for variant in entity["variants"]] == ["cat", "dog", "wolf"]
    cat = entities[entity["variants"][0]["type"]]
    assert cat["members"] == [{"name": "lives", "type": "int", "default": None}]


def test_alternate_lists_its_kinds() -> None:
    entity, _ = described(PetRef)
    assert entity["meta-type"] == "alternate"
    assert entity["members"][0] == {"type": "str"}


def test_every_type_that_is_named_is_described() -> None:
    schema = build_schema()
    names = {entity["name"] for entity in schema}
    assert len(names) == len(schema)

    def named(value: Any) -> list[str]:
        keys = ("type", "element-type", "arg-type", "ret-type")
        if isinstance(value, list):
            return [name for each in value for name in named(each)]
        if not isinstance(value, dict):
            return []
        return [value[key] for key in keys if key in value] + [n for each in value.values() for n in named(each)]

    assert set(named(schema)) <= names
    assert {e["meta-type"] for e in schema} <= {
        "builtin", "enum", "array", "object", "alternate", "command", "event",
    }  # fmt: skip


def test_every_command_is_in_the_schema() -> None:
    assert {e["name"] for e in build_schema() if e["meta-type"] == "command"} == set(load()) == set(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "x"}, "Parameter 'kind' is missing"),
        ({"kind": "cow", "name": "x"}, "Parameter 'kind' does not accept value 'cow'"),
        ({"kind": 5, "name": "x"}, "Invalid parameter type for 'kind', expected: string"),
        ({"kind": "cat"}, "Parameter 'name' is missing"),
        ({"kind": "cat", "name": "x", "lives": "9"}, "Invalid parameter type for 'lives', expected: integer"),
        ({"kind": "cat", "name": "x", "owner": {"pets": []}}, "Parameter 'owner' is unexpected"),
        (
            {"kind": "dog", "name": "x", "owner": {"pets": [{"kind": "cat"}]}},
            "Parameter 'owner.pets[0].name' is missing",
        ),
    ],
)
def test_boxed_union_refuses_in_the_words_of_qapi(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        argument_check(spec_of(boxed))(arguments)
    assert caught.value.desc == sentence


def test_boxed_union_gives_the_whole_object() -> None:
    arguments = {"kind": "wolf", "name": "x", "owner": {"pets": [{"kind": "cat", "name": "y", "lives": 9}]}}
    assert argument_check(spec_of(boxed))(arguments) == arguments


def test_alternate_takes_each_of_its_kinds_and_no_other() -> None:
    check = argument_check(spec_of(by_reference))
    assert check({"pet": "x"}) == {"pet": "x"}
    assert check({"pet": {"kind": "cat", "name": "x"}}) == {"pet": {"kind": "cat", "name": "x"}}
    with pytest.raises(UsageError, match="Invalid parameter type for 'pet', expected: PetRef"):
        check({"pet": 7})


def test_option_models_are_types_without_what_is_not_there() -> None:
    entity, entities = described(ObjectOptions)
    cases = {variant["case"]: entities[variant["type"]] for variant in entity["variants"]}
    assert set(cases) == set(OBJECTS)
    members = {member["name"]: member for member in cases["memory-backend-ram"]["members"]}
    assert "default" not in members["size"]
    assert "default" in members["share"]
    assert "prealloc-context" not in members
    assert entities[members["policy"]["type"]]["values"] == ["default"]


def test_option_model_is_read_from_checked_arguments() -> None:
    arguments = {"qom-type": "memory-backend-ram", "id": "m", "size": 4096, "share": True}
    checked = argument_check(spec_of(an_object))(arguments)
    made = read_options(OBJECTS, "qom-type", checked, "object-add")
    assert (made.id, made.values["size_bytes"], made.values["share"]) == ("m", 4096, True)
    with pytest.raises(UsageError, match="Invalid parameter type for 'size', expected: integer"):
        argument_check(spec_of(an_object))({**arguments, "size": "4k"})


def test_option_models_may_contain_each_other() -> None:
    node = {"driver": "raw", "file": {"driver": "raw", "file": {"driver": "null-co", "cache": {"direct": True}}}}
    check = argument_check(spec_of(a_node))
    assert check(node) == node
    assert check({"driver": "raw", "file": "node0"}) == {"driver": "raw", "file": "node0"}
    with pytest.raises(UsageError, match=r"Parameter 'file\.file\.cache\.direkt' is unexpected"):
        check({"driver": "raw", "file": {"driver": "raw", "file": {"driver": "null-co", "cache": {"direkt": True}}}})
    with pytest.raises(UsageError, match="Invalid parameter type for 'file', expected: BlockdevRef"):
        check({"driver": "raw", "file": 1})
    entity, entities = described(BlockdevOptions)
    raw = next(entities[v["type"]] for v in entity["variants"] if v["case"] == "raw")
    reference = next(entities[m["type"]] for m in raw["members"] if m["name"] == "file")
    assert {m["type"] for m in reference["members"]} == {"str", entity["name"]}


def test_declarations_do_not_import_pydantic() -> None:
    import subprocess

    code = "import vmmd.qmp.introspect as i, sys; i.build_schema(); sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_loading_the_commands_imports_no_types() -> None:
    """Every start loads them just after the greeting; types are for those who check arguments or ask for the schema."""
    import subprocess

    code = "import sys; from vmmd.qmp.registry import load; load(); sys.exit('typing_extensions' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_answer_is_what_the_declarations_say() -> None:
    answer = COMMANDS["query-qmp-schema"].handler(None)  # type: ignore[arg-type]
    assert answer == build_schema(), "run scripts/generate-docs"


def test_a_running_process_answers_for_itself(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is upgraded in place changes the file, not the commands of the process."""
    from vmmd.qmp.commands import introspect
    from vmmd.qmp.server import warm_up

    warm_up()
    (tmp_path / "schema.json").write_text("[]")
    monkeypatch.setattr(introspect, "SCHEMA_FILE", str(tmp_path / "schema.json"))
    assert COMMANDS["query-qmp-schema"].handler(None) == build_schema()  # type: ignore[arg-type]
