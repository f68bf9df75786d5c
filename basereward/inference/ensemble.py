"""Several reward models as one: a rule combines the members' scores.

An ensemble is a folder with `ensemble.json`, which has the rule and the members, by run or folder. Members with equal
backbones, weight by weight, share one: a single forward pass, and then every head.
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
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.schema.group import Group
from basereward.data.schema.image_references import ImageReference
from basereward.errors import CheckpointError, DataError, ModelError, check_several, sentence
from basereward.inference.aggregation import MemberScores, Rule, read_rule
from basereward.inference.export.ensemble_card import ensemble_card
from basereward.inference.group_scores import ChatPrompt
from basereward.inference.prompt_cache import PromptScorer
from basereward.inference.reward_scorer import RewardScorer
from basereward.inference.scorer import Scorer, load_scorer
from basereward.io.files import files_below, json_text, write_atomic
from basereward.io.hashing import file_sha256
from basereward.io.limits import check_format, read_json_object
from basereward.io.outputs import check_replaceable, foreign_files, replace_folder
from basereward.model.saving.card import read_card
from basereward.model.saving.saved_model import (
    MODEL_CARD,
    PROMPT,
    foreign_model_files,
    is_own_card,
    load_head,
    saved_recipe,
)

ENSEMBLE = "ensemble.json"
FORMAT = 1
# Groups that all members score before the next groups are encoded. It limits the encoded images in memory.
WINDOW = 64


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an ensemble.

    Attributes:
        name: a run id, a folder, or a folder inside the ensemble's own.
        folder: of the saved model.
        digest: hash of all files of the folder.

    >>> Member("run-1", Path("runs/run-1/model"), digest="0" * 64).name
    'run-1'
    """

    name: str
    folder: Path
    digest: str


