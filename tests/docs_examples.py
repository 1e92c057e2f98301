"""Runs every example of the documentation; `make test` does so on both kinds of interpreter.

- A fenced `python` block in README.md, CONTRIBUTING.md or `docs/` is a whole program. It must end
  with status 0, and if a fenced `text` block comes next, print exactly that. A line `A | B` there
  stands for A on processes and B on threads.
- A fenced `pycon` block, and each docstring of a public name, is a session for `doctest`.

No block is skipped: what can't run is not marked as Python.
"""

from __future__ import annotations

import doctest
import inspect
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import freethreading
from support import run_python

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One block of a page, with the text block that follows it."""

    page: str
    line: int
    language: str
    source: str
    expected: str | None

    def __str__(self) -> str:
        """Return the test's id."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return the pages of the documentation."""
    top = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")]
    return [page for page in top if page.exists()] + sorted((REPOSITORY / "docs").rglob("*.md"))


def examples() -> Iterator[Example]:
    """Yield the examples of all pages."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        blocks = list(FENCE.finditer(text))
        for block, following in zip_longest(blocks, blocks[1:]):
            if block[1] in {"python", "pycon"}:
                yield Example(
                    page=str(page.relative_to(REPOSITORY)),
                    line=text.count("\n", 0, block.start()) + 1,
                    language=block[1],
                    source=block[2],
                    expected=following[2] if following and following[1] == "text" else None,
                )


def for_backend(expected: str, backend: str) -> str:
    """Choose the side of each `A | B` that the backend prints."""
    side = {"multiprocessing": 0, "threading": -1}[backend]
    return "".join(f"{line.split(' | ')[side]}\n" for line in expected.splitlines())


@pytest.mark.parametrize("example", list(examples()), ids=str)
def test_page(example: Example, backend: str) -> None:
    """Run one block of a page."""
    if example.language == "pycon":
        run_session(example.source, str(example), {})
        return
    finished = run_python(example.source).check()
    if example.expected is not None:
        assert finished.stdout == for_backend(example.expected, backend)


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield the docstrings with examples of the package, its public names and their members."""
    objects = {"freethreading": freethreading} | {
        name: getattr(freethreading, name) for name in freethreading.__all__
    }
    for name, value in list(objects.items()):
        if inspect.isclass(value):
            members = {f"{name}.{key}": member for key, member in vars(value).items()}
            objects |= members
    for name, value in objects.items():
        text = value.__doc__
        if isinstance(text, str) and ">>>" in text:
            yield name, text


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in docstrings()])
def test_docstring(text: str, request: pytest.FixtureRequest) -> None:
    """Run the session in one docstring, with the public names at hand."""
    names = {name: getattr(freethreading, name) for name in freethreading.__all__}
    run_session(text, request.node.name, {**names, "freethreading": freethreading})


def run_session(text: str, name: str, names: dict[str, object]) -> None:
    """Run a session and fail with doctest's report if it prints something else."""
    report: list[str] = []
    test = doctest.DocTestParser().get_doctest(text, dict(names), name, name, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    if runner.run(test, out=report.append).failed:
        pytest.fail("".join(report), pytrace=False)
