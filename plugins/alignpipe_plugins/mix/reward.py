"""The mix as a reward: it asks its members, scales and combines what they say, and keeps what they keep."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignpipe.api import Artifact, BuildContext, Failure, Reward, Sample, Scores, StageContext, TrainableReward
from alignpipe.api.rewards import Kept
from alignpipe.errors import AlignpipeError, PluginError, RewardError
from alignpipe.rewarding.tally import Tally
from alignpipe_plugins.mix.asking import ask
from alignpipe_plugins.mix.combining import Scale, combination, weights_of
from alignpipe_plugins.mix.config import CLIPPED, CONTRIBUTION, Combine, MixConfig, Normalise
from alignpipe_plugins.mix.splitting import split
from alignpipe_plugins.mix.training import measure, require_texts, train_members

_FILE = "mix.json"
_FOLDER = "members"


class Mix:
    """Scores with all members at once; those that wait for something (async) wait together."""

    def __init__(self, config: MixConfig, members: Mapping[str, Reward]) -> None:
        self.members = members
        limits = {name: config.clip.get(name, [-math.inf, math.inf]) for name in members}
        self.scales = {name: Scale(low=low, high=high) for name, (low, high) in limits.items()}
        self._combined = combination(config)
        self._weights = weights_of(config)
        self._clipped = list(config.clip)
        self._splits = config.combine is Combine.sum

    @property
    def columns(self) -> dict[str, Any]:
        """The columns that any member reads; asked for when they are wanted, since `load` may tell a member."""
        return _columns(self.members.values())

    async def score(self, samples: Sequence[Sample]) -> Scores:
        """The combined total; parts `<member>` (what it said, unscaled), `<member>/<part>`, and what it came to.

        A sample on which a member fails has no score, and the failure names the member. A member that does not apply
        to a sample takes no part in its total.
        """
        names = list(self.members)
        answers = await asyncio.gather(*(ask(name, self.members[name], samples) for name in names))
        said = dict(zip(names, answers, strict=True))
        totals = [self._total(row, said) for row in range(len(samples))]
        failures = {row: total for row, total in enumerate(totals) if isinstance(total, Failure)}
        total = [math.nan if isinstance(total, Failure) else total for total in totals]
        parts = self._parts(said)
        return Scores(total, parts=parts, per_token=self._per_token(samples, total, said), failures=failures)

    def _total(self, row: int, said: Mapping[str, Tally]) -> float | Failure:
        """The combination of what the members say of a sample; those that do not apply to it are left out.

        A failure if a member failed, or if none applies that counts for anything.
        """
        failed = {name: tally.failures[row] for name, tally in said.items() if row in tally.failures}
        fault = next((failure for failure in failed.values() if failure.kind != "not_applicable"), None)
        if fault is not None:
            return fault
        given = {name: self.scales[name](tally.total[row]) for name, tally in said.items() if name not in failed}
        if not any(self._weights[name] for name in given):
            return next(failure for name, failure in failed.items() if self._weights[name])
        return self._combined(given)

    def _parts(self, said: Mapping[str, Tally]) -> dict[str, Sequence[float | None]]:
        """What each member said, its own parts, and what it came to: its share of a sum, and whether a clip changed it.

        The contributions are left out where each is what the member said.
        """
        parts: dict[str, Sequence[float | None]] = {}
        for name, tally in said.items():
            parts[name] = _there(tally.total)
            parts.update({f"{name}/{part}": _there(values) for part, values in tally.parts.items()})
        counted = {name: weight for name, weight in self._weights.items() if weight}
        if self._splits and any(weight != 1 or self.scales[name] != Scale() for name, weight in counted.items()):
            for name, weight in counted.items():
                scale = self.scales[name]
                scores = said[name].total
                parts[f"{CONTRIBUTION}/{name}"] = [_or_none(score, weight * scale(score)) for score in scores]
        for name in self._clipped:
            scale = self.scales[name]
            parts[f"{CLIPPED}/{name}"] = [_or_none(score, float(not scale.keeps(score))) for score in said[name].total]
        return parts

    def _per_token(
        self, samples: Sequence[Sample], total: Sequence[float], said: Mapping[str, Tally]
    ) -> list[list[float]] | None:
        """The totals split over tokens, in a weighted sum with members that split theirs; none where a clip cut off."""
        splitting = [(name, tally.per_token) for name, tally in said.items() if tally.per_token is not None]
        if not self._splits or not splitting:
            return None
        rows = []
        for row, sample in enumerate(samples):
            shares = [
                (self._weights[name] * self.scales[name].gain, tokens[row])
                for name, tokens in splitting
                if row not in said[name].failures and self.scales[name].keeps(said[name].total[row])
            ]
            rows.append(split(total[row], shares, None if sample.response_ids is None else len(sample.response_ids)))
        return rows

    def save(self, folder: Path) -> None:
        """Write the scales, and what each member keeps into a folder of its own."""
        record = {name: {"gain": scale.gain, "bias": scale.bias} for name, scale in self.scales.items()}
        (folder / _FILE).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
        for name, member in self._keeping():
            own = folder / _FOLDER / name
            own.mkdir(parents=True, exist_ok=True)
            member.save(own)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises `RewardError` if the folder holds no mix of these members.
        """
        path = folder / _FILE
        record = json.loads(path.read_text()) if path.is_file() else {}
        if record.keys() != self.members.keys():
            raise RewardError(f"{folder} holds no mix of {', '.join(self.members)}: see its {_FILE}")
        self.scales = {name: replace(scale, **record[name]) for name, scale in self.scales.items()}
        for name, member in self._keeping():
            member.load(folder / _FOLDER / name)

    def _keeping(self) -> list[tuple[str, Kept]]:
        """The members that write something into an artifact."""
        return [(name, member) for name, member in self.members.items() if isinstance(member, Kept)]


