"""Test that a selection and its publication, killed by SIGKILL at any stage and called again, give the same files."""

from __future__ import annotations

import hashlib
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.errors import DataError
from basereward.evaluation.construction.judges import JudgeOptions
from basereward.evaluation.construction.publish import publish
from basereward.evaluation.construction.select import select
from basereward.evaluation.construction.verify import Verification
from tests.helpers.chat_servers import serving, words
from tests.helpers.construction import annotate_all, text_selection
from tests.helpers.forked_program import ForkedProgram
from tests.helpers.support import checkpoint, picture, write_rows

PACKAGE = "basereward.evaluation.construction"
KILLED = f"""
import json
kill_at(Moment(sys.argv[1], int(sys.argv[2])))
from {PACKAGE}.judges import JudgeOptions
from {PACKAGE}.publish import publish
from {PACKAGE}.select import select
if sys.argv[3] == "publish":
    publish(sys.argv[4], out=sys.argv[5])
else:
    asked = json.loads(sys.argv[6])
    options = JudgeOptions(**asked.pop("options"))
    select([sys.argv[4]], out=sys.argv[5], options=options, **asked)
"""
"""The arguments: the place and the number of the call at which the process kills itself, the stage, its input and its
output, and for `select` its other arguments as JSON."""


def killed(place: str, call: int, *arguments: object) -> int | None:
    """Run a stage in a process that kills itself at a call, and return its exit code."""
    program = ForkedProgram("tests.helpers.killed_process", KILLED, place, call, *arguments)
    program.stdin.write("\n")
    program.communicate()
    return program.returncode


def tree(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files below a folder, without answers of judges, which arrive in any order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "judges" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def vote(body: dict[str, Any], number: int) -> str:
    """Return a verdict that depends on the request and its seed alone; about one in eight cannot be read."""
    digest = hashlib.sha256(f"{words(body)} {body['model']} {body['seed']}".encode()).digest()
    return f"<answer>{1 + digest[0] % 2}</answer>" if digest[1] % 8 else "I cannot tell."


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str], Path]]:
    """Return rows with images in memory, two generative judges and a further one, and an undisturbed selection."""
    folder = tmp_path_factory.mktemp("kills")
    rows: list[dict[str, Any]] = []
    for number in range(24):
        picture(number % 9).save(folder / f"{number}.png")
        answers = {"chosen": f"yes {number}", "rejected": f"no {number}"}
        rows.append({"id": f"row-{number}", "prompt": f"Question {number}?", "images": [f"{number}.png"], **answers})
    write_rows(folder / "pairs.jsonl", rows)
    with serving(vote) as server:
        judges = [f"{name}@{server.url}" for name in ("one", "two", "three")]
        select(
            [str(folder / "pairs.jsonl")],
            judges=judges[:2],
            probe=judges[2],
            out=str(folder / "whole"),
            options=JudgeOptions(votes=3),
        )
        yield folder / "pairs.jsonl", judges, folder / "whole"


@pytest.mark.parametrize(
    ("place", "call"),
    [
        (f"{PACKAGE}.candidates:_Collected.add", 12),
        ("basereward.io.journal:Journal.append", 30),
        ("basereward.io.journal:Journal.append", 100),
        ("basereward.io.journal:Journal.append", 150),
        (f"{PACKAGE}.select:write_rows", 2),
        (f"{PACKAGE}.select:write_atomic", 1),
        (f"{PACKAGE}.pictures:PictureFolder.remove_others", 1),
    ],
)
def test_killed_selection_gives_the_same_files(
    inputs: tuple[Path, list[str], Path], tmp_path: Path, place: str, call: int
) -> None:
    """The process is killed while it reads, while each judge or the probe answers, and before files are written or
    removed. The next call gives the files of an undisturbed one, byte for byte."""
    source, judges, whole = inputs
    out = tmp_path / "selection"
    asked = {"judges": judges[:2], "probe": judges[2], "options": {"votes": 3}}
    assert killed(place, call, "select", source, out, json.dumps(asked)) == -signal.SIGKILL
    assert not (out / "selection.json").exists() or "remove_others" in place
    select([str(source)], judges=judges[:2], probe=judges[2], out=str(out), options=JudgeOptions(votes=3))
    assert tree(out) == tree(whole)


def answers_by_id(folder: Path) -> dict[str, str]:
    """Return the texts of the judges of a selection by their requests."""
    lines: list[str] = []
    for file in sorted((folder / "judges").glob("*.all.jsonl")):
        lines += file.read_text().splitlines()[1:]
    return {line["id"]: line["text"] for line in map(json.loads, lines)}


