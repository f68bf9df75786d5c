"""A trained judge as an engine. It generates from the same tokens, and so the same texts, as when it scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from basereward.data.batching.collate import collate
from basereward.data.encoding.branch_images import response_content
from basereward.data.encoding.encoder import EncodedGroup
from basereward.errors import ModelError
from basereward.inference.judges.batches import BATCH_SIZE, EncodedRequest, in_batches
from basereward.inference.judges.engine import Answer, Completion, OnCompletion, Request
from basereward.inference.scorer import load_scorer
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.response_generator import ResponseGenerator
from basereward.model.heads.generative import ComparisonTemplate, Generative
from basereward.runs.resolve_model import resolve_model
from basereward.runs.run_folder import runs_root


def is_trained(model: str) -> bool:
    """Whether a name is that of a run or of a saved model, and not of a chat checkpoint.

    Args:
        model: run id, address of MLflow, hub id or folder.

    >>> is_trained("runs:/20260314-153012-9f2c41/model"), is_trained("Qwen/Qwen2.5-VL-7B-Instruct")
    (True, False)
    """
    if model.startswith(("runs:", "models:")):
        return True
    is_run = any((folder / "status.json").is_file() for folder in (Path(model), runs_root() / model))
    return is_run or (Path(model) / "reward_model.json").is_file()


class TrainedJudge:
    """A model with the head `generative` and `thinking: true`, which compares two responses.

    A comparison is encoded as in training and scoring, so the text at temperature 0 is the one that a score counts.

    Args:
        model: what `load` opens.
        batch_size: requests in a batch.

    Attributes:
        head: of the model; it has the prompt, the pattern and the limit of a text.

    Raises:
        RunError: there is no such run.
        ModelError: it cannot be opened, or writes no reasoning.
    """

    def __init__(self, model: str | Path, *, batch_size: int = BATCH_SIZE) -> None:
        folder = resolve_model(model)
        scorer = load_scorer(folder)
        head, generator = scorer.model.head, scorer.model.generator
        if not isinstance(head, Generative) or not head.thinking or generator is None:
            raise ModelError(
                f"'{model}' has the head {type(head).__name__.lower()} and writes no reasoning with a verdict. Give a "
                "model that was trained with model.head={_target_: generative, thinking: true}"
            )
        # The folder of a run's model is called `model` everywhere.
        self.name = folder.parent.name if (folder.parent / "status.json").is_file() else str(folder)
        self.head = head
        self.batch_size = batch_size
        self._scorer = scorer
        self._prompt = head.branch_template.judge_prompt
        # A request has one order of the answers; in training, a pair may be encoded in both orders.
        template = ComparisonTemplate(self._prompt, thinking=True, order="given")
        self._encoder = scorer.encoder.with_branch_template(template)
        self._generator = ResponseGenerator(self._encoder, generator.backbone, generator.language)

    def generate(
        self, requests: Iterable[Request], sampling: SamplingParams, *, on_completion: OnCompletion | None = None
    ) -> Iterator[Answer]:
        """As `Engine.generate`, one batch after the other.

        Raises:
            ModelError: a request is not a comparison, or has another prompt than the judge was trained with.
        """
        return in_batches(
            requests,
            self.batch_size,
            encode=self._encoded,
            complete=lambda encoded: self._completions(encoded, sampling),
            on_completion=on_completion,
        )

    def _encoded(self, request: Request) -> EncodedGroup:
        group = request.comparison
        if group is None:
            raise ModelError(f"{self.name} compares two answers, and '{request.id}' is another conversation")
        first, second = response_content(group, 0), response_content(group, 1)
        if self._prompt.turns(group, answer_1=first, answer_2=second) != request.turns:
            raise ModelError(
                f"{self.name} was trained with the prompt '{self._prompt.name}', and is asked with another one. Give "
                f"--prompt {self._prompt.name}, or --prompt-file with its text"
            )
        return self._encoder(group)

    @torch.inference_mode()
    def _completions(self, encoded: Sequence[EncodedRequest], sampling: SamplingParams) -> Iterator[Completion]:
        """Generate the texts of one batch."""
        rows = collate([group for _, group in encoded], layout="tree", pad_id=self._encoder.pad_id)
        with self._scorer.precision():
            # By the request and not by its batch: a resumed call has other batches.
            names = [request.id for request, _ in encoded]
            texts = self._generator.generate(rows.to(self._scorer.device), sampling, names=names)
        for (request, group), (tokens,) in zip(encoded, texts, strict=True):
            yield Completion(request.id, self._generator.text(tokens), group.longest, len(tokens))