def _there(values: Sequence[float]) -> list[float | None]:
    """A member's numbers, None for samples that it has none for."""
    return [_or_none(value, value) for value in values]


def _or_none(score: float, value: float) -> float | None:
    return None if math.isnan(score) else value


def _columns(members: Iterable[Reward]) -> dict[str, Any]:
    """The columns that any member reads, with an example where one gives it."""
    found: dict[str, Any] = {}
    for member in members:
        declared = getattr(member, "columns", ())
        examples = declared if isinstance(declared, Mapping) else dict.fromkeys(declared)
        found |= {name: found.get(name) if example is None else example for name, example in examples.items()}
    return dict(sorted(found.items()))


class TrainedMix:
    """A mix with something to find out before it scores: trained members, or a normalisation."""

    def __init__(self, config: MixConfig, mix: Mix) -> None:
        self._config = config
        self._mix = mix

    @property
    def columns(self) -> dict[str, Any]:
        """As the mix."""
        return self._mix.columns

    def fit(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Train the members that can be trained, one after the other, then measure the normalisation.

        Raises `DataError` if there is nothing to measure it on, `RewardError` for a member that scores all alike.
        """
        mix = self._mix
        require_texts(self._config.normalise.values(), inputs)
        step = train_members(mix.members, inputs, ctx)
        for name, member in mix.members.items():
            texts = self._config.normalise.get(name, Normalise.none)
            if texts is Normalise.none:
                continue
            mean, deviation = measure(name, member, texts, self._config.normalise_samples, inputs, ctx)
            mix.scales[name] = replace(mix.scales[name], gain=1 / deviation, bias=-mean / deviation)
            ctx.log({f"normalise/{name}/mean": mean, f"normalise/{name}/deviation": deviation}, step)

    async def score(self, samples: Sequence[Sample]) -> Scores:
        """As the mix."""
        return await self._mix.score(samples)

    def save(self, folder: Path) -> None:
        """As the mix."""
        self._mix.save(folder)

    def load(self, folder: Path) -> None:
        """As the mix."""
        self._mix.load(folder)


def build(config: MixConfig, context: BuildContext) -> Mix | TrainedMix:
    """The component's factory.

    Raises `PluginError` for a member that cannot score, `RewardError` for one that cannot be built.
    """
    members: dict[str, Reward] = {}
    for name, selected in config.chosen().items():
        try:
            member = context.build(selected)
        except AlignpipeError as error:
            raise RewardError(f"member {name} of the mix: {error}") from error
        if not isinstance(member, Reward):
            raise PluginError(
                f"member {name} of the mix: the factory of reward/{selected.name} built a {type(member).__name__}, "
                "which has no score(samples)"
            )
        members[name] = member
    mix = Mix(config, members)
    trained = any(isinstance(member, TrainableReward) for member in members.values())
    normalised = any(texts is not Normalise.none for texts in config.normalise.values())
    return TrainedMix(config, mix) if trained or normalised else mix
