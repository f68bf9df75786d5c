"""Reads the files of `tests/fixtures/formats` with json, csv, pyarrow and tarfile alone, to check our own reading."""

from __future__ import annotations

import ast
import base64
import csv
import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

FOLDER = Path(__file__).parents[1] / "fixtures" / "formats"
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}
Rows = list[dict[str, Any]]


@dataclass
class Expected:
    """What a row says, in plain values.

    Attributes:
        turns: the role and the pieces of each turn of the prompt; None is the place of an image.
        better: the pairs of (better response, worse response).
        ties: the pairs of equally good responses.
        images: the bytes of the images.
        margins: the margins, if the row has any.
        ratings: the ratings, if the row has any.
    """

    turns: list[tuple[str, list[str | None]]]
    better: set[tuple[str, str]]
    ties: set[frozenset[str]] = field(default_factory=set)
    images: list[bytes] = field(default_factory=list)
    margins: list[float | None] | None = None
    ratings: list[float] | None = None


def rows_of(name: str) -> Rows:
    """Return the rows of a file or folder as they are in it."""
    path = FOLDER / name
    if path.is_dir():
        return _rows_of_folder(path)
    content = path.read_bytes()
    if path.suffix == ".gz":
        content, name = gzip.decompress(content), path.stem
    if path.suffix == ".zst":
        content, name = zstandard.decompress(content), path.stem
    return READERS[Path(name).suffix](content)


def _rows_of_folder(path: Path) -> Rows:
    rows: Rows = []
    for file in sorted(path.iterdir()):
        if file.suffix in (".jsonl", ".csv", ".arrow"):
            rows += READERS[file.suffix](file.read_bytes())
    return rows


def _json(content: bytes) -> Rows:
    value = json.loads(content)
    return value if isinstance(value, list) else next(inner for inner in value.values() if isinstance(inner, list))


def _tar(content: bytes) -> Rows:
    rows: dict[str, dict[str, Any]] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        for member in file:
            key, _, extension = member.name.partition(".")
            data = file.extractfile(member)
            assert data is not None
            row = rows.setdefault(key, {})
            if extension == "json":
                row.update(json.load(data))
            elif extension == "png":
                row["images"] = [data.read()]
            else:
                row[extension.removesuffix(".txt")] = data.read().decode()
    return list(rows.values())


def _arrow(content: bytes) -> Rows:
    return pa.ipc.open_stream(content).read_all().to_pylist()


READERS: dict[str, Callable[[bytes], Rows]] = {
    ".jsonl": lambda content: [json.loads(line) for line in content.splitlines()],
    ".ndjson": lambda content: [json.loads(line) for line in content.splitlines()],
    ".json": _json,
    ".csv": lambda content: list(csv.DictReader(io.StringIO(content.decode(), newline=""))),
    ".tsv": lambda content: list(csv.DictReader(io.StringIO(content.decode(), newline=""), delimiter="\t")),
    ".parquet": lambda content: pq.read_table(io.BytesIO(content)).to_pylist(),
    ".arrow": _arrow,
    ".tar": _tar,
}


def picture(reference: Any, folder: Path = FOLDER) -> bytes:
    """Return the bytes of an image: bytes, a path, an object with one of them, a data URI or base64."""
    if isinstance(reference, dict):
        reference = reference.get("bytes") or reference.get("path") or reference.get("url")
    if isinstance(reference, bytes):
        return reference
    if reference.startswith("data:"):
        return base64.b64decode(reference.partition(",")[2])
    return (folder / reference).read_bytes() if reference.endswith(".png") else base64.b64decode(reference)


def pieces(content: Any) -> list[str | None]:
    """Split the content of a message at its images."""
    if isinstance(content, list):
        return [part["text"] if part["type"] == "text" else None for part in content]
    split: list[str | None] = []
    for number, text in enumerate(content.split("<image>")):
        split += [None] * bool(number) + [text] * bool(text)
    return split


def turns(messages: Any) -> list[tuple[str, list[str | None]]]:
    """Return the role and the pieces of each message."""
    if isinstance(messages, str):
        return [("user", pieces(messages))]
    listed = []
    for message in messages:
        role = message.get("role", message.get("from"))
        listed.append((ROLES.get(role, role), pieces(message.get("content", message.get("value")))))
    return listed


