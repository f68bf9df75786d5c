"""Rows become groups in every form that they come in; what does not fit is said, with its place and the way out."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from basereward.data.group import IMAGE, Group, Part, Preference, Turn
from basereward.data.rows import RowFormat, find_blank
from basereward.errors import DataError

TEXT = Turn("user", (Part("Q"),))


def _parse(row: dict[str, Any], **arguments: Any) -> Group:
    form = RowFormat(**({"images_root": "/data"} | arguments))
    return form.group(row, source="s", row_id="f:1", where="f.jsonl:1")


def _user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def _assistant(content: object) -> dict[str, object]:
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Be brief."}
PLACE = {"type": "image"}


def _say(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"prompt": "Q", "chosen": "yes", "rejected": "no"}, id="strings"),
        pytest.param({"prompt": [_user("Q")], "chosen": "yes", "rejected": "no"}, id="prompt of messages"),
        pytest.param(
            {"prompt": [_user("Q")], "chosen": [_assistant("yes")], "rejected": [_assistant("no")]}, id="explicit"
        ),
        pytest.param(
            {"chosen": [_user("Q"), _assistant("yes")], "rejected": [_user("Q"), _assistant("no")]}, id="implicit"
        ),
        pytest.param(
            {"prompt": "Q", "chosen": [_user("Q"), _assistant("yes")], "rejected": [_user("Q"), _assistant("no")]},
            id="prompt given twice",
        ),
        pytest.param(
            {"prompt": [_user([_say("Q")])], "chosen": [_assistant([_say("y"), _say("es")])], "rejected": "no"},
            id="parts",
        ),
        pytest.param(
            {"prompt": [_user([{"type": "text", "text": "Q", "image": None}])], "chosen": "yes", "rejected": "no",
             "images": None, "margin": None, "ranking": None, "id": None, "source": "other"},
            id="nulls as Parquet has them",
        ),
        pytest.param({"prompt": "Q", "chosen": "yes", "rejected": "no", "images": []}, id="no images"),
        pytest.param({"prompt": "Q", "responses": ["yes", "no"], "ranking": [0, 1]}, id="ranking"),
        pytest.param({"prompt": "Q", "responses": ["yes", "no"], "preferences": [[0, 1]]}, id="preferences"),
        pytest.param(
            {"prompt": "Q", "responses": [[_assistant("yes")], "no"], "preferences": [[0, 1]]}, id="mixed"
        ),
    ],
)  # fmt: skip
def test_all_text_forms_mean_the_same(row: dict[str, Any]) -> None:
    """TRL's explicit and implicit prompts, strings and message lists, and the general form."""
    assert _parse(row) == Group("f:1", "s", (TEXT,), ("yes", "no"), (Preference(0, 1),), ())


def test_several_turns_and_a_system_turn_keep_their_order() -> None:
    """The last assistant turn is the response; the earlier ones are prompt."""
    turns = [SYSTEM, _user("Q1"), _assistant("A1"), _user("Q2")]
    expected = (
        Turn("system", (Part("Be brief."),)), Turn("user", (Part("Q1"),)),
        Turn("assistant", (Part("A1"),)), Turn("user", (Part("Q2"),)),
    )  # fmt: skip
    explicit = _parse({"prompt": turns, "chosen": "a", "rejected": "b"})
    implicit = _parse({"chosen": [*turns, _assistant("a")], "rejected": [*turns, _assistant("b")]})
    with_last = _parse({"prompt": "Q2", "chosen": [*turns, _assistant("a")], "rejected": [*turns, _assistant("b")]})
    assert explicit.prompt == implicit.prompt == with_last.prompt == expected
    assert implicit.responses == ("a", "b")


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("Q", (IMAGE, IMAGE, Part("Q"))),
        ("<image>A<image>B", (IMAGE, Part("A"), IMAGE, Part("B"))),
        ([_user([PLACE, _say("A"), PLACE])], (IMAGE, Part("A"), IMAGE)),
        ([_user([_say("A"), _say("B")])], (IMAGE, IMAGE, Part("A"), Part("B"))),
        ([_user([_say("<image>A"), _say("B<image>")])], (IMAGE, Part("A"), Part("B"), IMAGE)),
        ([_user([PLACE, PLACE, _say("a literal <image>")])], (IMAGE, IMAGE, Part("a literal <image>"))),
    ],
)
def test_each_image_finds_its_place(prompt: object, parts: tuple[Part, ...]) -> None:
    """Marked in strings, by parts, or not at all: then at the start of the first user turn."""
    group = _parse({"prompt": prompt, "chosen": "a", "rejected": "b", "images": ["x.png", "/y.png"]})
    assert group.prompt == (Turn("user", parts),)
    assert group.images == (Path("/data/x.png"), Path("/y.png"))


