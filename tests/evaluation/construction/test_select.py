"""Test which pairs are candidates, when a judge is wrong, the control sample, and mistakes on the command line."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from math import comb
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main, parse
from basereward.errors import DataError
from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.construction.candidates import CandidateOptions
from basereward.evaluation.construction.judges import JudgeOptions, open_judges
from basereward.evaluation.construction.publish import publish
from basereward.evaluation.construction.select import SelectionRule, select, verdict
from basereward.evaluation.construction.selected_rows import read_rows
from basereward.evaluation.construction.verify import PlanChanges, Verification
from tests.helpers.chat_servers import serving, words
from tests.helpers.construction import annotate_all, text_selection
from tests.helpers.support import picture, write_rows


def pair(name: str, chosen: str, rejected: str, **columns: Any) -> dict[str, Any]:
    """Return a row."""
    return {"id": name, "prompt": f"{name}?", "chosen": chosen, "rejected": rejected, **columns}


def decisions(folder: Path) -> dict[str, str]:
    """Return the decision about each candidate by its id."""
    lines = map(json.loads, (folder / "decisions.jsonl").read_text().splitlines())
    return {line["id"]: line["decision"] for line in lines}


def test_length_control_is_exclusive_and_counted(tmp_path: Path) -> None:
    """|l1 - l2| / min < 0.1: of 10, 10.9 and 11 percent longer ones only what is below 0.1 is judged. Ties and missing
    images are counted apart, and all rows are accounted for."""
    rows = [pair("nine", "a" * 100, "b" * 109), pair("ten", "a" * 100, "b" * 110), pair("less", "a" * 110, "b" * 100)]
    rows.append({"id": "tie", "prompt": "t?", "responses": ["a", "b"], "ranking": [0, 0]})
    rows.append(pair("gone", "a" * 10, "b" * 10, images=["no-such.png"]))
    write_rows(tmp_path / "pairs.jsonl", rows)
    options = CandidateOptions(length_control=0.1)
    result = select([str(tmp_path / "pairs.jsonl")], judges=["longer"], out=str(tmp_path / "out"), candidates=options)
    assert decisions(tmp_path / "out") == {"nine": "kept"}
    assert result["left_out"] == {"image_missing": 1, "length_control": 2, "tie": 1}
    assert result["read"] == len(rows) == result["candidates"] + sum(result["left_out"].values())


@pytest.mark.parametrize(
    ("votes", "majority", "unanimous"),
    [
        ("www", "wrong", "wrong"),
        ("wwr", "wrong", "undecided"),
        ("wwu", "wrong", "undecided"),
        ("wuu", "undecided", "undecided"),
        ("uuu", "undecided", "undecided"),
        ("wru", "undecided", "undecided"),
        ("rrw", "right", "right"),
        ("wwrr", "undecided", "undecided"),
    ],
)
def test_vote_that_cannot_be_read_is_never_wrong(votes: str, majority: str, unanimous: str) -> None:
    """A majority is more than half of all votes, those without a verdict included."""
    names = {"w": "wrong", "r": "right", "u": "unread"}
    given = [names[vote] for vote in votes]
    assert verdict(given, "majority").value == majority
    assert verdict(given, "unanimous").value == unanimous


def test_unanimous_judges_keep_fewer_pairs(tmp_path: Path) -> None:
    """A served judge is wrong on 3, 2, 1 or 0 of its votes, and one pair gets no verdict in one vote. By majority the
    first two and the last are kept, unanimously the first alone."""
    votes = {"three": "www", "two": "wwr", "one": "wrr", "zero": "rrr", "unread": "wwu"}
    write_rows(tmp_path / "pairs.jsonl", [pair(name, f"good {name}", f"bad {name}") for name in votes])
    asked: Counter[str] = Counter()

    def reply(body: dict[str, Any], number: int) -> str:
        text = words(body)
        name = next(name for name in votes if f"{name}?" in text)
        vote = votes[name][asked[name]]
        asked[name] += 1
        right = 1 if text.index(f"good {name}") < text.index(f"bad {name}") else 2
        return {"r": f"<answer>{right}</answer>", "w": f"<answer>{3 - right}</answer>", "u": "?"}[vote]

    with serving(reply) as server:
        judges = [f"judge@{server.url}"]
        for rule in ("majority", "unanimous"):
            # The same folder: the stored answers are used again, and no request is sent twice.
            select(
                [str(tmp_path / "pairs.jsonl")],
                judges=judges,
                out=str(tmp_path / "out"),
                rule=SelectionRule(wrong_by=rule),
                options=JudgeOptions(votes=3, concurrency=1),
            )
            kept = [name for name, decision in decisions(tmp_path / "out").items() if decision == "kept"]
            assert kept == (["three", "two", "unread"] if rule == "majority" else ["three"])
        assert len(server.asked) == 15


def test_control_sample_has_the_sources_of_the_kept_pairs(tmp_path: Path) -> None:
    """Two sources with 4 of 30 and 8 of 20 kept pairs: a sample of 6 has 2 and 4. It is drawn from all candidates by
    the seed, and its rows are marked."""
    for source, kept, total in (("one", 4, 30), ("two", 8, 20)):
        rows = [pair(f"{source}-{n}", "a", "bb" if n < kept else "") for n in range(total)]
        for number, row in enumerate(rows):
            row["rejected"] = "bb" if number < kept else "b"
            row["chosen"] = "a" if number < kept else "aa"
        write_rows(tmp_path / f"{source}.jsonl", rows)
    sources = [str(tmp_path / f"{source}.jsonl") for source in ("one", "two")]
    drawn = []
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        rule = SelectionRule(control=6, seed=seed)
        result = select(sources, judges=["longer"], out=str(tmp_path / out), rule=rule)
        assert result["by_source"] == {"one": {"candidates": 30, "kept": 4}, "two": {"candidates": 20, "kept": 8}}
        control = [row for row in read_rows(tmp_path / out) if row.control]
        assert Counter(row.source for row in control) == {"one": 2, "two": 4}
        drawn.append([row.id for row in control])
    assert drawn[0] == drawn[1] != drawn[2]
    kept_ids = {row.id for row in read_rows(tmp_path / "a") if row.selected}
    assert any(name not in kept_ids for name in drawn[0])


def test_preferred_response_is_first_in_half_of_the_rows(tmp_path: Path) -> None:
    """The stored order says nothing about the label: 100 +- 28 of 200, four standard deviations. Every label is that of
    the source."""
    rows = read_rows(text_selection(tmp_path, pairs=200))
    assert 72 <= sum(row.preferred == 0 for row in rows) <= 128
    assert {row.responses[row.preferred] for row in rows} == {"yes"}


def test_images_of_kept_rows_are_copied(tmp_path: Path) -> None:
    """A PNG is copied as it is, and a format that browsers do not show becomes PNG; images of other candidates are not
    kept."""
    picture(1).save(tmp_path / "one.png")
    picture(2).save(tmp_path / "two.tiff")
    picture(3).save(tmp_path / "three.png")
    rows = [pair("one", "a", "bb", images=["one.png"]), pair("two", "a", "bb", images=["two.tiff"])]
    write_rows(tmp_path / "pairs.jsonl", [*rows, pair("three", "aa", "b", images=["three.png"])])
    rule = SelectionRule(control=0)
    select([str(tmp_path / "pairs.jsonl")], judges=["longer"], out=str(tmp_path / "out"), rule=rule)
    one, two = read_rows(tmp_path / "out")
    assert (tmp_path / "out" / one.images[0]).read_bytes() == (tmp_path / "one.png").read_bytes()
    assert two.images[0].endswith(".png")
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2


def test_verified_control_sample_is_published_apart(tmp_path: Path) -> None:
    """With the control sample in the queue, its wrong labels are left out of it too. Rows that differ in number from
    those that were published are partial."""
    rows = [pair(f"row-{n}", "a" * (1 + n % 2), "bb"[: 2 - n % 2]) for n in range(40)]
    write_rows(tmp_path / "pairs.jsonl", rows)
    select([str(tmp_path / "pairs.jsonl")], judges=["longer"], out=str(tmp_path / "selection"))
    with Verification(tmp_path / "selection", PlanChanges(control=True, overlap=0.0)) as verification:
        control = [name for name, row in verification.rows.items() if row.control]
        truth = {name: "wrong" if name == control[0] else "right" for name in verification.rows}
        annotate_all(verification, {"ann": lambda name, label: (label, False, [])}, truth)
        assert verification.summary()["pairs"] == len(verification.rows) > 20
    result = publish(str(tmp_path / "selection"), out=str(tmp_path / "hard"))
    assert result["control"] == len(control) - 1
    benchmark = load_benchmark(str(tmp_path / "hard" / "hard-control.yaml"))
    assert (len(benchmark.items), benchmark.partial) == (len(control) - 1, None)
    lines = (tmp_path / "hard" / "hard.jsonl").read_text().splitlines()
    (tmp_path / "hard" / "hard.jsonl").write_text("\n".join(lines[1:]) + "\n")
    partial = load_benchmark(str(tmp_path / "hard" / "hard.yaml")).partial
    assert partial is not None
    assert f"{len(lines)} expected, {len(lines) - 1} found" in partial


def test_unverified_pairs_are_not_published(tmp_path: Path) -> None:
    """Publishing before all pairs are verified is an error; `allow_partial` leaves the others out and says so."""
    selection = text_selection(tmp_path, pairs=10)
    with Verification(selection, PlanChanges(overlap=0.0)) as verification:
        actions = verification.actions()
        person = {"annotator": "ann", "role": "annotator"}
        pair_id = actions["next"](person)["pair"]["id"]
        decision = {"item": pair_id, "label": "right", "ambiguous": False, "tags": [], "seconds": 1.0}
        actions["save"](person | decision)
    with pytest.raises(DataError, match="9 of 10"):
        publish(str(selection), out=str(tmp_path / "hard"))
    result = publish(str(selection), out=str(tmp_path / "hard"), allow_partial=True)
    assert (result["pairs"], result["left_out"]) == (1, 9)
    assert "9 selected pairs were not verified" in (tmp_path / "hard" / "README.md").read_text()


def test_changes_of_sources_may_stand_anywhere() -> None:
    """`KEY=VALUE` after the sources, after the judges or at the end changes a source."""
    words_given = ["select", "digits", "size=9", "--judges", "longer", "answers=3", "--out", "o", "side=16"]
    arguments = parse(words_given)
    assert (arguments.sources, arguments.judges) == (["digits"], ["longer"])
    assert sorted(arguments.overrides) == ["answers=3", "side=16", "size=9"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judges", "longer", "--votes", "16"], "1 to 15"),
        (["--judges", "longer", "--votes", "3", "--temperature", "0"], "--votes 1"),
        (["--judges", "longer", "--length-control", "0"], "--length-control"),
        (["--judges", "longer", "--wrong", "majorty"], "majority"),
        (["--judges", "longer", "longer"], "twice"),
        (["--judges", "first"], "first"),
        (["--judges", "no/such/model"], "no/such/model"),
        (["--judges", "size=3"], "judges"),
        (["--judges", "longer", "--control", "-1"], "--control"),
        (["--judges", "longer", "--split", "test"], "test"),
    ],
)
def test_mistakes_are_refused(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and the message names the option or the value."""
    write_rows(tmp_path / "pairs.jsonl", [pair("a", "yes", "no")])
    command = ["select", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out"), *arguments]
    assert main(command) == 2
    assert message in capsys.readouterr().err


def test_judge_whose_votes_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such a judge keeps no pair: a warning names it and the file of its texts, and `verify` says why there is none."""
    write_rows(tmp_path / "pairs.jsonl", [pair(f"{number}", "yes", "no") for number in range(5)])
    out = str(tmp_path / "out")
    with serving(lambda body, number: "perhaps") as server:
        judges = [f"one@{server.url}", "shorter"]
        assert main(["select", str(tmp_path / "pairs.jsonl"), "--judges", *judges, "--votes", "3", "--out", out]) == 0
    printed = capsys.readouterr()
    assert "none of its 15 votes could be read" in printed.err
    assert ".all.jsonl" in printed.err
    assert "basereward verify" not in printed.out
    assert main(["verify", out]) == 2
    assert "undecided" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["not-there"], "basereward select"),
        (["SELECTION", "--overlap", "2"], "--overlap"),
        (["SELECTION", "--raters", "1"], "--raters"),
        (["SELECTION", "--port", "70000"], "--port"),
        (["SELECTION", "--summary", "--publish", "out"], "--publish"),
        (["SELECTION", "--allow-partial"], "--publish"),
        (["SELECTION", "--summary", "--overlap", "0.5"], "--overlap"),
        (["SELECTION", "--publish", "out", "--with-control", "--tags", "a"], "--tags, --with-control"),
        (["SELECTION", "--publish", "SELECTION"], "SELECTION"),
        (["SELECTION", "--publish", "new"], "not verified"),
    ],
)
def test_mistakes_of_verification_are_refused(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and the message names what is wrong."""
    selection = str(text_selection(tmp_path, pairs=3))
    assert main(["verify", *(word.replace("SELECTION", selection) for word in arguments)]) == 2
    assert message.replace("SELECTION", selection) in capsys.readouterr().err


def test_commands_print_their_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Selection, summary and publication as text and as JSON have the same numbers."""
    monkeypatch.chdir(tmp_path)
    text_selection(tmp_path, pairs=6)
    command = ["select", "pairs.jsonl", "--judges", "longer", "--probe", "shorter", "--out", "selected"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "6 of 6 pairs are kept" in text
    assert "shorter: 100.00 % right on the kept pairs" in text
    with Verification(tmp_path / "selected", PlanChanges(overlap=0.5)) as verification:
        people = {name: lambda pair, label: (label, False, ["counting"]) for name in ("ann", "bob")}
        annotate_all(verification, people, dict.fromkeys(verification.rows, "right"))
    assert main(["verify", "selected", "--summary"]) == 0
    text = capsys.readouterr().out
    assert "6 of 6 pairs are verified, 6 of them are good" in text
    assert "counting 6" in text
    assert main(["verify", "selected", "--publish", "hard", "--json"]) == 0
    published = json.loads(capsys.readouterr().out)["published"]
    assert (published["pairs"], published["control"]) == (6, 6)
    assert (
        "3 of the pairs were annotated by several people (planned: 50%" in (tmp_path / "hard" / "README.md").read_text()
    )
    assert main(["eval", "shorter", "--benchmark", "hard/hard.yaml", "--json"]) == 0
    measure = json.loads(capsys.readouterr().out)["hard"]["by_tag"]["tag: counting"]
    assert (measure["numerator"], measure["denominator"]) == (6, 6)


def test_summary_beside_an_open_page_says_how_to_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The annotations are open in one process; the message of another one names `verify`, and no other path."""
    selection = text_selection(tmp_path, pairs=2)
    with Verification(selection):
        assert main(["verify", str(selection), "--summary"]) == 2
    printed = capsys.readouterr().err
    assert "end `basereward verify`, which serves it" in printed
    assert "another path" not in printed


def test_votes_of_a_judge_on_a_published_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A served judge gives five votes on each of 20 pairs of two sources, most of them right, and some without a
    verdict. The accuracies by number of votes, by source and by tag are those of its votes, and the report has them."""
    monkeypatch.chdir(tmp_path)
    for source in ("one", "two"):
        write_rows(tmp_path / f"{source}.jsonl", [pair(f"{source}-{n}", "yes", f"no, not {n}") for n in range(10)])
    select(["one.jsonl", "two.jsonl"], judges=["longer"], out="selection", rule=SelectionRule(control=0))
    with Verification(Path("selection"), PlanChanges(overlap=0.0)) as verification:
        tags = {name: ["counting"] if name < "two" else ["counting", "other"] for name in verification.rows}
        people = {"ann": lambda name, label: (label, False, tags[name])}
        annotate_all(verification, people, dict.fromkeys(verification.rows, "right"))
    publish("selection", out="hard")

    def reply(body: dict[str, Any], number: int) -> str:
        text = words(body)
        digest = hashlib.sha256(f"{text} {body['seed']}".encode()).digest()
        right = 1 if re.search(r"Answer 1: yes", text) else 2
        return "?" if digest[0] < 16 else f"<answer>{right if digest[0] < 180 else 3 - right}</answer>"

    with serving(reply) as server:
        command = ["eval", "--judge", "judge", "--endpoint", server.url, "--benchmark", "hard/hard.yaml", "--json"]
        assert main([*command, "--votes", "5", "--temperature", "1"]) == 0
    result = json.loads(capsys.readouterr().out)
    measures, folder = result["hard"], result["evaluations"][0]["out"]
    items = [json.loads(line) for line in (Path(folder) / "items.jsonl").read_text().splitlines()]
    right = [item["votes"].count(item["right"][0]) for item in items]
    assert sum(item["votes"].count(None) for item in items) > 0
    assert measures["over_votes"]["votes_1"]["value"] == pytest.approx(sum(right) / 100)
    assert measures["over_votes"]["votes_3"]["value"] == pytest.approx(
        sum(comb(n, 2) * (5 - n) + comb(n, 3) for n in right) / (20 * comb(5, 3))
    )
    assert measures["over_votes"]["votes_5"]["numerator"] == sum(n >= 3 for n in right)
    by_source = [sum(n >= 3 for n in right[start : start + 10]) for start in (0, 10)]
    assert [measures["pairs"][f"source: {name}"]["numerator"] for name in ("one", "two")] == by_source
    assert measures["over_votes"]["macro votes_5"]["value"] == pytest.approx(sum(by_source) / 20)
    assert measures["by_tag"]["tag: counting"]["denominator"] == 20
    assert measures["by_tag"]["tag: other"]["numerator"] == by_source[1]
    assert main(["report", folder, "--out", "page.html"]) == 0
    page = Path("page.html").read_text()
    assert "votes_3" in page
    assert "tag: other" in page


@pytest.mark.parametrize("text", ["", " "])
def test_empty_judge_is_not_the_current_folder(text: str) -> None:
    """An empty path would be the current folder, and its files the inputs of the selection."""
    with pytest.raises(DataError, match="a judge is an empty text"):
        open_judges(["longer", text], JudgeOptions())
