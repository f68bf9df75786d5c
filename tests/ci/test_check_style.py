"""Test that every rule of `.ci/check-style` finds a violation and accepts valid code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.helpers.ci_scripts import FOLDER, load_ci_script

style = load_ci_script("check-style")


def modules(folder: Path, files: dict[str, str]) -> Any:
    """Return the parsed modules of a package `basereward` with these files."""
    for name, text in files.items():
        path = folder / "basereward" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"))
    return style.read_modules(folder, "basereward")


def test_complex_functions_and_methods_are_found(tmp_path: Path) -> None:
    """One `if` with nine `or` has complexity 11, and one with eight has 10; a comprehension counts too."""
    text = """
        def at_limit(x):
            return 1 if {eight} else 0

        class Thing:
            def over(self, x):
                if {nine}:
                    return [y for y in x]

            def simple(self): ...
    """
    eight, nine = (" or ".join(["x"] * (number + 1)) for number in (8, 9))
    result = style.check_complexity(modules(tmp_path, {"a.py": text.format(eight=eight, nine=nine)}))
    assert result.measured == 12
    assert result.places == ["basereward/a.py:5 Thing.over 12"]
    assert not result.passed


def test_only_comments_on_their_own_lines_are_counted(tmp_path: Path) -> None:
    """Comments after code, text in a string and directives to tools are not counted."""
    text = """
        # a reason
        a = 1  # behind code
        b = '''
        # in a string
        '''
        # noqa: F401
        def f():
            # another reason
            return 1
    """
    result = style.check_comments(modules(tmp_path, {"a.py": text, "deep/b.py": "x = 1\n"}))
    assert result.measured == pytest.approx(1000 * 2 / 10)
    assert result.passed
    assert style.check_comments(modules(tmp_path, {"a.py": "x = 1\n" * 48 + "# why\n"})).measured == pytest.approx(20)


def test_folders_with_too_few_comments_are_named(tmp_path: Path) -> None:
    """The folder that lacks the most comments is first, and one with enough comments is not named."""
    files = {"a/a.py": "x = 1\n" * 100, "b/b.py": "x = 1\n" * 500, "c/c.py": "# why\nx = 1\n"}
    result = style.check_comments(modules(tmp_path, files))
    assert not result.passed
    assert [place.split()[0] for place in result.places] == ["basereward/b", "basereward/a"]


@pytest.mark.parametrize(
    ("expression", "nested"),
    [
        ("[x for row in rows for x in row]", True),
        ("{x: [y for y in x] for x in rows}", True),
        ("sum(max(y for y in x) for x in rows)", True),
        ("[x for x in rows if x]", False),
        ("[x for x in a], [y for y in b]", False),
    ],
)
def test_nested_comprehensions_are_found(expression: str, nested: bool, tmp_path: Path) -> None:
    """Two adjacent comprehensions are not nested."""
    result = style.check_comprehensions(modules(tmp_path, {"a.py": f"value = {expression}\n"}))
    assert result.places == (["basereward/a.py:1"] if nested else [])
    assert result.measured == 1000 * nested


def test_long_functions_are_counted_without_their_docstring(tmp_path: Path) -> None:
    """A function of 41 lines is too long, and one of 40 lines with a docstring of three lines is not. Eleven long
    functions fail the rule."""
    body = "    x = 1\n"
    long = f"def long():\n{body * 40}"
    documented = f'def documented():\n    """One.\n\n    Two."""\n{body * 39}'
    result = style.check_function_lengths(modules(tmp_path, {"a.py": f"{long}{documented}"}))
    assert result.places == ["basereward/a.py:1 long 41"]
    assert result.passed
    assert not style.check_function_lengths(modules(tmp_path, {"a.py": long * 11})).passed


def test_folder_with_sixteen_files_is_found(tmp_path: Path) -> None:
    """Files of subfolders do not count."""
    files = {f"full/m{number}.py": "" for number in range(16)} | {"full/inside/a.py": "", "b.py": ""}
    result = style.check_folders(modules(tmp_path, files))
    assert result.places == ["basereward/full 16"]


@pytest.mark.parametrize(
    "second",
    [
        "import basereward.a",
        "from basereward import a",
        "from .a import thing",
        "from . import a",
        "from basereward.a import thing as other",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from basereward.a import thing",
        "def f():\n    from basereward.a import thing",
    ],
)
def test_import_cycle_is_found(second: str, tmp_path: Path) -> None:
    """Every form of an import counts: relative, for types, or inside a function."""
    files = {"__init__.py": "", "a.py": "from basereward.b import other\n", "b.py": f"{second}\n"}
    result = style.check_import_circles(modules(tmp_path, files))
    assert result.places == ["basereward.a -> basereward.b -> basereward.a"]


def test_every_import_cycle_is_named(tmp_path: Path) -> None:
    """The two cycles share no module, and one is between a package's `__init__` and its module."""
    files = {
        "a.py": "import basereward.b",
        "b.py": "import basereward.c",
        "c.py": "import basereward.a",
        "p/__init__.py": "from .inner import x",
        "p/inner.py": "from basereward.p import y",
        "p/other.py": "from .inner import x\nfrom ..a import z",
    }
    result = style.check_import_circles(modules(tmp_path, files))
    assert [set(place.split(" -> ")) for place in result.places] == [
        {"basereward.a", "basereward.b", "basereward.c"},
        {"basereward.p", "basereward.p.inner"},
    ]


