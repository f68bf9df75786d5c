"""Limits for untrusted input: the run time and memory of chat templates, and the length of texts."""

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
"""CPU time of one rendering, for templates with single slow lines. A normal rendering takes 0.0001 s."""
MAX_MEMORY = 2**30
"""Bytes that the first renderings of a template may allocate in addition to what the process has."""
# Steps. Reading the clock at every step would take longer than the template itself.
CHECK_TIME_EVERY = 64

# The file name that jinja2 gives to the code of a template that was compiled from a string.
TEMPLATE_FILE = "<template>"

BYTES = 256
NFC_SHRINKS = 4
"""The largest number of characters that NFC composes to one character (a Greek letter with three marks)."""
CHARACTERS_PER_TOKEN = 1024
"""The limit for tokenizers whose tokens can stand for a text of any length, for example for dropped spaces."""


class TemplateStopped(BaseException):
    """A template exceeded a limit.

    It is no `Exception`, because jinja2 catches every `Exception` while it compiles a template.

    >>> issubclass(TemplateStopped, Exception)
    False
    """


@contextlib.contextmanager
def limited_steps(steps: int = MAX_STEPS, characters: int = MAX_CHARACTERS) -> Iterator[None]:
    """Context manager that stops a template in this thread if it executes too many lines or writes too much text.

    jinja2 compiles a template to Python code. A trace function counts its lines, a number that is the same on every
    machine, unlike the time. An existing trace function, such as a debugger's, is restored afterwards.

    Args:
        steps: the largest number of executed lines.
        characters: the largest number of written characters.

    Raises:
        TemplateStopped: a limit is exceeded.

    >>> import jinja2
    >>> template = jinja2.Template("{% for i in range(1000) %}{{ i }}{% endfor %}")
    >>> with limited_steps(steps=100):
    ...     template.render()
    Traceback (most recent call last):
    basereward.data.encoding.template_limits.TemplateStopped: it was stopped after 100 steps
    """
    before = sys.gettrace()
    sys.settrace(_StepCounter(steps, characters).trace_call)
    try:
        yield
    finally:
        sys.settrace(before)


class _StepCounter:
    """Counts the executed lines and written characters of templates, as a trace function.

    Args:
        steps: the largest number of executed lines.
        characters: the largest number of written characters.
    """

    def __init__(self, steps: int, characters: int) -> None:
        self._max_steps = steps
        self._max_characters = characters
        self._steps = 0
        self._characters = 0
        self._started = time.thread_time()

    def trace_call(self, frame: FrameType, event: str, value: Any) -> Callable[..., Any] | None:
        """Select the function calls to trace: only those of templates, as tracing makes Python many times slower."""
        code: CodeType = frame.f_code
        return self._trace_line if code.co_filename == TEMPLATE_FILE else None

    def _trace_line(self, frame: FrameType, event: str, value: Any) -> Callable[..., Any]:
        self._steps += 1
        if self._steps > self._max_steps:
            raise TemplateStopped(f"it was stopped after {self._max_steps:,} steps")
        if self._steps % CHECK_TIME_EVERY == 0 and time.thread_time() - self._started > MAX_CPU_SECONDS:
            raise TemplateStopped(f"it was stopped after {MAX_CPU_SECONDS:g} s of CPU time")
        # The compiled code is a generator that yields the written text, and a yield is traced as a return.
        if event == "return" and isinstance(value, str):
            self._characters += len(value)
            if self._characters > self._max_characters:
                raise TemplateStopped(f"it was stopped after {self._max_characters:,} characters")
        return self._trace_line


