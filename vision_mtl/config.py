"""YAML and key=value overrides to one typed, validated config."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import yaml

from vision_mtl.convert import convert, shown
from vision_mtl.data.augment import build_transforms
from vision_mtl.data.config import DataConfig
from vision_mtl.data.labels import check_source
from vision_mtl.errors import ConfigError, nearest
from vision_mtl.models.multitask import AnyHeadConfig, ModelConfig
from vision_mtl.models.trunk import TrunkConfig
from vision_mtl.training.config import BalancingConfig, EvaluationConfig, TrainingConfig

MAX_BYTES = 1_000_000  # a config is a page of text; larger files are something else
MAX_DEPTH = 30  # of keys in keys
MAX_NODES = 100_000  # keys, values and lists, every use of an anchor counted


class Config(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides a run.

    Attributes:
        data: data sets, image size, augmentation, loading.
        trunk: the shared part of the network.
        heads: the heads by name.
        weights: what the whole network starts from: `torchvision:<builder>/<WEIGHTS>`, the path of a
            torchvision detector's state dict (.pth), or of a checkpoint of this project; null for
            `trunk.weights` and fresh heads.
        balancing: how the heads' losses and gradients become one step.
        training: optimiser and schedule.
        evaluation: when and how the model is judged.
    """

    data: DataConfig = msgspec.field(default_factory=DataConfig)
    trunk: TrunkConfig = msgspec.field(default_factory=TrunkConfig)
    heads: dict[str, AnyHeadConfig] = msgspec.field(default_factory=dict)
    weights: str | None = None
    balancing: BalancingConfig = msgspec.field(default_factory=BalancingConfig)
    training: TrainingConfig = msgspec.field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = msgspec.field(default_factory=EvaluationConfig)

    def model(self) -> ModelConfig:
        """Return the part that decides the network."""
        return ModelConfig(trunk=self.trunk, heads=self.heads, weights=self.weights)


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `key.sub=value` overrides, and return the checked config.

    Raises:
        ConfigError: naming the file or override, the key's path, what was found and what was expected.
    """
    tree = read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        apply_override(tree, override)
    place = str(path) if path is not None else "the defaults"
    return config_from_tree(tree, f"{place} with {' '.join(overrides)}" if overrides else place)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty file is an empty mapping."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"'{path}' has {size:,} bytes; a config has at most {MAX_BYTES:,}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ConfigError(f"no config file '{path}': there is no folder '{path.parent}'") from None
        near = sorted(str(p) for p in path.parent.glob("*.yaml"))
        listed = f"; there are {', '.join(near)}" if near else ""
        raise ConfigError(f"no config file '{path}'{nearest(str(path), near) or listed}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{path}' is not a config: not text in UTF-8 ({error})") from error
    except OSError as error:
        raise ConfigError(f"cannot read config '{path}': {error.strerror}; expected a YAML file") from error
    tree = _parse_yaml(text, f"'{path}'")
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"'{path}': found {shown(tree)}, expected keys such as data:, trunk:, heads:")
    return tree


class _Loader(yaml.SafeLoader):
    """Safe YAML of a bounded size, anchors included, that refuses a key given twice, of which YAML would keep
    the last without a word."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _measure(node, {}, MAX_DEPTH)[0] > MAX_NODES:
            raise yaml.constructor.ConstructorError(problem=f"over {MAX_NODES:,} values, with all anchors")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key '{key.value}' is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]], room: int) -> tuple[int, int]:
    """Return how many nodes there are in a node, and how many lie above each other, once all anchors are
    written out; `known` are the nodes measured so far, by identity. Raise where that is over `room`."""
    count, height = known.get(id(node), (0, 0))
    if not count:
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        # An anchor that holds itself never ends, and so runs out of room too.
        measured = [_measure(part, known, room - 1) for part in inner] if room > 0 else []
        count = 1 + sum(size for size, _ in measured)
        height = 1 + max((depth for _, depth in measured), default=0)
        known[id(node)] = count, height
    if height > room:
        raise yaml.constructor.ConstructorError(
            problem=f"nested deeper than {MAX_DEPTH}", problem_mark=node.start_mark
        )
    return count, height


# What PyYAML's constructors raise on values that their tag, or their look, does not allow.
_VALUE_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError)


