"""Plain trees to typed structs, with errors in the words of the person who wrote the YAML."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import yaml

from vision_mtl.errors import ConfigError, nearest


def convert(tree: Any, kind: Any, prefix: str, place: str) -> Any:
    """Convert a plain tree to the struct type `kind`.

    Args:
        tree: mappings, lists and scalars, as YAML gives them.
        kind: the struct type.
        prefix: the path of `tree` in the whole, for errors; may be empty.
        place: where the tree is from, for errors.

    Raises:
        ConfigError: naming the place, the key's path, what was found and what was expected.
    """
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        problem, _, pointer = str(error).partition(" - at `")
        inner = pointer.rstrip("`").partition("$")[2].lstrip(".")
        path = f"{place}: {'.'.join(part for part in (prefix, inner) if part) or 'top level'}"
        wanted = _type_at(kind, inner)
        if pointer.startswith("key"):
            raise ConfigError(f"{path}: found a key that is not text; quote it") from error
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", problem):
            known = [field.encode_name for field in msgspec.structs.fields(wanted)]
            hint = nearest(unknown[1], known) or "."
            raise ConfigError(
                f"{path}: unknown key '{unknown[1]}'{hint} Known: {', '.join(known)}"
            ) from error
        if missing := re.fullmatch(r"Object missing required field `(.*)`", problem):
            raise ConfigError(f"{path}: needs the key '{missing[1]}'") from error
        found = _value_at(tree, inner)
        expected = _expected(problem, wanted, found)
        raise ConfigError(f"{path}: found {shown(found)}, expected {expected}") from error


_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "keys with values, {key: value, ...}",
}


def _expected(problem: str, wanted: Any, found: Any) -> str:
    """Return what belongs in the place of `found`, from msgspec's `problem` and the type `wanted` there."""
    if get_origin(wanted) is Literal:
        options = [str(option) for option in get_args(wanted)]
        expected = f"one of {', '.join(options)}{nearest(str(found), options)}"
    elif types := re.match(r"Expected `([^`]*)`", problem):
        expected = " or ".join(_WORDS.get(word, word) for word in types[1].split(" | "))
        if types[1] == "object" and isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
            expected = f"the keys {', '.join(field.encode_name for field in msgspec.structs.fields(wanted))}"
    else:
        expected = problem
    if isinstance(found, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", found):
        return f"{expected} (YAML reads {found} as text: write {Decimal(found):f})"
    if isinstance(found, bool):
        return f"{expected} (YAML reads no, yes, on and off as false and true: quote them if they are text)"
    if isinstance(found, int | float) and "text" in expected:
        return f"{expected}; quote it"
    return expected


def shown(value: Any) -> str:
    """Return `value` as one would write it in YAML, shortened."""
    text = (
        yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
        .removesuffix("...\n")
        .strip()
    )
    if isinstance(value, str):
        text = f"'{value}'"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"\.(?!\.)|[\[\]]+", path) if part]


def _value_at(tree: Any, path: str) -> Any:
    for part in _parts(path):
        try:
            tree = tree[int(part)] if isinstance(tree, list) else tree[part]
        except (KeyError, IndexError, ValueError, TypeError):
            return tree  # msgspec writes `...` for the key of a mapping
    return tree


def _type_at(kind: Any, path: str) -> Any:
    """Return the type, without None, that `path` leads to from the struct `kind`."""
    for part in _parts(path):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            kind = next(field.type for field in msgspec.structs.fields(kind) if field.encode_name == part)
        else:
            kind = get_args(kind)[0 if part.isdigit() else -1]
        if get_origin(kind) in (Union, UnionType):
            some = [option for option in get_args(kind) if option is not NoneType]
            kind = some[0] if len(some) == 1 else kind
    return kind