@contextlib.contextmanager
def limited_memory(extra: int = MAX_MEMORY) -> Iterator[None]:
    """Context manager that limits the memory of this process, on Linux; elsewhere it does nothing.

    Beyond the limit Python raises `MemoryError`, before the machine runs out of memory. The limit applies to all
    threads of the process, so it is meant for loading a model and not for every row.

    Args:
        extra: bytes that the process may allocate in addition to what it has.

    >>> with limited_memory():
    ...     text = "a" * 10
    """
    try:
        # The module exists on Unix only.
        import resource

        # The limit is on the address space, so the used size is that of the address space, too (the first number).
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        # An existing limit stays if it is lower; infinity is -1, which would be the minimum.
        allowed = [limit for limit in (used + extra, soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
    except (ImportError, OSError, ValueError):
        # Systems without /proc, and sandboxes that forbid limits. The other limits still apply.
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def limited_time(seconds: float = MAX_CPU_SECONDS) -> Iterator[None]:
    """Context manager that interrupts a single endless operation, such as a power of huge numbers.

    It works in the main thread only, because Python handles signals there.

    Args:
        seconds: CPU time of the process. It does not pass while the process waits, so that a busy or suspended machine
            interrupts nothing.

    Raises:
        TemplateStopped: the time is over.

    >>> with limited_time(0.05):
    ...     while True:
    ...         pass
    Traceback (most recent call last):
    basereward.data.encoding.template_limits.TemplateStopped: it was stopped after 0.05 s of CPU time
    """
    # Windows has no interval timers.
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TemplateStopped(f"it was stopped after {seconds:g} s of CPU time")

    handler = signal.signal(signal.SIGVTALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        # The timer first: if it expired after the handler is restored, the default action would end the process.
        signal.setitimer(signal.ITIMER_VIRTUAL, left, interval)
        signal.signal(signal.SIGVTALRM, handler)


def characters_per_token(backend: Any) -> tuple[int, bool]:
    """Return the largest number of characters that one token can stand for.

    The number is exact for byte-level BPE and for BPE with byte fallback, if no step of the tokenizer drops characters.
    There, every character belongs to at least one token, so the number is the length of the longest token, times 4 if
    the text is normalized with NFC.

    Args:
        backend: a tokenizer of the `tokenizers` library.

    Returns:
        The number, and whether it is exact. For other tokenizers it is `CHARACTERS_PER_TOKEN`, which is only a generous
        limit.

    >>> from tokenizers import Tokenizer, models
    >>> characters_per_token(Tokenizer(models.WordLevel({})))
    (1024, False)
    """
    settings = json.loads(backend.to_str())
    model = settings["model"]
    vocabulary = model["vocab"] if isinstance(model.get("vocab"), dict) else {}
    added = settings.get("added_tokens") or []
    shrinks = _normalizer_shrinks(settings.get("normalizer"))
    keeps_all = (
        _covers_bytes(model, vocabulary) and _keeps_text(settings.get("pre_tokenizer")) and not _strips_spaces(added)
    )
    if not keeps_all or not shrinks:
        return CHARACTERS_PER_TOKEN, False
    longest = max(map(len, (*vocabulary, *(token["content"] for token in added))))
    return longest * shrinks, True


def _strips_spaces(added_tokens: list[dict[str, Any]]) -> bool:
    """Whether an added token includes the white space beside it, which can be of any length."""
    return any(token.get("lstrip") or token.get("rstrip") for token in added_tokens)


def _covers_bytes(model: dict[str, Any], vocabulary: dict[str, int]) -> bool:
    """Whether the vocabulary can express any text, so that no unknown token stands for a long piece of text."""
    if model.get("type") != "BPE":
        return False
    if model.get("byte_fallback"):
        return all(f"<0x{value:02X}>" in vocabulary for value in range(BYTES))
    # Byte-level BPE writes each of the 256 bytes as one character.
    return sum(len(token) == 1 for token in vocabulary) >= BYTES and model.get("unk_token") is None


def _keeps_text(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer only splits the text and drops nothing."""
    if pre_tokenizer is None:
        return True
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        return all(_keeps_text(step) for step in pre_tokenizer["pretokenizers"])
    if kind in ("Split", "Punctuation"):
        return str(pre_tokenizer.get("behavior", "Isolated")) != "Removed"
    # The others drop white space (Whitespace, BertPreTokenizer, ...), or are unknown.
    return kind in ("ByteLevel", "Metaspace", "Digits")


def _normalizer_shrinks(normalizer: dict[str, Any] | None) -> int:
    """Return the largest number of characters that a normalizer can replace by one; 0 if it is unknown."""
    if normalizer is None:
        return 1
    kind = normalizer.get("type")
    if kind == "Sequence":
        product = 1
        for step in normalizer["normalizers"]:
            product *= _normalizer_shrinks(step)
        return product
    if kind == "Replace":
        # A regular expression could match a text of any length, so only fixed strings are known.
        pattern = normalizer.get("pattern", {}).get("String")
        return int(pattern is not None and len(normalizer.get("content", "")) >= len(pattern))
    return {"NFC": NFC_SHRINKS, "Prepend": 1}.get(str(kind), 0)