def text(response: Any) -> str:
    """Return the text of a response: that of its last message."""
    if isinstance(response, str):
        return response
    message = response[-1] if isinstance(response, list) else response
    content = message.get("content", message.get("value"))
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _with_images(expected: Expected, row: dict[str, Any], folder: Path = FOLDER) -> Expected:
    """Add the images of a row's column; without a place they stand at the start of the first turn of the user."""
    cell = row.get("images") or row.get("image") or row.get("image_path") or row.get("file_name") or []
    if isinstance(cell, str) and cell.startswith("["):
        cell = ast.literal_eval(cell)
    expected.images += [picture(image, folder) for image in (cell if isinstance(cell, list) else [cell])]
    for role, parts in expected.turns:
        if role == "user" and not any(None in turn for _, turn in expected.turns):
            parts[:0] = [None] * len(expected.images)
    return expected


def _pair(prompt: Any, chosen: Any, rejected: Any, row: dict[str, Any], folder: Path = FOLDER) -> Expected:
    listed = turns(prompt)
    if row.get("system"):
        listed = [("system", [row["system"]]), *listed]
    expected = _with_images(Expected(listed, {(text(chosen), text(rejected))}), row, folder)
    if row.get("margin") is not None:
        expected.margins = [float(row["margin"])]
    return expected


def trl(row: dict[str, Any]) -> Expected:
    """Read a row with an explicit prompt."""
    return _pair(row["prompt"], row["chosen"], row["rejected"], row)


def trl_cells(row: dict[str, Any]) -> Expected:
    """Read a row whose cells are JSON or Python's notation."""
    return trl({name: ast.literal_eval(cell) for name, cell in row.items()})


def implicit(row: dict[str, Any]) -> Expected:
    """Read a row with an implicit prompt of messages."""
    expected = _pair(row["chosen"][:-1], row["chosen"], row["rejected"], row)
    if "chosen_score" in row:
        expected.ratings = [row["chosen_score"], row["rejected_score"]]
    return expected


def implicit_text(row: dict[str, Any]) -> Expected:
    """Read a row with an implicit prompt of words."""
    common = 0
    words, others = row["chosen"].split(" "), row["rejected"].split(" ")
    while words[common] == others[common]:
        common += 1
    start = " ".join(words[:common])
    return Expected([("user", [start])], {(row["chosen"][len(start) :], row["rejected"][len(start) :])})


def several_turns(row: dict[str, Any]) -> Expected:
    """Read a row whose responses have several turns."""
    return _pair(row["prompt"] + row["chosen"][:-1], row["chosen"], row["rejected"], row)


def part_images(row: dict[str, Any]) -> Expected:
    """Read a row with images in the parts of its messages."""
    expected = trl(row)
    for message in row["prompt"]:
        for part in message["content"]:
            if part["type"] != "text":
                expected.images.append(picture({"path": part.get("url") or part.get("path")}))
    return expected


def sharegpt(row: dict[str, Any]) -> Expected:
    """Read LLaMA-Factory's sharegpt."""
    return _pair(row["conversations"], row["chosen"], row["rejected"], row)


def alpaca(row: dict[str, Any]) -> Expected:
    """Read LLaMA-Factory's alpaca, with one or two columns of responses."""
    chosen, rejected = row["output"] if "output" in row else (row["chosen"], row["rejected"])
    history: list[dict[str, str]] = []
    for question, answer in row.get("history") or []:
        history += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
    return _pair([*history, {"role": "user", "content": question}], chosen, rejected, row)


def messages(row: dict[str, Any]) -> Expected:
    """Read messages with two responses beside them."""
    return _pair(row["messages"], row["chosen"], row["rejected"], row)


def ms_swift(row: dict[str, Any]) -> Expected:
    """Read ms-swift's conversation with one or several worse responses."""
    *before, response = row["messages"]
    worse = row["rejected_response"]
    expected = _pair(before, response, worse if isinstance(worse, str) else worse[0], row)
    expected.better = {(text(response), other) for other in ([worse] if isinstance(worse, str) else worse)}
    return expected


def ms_swift_messages(row: dict[str, Any]) -> Expected:
    """Read ms-swift's two conversations."""
    return _pair(row["messages"][:-1], row["messages"], row["rejected_messages"], row)


