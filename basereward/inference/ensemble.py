"""Several reward models as one: each scores in its own way, and a rule makes one score of theirs.

An ensemble is a folder with `ensemble.json`: its members, by run or folder, and the rule. Members whose backbones are
the same, weight by weight, share it: one forward pass, and then every head.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.schema.group import Group
from basereward.errors import CheckpointError, DataError, ModelError, check_several
from basereward.inference.aggregation import MemberScores, Rule, read_rule
from basereward.inference.group_scores import ScoresGroups
from basereward.inference.scorer import Scorer, load_scorer
from basereward.io.files import json_text, write_atomic
from basereward.io.hashing import file_sha256
from basereward.io.limits import read_json_object
from basereward.io.outputs import check_replaceable, foreign_files, replace_folder
from basereward.model.saving.card import read_card
from basereward.model.saving.saved_model import PROMPT, foreign_model_files, load_head, saved_recipe

ENSEMBLE = "ensemble.json"
FORMAT = 1
WINDOW = 64  # groups that all members score before the next are read


@dataclass(frozen=True, slots=True)
class Member:
    """A member: how it is named, where it lies, and a hash of what it is."""

    name: str  # a run's id, a folder, or a folder inside the ensemble's own
    folder: Path
    digest: str


@dataclass(frozen=True, slots=True)
class JudgedGroup:
    """The scores of one group: `scores (K,)`, the spread among members `(K,)`, and each member's own `(M, K)`, NaN
    where it was not asked."""

    scores: list[float]
    spread: list[float]
    members: list[list[float]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A group as each backbone takes it; None where none of its members is asked."""

    images: bool
    responses: int
    groups: tuple[EncodedGroup | None, ...]


