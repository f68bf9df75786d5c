"""Limits for code and text from outside: how long a chat template may run, and how long a text can fit at all."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

MAX_STEPS = 2_000_000
"""Lines of a template that one rendering may execute. A conversation of 1,000 turns needs about 20,000."""
MAX_CHARACTERS = 64 * 2**20
"""Characters that one rendering may write."""
MAX_CPU_SECONDS = 4.0
"""Processor time of one rendering, for a template whose single lines are slow. A usual one takes 0.0001."""
MAX_MEMORY = 2**30
"""Bytes that the first renderings of a template may take on top of what the process has."""
CHECK_TIME_EVERY = 64  # steps

TEMPLATE_FILE = "<template>"  # what jinja2 calls the code of a template that was compiled from a string

BYTES = 256
NFC_SHRINKS = 4
"""NFC makes one character of at most so many (a Greek letter with three marks)."""
CHARACTERS_PER_TOKEN = 1024
"""Where a token can stand for a text of any length, as a run of spaces that the tokenizer drops: what is allowed."""


class TemplateStopped(BaseException):
    """A template went over a limit. No `Exception`, since jinja2 swallows those while it compiles."""


@contextlib.contextmanager
def limited_steps(steps: int = MAX_STEPS, characters: int = MAX_CHARACTERS) -> Iterator[None]:
    """Stops a template in this thread that executes too many lines or writes too much.

    jinja2 compiles a template to Python code, whose lines a trace function counts. The count is the same on every
    machine, unlike a time. A trace function that was there before (a debugger's) is put back afterwards.

    Raises:
        TemplateStopped: a limit was reached.
    """
    counted = written = 0
    started = time.thread_time()

    def in_template(frame: FrameType, event: str, value: Any) -> Callable[..., Any]:
        nonlocal counted, written
        counted += 1
        if counted > steps:
            raise TemplateStopped(f"it was stopped after {steps:,} steps")
        if counted % CHECK_TIME_EVERY == 0 and time.thread_time() - started > MAX_CPU_SECONDS:
            raise TemplateStopped(f"it was stopped after {MAX_CPU_SECONDS:g} s of processor time")
        if event == "return" and isinstance(value, str):  # what a template writes, it yields
            written += len(value)
            if written > characters:
                raise TemplateStopped(f"it was stopped after {characters:,} characters")
        return in_template

    def in_call(frame: FrameType, event: str, value: Any) -> Callable[..., Any] | None:
        code: CodeType = frame.f_code
        return in_template if code.co_filename == TEMPLATE_FILE else None

    before = sys.gettrace()
    sys.settrace(in_call)
    try:
        yield
    finally:
        sys.settrace(before)


@contextlib.contextmanager
def limited_memory(extra: int = MAX_MEMORY) -> Iterator[None]:
    """Lets this process take at most `extra` bytes more, on Linux; `MemoryError` comes at once, not a full machine.

    The limit holds for all threads, so this is for the moment when a model is opened, not for every row.
    """
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        allowed = [limit for limit in (used + extra, soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
    except (ImportError, OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def limited_time(seconds: float = MAX_CPU_SECONDS) -> Iterator[None]:
    """Interrupts a single operation without end, such as a power of huge numbers, in the main thread of a process.

    Args:
        seconds: of the process's processor time, so that a machine that is busy or asleep interrupts nothing.

    Raises:
        TemplateStopped: the time is over.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TemplateStopped(f"it was stopped after {seconds:g} s of processor time")

    handler = signal.signal(signal.SIGVTALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, left, interval)
        signal.signal(signal.SIGVTALRM, handler)


def characters_per_token(backend: Any) -> tuple[int, bool]:
    """The most characters of a text that one token can stand for.

    Args:
        backend: the tokenizer of the library `tokenizers`.

    Returns:
        The number, and whether it is proved. It is for byte-level BPE and for BPE with bytes as a fallback, where
        every character is part of exactly one token or of several, and no step of the tokenizer drops any: the number
        is the longest token of the vocabulary, times 4 after NFC. For any other tokenizer it is
        `CHARACTERS_PER_TOKEN`, a limit that is only generous.
    """
    settings = json.loads(backend.to_str())
    model = settings["model"]
    vocabulary = model["vocab"] if isinstance(model.get("vocab"), dict) else {}
    shrinks = _normalizer_shrinks(settings.get("normalizer"))
    added = settings.get("added_tokens") or []
    strips = any(token.get("lstrip") or token.get("rstrip") for token in added)
    if not _covers_bytes(model, vocabulary) or not _keeps_text(settings.get("pre_tokenizer")) or strips or not shrinks:
        return CHARACTERS_PER_TOKEN, False
    longest = max(map(len, (*vocabulary, *(token["content"] for token in added))))
    return longest * shrinks, True


def _covers_bytes(model: dict[str, Any], vocabulary: dict[str, int]) -> bool:
    """Whether any text is some tokens of the vocabulary, with no unknown token that could stand for a long piece."""
    if model.get("type") != "BPE":
        return False
    if model.get("byte_fallback"):
        return all(f"<0x{value:02X}>" in vocabulary for value in range(BYTES))
    return sum(len(token) == 1 for token in vocabulary) >= BYTES and model.get("unk_token") is None


def _keeps_text(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer only cuts, and drops nothing."""
    if pre_tokenizer is None:
        return True
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        return all(_keeps_text(each) for each in pre_tokenizer["pretokenizers"])
    if kind in ("Split", "Punctuation"):
        return str(pre_tokenizer.get("behavior", "Isolated")) != "Removed"
    return kind in ("ByteLevel", "Metaspace", "Digits")


def _normalizer_shrinks(normalizer: dict[str, Any] | None) -> int:
    """How many characters a normalizer can make one of; 0 where that is not known."""
    if normalizer is None:
        return 1
    kind = normalizer.get("type")
    if kind == "Sequence":
        product = 1
        for each in normalizer["normalizers"]:
            product *= _normalizer_shrinks(each)
        return product
    if kind == "Replace":
        pattern = normalizer.get("pattern", {}).get("String")
        return int(pattern is not None and len(normalizer.get("content", "")) >= len(pattern))
    return {"NFC": NFC_SHRINKS, "Prepend": 1}.get(str(kind), 0)