def ms_swift_query(row: dict[str, Any]) -> Expected:
    """Read ms-swift's query and responses."""
    [[question, answer]] = row["history"]
    before = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    query = [*before, {"role": "user", "content": row["query"]}]
    return _pair(query, row["response"], row["rejected_response"], row)


def _ranked(prompt: Any, ranked: list[tuple[int, str]], row: dict[str, Any]) -> Expected:
    """Compare every two responses by their ranks."""
    expected = Expected(turns(prompt), set())
    for rank, response in ranked:
        expected.better |= {(response, other) for worse, other in ranked if rank < worse}
        expected.ties |= {
            frozenset({response, other}) for equal, other in ranked if rank == equal and response != other
        }
    return _with_images(expected, row)


def nemo_rl(row: dict[str, Any]) -> Expected:
    """Read NeMo RL's completions."""
    return _ranked(row["context"], [(item["rank"], text(item["completion"])) for item in row["completions"]], row)


def openai(row: dict[str, Any]) -> Expected:
    """Read OpenAI's preferences."""
    expected = _pair(row["input"]["messages"], row["preferred_output"], row["non_preferred_output"], row)
    for uri in re.findall(r"data:image/png;base64,[^\"]+", json.dumps(row["input"])):
        expected.images.append(picture(uri))
    return expected


def context(row: dict[str, Any]) -> Expected:
    """Read ColossalChat and turbo-alignment."""
    pair = [row[name] for name in ("chosen", "rejected", "answer_winning", "answer_losing") if name in row]
    return _pair(row["context"], *pair, row)


def mllm_judge(row: dict[str, Any]) -> Expected:
    """Read MLLM-as-a-Judge, pairs and batches."""
    answers = row.get("answers") or [row["answer1"], row["answer2"]]
    verdict = {"A": "AB", "B": "BA", "C": None}.get(row["human_answer"], row["human_answer"])
    ranks = [0, 0] if verdict is None else [verdict.index("ABCD"[i]) for i in range(len(answers))]
    return _ranked(row["instruction"], [(ranks[i], answer["answer"]) for i, answer in enumerate(answers)], row)


def rated_pair(row: dict[str, Any]) -> Expected:
    """Read a pair with ratings, by the names of argilla and of HuggingFaceH4."""
    prompt = row.get("prompt", row.get("instruction"))
    pair = [row.get(name, row.get(f"{name}_response")) for name in ("chosen", "rejected")]
    expected = _pair(prompt, *pair, row)
    ratings = []
    for name in ("chosen", "rejected"):
        names = (f"{name}-rating", f"{name}_rating", f"{name}_avg_rating", f"score_{name}")
        ratings.append(float(next(row[own] for own in names if own in row)))
    expected.ratings = ratings
    return expected


def distilabel(row: dict[str, Any]) -> Expected:
    """Read distilabel's rated generations."""
    ranked = [(-rating, response) for rating, response in zip(row["ratings"], row["generations"], strict=True)]
    return _ranked(row["instruction"], ranked, row)


def ultra_feedback(row: dict[str, Any]) -> Expected:
    """Read UltraFeedback's completions; equal scores give no preference."""
    expected = _ranked(row["instruction"], [(-c["overall_score"], c["response"]) for c in row["completions"]], row)
    expected.ties = set()
    return expected


def alpaca_farm(row: dict[str, Any]) -> Expected:
    """Read AlpacaFarm and AlpacaEval."""
    preference = float(row["preference"])
    ranks = {True: (0, 1), False: (1, 0)}[preference < 1.5] if preference != 1.5 else (0, 0)
    question = row["instruction"] + ("\n" + row["input"] if row.get("input") else "")
    return _ranked(question, [(ranks[0], row["output_1"]), (ranks[1], row["output_2"])], row)


def conversations(row: dict[str, Any]) -> Expected:
    """Read two conversations, the better one first, of IXC and POVID."""
    better = row["conversations_a"] if "conversations_a" in row else row["conversations"]
    worse = row["conversations_b"] if "conversations_b" in row else row["rejected_conversations"]
    return _pair(better[:-1], better, worse, row)


def image_folder(row: dict[str, Any]) -> Expected:
    """Read a row of an imagefolder."""
    return _pair(row["prompt"], row["chosen"], row["rejected"], row, FOLDER / "imagefolder_lines")


