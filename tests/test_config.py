"""The config: every mistake is one error that names its place, what was found and what was expected."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from vision_mtl.config import Config, config_from_tree, load_config, to_tree
from vision_mtl.errors import ConfigError
from vision_mtl.models.multitask import AnyHeadConfig

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
BASE = """
data:
  train: [{images: a, annotations: a.json}, {images: b, annotations: b.json}]
  augment: [{name: HorizontalFlip, p: 0.5}]
trunk: {name: resnet18}
heads:
  objects: {type: fcos}
  kind: {type: classification, source: attribute, field: kind}
"""


@pytest.fixture
def base(tmp_path):
    return write(tmp_path, BASE)


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def message(path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads(path):
    config = load_config(path)
    assert config.heads
    assert config_from_tree(to_tree(config), "copy") == config


def test_tree_is_the_inverse(base):
    config = load_config(base, ["training.lr=0.5", "data.workers=3"])
    tree = to_tree(config)
    assert tree["training"]["lr"] == 0.5
    assert tree["heads"]["kind"]["type"] == "classification"
    again = config_from_tree(tree, "copy")
    assert again == config
    assert to_tree(again) == tree
    assert load_config(base) != config


def test_overrides(base):
    config = load_config(
        base,
        [
            "data.train.1.images=c",
            "training.epochs=3",
            "trunk={name: resnet34}",
            "heads.count={type: regression, source: count}",
            "data.val=[{images: v, annotations: v.json}]",
            "data.augment.0.p=1.0",
        ],
    )
    assert [source.images for source in config.data.train] == ["a", "c"]
    assert config.data.val[0].annotations == "v.json"
    assert config.training.epochs == 3
    assert config.trunk.name == "resnet34"
    assert list(config.heads) == ["objects", "kind", "count"]
    assert config.data.augment == [{"name": "HorizontalFlip", "p": 1.0}]


def test_an_override_replaces_its_node(base):
    assert list(load_config(base, ["heads={only: {type: fcos}}"]).heads) == ["only"]
    assert load_config(base, ["data.train=[]"]).data.train == []


def test_an_override_fills_an_empty_node(tmp_path):
    path = write(tmp_path, "training:\nheads: {objects: {type: fcos}}\n")
    assert load_config(path, ["training.lr=0.5"]).training.lr == 0.5


def test_without_a_file():
    config = load_config(None, ["heads={objects: {type: fcos}}"])
    assert config.training == Config().training


# override -> what the message says
ERRORS = {
    # unknown keys, at every level
    "trainin.lr=1": "top level: unknown key 'trainin'; did you mean 'training'? Known: data, trunk, heads",
    "training.lrr=1": "training: unknown key 'lrr'; did you mean 'lr'? Known: epochs,",
    "data.resize.short=3": "data.resize: unknown key 'short'; did you mean 'shorter'? Known: shorter, longer",
    "data.train.1.imags=x": "data.train[1]: unknown key 'imags'; did you mean 'images'?",
    "heads.objects.dept=3": "heads.objects: unknown key 'dept'; did you mean 'depth'?",
    "foo=1": "top level: unknown key 'foo'. Known: ",
    # wrong types
    "training.lr=fast": "training.lr: found 'fast', expected a number",
    "training.epochs=1.5": "training.epochs: found 1.5, expected a whole number",
    "training.epochs=": "training.epochs: found null, expected a whole number",
    "training.lr=1e-4": "found '1e-4', expected a number (YAML reads 1e-4 as text: write 0.0001)",
    "training.warmup_steps=1e3": "expected a whole number (YAML reads 1e3 as text: write 1000)",
    "training.lr=.inf": "training.lr: found inf, expected a finite number",
    "training=3": "training: found 3, expected the keys epochs, max_steps",
    "data.train=train": "data.train: found 'train', expected a list",
    "data.train.0=null": "data.train[0]: found null, expected the keys images, annotations, boxes",
    "data.train=[{images: a}]": "data.train[0]: needs the key 'annotations'",
    "data.root=3": "data.root: found 3, expected text; quote it",
    "data.embedded=1": "data.embedded: found 1, expected true or false",
    "data.bad_images=no": "data.bad_images: found false, expected one of error, skip (YAML reads no,",
    "data.augment=[Rotate]": "data.augment[0]: found 'Rotate', expected keys with values",
    "data={1: 2}": "data: found a key that is not text; quote it",
    "heads.kind.field=3": "heads.kind.field: found 3, expected text or null; quote it",
    "trunk.name=resnet": "trunk.name: found 'resnet', expected one of resnet18, resnet34, ",
    "trunk.finest=5": "trunk.finest: found 5, expected one of 2, 3",
    # heads
    "heads=[1]": "heads: found [1], expected e.g. {objects: {type: fcos}}",
    "heads={}": "heads: found none, expected at least one",
    "heads.x=3": "heads.x: found 3, expected {type: fcos | ",
    "heads.x={source: boxes}": "heads.x: found {source: boxes}, expected {type: fcos | ",
    "heads.x.type=fcoss": "heads.x.type: found 'fcoss', expected one of fcos, ",
    "heads.x.type=[1]": "heads.x.type: found [1], expected one of fcos, ",
    "heads.x={type: classification}": "heads.x: needs the key 'source'",
    "heads.kind.source=boxes": "heads.kind.source: found 'boxes', expected one of attribute, csv, dominant",
    "heads.kind.field=": "heads.kind.field: source 'attribute' needs it",
    "heads.kind.column=c": "heads.kind.column: has no meaning with source 'attribute'",
    "heads.a-b={type: fcos}": "heads: found the name 'a-b'",
    "heads.two={type: fcos}": "heads: found 2 detection heads (objects, two), expected one",
    # values out of range, and parts that cannot work together
    "data.min_visibility=2": "data.min_visibility: found 2.0, expected 0 to 1",
    "data.resize={shorter: 800, longer: 600}": "data.resize: found shorter 800, longer 600; expected 32 <=",
    "data.batch_size=0": "data.batch_size: found 0, expected at least 1",
    "data.batch_size=1": "data.batch_size: found 1 with trunk.norm=batch",
    "data.workers=-1": "data.workers: found -1, expected 0 or more, or null",
    "data.augment.0.prob=1": "data.augment[0].prob: HorizontalFlip has no such parameter; it has p",
    "trunk.norm=frozen": "trunk.norm: found 'frozen' with trunk.weights null",
    "training.seed=-1": "training.seed: found -1, expected at least 0",
    "evaluation.every=0": "evaluation.every: found 0, expected at least 1",
    "evaluation.best=object.mAP": "evaluation.best: found 'object.mAP', expected <head>.<metric> with a",
    "evaluation.best=mAP": "evaluation.best: found 'mAP', expected <head>.<metric>",
}


@pytest.mark.parametrize("override", ERRORS)
def test_wrong_values(base, override):
    found = message(base, override)
    assert found.startswith(f"{base} with {override}: ")
    assert ERRORS[override] in found
    assert "\n" not in found


BAD_OVERRIDES = {
    "training.lr": "expected key.sub=value, e.g. training.lr=0.001",
    "=3": "expected key.sub=value",
    "training..lr=3": "expected key.sub=value",
    "data.train.2.images=x": "found '2', expected an index from 0 to 1",
    "data.train.-1.images=x": "found '-1', expected an index from 0 to 1",
    "data.train.first.images=x": "found 'first', expected an index from 0 to 1",
    "trunk.name.x=3": "trunk.name is 'resnet18', which has no keys",
    "training=[": "line 1, column 2: not valid YAML",
}


@pytest.mark.parametrize("override", BAD_OVERRIDES)
def test_wrong_overrides(base, override):
    found = message(base, override)
    assert found.startswith(f"override '{override}'")
    assert BAD_OVERRIDES[override] in found


def test_an_empty_list_has_no_index(base):
    assert "the list is empty" in message(base, "data.train=[]", "data.train.0.images=x")


FILES = {
    "data: [1\ntrunk: 3": ", line 2, column 6: not valid YAML",
    "data:\n\troot: x": ", line 2, column 1: not valid YAML: found character",
    "trunk: {name: resnet18}\ntrunk: {}": ", line 2, column 1: not valid YAML: the key 'trunk' is",
    "x: !!python/object:os.system 1": ", line 1, column 4: not valid YAML: could not determine a constructor",
    "- 1": "': found [1], expected keys such as data:, trunk:, heads:",
    "text": "': found 'text', expected keys such as",
    "": ": heads: found none, expected at least one",
    "[" * 5000: "not valid YAML",
    "# " + "x" * 1_000_000: "has 1,000,002 bytes; a config has at most 1,000,000",
}


@pytest.mark.parametrize("text", FILES, ids=range(len(FILES)))
def test_wrong_files(tmp_path, text):
    path = write(tmp_path, text)
    found = message(path)
    assert str(path) in found
    assert FILES[text] in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: " + "[" * 31 + "]" * 31, "line 1, column .*: nested deeper than 30"),
        ("data: &a [*a]", "nested deeper than 30"),
        ("a: &a [1]\nb: [" + "*a," * 60_000 + "]", "over 100,000 values, with all anchors"),
        ("data: 2001-99-99", "month must be in 1..12"),
        ("data: !!bool maybe", "not valid YAML"),
        ("data: {[a]: b}", "unhashable key"),
    ],
)
def test_yaml_out_of_bounds(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "a.yaml")


def test_anchors_and_merged_keys(tmp_path):
    path = write(
        tmp_path,
        "trunk: &small {name: resnet18, channels: 64}\nheads: {objects: {type: fcos}}\n",
    )
    assert load_config(path).trunk.channels == 64
    path = write(
        tmp_path,
        "data:\n  train:\n    - &one {images: a, annotations: a.json}\n    - {<<: *one, images: b}\n"
        "heads: {objects: {type: fcos}}\n",
    )
    assert [source.images for source in load_config(path).data.train] == ["a", "b"]


def test_missing_file(tmp_path, base):
    assert f"did you mean '{base}'" in message(tmp_path / "runs.yaml")
    assert f"there are {base}" in message(tmp_path / ("0123456789" * 20))
    assert f"there is no folder '{tmp_path / 'x'}'" in message(tmp_path / "x" / "run.yaml")
    assert "cannot read config" in message(tmp_path)
    (tmp_path / "image.yaml").write_bytes(b"\xff\xfe")
    assert "not text in UTF-8" in message(tmp_path / "image.yaml")


def structs() -> list[type[msgspec.Struct]]:
    """Return every struct that a config can hold."""
    found: list[type[msgspec.Struct]] = []

    def collect(info) -> None:
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in found:
                return
            found.append(info.cls)
            for field in info.fields:
                collect(field.type)
        for name in ("types", "item_type", "key_type", "value_type"):
            inner = getattr(info, name, ())
            for part in inner if isinstance(inner, tuple) else (inner,):
                collect(part)

    collect(msgspec.inspect.type_info(Config))
    return found


def documented(kind: type) -> set[str]:
    """Return the names under `Attributes:` in the docstring of a struct and of its bases."""
    names: set[str] = set()
    for base in kind.__mro__:
        _, _, text = (base.__dict__.get("__doc__") or "").partition("Attributes:\n")
        names |= set(re.findall(r"^ {8}(\w+): ", text, flags=re.MULTILINE))
    return names


@pytest.mark.parametrize("kind", structs(), ids=lambda kind: kind.__name__)
def test_every_field_is_documented(kind):
    assert set(kind.__struct_fields__) <= documented(kind)


def test_all_heads_are_among_the_structs():
    assert len(structs()) >= 10
    assert all(head in structs() for head in AnyHeadConfig.__args__)