def test_imports_in_one_direction_are_no_cycle(tmp_path: Path) -> None:
    """An import of `package.module` is no import of the package, which may import another of its modules."""
    files = {
        "p/__init__.py": "from basereward.p.entry import load",
        "p/entry.py": "from basereward.p.base import Base",
        "p/base.py": "import json",
    }
    assert style.check_import_circles(modules(tmp_path, files)).passed


def test_type_name_in_two_files_is_found(tmp_path: Path) -> None:
    """Classes and both forms of aliases count; constants and values in capitals are no types."""
    files = {
        "a.py": "class Pair: ...\nRow = dict[str, int]\nSCORES = {}['x']\nlimit = 3 | 4\n",
        "b.py": "class Pair: ...\nRow: typing.TypeAlias = int\nSCORES = {}['x']\nlimit = 3 | 4\n",
        "c.py": "class Other:\n    class Inner: ...\n",
        "d.py": "Inner = int | None\n",
    }
    result = style.check_type_names(modules(tmp_path, files))
    assert result.places == [
        "Inner: basereward/c.py, basereward/d.py",
        "Pair: basereward/a.py, basereward/b.py",
        "Row: basereward/a.py, basereward/b.py",
    ]


def test_public_names_without_a_docstring_are_found(tmp_path: Path) -> None:
    """Modules, functions, classes, methods and properties need a docstring; private names, overloads and setters do
    not."""
    text = '''
        if True:
            def function(): ...

        def _private(): ...

        class _Hidden:
            def method(self): ...

        class Shown:
            """It has a docstring."""
            def __init__(self): ...
            def method(self): ...
            def _helper(self): ...
            @property
            def size(self): ...
            @size.setter
            def size(self, value): ...
            @typing.overload
            def get(self, x: int): ...
            def get(self, x):
                """Documented."""
    '''
    result = style.check_docstrings(
        modules(tmp_path, {"a.py": text, "_private.py": "def f(): ...", "deep/_x/b.py": ""})
    )
    assert [place.split()[1] for place in result.places] == [
        "basereward.a",
        "basereward.a.function",
        "basereward.a.Shown.method",
        "basereward.a.Shown.size",
    ]


def test_names_that_use_a_model_library_need_a_model(tmp_path: Path) -> None:
    """A name may use the library directly, in its signature, through a call, or through a re-exported name."""
    files = {
        "scorer.py": """
            from transformers import AutoModel
            class Scorer:
                def __init__(self): self.model = AutoModel
            def plain(text): return text
        """,
        "load.py": """
            from typing import TYPE_CHECKING
            from basereward import scorer
            if TYPE_CHECKING:
                from basereward.passed_on import Scorer
            def by_signature(scorer: Scorer): ...
            def by_module(): return scorer.Scorer()
            def indirect():
                return _helper()
            def _helper(): return by_module()
            def plain(): return scorer.plain("")
        """,
        "passed_on.py": "from basereward.scorer import Scorer\n",
        "torch_only.py": "import torch\ndef loss(scores: torch.Tensor): ...\n",
    }
    need_model = style.names_that_need_a_model(modules(tmp_path, files))
    own = {name for name in need_model if name.startswith("basereward.load.")}
    assert own == {f"basereward.load.{name}" for name in ("Scorer", "by_signature", "by_module", "indirect", "_helper")}
    assert "basereward.scorer.Scorer" in need_model
    assert "basereward.scorer.plain" not in need_model
    assert "basereward.torch_only.loss" not in need_model


def test_share_of_runnable_examples_is_counted(tmp_path: Path) -> None:
    """Two of four names have one: a skipped example does not count, an example of a method counts for its class, and a
    protocol is excluded."""
    text = '''
        def shown():
            """
            >>> 1 + 1
            2
            """

        def skipped():
            """
            >>> 1 + 1  # doctest: +SKIP
            2
            """

        def without():
            """Nothing runs."""

        def _private(): ...

        class Contract(Protocol): ...

        class Shown:
            def method(self):
                """
                >>> Shown()
                Shown()
                """
    '''
    result = style.check_examples(modules(tmp_path, {"a.py": text, "_private.py": "def f(): ..."}))
    assert result.measured == 50
    assert [place.split()[1] for place in result.places] == ["basereward.a.skipped", "basereward.a.without"]
    assert not result.passed


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script on the packages of a folder."""
    command = [sys.executable, str(FOLDER / "check-style"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_script_fails_with_the_place_of_a_violation(tmp_path: Path) -> None:
    """A valid tree passes with nine lines, one for each rule, and the code of the packages is not imported."""
    modules(tmp_path, {"a.py": '"""A module."""\n\n# why\nraise SystemExit("imported")\n'})
    passed = run(tmp_path)
    assert (passed.returncode, passed.stderr) == (0, "")
    assert len(passed.stdout.splitlines()) == 9
    modules(tmp_path, {"b.py": "# why\n\ndef _private(): ...\n"})
    failed = run(tmp_path)
    assert failed.returncode == 1
    assert [line for line in failed.stdout.splitlines() if line.startswith("    ")] == [
        "    basereward/b.py:1 basereward.b"
    ]


def test_scripts_keep_the_rules_themselves(tmp_path: Path) -> None:
    """Examples are excluded: the rules take parsed modules, which an example would have to write to files."""
    names = ("check-style", "check-coverage")
    scripts = modules(tmp_path, {f"{name}.py": (FOLDER / name).read_text() for name in names})
    rules = (
        style.check_complexity,
        style.check_comments,
        style.check_comprehensions,
        style.check_function_lengths,
        style.check_type_names,
        style.check_docstrings,
    )
    for rule in rules:
        result = rule(scripts)
        assert result.passed, "\n".join(result.lines())
