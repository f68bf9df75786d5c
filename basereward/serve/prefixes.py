"""Keeps the keys and values of prompts that come again, within a bound of memory."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Hashable

from basereward.data.encoding.encoder import EncodedGroup
from basereward.errors import ModelError
from basereward.inference.prompt_cache import PromptScorer
from basereward.inference.scorer import Scorer

logger = logging.getLogger(__name__)

SEEN = 100_000
"""Prompts that are remembered without their keys and values."""


class KeptPrefixes:
    """Prompts by key, the least recently used ones first.

    A prompt is kept when it comes for the second time. In one request with all responses, keeping it would only cost
    memory.

    Args:
        scorer: a model with a scalar head.
        max_bytes: of all keys and values.
    """

    def __init__(self, scorer: Scorer, *, max_bytes: int) -> None:
        self._scorer = scorer
        self._max_bytes = max_bytes
        self._prompts: OrderedDict[Hashable, PromptScorer] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def find(self, key: Hashable) -> tuple[PromptScorer | None, bool]:
        """The prompt, if it is kept; and whether it has come before and should be kept."""
        with self._lock:
            prompt = self._prompts.get(key)
            if prompt is not None:
                self._prompts.move_to_end(key)
                return prompt, False
            has_come_before = key in self._seen
            self._seen[key] = None
            self._seen.move_to_end(key)
            if len(self._seen) > SEEN:
                self._seen.popitem(last=False)
            return None, has_come_before and self._max_bytes > 0

    def add(self, key: Hashable, encoded: EncodedGroup) -> PromptScorer | None:
        """Runs the model on a prompt and keeps its keys and values.

        Returns:
            None if the model cannot keep them; then no prompt is kept from here on.
        """
        try:
            prompt = PromptScorer(self._scorer, encoded)
        except ModelError as error:
            logger.warning("prompts are not kept: %s", error)
            self._max_bytes = 0
            return None
        with self._lock:
            # Two batches that were encoded one after the other may both bring the prompt.
            replaced = self._prompts.pop(key, None)
            if replaced is not None:
                self.bytes -= replaced.nbytes
            self._prompts[key] = prompt
            self.bytes += prompt.nbytes
            # A prompt that is larger than the bound goes at once; the caller still has it.
            while self.bytes > self._max_bytes and self._prompts:
                _, oldest = self._prompts.popitem(last=False)
                self.bytes -= oldest.nbytes
        return prompt