def transcript(row: dict[str, Any]) -> Expected:
    """Read a row of hh-rlhf."""
    both = []
    for name in ("chosen", "rejected"):
        _, *texts = re.split(r"\n\n(?:Human|Assistant): ", row[name])
        both.append(texts)
    roles = ["user", "assistant"] * len(both[0])
    prompt = [{"role": role, "content": content} for role, content in zip(roles, both[0][:-1], strict=False)]
    return _pair(prompt, both[0][-1], both[1][-1], row)


def question(row: dict[str, Any]) -> Expected:
    """Read a row of RLAIF-V."""
    return _pair(row["question"], row["chosen"], row["rejected"], row)


def shp(row: dict[str, Any]) -> Expected:
    """Read a row of SHP."""
    better, worse = ("A", "B") if row["labels"] == 1 else ("B", "A")
    return _pair(row["history"], row[f"human_ref_{better}"], row[f"human_ref_{worse}"], row)


def helpsteer3(row: dict[str, Any]) -> Expected:
    """Read a row of HelpSteer3."""
    order = [1, 2] if row["overall_preference"] < 0 else [2, 1]
    return _pair(row["context"], *(row[f"response{number}"] for number in order), row)


def pku(row: dict[str, Any]) -> Expected:
    """Read a row of PKU-SafeRLHF."""
    better = row["better_response_id"]
    return _pair(row["prompt"], row[f"response_{better}"], row[f"response_{1 - better}"], row)


def arena(row: dict[str, Any]) -> Expected:
    """Read a row of Chatbot Arena."""
    ranks = {"model_a": (0, 1), "model_b": (1, 0), "tie": (0, 0)}[row["winner"]]
    both = [row["conversation_a"], row["conversation_b"]]
    return _ranked(
        both[0][:-1], [(rank, text(conversation)) for rank, conversation in zip(ranks, both, strict=True)], row
    )


def general(row: dict[str, Any]) -> Expected:
    """Read the general form, also from a CSV file."""
    responses, ranking = row["responses"], row.get("ranking")
    if isinstance(responses, str):
        responses, ranking = ast.literal_eval(responses), ast.literal_eval(ranking)
    if ranking is not None:
        return _ranked(row["prompt"], list(zip(ranking, responses, strict=True)), row)
    expected = Expected(turns(row["prompt"]), {(responses[a], responses[b]) for a, b in row["preferences"]})
    expected.margins = row["margins"]
    return expected


def named_image(row: dict[str, Any]) -> Expected:
    """Read a row with an image in Qwen-VL's tag."""
    before, name, after = re.split(r"<img>(.*)</img>", row["prompt"])
    return Expected([("user", [before, None, after])], {(row["chosen"], row["rejected"])}, images=[picture(name)])


def numbered_images(row: dict[str, Any]) -> Expected:
    """Read a row with numbered marks."""
    texts = re.split(r"<image_(\d)>", row["prompt"])
    parts: list[str | None] = []
    for number, piece in enumerate(texts):
        parts += [None] if number % 2 else [piece]
    images = [picture(row["images"][int(number) - 1]) for number in texts[1::2]]
    return Expected([("user", parts)], {(row["chosen"], row["rejected"])}, images=images)


def base64_images(row: dict[str, Any]) -> Expected:
    """Read a row with an image in base64."""
    return trl(row)