class Several(nn.Module):
    """Heads on one backbone."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, pooled: Tensor) -> Tensor:
        """Hidden states `(B, D)` to scores `(B, heads)`."""
        return torch.stack([head(pooled) for head in self.heads], dim=-1)


class Ensemble(ScoresGroups):
    """Members at work.

    Args:
        members: M.
        rule: for M members.
        device, dtype: as of `load_scorer`.

    Attributes:
        scorers: one for each different backbone.
        places: of every scorer, which members its heads are.

    Raises:
        ModelError: a member cannot be opened, or gives a score that is not finite; the message names it.
    """

    def __init__(
        self, members: Sequence[Member], rule: Rule, *, device: str | None = None, dtype: str | None = None
    ) -> None:
        self.members = list(members)
        self.rule = rule
        bundles: dict[str, list[int]] = {}
        for place, member in enumerate(members):
            bundles.setdefault(backbone_digest(member.folder), []).append(place)
        self.places = list(bundles.values())
        self.scorers = [self._open(places, device=device, dtype=dtype) for places in self.places]

    def _open(self, places: Sequence[int], *, device: str | None, dtype: str | None) -> Scorer:
        first, *others = (self.members[place] for place in places)
        scorer = load_scorer(first.folder, device=device, dtype=dtype)
        if others:
            size = scorer.model.backbone.hidden_size
            heads = [scorer.model.head, *(load_head(member.folder, hidden_size=size) for member in others)]
            scorer.model.head = Several(heads).float().eval().to(scorer.device)
        return scorer

    @property
    def device(self) -> torch.device:
        return self.scorers[0].device

    def encode(self, group: Group) -> Encoded:
        asked = set(self.rule.asked(images=bool(group.images)))
        found = []
        for scorer, places in zip(self.scorers, self.places, strict=True):
            try:
                found.append(scorer.encode(group) if asked & set(places) else None)
            except DataError as error:
                named = ", ".join(self.members[place].name for place in places)
                raise DataError(
                    f"{error} (member {named}). Members that read text alone are named by --text when it is made"
                ) from error
        return Encoded(bool(group.images), len(group.responses), tuple(found))

    def judge_groups(
        self, groups: Iterable[Group], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[JudgedGroup]:
        """Scores of every group, with the spread among members and each member's own."""
        check_several(groups, name="groups", of="groups")
        for some in self._judge(map(self.encode, groups), tokens=tokens, latencies=latencies):
            yield from some

    def score_encoded(
        self, groups: Iterable[Encoded], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[list[float]]]:
        for some in self._judge(groups, tokens=tokens, latencies=latencies):
            yield [judged.scores for judged in some]

    def _judge(
        self, groups: Iterable[Encoded], *, tokens: int | None, latencies: list[float] | None
    ) -> Iterator[list[JudgedGroup]]:
        waiting = iter(groups)
        while some := list(islice(waiting, WINDOW)):
            own = [np.full((len(self.members), each.responses), np.nan) for each in some]
            for index, (scorer, places) in enumerate(zip(self.scorers, self.places, strict=True)):
                mine = [(place, each.groups[index]) for place, each in enumerate(some)]
                asked = [(place, group) for place, group in mine if group is not None]
                scored = scorer.score_encoded((group for _, group in asked), tokens=tokens, latencies=latencies)
                for (place, _), found in zip(asked, chain.from_iterable(scored), strict=True):
                    own[place][places] = np.asarray(found).reshape(len(found), -1).T
            yield [self._judged(scores, each) for scores, each in zip(own, some, strict=True)]

    def _judged(self, scores: MemberScores, group: Encoded) -> JudgedGroup:
        for place in self.rule.asked(images=group.images):
            if not np.isfinite(scores[place]).all():
                name = next(part.id for part in group.groups if part is not None)
                raise ModelError(
                    f"member '{self.members[place].name}' scores '{name}' with a number that is NaN or infinite, and "
                    "so would the ensemble; make it without this member"
                )
        spread = self.rule.spread(scores, images=group.images)
        return JudgedGroup(self.rule.combine(scores, images=group.images).tolist(), spread.tolist(), scores.tolist())

    def save(self, folder: str | Path) -> None:
        """Writes a folder with a copy of every member. It appears whole or not at all, and replaces a saved ensemble.

        Raises:
            ModelError: the folder holds files of somebody else's, or is or holds the working folder or the home folder.
            CheckpointError: it cannot be written, on a full disk for example.
        """
        check_replaceable(folder, foreign=_foreign_ensemble_files, error=ModelError)
        target = Path(os.path.abspath(folder))
        names = [f"members/{place}" for place in range(len(self.members))]
        partial = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
        try:
            partial.mkdir(parents=True)
            for name, member in zip(names, self.members, strict=True):
                shutil.copytree(member.folder, partial / name)
            write_ensemble(partial, names=names, digests=[member.digest for member in self.members], rule=self.rule)
            replace_folder(partial, target)
        except (OSError, shutil.Error) as error:
            raise CheckpointError(f"the ensemble cannot be saved in '{target}': {error}. Make room.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _foreign_ensemble_files(folder: Path) -> list[str]:
    """The files in a folder that `Ensemble.save` does not write; all of them when the folder is no ensemble."""
    members = {each.name: each for each in (folder / "members").glob("*") if each.is_dir() and each.name.isdecimal()}
    foreign = [f"members/{name}/{file}" for name, each in members.items() for file in foreign_model_files(each)]

    def ours(name: str) -> bool:
        top, _, inner = name.partition("/")
        return is_ensemble(folder) and (name == ENSEMBLE or (top == "members" and inner.partition("/")[0] in members))

    return foreign + foreign_files(folder, ours)


def is_ensemble(folder: Path) -> bool:
    """Whether a folder is an ensemble's."""
    return (folder / ENSEMBLE).is_file()


def write_ensemble(folder: Path, *, names: Sequence[str], digests: Sequence[str], rule: Rule) -> None:
    """Writes `ensemble.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    members = [{"name": name, "digest": digest} for name, digest in zip(names, digests, strict=True)]
    told = {"format": FORMAT, "members": members, "rule": rule.as_dict()}
    write_atomic(folder / ENSEMBLE, json_text(told, indent=2) + "\n")


def load_ensemble(
    folder: Path, *, find: Callable[[str], Path], device: str | None = None, dtype: str | None = None
) -> Ensemble:
    """Opens an ensemble.

    Args:
        find: the folder of a model that is named.

    Raises:
        ModelError: the file is damaged, or a member is missing or not the one that the ensemble was made of.
    """
    try:
        told = read_json_object(folder / ENSEMBLE, error=ModelError)
        named = [(str(member["name"]), str(member["digest"])) for member in told["members"]]
        rule = read_rule(told["rule"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(f"'{folder / ENSEMBLE}' cannot be read: {error}") from error
    if told.get("format") != FORMAT:
        raise ModelError(
            f"'{folder}' has format {told.get('format')}; this version reads {FORMAT}. Update the package."
        )
    return Ensemble([_member(folder, *each, find=find) for each in named], rule, device=device, dtype=dtype)


def _member(folder: Path, name: str, digest: str, *, find: Callable[[str], Path]) -> Member:
    inside = folder / name
    try:
        place = inside if inside.is_dir() else find(name)
    except (ModelError, LookupError) as error:
        raise ModelError(f"member '{name}' of the ensemble in '{folder}' is gone: {error}") from error
    if model_digest(place) != digest:
        raise ModelError(
            f"member '{name}' of the ensemble in '{folder}' has changed since the ensemble was made. Make it anew"
        )
    return Member(name, place, digest)


def find_member(name: str, folder: Path) -> Member:
    """A model as a member.

    Raises:
        ModelError: the folder is not a saved model.
    """
    if is_ensemble(folder):
        raise ModelError(f"'{name}' is an ensemble itself; give its members")
    read_card(folder)
    return Member(name, folder, model_digest(folder))


def model_digest(folder: Path) -> str:
    """Of everything in a saved model's folder."""
    return _digest(folder, [each for each in sorted(folder.rglob("*")) if each.is_file()])


def backbone_digest(folder: Path) -> str:
    """Equal for two models iff one forward pass of the backbone does for both."""
    card, recipe = read_card(folder), saved_recipe(folder)
    if (folder / PROMPT).is_file():
        return model_digest(folder)  # what it writes changes what its backbone reads
    own = [each for name in ("backbone", "adapter") for each in sorted((folder / name).rglob("*")) if each.is_file()]
    way = (recipe.model.pooling, recipe.data.encoding, recipe.batch.layout, recipe.trainer.precision)
    hashes = sorted((card.get("identity") or {}).get("hashes", {}).items())
    known = repr((card["kind"], card["backbone"], *way, *([hashes] if hashes else [])))
    return hashlib.sha256(f"{known}{_digest(folder, own)}".encode()).hexdigest()


def _digest(folder: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder)}\0".encode())
        digest.update(bytes.fromhex(file_sha256(file)))
    return digest.hexdigest()
