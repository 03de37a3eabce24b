"""What enters a stage's key, and what does not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import pytest

from alignpipe.api import Component, Port, Selected
from alignpipe.digests import canonical_json, data_digest, folder_digest, listing_digest
from alignpipe.errors import ConfigError
from alignpipe.plan.keys import Fingerprints
from alignpipe.plan.ports import resolve_ports
from alignpipe.plan.specs import stage_specs, with_slots
from alignpipe.store import Store
from support.fake_run import COMPONENTS, DataConfig, ModelConfig, PpoConfig, SftConfig, make_registry, make_run

NOWHERE = Path("/nowhere")
FED = {"dataset": "data " + "a" * 64}


def make_fingerprints(config, registry=None):
    registry = registry or make_registry()
    specs = resolve_ports(stage_specs(config, registry), config.settings.inputs, Store(NOWHERE))
    complete = {spec.name: with_slots(spec, specs, config, registry, Store(NOWHERE)) for spec in specs}
    return Fingerprints(config.settings.seed, registry), complete


def fingerprint(stage="sft", inputs=FED, registry=None, **run):
    fingerprints, specs = make_fingerprints(make_run(NOWHERE, **run), registry)
    return fingerprints.of(specs[stage], inputs)


def key(stage="sft", inputs=FED, **run):
    return data_digest(fingerprint(stage, inputs, **run))


def test_a_key_does_not_change_from_one_version_to_the_next():
    expected = canonical_json(
        {
            "schema": 1,
            "stage": "data",
            "component": {"group": "data", "name": "fake", "version": 1, "config": {"rows": 3}},
            "seed": 0,
            "uses": {},
            "inputs": {},
            "distributions": {"fake-stages": "1.0"},
        }
    )
    assert canonical_json(fingerprint("data", {})) == expected


def test_what_changes_a_key():
    keys = {
        key(),
        key(sft=SftConfig(lr=0.2)),
        key(seed=1),
        key(model=ModelConfig(size=16)),
        key(inputs={"dataset": "data " + "b" * 64}),
        key(registry=make_registry(version="1.1")),
        key(registry=make_registry(components=tuple(_newer(component) for component in COMPONENTS))),
    }
    assert len(keys) == 7


def _newer(component):
    return replace(component, version=component.version + 1)


def test_what_does_not_change_a_key():
    assert key() == key(sft=SftConfig(pause=3.0, die_at=2), device="cuda", threads=3, lanes=2, folder="elsewhere")
    assert key() == key(ppo=PpoConfig(kl_coef=9.0)), "another stage's config"


def test_alignpipes_own_version_is_not_keyed():
    def at(version):
        return key(registry=make_registry(distribution="alignpipe", version=version))

    assert at("1.0") == at("1.1")
    assert fingerprint(registry=make_registry(distribution="alignpipe", version="1.0"))["distributions"] == {}


def test_nested_components_enter_with_their_versions():
    nested = PpoConfig(judge={"polite": Selected("eval", "fake", DataConfig(rows=7))})
    described = fingerprint("ppo", {}, ppo=nested)["component"]["config"]["judge"]["polite"]
    assert described == {"group": "eval", "name": "fake", "version": 1, "config": {"rows": 7}}
    other = PpoConfig(judge={"polite": Selected("eval", "fake", DataConfig(rows=8))})
    assert key("ppo", {}, ppo=nested) != key("ppo", {}, ppo=other)


def test_the_base_model_brings_the_model_slot_in():
    needs = {"policy": Port("policy", "nearest_or_base")}
    merge = Component("merge", "fake", SftConfig, "support.fake_run:Train", "m", needs=needs, makes="policy")
    registry = make_registry(components=(*COMPONENTS, merge))
    run = {"registry": registry, "extra": {"merge": Selected("merge", "fake", SftConfig())}}
    assert fingerprint("merge", {}, stages=["data", "sft", "merge"], **run)["uses"] == {}
    assert fingerprint("merge", {}, stages=["data", "merge"], **run)["uses"]["model"]["config"] == {"size": 8}


def test_who_is_given_a_reward_depends_on_the_rewards_distribution():
    """The reward's code runs in ppo; its artifact may be the same in two versions of it."""
    registry = make_registry(distribution="alignpipe")
    acme = replace(registry.get("reward", "fake"), distribution="acme-reward", version="0.3")
    registry._offers["reward"]["fake"] = [acme]
    stages = ["data", "sft", "reward", "ppo"]
    assert fingerprint("ppo", {}, registry=registry, stages=stages)["distributions"] == {"acme-reward": "0.3"}
    assert fingerprint("sft", {}, registry=registry, stages=stages)["distributions"] == {}