@dataclass(frozen=True, slots=True)
class JudgedGroup:
    """The scores of one group.

    Attributes:
        scores: K combined scores.
        spread: K standard deviations over active members.
        members: `(M, K)`, scores of each member; NaN for members that are not active.

    >>> JudgedGroup(scores=[1.0], spread=[0.5], members=[[0.5], [1.5]]).spread
    [0.5]
    """

    scores: list[float]
    spread: list[float]
    members: list[list[float]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A group, encoded for each backbone.

    Attributes:
        images: whether the prompt has images.
        responses: K.
        groups: for each scorer; None if none of its members is active.

    >>> Encoded(images=False, responses=2, groups=(None,)).responses
    2
    """

    images: bool
    responses: int
    groups: tuple[EncodedGroup | None, ...]


class SharedBackboneHeads(nn.Module):
    """Several heads on one backbone.

    Args:
        heads: each maps hidden states `(B, D)` to scores `(B,)`.

    >>> SharedBackboneHeads([nn.Flatten(0), nn.Flatten(0)])(torch.ones(3, 1)).shape
    torch.Size([3, 2])
    """

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, pooled: Tensor) -> Tensor:
        """Hidden states `(B, D)` to scores `(B, heads)`."""
        return torch.stack([head(pooled) for head in self.heads], dim=-1)


class Ensemble(RewardScorer):
    """Opened members, ready to score.

    Args:
        members: M members.
        rule: for M members.
        device, dtype: as in `load_scorer`.

    Attributes:
        scorers: one for each different backbone.
        member_indices: for each scorer the members whose heads it has, in the order of the heads.

    Raises:
        ModelError: a member cannot be opened; the message names it.
    """

    def __init__(
        self, members: Sequence[Member], rule: Rule, *, device: str | None = None, dtype: str | None = None
    ) -> None:
        self.members = list(members)
        self.rule = rule
        # Those of the members are in the rule, where it needs them.
        self.scores: dict[str, float] = {}
        by_backbone: dict[str, list[int]] = {}
        for index, member in enumerate(members):
            by_backbone.setdefault(backbone_digest(member.folder), []).append(index)
        self.member_indices = list(by_backbone.values())
        self.scorers = [self._open(indices, device=device, dtype=dtype) for indices in self.member_indices]

    def _open(self, indices: Sequence[int], *, device: str | None, dtype: str | None) -> Scorer:
        """One scorer for members with equal backbones."""
        first, *others = (self.members[index] for index in indices)
        scorer = load_scorer(first.folder, device=device, dtype=dtype)
        if others:
            # Only the heads of the other members are loaded; their backbones are equal, weight by weight.
            size = scorer.model.backbone.hidden_size
            heads = [scorer.model.head, *(load_head(member.folder, hidden_size=size) for member in others)]
            scorer.model.head = SharedBackboneHeads(heads).float().eval().to(scorer.device)
        return scorer

    @property
    def device(self) -> torch.device:
        """The device of all members."""
        return self.scorers[0].device

    def to(self, device: str | torch.device) -> Self:
        """As the base, for all members."""
        for scorer in self.scorers:
            scorer.to(device)
        return self

    def prompt(
        self, prompt: ChatPrompt, *, images: Sequence[ImageReference] = (), videos: Sequence[Any] = ()
    ) -> PromptScorer:
        """Not possible for an ensemble.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            "an ensemble keeps no prompt for later responses; call score() with all responses at once, or prompt() of "
            "a single member"
        )

    def encode(self, group: Group) -> Encoded:
        """Encodes a group for every backbone that has an active member.

        Raises:
            DataError: a member cannot score the group; the message names both.
        """
        # A backbone without an active member may not be able to encode the group, such as a text-only one for images.
        active = set(self.rule.active_members(images=bool(group.images)))
        groups: list[EncodedGroup | None] = []
        for scorer, indices in zip(self.scorers, self.member_indices, strict=True):
            try:
                groups.append(scorer.encode(group) if active & set(indices) else None)
            except DataError as error:
                named = ", ".join(self.members[index].name for index in indices)
                raise DataError(
                    f"{error} (member {named}). Create the ensemble with --text to name the members for text prompts"
                ) from error
        return Encoded(bool(group.images), len(group.responses), tuple(groups))

    def judge_groups(
        self, groups: Iterable[Group], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[JudgedGroup]:
        """Scores every group; the results include the spread over members and each member's scores.

        Args and errors are those of `score_groups`.
        """
        check_several(groups, name="groups", of="groups")
        for judged_groups in self._judge(map(self.encode, groups), tokens=tokens, latencies=latencies):
            yield from judged_groups

    def score_encoded(
        self, groups: Iterable[Encoded], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[list[float]]]:
        """As `score_groups`, for encoded groups; yields the scores of up to `WINDOW` groups at a time."""
        for judged_groups in self._judge(groups, tokens=tokens, latencies=latencies):
            yield [judged.scores for judged in judged_groups]

    def _judge(
        self, groups: Iterable[Encoded], *, tokens: int | None, latencies: list[float] | None
    ) -> Iterator[list[JudgedGroup]]:
        """Scores encoded groups with every member; yields up to `WINDOW` groups at a time."""
        remaining = iter(groups)
        while window := list(islice(remaining, WINDOW)):
            # NaN marks members that do not score a group.
            scores_of_groups = [np.full((len(self.members), group.responses), np.nan) for group in window]
            for index in range(len(self.scorers)):
                self._add_scores(scores_of_groups, window, index=index, tokens=tokens, latencies=latencies)
            yield [self._combined(scores, group) for scores, group in zip(scores_of_groups, window, strict=True)]

    def _add_scores(
        self,
        scores_of_groups: Sequence[MemberScores],
        window: Sequence[Encoded],
        *,
        index: int,
        tokens: int | None,
        latencies: list[float] | None,
    ) -> None:
        """Writes the scores of one scorer's members into `scores_of_groups`.

        Args:
            scores_of_groups: `(M, K)` for each group.
            window: the groups.
            index: of the scorer.
            tokens, latencies: as in `score_groups`.
        """
        encoded: list[tuple[MemberScores, EncodedGroup]] = []
        for scores, group in zip(scores_of_groups, window, strict=True):
            own = group.groups[index]
            if own is not None:
                encoded.append((scores, own))
        batches = self.scorers[index].score_encoded((own for _, own in encoded), tokens=tokens, latencies=latencies)
        for (scores, _), of_heads in zip(encoded, chain.from_iterable(batches), strict=True):
            # A scorer with several heads gives one list of scores for each response.
            scores[self.member_indices[index]] = np.asarray(of_heads).reshape(len(of_heads), -1).T

    def _combined(self, scores: MemberScores, group: Encoded) -> JudgedGroup:
        """Applies the rule to the members' scores `(M, K)`.

        Raises:
            ModelError: an active member's score is NaN or infinite.
        """
        for index in self.rule.active_members(images=group.images):
            if not np.isfinite(scores[index]).all():
                name = next(encoded.id for encoded in group.groups if encoded is not None)
                raise ModelError(
                    f"member '{self.members[index].name}' gives '{name}' a score that is NaN or infinite. Create the "
                    "ensemble without this member"
                )
        spread = self.rule.spread(scores, images=group.images)
        return JudgedGroup(self.rule.combine(scores, images=group.images).tolist(), spread.tolist(), scores.tolist())

    def save(self, folder: str | Path) -> None:
        """Writes a folder with a copy of every member, atomically; it replaces a saved ensemble.

        Args:
            folder: where to write; a folder with anything but a saved ensemble is rejected and not changed.

        Raises:
            ModelError: the folder has files that `save` does not write, or is or contains the working folder or the
                home folder.
            CheckpointError: the folder cannot be written, for example because the disk is full.
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
            raise CheckpointError(
                f"the ensemble cannot be saved in '{target}': {sentence(error)} Free disk space, and save it again."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def model_card(self) -> str:
        """As the base."""
        recipes = [saved_recipe(member.folder) for member in self.members]
        images = any(scorer.model.backbone.reads_images for scorer in self.scorers)
        return ensemble_card(recipes, self.rule, images=images)

    def backbone_folders(self) -> list[str]:
        """As the base; members are saved as they are."""
        folders: list[str] = []
        for member in self.members:
            card = read_card(member.folder)
            path = card["backbone"]["path"]
            if card["kind"] != "full" and os.path.isdir(path):
                folders.append(path)
        return folders


def _foreign_ensemble_files(folder: Path) -> list[str]:
    """The files in a folder that `Ensemble.save` does not write; all files if the folder is not an ensemble."""
    members: dict[str, Path] = {}
    foreign: list[str] = []
    for path in (folder / "members").glob("*"):
        if path.is_dir() and path.name.isdecimal():
            members[path.name] = path
            foreign += [f"members/{path.name}/{file}" for file in foreign_model_files(path)]

    def is_own(name: str) -> bool:
        top, _, inner = name.partition("/")
        own = name == ENSEMBLE or (name == MODEL_CARD and is_own_card(folder))
        return is_ensemble(folder) and (own or (top == "members" and inner.partition("/")[0] in members))

    return foreign + foreign_files(folder, is_own)


def is_ensemble(folder: Path) -> bool:
    """Whether a folder is a saved ensemble.

    >>> is_ensemble(Path("no folder"))
    False
    """
    return (folder / ENSEMBLE).is_file()


def write_ensemble(folder: Path, *, names: Sequence[str], digests: Sequence[str], rule: Rule) -> None:
    """Writes `ensemble.json`.

    Args:
        folder: of the ensemble; it is created if it does not exist.
        names: of the members: run ids, folders, or folders inside of `folder`.
        digests: of the members, by `model_digest`.
        rule: how the scores are combined.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_ensemble(folder, names=["run-1"], digests=["0" * 64], rule=Rule())
    >>> is_ensemble(folder)
    True
    """
    folder.mkdir(parents=True, exist_ok=True)
    members = [{"name": name, "digest": digest} for name, digest in zip(names, digests, strict=True)]
    content = {"format": FORMAT, "members": members, "rule": rule.as_dict()}
    write_atomic(folder / ENSEMBLE, json_text(content, indent=2) + "\n")


def load_ensemble(
    folder: Path, *, find: Callable[[str], Path], device: str | None = None, dtype: str | None = None
) -> Ensemble:
    """Opens an ensemble.

    Args:
        folder: with `ensemble.json`.
        find: returns the folder of a model by its name; raises `ModelError` or `LookupError`.
        device, dtype: as in `load_scorer`.

    Raises:
        ModelError: the file is damaged, or a member is missing or has changed since the ensemble was created.

    >>> load_ensemble(Path("no folder"), find=Path)
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: ...ensemble.json...
    """
    named, rule = _read_ensemble(folder)
    members = [_member(folder, name, digest, find=find) for name, digest in named]
    return Ensemble(members, rule, device=device, dtype=dtype)


def member_folders(folder: Path, *, find: Callable[[str], Path]) -> list[Path]:
    """The folders of the members of an ensemble, in order.

    Args:
        folder: with `ensemble.json`.
        find: as in `load_ensemble`.

    Raises:
        ModelError: the file is damaged, or a member is missing.

    >>> member_folders(Path("no folder"), find=Path)
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: ...ensemble.json...
    """
    named, _ = _read_ensemble(folder)
    return [_member_folder(folder, name, find=find) for name, _ in named]


def _read_ensemble(folder: Path) -> tuple[list[tuple[str, str]], Rule]:
    """The names and digests of the members, and the rule.

    Raises:
        ModelError: the file is damaged.
    """
    content = read_json_object(folder / ENSEMBLE, error=ModelError)
    # First: a later format may have other keys.
    check_format(content, newest=FORMAT, where=f"'{folder / ENSEMBLE}'", error=ModelError)
    try:
        named = [(str(member["name"]), str(member["digest"])) for member in content["members"]]
        rule = read_rule(content["rule"])
    except (ValueError, LookupError, TypeError) as error:
        raise ModelError(f"'{folder / ENSEMBLE}' cannot be read: {error}") from error
    return named, rule


def _member(folder: Path, name: str, digest: str, *, find: Callable[[str], Path]) -> Member:
    """Finds a member, inside of the ensemble's folder or by its name.

    Raises:
        ModelError: the member is missing or has changed.
    """
    member_folder = _member_folder(folder, name, find=find)
    if model_digest(member_folder) != digest:
        raise ModelError(
            f"member '{name}' of the ensemble in '{folder}' has changed since the ensemble was created. Create the "
            "ensemble again"
        )
    return Member(name, member_folder, digest)


def _member_folder(folder: Path, name: str, *, find: Callable[[str], Path]) -> Path:
    """
    Raises:
        ModelError: the member is missing.
    """
    # The folder of the ensemble comes first, so that a copied ensemble opens without the runs of its members.
    inside = folder / name
    try:
        return inside if inside.is_dir() else find(name)
    except (ModelError, LookupError) as error:
        raise ModelError(f"member '{name}' of the ensemble in '{folder}' is missing: {error}") from error


def find_member(name: str, folder: Path) -> Member:
    """A saved model as a member.

    Args:
        name: a run id or a folder.
        folder: of the saved model.

    Raises:
        ModelError: the folder is not a saved model.

    >>> find_member("run-1", Path("no folder"))
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: 'no folder' is not a saved reward model...
    """
    if is_ensemble(folder):
        raise ModelError(f"'{name}' is an ensemble; give its members instead")
    read_card(folder)
    return Member(name, folder, model_digest(folder))


def model_digest(folder: Path) -> str:
    """A hash of all files of a saved model.

    >>> import tempfile
    >>> model_digest(Path(tempfile.mkdtemp())) == hashlib.sha256(b"").hexdigest()  # no files
    True
    """
    return _digest(folder, files_below(folder))


def backbone_digest(folder: Path) -> str:
    """A hash that two models share if and only if one forward pass of the backbone serves both."""
    card, recipe = read_card(folder), saved_recipe(folder)
    if (folder / PROMPT).is_file():
        # A generative head: the text that it generates changes the input of the backbone.
        return model_digest(folder)
    files: list[Path] = []
    for name in ("backbone", "adapter"):
        files += files_below(folder / name) if (folder / name).is_dir() else []
    settings = (recipe.model.pooling, recipe.data.encoding, recipe.batch.layout, recipe.trainer.precision)
    hashes = sorted((card.get("identity") or {}).get("hashes", {}).items())
    # Cards of earlier versions have no hashes, and their digests must stay as they were.
    known = repr((card["kind"], card["backbone"], *settings, *([hashes] if hashes else [])))
    return hashlib.sha256(f"{known}{_digest(folder, files)}".encode()).hexdigest()


def _digest(folder: Path, files: Iterable[Path]) -> str:
    """A hash of the names and the contents of files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder)}\0".encode())
        digest.update(bytes.fromhex(file_sha256(file)))
    return digest.hexdigest()