def test_images_without_places_go_to_the_first_user_turn_after_the_system_turn() -> None:
    """Not to the system turn, nor to the last."""
    turns = [SYSTEM, _user("Q1"), _assistant("A1"), _user("Q2")]
    group = _parse({"prompt": turns, "chosen": "a", "rejected": "b", "images": ["x.png"]})
    assert [[part.is_image for part in turn.parts] for turn in group.prompt] == [
        [False],
        [True, False],
        [False],
        [False],
    ]


def test_images_of_several_turns_keep_their_order() -> None:
    """Carried by the parts themselves, or in the column: the first place is the first image."""
    carried = [_user([{"type": "image", "image": "1.png"}, _say("A")]), _assistant("B"),
               _user([_say("C"), {"type": "image", "image": "2.png"}])]  # fmt: skip
    placed = [_user([PLACE, _say("A")]), _assistant("B"), _user([_say("C"), PLACE])]
    one = _parse({"prompt": carried, "chosen": "a", "rejected": "b"})
    other = _parse({"prompt": placed, "chosen": "a", "rejected": "b", "images": ["1.png", "2.png"]})
    assert one == other
    assert one.images == (Path("/data/1.png"), Path("/data/2.png"))


def test_without_images_the_mark_is_text() -> None:
    """A question about the SVG element <image> is a question."""
    assert _parse({"prompt": "What is <image>?", "chosen": "a", "rejected": "b"}).prompt[0].parts == (
        Part("What is <image>?"),
    )