def _parse_yaml(text: str, place: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # as safe as safe_load: _Loader is a SafeLoader
    except (yaml.YAMLError, RecursionError, *_VALUE_ERRORS) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error) or "nested too deeply"
        raise ConfigError(f"{place}{where}: not valid YAML: {problem}") from error


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Replace the node at `a.b.0.c` in `tree` by the YAML value behind `=`.

    Keys that are missing on the way are made; list items are taken by index.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise ConfigError(f"override '{override}': expected key.sub=value, e.g. training.lr=0.001")
    value = _parse_yaml(text, f"override '{override}'")
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
        raise ConfigError(f"override '{override}': {path} is {shown(child)}, which has no keys")
    return child


def _list_index(node: list, part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        expected = f"an index from 0 to {len(node) - 1}" if node else "no index: the list is empty"
        raise ConfigError(
            f"override '{override}': found '{part}', expected {expected}; "
            "to replace the list: key=[...] without an index"
        )
    return int(part)


def config_from_tree(tree: dict[str, Any], place: str) -> Config:
    """Return the checked config of a plain tree; `place` names its origin in errors.

    Heads are converted one at a time, so that an error names the head.
    """
    rest = {key: value for key, value in tree.items() if key != "heads"}
    config = convert(rest, Config, "", place)
    heads = tree.get("heads") or {}
    if not isinstance(heads, dict):
        raise ConfigError(f"{place}: heads: found {shown(heads)}, expected e.g. {{objects: {{type: fcos}}}}")
    types = {str(head.__struct_config__.tag): head for head in get_args(AnyHeadConfig)}
    for name, head in heads.items():
        path = f"heads.{name}"
        if not isinstance(head, dict) or "type" not in head:
            raise ConfigError(
                f"{place}: {path}: found {shown(head)}, expected {{type: {' | '.join(types)}, ...}}"
            )
        kind = str(head["type"])
        if kind not in types:
            raise ConfigError(
                f"{place}: {path}.type: found {shown(head['type'])}, expected one of "
                f"{', '.join(types)}{nearest(kind, types)}"
            )
        config.heads[str(name)] = convert(head, types[kind], path, place)
    try:
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    return config


def check_config(config: Config) -> None:
    """Raise ConfigError for values out of range and parts that cannot work together."""
    for key, value in _numbers(to_tree(config)):
        if not math.isfinite(value):
            raise ConfigError(f"{key}: found {value}, expected a finite number")
    config.model().check()
    for name, settings in config.heads.items():
        if (source := settings.label_source()) is not None:
            check_source(name, source)
    config.training.check()
    config.balancing.check()
    config.data.check(config.heads)
    build_transforms(config.data.augment, config.data.resize, keep_boxes=False)
    sides = config.data.resize
    if not 32 <= sides.shorter <= sides.longer:
        raise ConfigError(
            f"data.resize: found shorter {sides.shorter}, longer {sides.longer}; "
            "expected 32 <= shorter <= longer"
        )
    for name in ("batch_size", "eval_batch_size", "prefetch", "max_pixels"):
        if getattr(config.data, name) < 1:
            raise ConfigError(f"data.{name}: found {getattr(config.data, name)}, expected at least 1")
    if not 0 <= config.data.min_visibility <= 1:
        raise ConfigError(f"data.min_visibility: found {config.data.min_visibility}, expected 0 to 1")
    if config.data.workers is not None and config.data.workers < 0:
        raise ConfigError(f"data.workers: found {config.data.workers}, expected 0 or more, or null")
    parts = {"trunk": config.trunk, **{f"heads.{name}": head for name, head in config.heads.items()}}
    batch_norms = [
        f"{name}.norm=batch" for name, part in parts.items() if getattr(part, "norm", "") == "batch"
    ]
    if config.data.batch_size == 1 and batch_norms:
        raise ConfigError(
            f"data.batch_size: found 1 with {' and '.join(batch_norms)}, whose statistics need several "
            "images; use norm=group, or for a pretrained trunk norm=frozen"
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


def _numbers(tree: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the path and value of every float of a plain tree."""
    if isinstance(tree, float):
        yield path, tree
    elif isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _numbers(value, f"{path}.{key}".lstrip("."))


def to_tree(config: Config) -> dict[str, Any]:
    """Return the config as plain types, every default written out; the inverse of `config_from_tree`."""
    return msgspec.to_builtins(config)