Shape = Callable[[dict[str, Any]], Expected]
READ: dict[str, Shape] = {
    "trl_explicit.jsonl": trl,
    "trl_explicit.ndjson": trl,
    "trl_explicit.jsonl.gz": trl,
    "trl_explicit.jsonl.zst": trl,
    "trl_explicit.csv": trl,
    "trl_explicit.tsv": trl,
    "trl_one_line.json": trl,
    "trl_data_key.json": trl,
    "trl_pretty.json": trl,
    "trl_saved": trl,
    "trl_webdataset.tar": trl,
    "trl_webdataset_texts.tar": trl,
    "trl_conversational.jsonl": trl,
    "trl_conversational.arrow": trl,
    "trl_json_cells.csv": trl_cells,
    "trl_python_cells.csv": trl_cells,
    "trl_implicit_conversational.jsonl": implicit,
    "trl_implicit_plain.jsonl": implicit_text,
    "trl_multi_turn_completion.jsonl": several_turns,
    "trl_images.jsonl": trl,
    "trl_part_paths.json": part_images,
    "trl_image_bytes.parquet": trl,
    "llama_factory_sharegpt.json": sharegpt,
    "llama_factory_images_system.json": sharegpt,
    "llama_factory_alpaca.json": alpaca,
    "llama_factory_outputs.json": alpaca,
    "llama_factory_messages.json": messages,
    "ms_swift.jsonl": ms_swift,
    "ms_swift_images.jsonl": ms_swift,
    "ms_swift_same_images.jsonl": ms_swift,
    "ms_swift_several_rejected.jsonl": ms_swift,
    "ms_swift_rejected_messages.jsonl": ms_swift_messages,
    "ms_swift_query.jsonl": ms_swift_query,
    "openrlhf.jsonl": implicit,
    "openrlhf_margin.jsonl": trl,
    "nemo_rl.jsonl": nemo_rl,
    "nemo_rl_ranking.jsonl": nemo_rl,
    "openai_preference.jsonl": openai,
    "openai_image_url.jsonl": openai,
    "colossal_chat.jsonl": context,
    "turbo_alignment.jsonl": context,
    "mllm_judge_pair.jsonl": mllm_judge,
    "mllm_judge_batch.jsonl": mllm_judge,
    "argilla_cleaned.parquet": rated_pair,
    "argilla_ratings.jsonl": rated_pair,
    "argilla_responses.csv": rated_pair,
    "ultrafeedback_binarized.parquet": rated_pair,
    "distilabel.jsonl": distilabel,
    "ultra_feedback.jsonl": ultra_feedback,
    "alpaca_farm.json": alpaca_farm,
    "alpaca_eval.csv": alpaca_farm,
    "ixc_reward.json": conversations,
    "povid.json": conversations,
    "imagefolder_lines": image_folder,
    "imagefolder_csv": image_folder,
    "hh_rlhf.jsonl.gz": transcript,
    "rlaif_v.parquet": question,
    "shp.jsonl": shp,
    "helpsteer3.jsonl": helpsteer3,
    "pku_saferlhf.jsonl": pku,
    "arena.jsonl": arena,
    "reward_bench.parquet": trl,
    "general_ranking.jsonl": general,
    "general_python_lists.csv": general,
    "qwen_vl.jsonl": named_image,
    "numbered_images.jsonl": numbered_images,
    "base64.jsonl": base64_images,
    "parts": trl,
}
"""The files and folders that are read as they are, with the function that reads one of their rows here."""

REFUSED: dict[str, tuple[str, str]] = {
    "trl_different_turns.jsonl": ("prompts_differ", "same prompt"),
    "trl_unpaired.jsonl": ("single_response", '{"prompt": ..., "responses": [...], "ratings": [1, 0]}'),
    "trl_stepwise.jsonl": ("no_preference", '{"prompt": ..., "chosen": ..., "rejected": ...}'),
    "trl_tools.jsonl": ("tools", "columns: {tools: null}"),
    "llama_factory_kto.json": ("single_response", '{"prompt": ..., "responses": [...], "ratings": [1, 0]}'),
    "llama_factory_tools.json": ("tools", "columns: {tools: null}"),
    "llama_factory_function_call.json": ("unknown_role", "Allowed: "),
    "ms_swift_rejected_images.jsonl": ("rejected_images", "columns: {rejected_images: null}"),
    "openrlhf_negative_margin.jsonl": ("negative_margin", "columns: {margin: null}"),
    "openai_tools.jsonl": ("tools", "system message"),
    "question_column.jsonl": ("no_prompt", "columns: {prompt: question}"),
    "video.jsonl": ("video", "columns: {videos: clips}"),
    "picture_missing.jsonl": ("image_count", "image_mark: null"),
    "img_column.jsonl": ("image_column_not_mapped", "columns: {images: img}"),
    "truncated.json": ("", "truncated"),
    "rows.zip": ("", "unpack it"),
    "rows.jsonl.xz": ("", "xz -d"),
    "rows.xlsx": ("", "save it as CSV"),
    "spreadsheet.csv": ("", "save it as CSV"),
}
"""The files that are refused: the reason of their rows (empty: that of the file), and a part of the advice."""