def test_an_image_may_be_bytes_a_data_uri_or_a_struct() -> None:
    """And a PIL image; the column may be called `image` and hold one."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (1, 1)).save(file, "PNG")
    content = file.getvalue()
    text = base64.b64encode(content).decode()
    for image in (content, {"bytes": content, "path": "x.png"}, f"data:image/png;base64,{text}", {"bytes": text}):
        for column in ({"images": [image]}, {"image": image}, {"images": image}):
            assert _parse({"prompt": "Q", "chosen": "a", "rejected": "b", **column}).images == (content,)
    assert _parse(
        {"prompt": "Q", "chosen": "a", "rejected": "b", "image": {"bytes": None, "path": "x.png"}}
    ).images == (Path("/data/x.png"),)
    picture = PIL.Image.new("RGB", (1, 1))
    assert _parse({"prompt": "Q", "chosen": "a", "rejected": "b", "images": [picture]}).images == (picture,)


def test_a_null_image_is_an_image_that_cannot_be_opened() -> None:
    """So that the row is counted as lost, and the prompt does not silently lose its image."""
    assert _parse({"prompt": "Q", "chosen": "a", "rejected": "b", "images": [None]}).images == (b"",)


def test_ranks_and_margins() -> None:
    """Lower ranks win, equal ranks tie; margins stand beside their pairs."""
    ranked = _parse({"prompt": "Q", "responses": ["a", "b", "c"], "ranking": [1, 0, 1]}).preferences
    assert ranked == (Preference(1, 0), Preference(0, 2, tie=True), Preference(1, 2))
    paired = _parse(
        {"prompt": "Q", "responses": ["a", "b", "c"], "preferences": [[2, 0], [0, 1]], "margins": [1.5, None]}
    )
    assert paired.preferences == (Preference(2, 0, margin=1.5), Preference(0, 1))
    assert _parse({"prompt": "Q", "chosen": "a", "rejected": "b", "margin": 2}).preferences == (
        Preference(0, 1, margin=2.0),
    )


def test_columns_are_renamed() -> None:
    """`columns` says where ours come from; a column of our own name that is not meant is left alone."""
    row = {"query": "Q", "answers": ["a", "b"], "human": [1, 0], "prompt": "not this", "picture": "x.png", "key": 7}
    columns = {"prompt": "query", "responses": "answers", "ranking": "human", "images": "picture", "id": "key"}
    group = _parse(row, columns=columns)
    assert group.id == "7"
    assert group.prompt[0].parts == (IMAGE, Part("Q"))
    assert group.preferences == (Preference(1, 0),)
    with pytest.raises(DataError, match="unknown column 'chosn'; did you mean 'chosen'"):
        RowFormat(columns={"chosn": "good"})


def test_for_scoring_one_response_will_do_and_no_preference() -> None:
    """Where training would refuse the row; blank responses are found, but are no fault."""
    group = _parse({"prompt": "Q", "responses": [" \n"]}, for_training=False)
    assert (group.responses, group.preferences) == ((" \n",), ())
    assert find_blank(group) == "response 0 of 1 is blank"
    assert find_blank(_parse({"prompt": "Q", "chosen": "a", "rejected": "b"})) is None


PAIR = {"chosen": "a", "rejected": "b"}
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "Q", "chosen": "a"}, "missing or null: 'rejected'. Columns found: prompt, chosen."),
    ({"prompt": "Q", "chosen": "a", "rejected": None}, "missing or null: 'rejected'"),
    ({"prompt": "Q", "chosen": "a", "reject": "b"}, "'reject' looks like it: columns: {rejected: reject}"),
    ({"prompt": "Q", "good": "a"},
     "missing or null: 'chosen' and 'rejected', or `responses`. Columns found: prompt, good."),
    ({}, "Columns found: none."),
    (PAIR, "there is no prompt"),
    ({"prompt": [], **PAIR}, "there is no prompt"),
    ({"prompt": " ", **PAIR}, "the prompt is empty"),
    ({"prompt": 3, **PAIR}, "`prompt` is 3 (int); a string or a list of messages is needed"),
    ({"prompt": ["Q"], **PAIR}, "`prompt[0]` is 'Q' (str); a message is"),
    ({"prompt": [{"from": "human", "value": "Q"}], **PAIR}, "`prompt[0]` is {'from': 'human', 'value': 'Q'} (dict)"),
    ({"prompt": [{"role": "human", "content": "Q"}], **PAIR},
     "`prompt[0]`: unknown role 'human'. Allowed: assistant, system, user."),
    ({"prompt": [{"role": "usr", "content": "Q"}], **PAIR}, "did you mean 'user'"),
    ({"prompt": [_user(None)], **PAIR}, "`prompt[0]`: content is None (NoneType)"),
    ({"prompt": [_user(["Q"])], **PAIR}, "`prompt[0]`: part 0 is 'Q' (str); a part is"),
    ({"prompt": [_user([{"type": "video"}])], **PAIR}, "unknown type 'video'. Allowed: image, text."),
    ({"prompt": [_user([{"type": "text"}])], **PAIR}, "text is None (NoneType); a string is needed"),
    ({"prompt": [_user([{"type": "image", "url": "x"}])], **PAIR}, "unknown key of a part of type image 'url'"),
    ({"prompt": [_user("Q"), _assistant("A")], **PAIR}, "the prompt ends with a turn of the assistant"),
    ({"prompt": [SYSTEM], **PAIR}, "the prompt ends with a turn of the system"),
    ({"prompt": "Q", "chosen": 5, "rejected": "b"},
     "`chosen` is 5 (int); a response is a string or a list of messages"),
    ({"prompt": "Q", "chosen": [], "rejected": "b"}, "`chosen` is [] (list)"),
    ({"prompt": "Q", "chosen": [_user("a")], "rejected": "b"}, "`chosen` ends with a turn of the user"),
    ({"prompt": "Q", "chosen": [_assistant([PLACE])], "rejected": "b"}, "`chosen`: a response holds an image"),
    ({"chosen": [_user("Q"), _assistant("a")], "rejected": [_user("P"), _assistant("b")]}, "different turns before"),
    ({"prompt": "Q", "chosen": [_user("P"), _assistant("a")], "rejected": [_user("P"), _assistant("b")]},
     "differ from `prompt`"),
    ({"prompt": "Q", **PAIR, "responses": ["a", "b"]}, "both `responses` and `chosen`"),
    ({"prompt": "Q", "responses": "a", "ranking": [0]}, "`responses` is 'a' (str)"),
    ({"prompt": "Q", "responses": [], "ranking": []}, "a list of at least one response"),
    ({"prompt": "Q", "responses": ["a"], "preferences": [[0, 1]]}, "training needs at least 2"),
    ({"prompt": "Q", "responses": ["a", 7], "ranking": [0, 1]}, "`responses[1]` is 7 (int)"),
    ({"prompt": "Q", "responses": ["a", "b"]}, "no preference: give `ranking` or `preferences`"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": []}, "no preference"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0]}, "`ranking` has 1 ranks for 2 responses"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1.5]}, "a list of whole numbers is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [True, False]}, "a list of whole numbers is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1], "preferences": [[0, 1]]}, "both `ranking` and"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 2]]},
     "`preferences[0]` is [0, 2] (list); the 2 responses have the indices 0 to 1"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 1], [-1, 0]]}, "`preferences[1]` is [-1, 0]"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[1, 1]]}, "a response cannot be preferred to itself"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0]]}, "[winner, loser] is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": {"0": 1}}, "a list of [winner, loser] is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 1]], "margins": [1, 2]}, "a list of 1 is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 1]], "margins": ["x"]}, "`margins[0]` is 'x' (str)"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1], "margins": [1]}, "`margins` goes with `preferences`"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1], "margin": 1},
     "`margin` goes with `chosen` and `rejected`"),
    ({"prompt": "Q", **PAIR, "ranking": [0, 1]}, "`ranking` does not go with `chosen` and `rejected`"),
    ({"prompt": "Q", **PAIR, "margin": float("nan")}, "`margin` is nan (float); a finite number is needed"),
    ({"prompt": "Q", **PAIR, "margin": True}, "`margin` is True (bool)"),
    ({"prompt": "<image><image>", **PAIR, "images": ["x"]}, "the prompt has 2 image places, and the row has 1 images"),
    ({"prompt": "<image>", **PAIR, "images": ["x", "y"]}, "the prompt has 1 image places, and the row has 2 images"),
    ({"prompt": "<image>", **PAIR, "images": []}, "the prompt has 1 image places, and the row has 0 images"),
    ({"prompt": [_user([PLACE])], **PAIR}, "the prompt has 1 image places, and the row has 0 images"),
    ({"prompt": [_user([{"type": "image", "image": "x"}, PLACE])], **PAIR}, "2 image places, and the row has 1 images"),
    ({"prompt": [_user([{"type": "image", "image": "x"}])], **PAIR, "images": ["x"]}, "give them in one of the two"),
    ({"prompt": "Q", **PAIR, "images": ["x"], "image": "x"}, "both `images` and `image`"),
    ({"prompt": "Q", **PAIR, "images": [3]}, "images[0] is 3 (int); a path, bytes or a data URI is needed"),
    ({"prompt": "Q", **PAIR, "images": [""]}, "images[0] is '' (str)"),
    ({"prompt": "Q", **PAIR, "images": ["https://x.org/a.png"]}, "nothing is fetched"),
    ({"prompt": "Q", **PAIR, "images": ["data:image/png;base64,###"]}, "images[0]: its base64 is broken"),
    ({"prompt": "Q", **PAIR, "img": "x.png"},
     "column 'img' is not read; if these are the images: columns: {images: img}"),
    ({"prompt": "Q", **PAIR, "video": "x.mp4"}, "videos cannot be used"),
    ({"prompt": "Q", **PAIR, "id": [1]}, "`id` is [1] (list)"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "words"), FAULTS, ids=[words[:40] for _, words in FAULTS])
def test_faults_say_where_and_what(row: dict[str, Any], words: str) -> None:
    """Each begins with file and line, and says what was given and what is needed."""
    with pytest.raises(DataError) as caught:
        _parse(row)
    message = str(caught.value)
    assert message.startswith("f.jsonl:1: ")
    assert words in message


def test_faults_stay_short() -> None:
    """A response of a million letters in the wrong place is not printed whole."""
    with pytest.raises(DataError) as caught:
        _parse({"prompt": ["x" * 1_000_000], **PAIR})
    assert len(str(caught.value)) < 300