def test_killed_local_judge_gives_the_same_votes(tmp_path: Path) -> None:
    """A checkpoint votes three times on seven pairs at temperature 1, in batches of 16. It is killed after ten votes,
    so that the rest have other batches, and gives the votes of an undisturbed call."""
    rows = [{"id": f"{i}", "prompt": f"{i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(7)]
    source = write_rows(tmp_path / "pairs.jsonl", rows)
    judges = [f"{checkpoint('qwen3', tmp_path / 'model')}@local"]
    options: dict[str, Any] = {"votes": 3, "max_tokens": 4}
    whole, out = tmp_path / "whole", tmp_path / "killed"
    select([str(source)], judges=judges, out=str(whole), options=JudgeOptions(**options))
    expected = answers_by_id(whole)
    assert len(set(expected.values())) > 10
    asked = json.dumps({"judges": judges, "options": options})
    place = "basereward.io.journal:Journal.append"
    assert killed(place, 11, "select", source, out, asked) == -signal.SIGKILL
    assert 0 < len(answers_by_id(out)) < 21
    select([str(source)], judges=judges, out=str(out), options=JudgeOptions(**options))
    assert answers_by_id(out) == expected


def test_votes_are_counted_as_by_hand(inputs: tuple[Path, list[str], Path]) -> None:
    """Each judge is asked three times about each pair. A judge is wrong if two of its votes are; votes that cannot be
    read are neither. The kept pairs, the counts and the accuracies follow from the stored answers."""
    _, _, whole = inputs
    facts = json.loads((whole / "selection.json").read_text())
    decisions = [json.loads(line) for line in (whole / "decisions.jsonl").read_text().splitlines()]
    stored = {file.name: file.read_text().splitlines()[1:] for file in (whole / "judges").glob("*.all.jsonl")}
    assert [len(lines) for lines in stored.values()] == [72, 72]
    unread = sum("cannot tell" in line for lines in stored.values() for line in lines)
    votes = [vote for line in decisions for given in line["judges"].values() for vote in given]
    assert votes.count("unread") == unread == sum(judge["unread_votes"] for judge in facts["judges"]) > 0
    kept = [line["id"] for line in decisions if all(given.count("wrong") >= 2 for given in line["judges"].values())]
    assert [line["id"] for line in decisions if line["decision"] == "kept"] == kept
    assert facts["kept"] == len(kept) > 0
    for judge in facts["judges"]:
        right = [line["judges"][judge["name"]].count("right") for line in decisions]
        assert judge["accuracy"]["numerator"] == sum(number >= 2 for number in right)
        assert judge["accuracy_over_votes"]["votes_1"]["value"] == pytest.approx(sum(right) / 72)
        assert judge["accuracy_over_votes"]["votes_3"]["numerator"] == sum(number >= 2 for number in right)


def test_order_is_drawn_for_every_vote(inputs: tuple[Path, list[str], Path]) -> None:
    """The ids of the answers have the order in which the responses were shown. Among 72 votes each order has 36 +- 17,
    four standard deviations, and some pair is shown in both orders."""
    _, _, whole = inputs
    (file, _) = sorted((whole / "judges").glob("*.all.jsonl"))
    ids = [json.loads(line)["id"] for line in file.read_text().splitlines()[1:]]
    orders = [tuple(re.findall(r"^(\d+)/(\d)/", name)[0]) for name in ids]
    assert 19 <= sum(first == "0" for _, first in orders) <= 53
    assert len(set(orders)) > 24


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a selection that one person has verified."""
    folder = text_selection(tmp_path_factory.mktemp("verified"), pairs=12)
    with Verification(folder) as verification:
        people = {name: lambda pair, label: (label, False, ["other"]) for name in ("ann", "bob")}
        annotate_all(verification, people, dict.fromkeys(verification.rows, "right"))
    return folder


@pytest.mark.parametrize(
    ("place", "call"),
    [
        (f"{PACKAGE}.publish:write_rows", 3),
        (f"{PACKAGE}.publish:write_atomic", 4),
        (f"{PACKAGE}.publish:replace_folder", 1),
    ],
)
def test_killed_publication_gives_the_same_benchmark(verified: Path, tmp_path: Path, place: str, call: int) -> None:
    """The process is killed before a file or the last rename. Until then there is no folder; the next call gives that
    of an undisturbed one, and leaves nothing else."""
    publish(str(verified), out=str(tmp_path / "whole" / "hard"))
    out = tmp_path / "killed" / "hard"
    assert killed(place, call, "publish", verified, out) == -signal.SIGKILL
    assert not out.exists()
    publish(str(verified), out=str(out))
    assert tree(out) == tree(tmp_path / "whole" / "hard")
    assert [path.name for path in out.parent.iterdir()] == ["hard"]


def test_annotated_selection_is_not_replaced(verified: Path) -> None:
    """The same command again changes nothing, and another selection in the folder is an error."""
    command = ["select", str(verified.parent / "pairs.jsonl"), "--out", str(verified)]
    before = tree(verified)
    assert main([*command, "--judges", "longer"]) == 0
    assert tree(verified) == before
    assert main([*command, "--judges", "shorter"]) == 2
    assert tree(verified) == before


def test_folder_with_other_files_is_not_replaced(verified: Path, tmp_path: Path) -> None:
    """A benchmark replaces an older one, and nothing else."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"notes\.txt"):
        publish(str(verified), out=str(tmp_path / "mine"))
    publish(str(verified), out=str(tmp_path / "hard"))
    publish(str(verified), out=str(tmp_path / "hard"))
    with pytest.raises(DataError):
        publish(str(verified), out=str(verified))
