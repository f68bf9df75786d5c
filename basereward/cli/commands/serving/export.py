"""`basereward export`: a trained model in a format that other software opens."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult
from basereward.cli.options import MODEL_FORMS, check_choice
from basereward.errors import ModelError
from basereward.io.progress import phase

FORMATS = ("hf", "vllm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the format and the folder.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["runs/my_run/model", "--out", "exported"]).format
    'hf'
    """
    parser.add_argument("model", metavar="MODEL", help=MODEL_FORMS)
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        default="hf",
        help="hf: a folder that transformers opens; vllm: the same, with a plug-in where vLLM needs one (default: hf)",
    )
    parser.add_argument("--out", metavar="FOLDER", required=True, help="folder to write; it replaces an older export")
    parser.add_argument(
        "--adapter", action="store_true", help="write the LoRA adapter and the head in peft's format, and merge nothing"
    )
    parser.add_argument(
        "--license", metavar="ID", help="licence in the model card, such as apache-2.0 (default: that of the backbone)"
    )
    parser.add_argument(
        "--push", metavar="REPOSITORY", help="upload the folder to this repository of the Hugging Face hub, OWNER/NAME"
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: there is no such format.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> check_arguments(parser.parse_args(["model", "--format", "vlm", "--out", "exported"]))
    Traceback (most recent call last):
        ...
    basereward.cli.command.UsageError: unknown format 'vlm'; did you mean 'vllm'? Allowed: hf, vllm.
    """
    check_choice("format", arguments.format, FORMATS)


def run(arguments: argparse.Namespace) -> CommandResult:
    """Exports the model."""
    with phase(LOADING_LIBRARIES):
        from basereward.evaluation.recorded_results import recorded_results
        from basereward.inference.export.export_model import export_model
        from basereward.inference.export.push import check_repository, push_folder
        from basereward.inference.load_model import load
        from basereward.runs.resolve_model import resolve_model

    if arguments.push is not None:
        # Before minutes of work.
        check_repository(arguments.push)
    source = resolve_model(arguments.model)
    results = recorded_results(source)
    with phase("loading the model"):
        model = load(source, device="cpu", trust=arguments.trust)
    with phase("writing the export"):
        result = export_model(
            model,
            Path(arguments.out),
            source=source,
            to=arguments.format,
            adapter=arguments.adapter,
            license_id=arguments.license,
            results=results,
        )
    if arguments.push is not None:
        with phase("uploading the export"):
            try:
                result["address"] = push_folder(Path(result["out"]), arguments.push)
            except ModelError as error:
                out = result["out"]
                error.add_note(f"The export is complete in '{out}'; `hf upload {arguments.push} {out}` uploads it.")
                raise
    return result, SUCCESS


OPENED_BY = {
    "adapter": "PeftModel.from_pretrained(base, FOLDER), with a base as in README.md",
    "sequence_classification": "AutoModelForSequenceClassification.from_pretrained(FOLDER)",
    "own_code": "AutoModel.from_pretrained(FOLDER, trust_remote_code=True)",
}


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """Where the export is, and what opens it.

    >>> facts = {"out": "exported", "form": "sequence_classification", "files": ["config.json"], "bytes": 2_000_000}
    >>> list(format_text(facts))
    ['exported: 1 files, 2.0 MB', 'opened by AutoModelForSequenceClassification.from_pretrained(FOLDER)']
    """
    yield f"{result['out']}: {len(result['files'])} files, {result['bytes'] / 1e6:.1f} MB"
    yield f"opened by {OPENED_BY[result['form']]}"
    if "address" in result:
        yield f"uploaded to {result['address']}"


COMMAND = Command(
    summary="write a trained model in a format that transformers, peft or vLLM opens",
    activity="export: {model} to {out}",
    examples=(
        "basereward export runs/my_run/model --out exported",
        "basereward export RUN --format vllm --out exported",
        "basereward export RUN --out exported --push my-name/my-reward-model",
    ),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
)