def test_a_revision_is_asked_for_once_and_enters_the_key(tmp_path):
    file = tmp_path / "rows.txt"
    file.write_text("one")
    before = key("data", {}, data=DataConfig(path=str(file)))
    described = fingerprint("data", {}, data=DataConfig(path=str(file)))["component"]
    assert described["revision"] == {"file": "one"}
    assert described["config"] == {"rows": 3}, "the path itself is not keyed"
    file.write_text("two")
    assert key("data", {}, data=DataConfig(path=str(file))) != before


@dataclass(frozen=True)
class Listed:
    words: Path | None = None
    more: tuple[Path, ...] = ()
    log: Path | None = field(default=None, metadata={"fingerprint": False})


def test_the_content_of_a_file_that_an_option_names_by_a_path_enters_the_key(tmp_path):
    for name in ("words.txt", "one.txt", "log.txt"):
        (tmp_path / name).write_text("a")
    config = Listed(tmp_path / "words.txt", (tmp_path / "one.txt", tmp_path / "missing.txt"), tmp_path / "log.txt")

    def revision():
        return fingerprint("data", {}, **odd(anything=config))["component"].get("revision")

    before = revision()
    assert sorted(before) == ["anything.more.0", "anything.words"]
    (tmp_path / "log.txt").write_text("b")
    assert revision() == before
    (tmp_path / "words.txt").write_text("b")
    assert revision()["anything.words"] != before["anything.words"]
    (tmp_path / "missing.txt").write_text("b")
    assert "anything.more.1" in revision()


def test_revisions_are_remembered_for_one_run():
    asked = []

    @dataclass(frozen=True)
    class Asked(DataConfig):
        def revision(self):
            asked.append(1)
            return {"a": "b"}

    fingerprints, specs = make_fingerprints(make_run(NOWHERE, data=Asked()))
    assert fingerprints.of(specs["data"], {}) == fingerprints.of(specs["data"], {})
    assert len(asked) == 1


class Colour(Enum):
    red = "r"


@dataclass(frozen=True)
class Odd:
    colour: Colour = Colour.red
    folder: Path = Path("a/b")
    pair: tuple[int, ...] = (1, 2)
    table: dict[str, float] = field(default_factory=lambda: {"b": 1.0, "a": 2.0})
    anything: object = None


def odd(**values):
    component = Component("data", "odd", Odd, "support.fake_run:Data", "odd", makes="dataset")
    registry = make_registry(components=(*COMPONENTS, component))
    return {"registry": registry, "extra": {"data": Selected("data", "odd", Odd(**values))}}


def test_typed_values_as_plain_data():
    config = fingerprint("data", {}, **odd())["component"]["config"]
    assert config == {
        "colour": "red",
        "folder": "a/b",
        "pair": [1, 2],
        "table": {"a": 2.0, "b": 1.0},
        "anything": None,
    }


def test_values_that_cannot_be_keyed():
    with pytest.raises(ConfigError, match=r"data\.anything=.*type object"):
        key("data", {}, **odd(anything=object()))
    with pytest.raises(ConfigError, match=r"data\.anything=nan is no finite number"):
        key("data", {}, **odd(anything=float("nan")))


def test_order_of_a_mapping_does_not_matter():
    assert canonical_json({"b": 1, "a": [1.0, None]}) == '{"a":[1.0,null],"b":1}'
    assert listing_digest([("b", 1, "x"), ("a", 2, "y")]) == listing_digest([("a", 2, "y"), ("b", 1, "x")])


def test_folder_digest_covers_names_and_bytes_but_not_hidden_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"12")
    first = folder_digest(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x").write_text("x")
    assert folder_digest(tmp_path) == first
    (tmp_path / "sub" / "w.bin").write_bytes(b"13")
    second = folder_digest(tmp_path)
    (tmp_path / "sub" / "w.bin").rename(tmp_path / "sub" / "v.bin")
    assert len({first, second, folder_digest(tmp_path)}) == 3


def test_a_slot_that_nothing_fills():
    config = make_run(NOWHERE)
    selected = {name: choice for name, choice in config.selected.items() if name != "model"}
    with pytest.raises(ConfigError, match=r"stage 'sft'.* uses the slot 'model', but nothing fills it"):
        make_fingerprints(replace(config, selected=selected))
