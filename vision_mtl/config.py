"""YAML and key=value overrides to one typed, validated config."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import msgspec
import yaml

from vision_mtl.data.augment import build_transforms
from vision_mtl.data.config import DataConfig
from vision_mtl.errors import ConfigError, nearest
from vision_mtl.models.multitask import AnyHeadConfig, ModelConfig
from vision_mtl.models.trunk import TrunkConfig
from vision_mtl.training.config import BalancingConfig, EvaluationConfig, TrainingConfig

MAX_BYTES = 1_000_000  # a config is a page of text; larger files are something else


class Config(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides a run.

    Attributes:
        data: data sets, image size, augmentation, loading.
        trunk: the shared part of the network.
        heads: the heads by name.
        balancing: how the heads' losses become one.
        training: optimiser and schedule.
        evaluation: when and how the model is judged.
    """

    data: DataConfig = msgspec.field(default_factory=DataConfig)
    trunk: TrunkConfig = msgspec.field(default_factory=TrunkConfig)
    heads: dict[str, AnyHeadConfig] = msgspec.field(default_factory=dict)
    balancing: BalancingConfig = msgspec.field(default_factory=BalancingConfig)
    training: TrainingConfig = msgspec.field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = msgspec.field(default_factory=EvaluationConfig)

    def model(self) -> ModelConfig:
        """Return the part that decides the network."""
        return ModelConfig(trunk=self.trunk, heads=self.heads)


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `key.sub=value` overrides, and return the checked config.

    Raises:
        ConfigError: naming the file or override, the key's path, what was found and what was expected.
    """
    tree = read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        apply_override(tree, override)
    return config_from_tree(tree, str(path) if path is not None else "the command line")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty file is an empty mapping."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"'{path}' has {size:,} bytes; a config has at most {MAX_BYTES:,}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        listed = f"; there are {', '.join(near)}" if near else ""
        raise ConfigError(f"no config file '{path}'{nearest(str(path), near) or listed}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read config '{path}': {error}") from error
    tree = _parse_yaml(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"'{path}' holds a {type(tree).__name__}; expected keys such as data:, trunk:, heads:"
        )
    return tree


def _parse_yaml(text: str, place: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "nested too deeply"
        raise ConfigError(f"'{place}'{where}: not valid YAML: {problem}") from error


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Replace the node at `a.b.0.c` in `tree` by the YAML value behind `=`.

    Keys that are missing on the way are made; list items are taken by index.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override '{override}': expected key.sub=value, e.g. training.lr=0.001")
    value = _parse_yaml(text, override)
    *way, last = key.strip().split(".")
    node: Any = tree
    for i, part in enumerate(way):
        node = _step_into(node, part, ".".join(way[: i + 1]), override)
    if isinstance(node, list):
        node[_list_index(node, last, override)] = value
    else:
        node[last] = value


def _step_into(node: Any, part: str, path: str, override: str) -> Any:
    if isinstance(node, list):
        child = node[_list_index(node, part, override)]
    else:
        child = node.setdefault(part, {})
        if child is None:
            child = node[part] = {}
    if not isinstance(child, (dict, list)):
        raise ConfigError(f"override '{override}': {path} is {child!r}, which has no parts")
    return child


def _list_index(node: list, part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"override '{override}': found '{part}', expected an index from 0 to {len(node) - 1}"
        )
    return int(part)


def config_from_tree(tree: dict[str, Any], place: str) -> Config:
    """Return the checked config of a plain tree; `place` names its origin in errors.

    Heads are converted one at a time, so that an error names the head.
    """
    rest = {key: value for key, value in tree.items() if key != "heads"}
    config = _convert(rest, Config, "", place)
    heads = tree.get("heads") or {}
    if not isinstance(heads, dict):
        raise ConfigError(f"{place}: heads: found {heads!r}, expected names with a config each")
    types = {head.__struct_config__.tag: head for head in get_args(AnyHeadConfig)}
    for name, head in heads.items():
        path = f"heads.{name}"
        if not isinstance(head, dict) or "type" not in head:
            raise ConfigError(
                f"{place}: {path}: found {head!r}, expected {{type: {' | '.join(map(str, types))}, ...}}"
            )
        if head["type"] not in types:
            raise ConfigError(
                f"{place}: {path}.type: found {head['type']!r}, expected one of {', '.join(map(str, types))}"
                f"{nearest(str(head['type']), map(str, types))}"
            )
        config.heads[str(name)] = _convert(head, types[head["type"]], path, place)
    try:
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    return config


def check_config(config: Config) -> None:
    """Raise ConfigError for values out of range and parts that cannot work together."""
    config.model().check()
    config.training.check()
    build_transforms(config.data.augment, config.data.resize, keep_boxes=False)
    sides = config.data.resize
    if not 32 <= sides.shorter <= sides.longer:
        raise ConfigError(
            f"data.resize: found shorter {sides.shorter}, longer {sides.longer}; expected 32 <= shorter <= longer"
        )
    for name in ("batch_size", "eval_batch_size", "prefetch", "max_pixels"):
        if getattr(config.data, name) < 1:
            raise ConfigError(f"data.{name}: found {getattr(config.data, name)}, expected at least 1")
    if config.data.workers is not None and config.data.workers < 0:
        raise ConfigError(f"data.workers: found {config.data.workers}, expected 0 or more, or null")
    if config.data.batch_size == 1 and config.trunk.norm == "batch":
        raise ConfigError(
            "data.batch_size: found 1 with trunk.norm=batch, whose statistics need several images; use "
            "trunk.norm=group, or trunk.norm=frozen with pretrained weights"
        )
    if config.evaluation.every < 1:
        raise ConfigError(f"evaluation.every: found {config.evaluation.every}, expected at least 1")
    if config.evaluation.best is not None:
        head = config.evaluation.best.partition(".")[0]
        if head not in config.heads or "." not in config.evaluation.best:
            raise ConfigError(
                f"evaluation.best: found {config.evaluation.best!r}, expected <head>.<metric> with a head of "
                f"{', '.join(config.heads)}{nearest(head, config.heads)}"
            )


def _convert(tree: Any, kind: Any, prefix: str, place: str) -> Any:
    """Convert with msgspec and put its error in our words."""
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        problem, _, pointer = str(error).partition(" - at `")
        path = ".".join(part for part in (prefix, pointer.rstrip("`").removeprefix("$").lstrip(".")) if part)
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", problem)
        if unknown:
            known = _fields_at(kind, path.removeprefix(prefix).lstrip("."))
            key = unknown.group(1)
            problem = f"unknown key '{key}'{nearest(key, known)} Known: {', '.join(known)}"
        missing = re.fullmatch(r"Object missing required field `(.*)`", problem)
        if missing:
            problem = f"needs the key '{missing.group(1)}'"
        found = _value_at(tree, path.removeprefix(prefix).lstrip("."))
        shown = "" if unknown or missing else f", found {found!r}"
        hint = " (YAML reads 1e-4 as text: write 0.0001 or 1.0e-4)" if _looks_like_number(found) else ""
        raise ConfigError(f"{place}: {path or 'top level'}: {problem}{shown}{hint}") from error


def _looks_like_number(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value) is not None


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[.\[\]]+", path) if part]


def _value_at(tree: Any, path: str) -> Any:
    for part in _parts(path):
        try:
            tree = tree[int(part)] if isinstance(tree, list) else tree[part]
        except (KeyError, IndexError, ValueError, TypeError):
            return tree  # msgspec writes `...` for the key of a mapping
    return tree


def _fields_at(kind: Any, path: str) -> list[str]:
    """Return the field names of the struct that `path` leads to from the struct `kind`."""
    for part in _parts(path):
        if part.isdigit():
            continue
        kind = get_type_hints(kind)[part]
        while not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            arguments = [a for a in get_args(kind) if a is not type(None)]
            if not arguments or (isinstance(kind, UnionType) and len(arguments) > 1):
                return []
            kind = arguments[0]
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def to_tree(config: Config) -> dict[str, Any]:
    """Return the config as plain types, every default written out; the inverse of `config_from_tree`."""
    return msgspec.to_builtins(config)
