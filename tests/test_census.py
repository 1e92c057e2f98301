"""The example `examples/stdlib_census.py`: its numbers, counted by hand, and how it ends."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import run_python

if TYPE_CHECKING:
    from types import ModuleType

    from support import Finished

CENSUS = Path(__file__).parent.parent / "examples" / "stdlib_census.py"
SECONDS = 50.0

# By hand: (complexity, lines, depth, line, name) of each function, in the order of the file.
ORDERS = """\
import asyncio


async def collect(queue, limit=10 if asyncio else 20):  # the default is evaluated outside: 1
    async for item in queue:  # 2, depth 1
        if item and item.ready or limit:  # `if`, `and`, `or`: 5, depth 2
            async with item.lock:  # depth 3
                yield [x for x in item if x if x.ok]  # `for` and two `if`: 8

    def done(error):
        try:  # depth 1
            return error or None  # `or`: 2
        except* OSError:  # 3
            pass
        else:
            while True:  # 4, depth 2
                break
        finally:
            with error:  # depth 2
                pass


class Order:
    size = 1 if asyncio else 2  # the body of a class belongs to nobody

    @(lambda f: f if f else None)  # as a decorator does
    def price(self):
        match self.kind:  # depth 1
            case 1 | 2:  # 2
                return {k: v for k, v in ()}  # 3
            case int(n) if n > 3 and n < 9:  # pattern, guard, `and`: 6
                if n == 4:  # 7, depth 2
                    return 1
                elif n == 5:  # 8, still depth 2
                    return lambda a: a if a else 0  # a lambda belongs to its function: 9
                else:
                    if n == 6:  # 10, depth 3
                        return 2
            case _:  # takes anything
                return 3

    class Line:
        def empty(self): return not self
"""
ORDERS_FUNCTIONS = [
    (8, 17, 3, 4, "collect"),
    (4, 11, 2, 10, "collect.done"),
    (10, 14, 3, 27, "Order.price"),
    (1, 1, 0, 43, "Order.Line.empty"),
]

ESCAPES = "def f(a):\n    return '\\d' if a is 1 else 0"  # two warnings; no newline at the end

SNIPPETS = {
    "nothing": ("def f(): pass", (1, 1, 0)),
    "if-elif-else": ("def f(a):\n if a: pass\n elif a+1: pass\n else: pass", (3, 4, 1)),
    "else-if": ("def f(a):\n if a: pass\n else:\n  if a+1: pass", (3, 4, 2)),
    "for-else": ("def f(a):\n for x in a: pass\n else: pass", (2, 3, 1)),
    "while": ("def f(a):\n while a and a.b and a.c: pass", (4, 2, 1)),
    "try": (
        "def f():\n try: pass\n except A: pass\n except B: pass\n else: pass\n finally: pass",
        (3, 6, 1),
    ),
    "with": ("def f(a):\n with a, (b or c):\n  with d: pass", (2, 3, 2)),
    "not": ("def f(a): return not (a == 1 != 2)", (1, 1, 0)),
    "mixed booleans": ("def f(a, b, c): return a and b or c and not a", (4, 1, 0)),
    "conditional": ("def f(a): return 1 if a else 2 if a + 1 else 3", (3, 1, 0)),
    "comprehension": ("def f(a): return [x for y in a if y for x in y if x if y]", (6, 1, 0)),
    "generator": ("def f(a): return any(x or y for x, y in a)", (3, 1, 0)),
    "dictionary": ("def f(a): return {k: v if k else 0 for k, v in a}", (3, 1, 0)),
    "f-string": ("def f(a): return f'{a or 1:{a and 2}}'", (3, 1, 0)),
    "subscript": ("def f(a): a[b or 1 : c and 2].d = e", (3, 1, 0)),
    "call": ("def f(a): a(*b or c, **d or e, k=f or g)", (4, 1, 0)),
    "walrus": ("def f(a):\n if (n := a or 1): pass", (3, 2, 1)),
    "yield": ("async def f(a): yield await (a or b)", (2, 1, 0)),
    "assert": ("def f(a): assert a, a or b", (2, 1, 0)),
    "case that takes anything": (
        "def f(a):\n match a:\n  case [1, x]: pass\n  case y: pass",
        (2, 4, 1),
    ),
    "case that ends in one": ("def f(a):\n match a:\n  case (1 | _) as y: pass", (1, 3, 1)),
    "guarded wildcard": ("def f(a):\n match a:\n  case _ if a: pass", (2, 3, 1)),
    "nested class": ("def f(a):\n if a:\n  class C:\n   if a or a: pass", (2, 4, 1)),
    "base class": ("def f(a):\n class C(a or object): pass", (2, 2, 0)),
    "decorated": ("@a or b\ndef f(): pass", (1, 1, 0)),
    "docstring": ('def f():\n """One.\n\n two\n """', (1, 5, 0)),
}


@pytest.fixture(scope="module")
def census() -> ModuleType:
    """Import the example as a module."""
    spec = importlib.util.spec_from_file_location(CENSUS.stem, CENSUS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[CENSUS.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write a tree of three files that can be measured (one empty) and some other files."""
    (tmp_path / "shop" / "__pycache__").mkdir(parents=True)
    (tmp_path / "shop" / "orders.py").write_text(ORDERS, encoding="utf-8")
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "escapes.py").write_text(ESCAPES, encoding="utf-8")
    (tmp_path / "notes.txt").write_text("def f(): pass", encoding="utf-8")
    return tmp_path


def run(*arguments: str | Path) -> Finished:
    return run_python(CENSUS, *map(str, arguments), timeout=SECONDS)


def result_of(*arguments: str | Path) -> dict[str, Any]:
    """Run the example, which must succeed, and return the JSON object that it prints."""
    result: dict[str, Any] = json.loads(run("--json", *arguments).check().stdout)
    assert result["agree"] is True
    return result


def variant(changes: str, tree: Path) -> Finished:
    """Run the example on a tree with parts of it replaced by a program text."""
    head = (
        f"import sys\nsys.path.insert(0, {str(CENSUS.parent)!r})\nimport stdlib_census as census\n"
    )
    run_it = f"sys.argv[1:] = ['--json', '--workers', '2', '--path', {str(tree)!r}]\n"
    main = f"\nif __name__ == '__main__':\n    {run_it}    sys.exit(census.main())\n"
    return run_python(head + textwrap.dedent(changes) + main, timeout=SECONDS)


@pytest.mark.parametrize(("source", "expected"), SNIPPETS.values(), ids=SNIPPETS)
def test_a_function_has_the_numbers_counted_by_hand(
    census: ModuleType, source: str, expected: tuple[int, int, int]
) -> None:
    (function,) = census.measure(ast.parse(source))
    assert function[:3] == expected


def test_each_function_of_a_file_is_measured_for_itself(census: ModuleType) -> None:
    assert census.measure(ast.parse(ORDERS)) == ORDERS_FUNCTIONS


def test_nesting_is_never_too_deep_to_be_measured(census: ModuleType) -> None:
    """Trees are made by hand here, for the parser gives up long before."""
    tree = ast.parse("def f(a): return a")
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    (statement,) = function.body
    assert isinstance(statement, ast.Return)
    deep = statement.value
    assert deep is not None
    for _ in range(20_000):
        deep = ast.BoolOp(op=ast.Or(), values=[deep, ast.Constant(value=1)])
    statement.value = deep
    assert census.measure(tree)[0].complexity == 20_001
    while isinstance(deep, ast.BoolOp):  # taken apart by hand, since freeing it would recurse
        deep = deep.values.pop(0)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_tree_has_the_numbers_counted_by_hand(tree: Path, workers: int) -> None:
    result = result_of("--path", tree, "--workers", str(workers))
    functions = [(*numbers, "shop/orders.py") for numbers in ORDERS_FUNCTIONS]
    functions.append((2, 2, 0, 1, "f", "escapes.py"))
    functions.sort(reverse=True)
    keys = ("complexity", "lines", "depth", "line", "name", "file")
    assert result["most_complex"] == [dict(zip(keys, f, strict=True)) for f in functions]
    assert {key: result[key] for key in ("files", "measured", "lines", "functions")} == {
        "files": 3,
        "measured": 3,
        "lines": len(ORDERS.splitlines()) + 2,
        "functions": 5,
    }
    assert result["complexity"] == 8 + 4 + 10 + 1 + 2
    assert result["bytes"] == len(ORDERS) + len(ESCAPES)
    assert result["skipped"] == []
    assert result["workers"] == workers


def test_the_backend_and_every_run_are_stated(tree: Path, backend: str) -> None:
    result = result_of("--path", tree, "--compare-stdlib")
    assert result["backend"] == backend
    runs = ["serial", "map", "queue", "stdlib"]
    assert [list(result[key]) for key in ("seconds", "cpu_seconds", "speed_up", "peak_mib")] == [
        runs
    ] * 4
    assert result["speed_up"]["serial"] == 1
    assert all(peaks and min(peaks) > 1 for peaks in result["peak_mib"].values())


def test_warnings_about_the_measured_code_are_not_shown(tree: Path) -> None:
    finished = run("--path", tree).check()
    assert "Warning" not in finished.stderr


def test_the_digest_depends_on_every_number(tree: Path) -> None:
    before = result_of("--path", tree)["digest"]
    assert result_of("--path", tree, "--workers", "1")["digest"] == before
    (tree / "escapes.py").write_text("def f(a):\n    return a and 2\n\n", encoding="utf-8")
    assert result_of("--path", tree)["digest"] == before
    (tree / "escapes.py").write_text("def f(a):\n    return a or\\\n 2\n", encoding="utf-8")
    assert result_of("--path", tree)["digest"] != before


@pytest.fixture
def hostile_tree(tree: Path) -> Path:
    """Add what can't be measured, and a file whose name is no text."""
    (tree / "syntax.py").write_text("def broken(:\n", encoding="utf-8")
    (tree / "undecodable.py").write_bytes(b"name = '\xff'\n")
    (tree / "codec.py").write_bytes(b"# coding: klingon\n")
    (tree / "null.py").write_bytes(b"a = 1\0\n")
    (tree / "deep.py").write_text(f"a = {'-' * 100_000}1\n", encoding="utf-8")
    (tree / "broken_link.py").symlink_to("nowhere")
    os.mkfifo(tree / "pipe.py")
    (tree / "folder.py").mkdir()
    name = os.fsdecode(os.fsencode(tree) + b"/caf\xe9.py")
    Path(name).write_text("def g(): pass\n", encoding="utf-8")
    return tree


def test_what_cannot_be_measured_is_listed_with_its_reason(hostile_tree: Path) -> None:
    result = result_of("--path", hostile_tree, "--workers", "2")
    reasons = {entry["path"]: entry["reason"].split(":")[0] for entry in result["skipped"]}
    assert reasons.pop("deep.py") in {"RecursionError", "MemoryError", "SyntaxError"}
    assert reasons.pop("null.py") in {"ValueError", "SyntaxError"}  # from 3.12 the latter
    assert reasons == {
        "broken_link.py": "FileNotFoundError",
        "codec.py": "SyntaxError",
        "pipe.py": "OSError",
        "syntax.py": "SyntaxError",
        "undecodable.py": "SyntaxError",
    }
    assert (result["files"], result["measured"], result["functions"]) == (11, 4, 6)


def test_what_cannot_be_measured_is_told_to_a_person(hostile_tree: Path) -> None:
    finished = run("--path", hostile_tree).check()
    assert "  pipe.py: OSError: not a regular file\n" in finished.stdout
    assert "g (caf\\udce9.py:1)" in finished.stdout
    assert "All runs agree" in finished.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_listed(tree: Path) -> None:
    (tree / "escapes.py").chmod(0)
    (tree / "shop").chmod(0)
    try:
        skipped = result_of("--path", tree)["skipped"]
    finally:
        (tree / "shop").chmod(0o700)
    reason = "PermissionError: Permission denied"
    assert skipped == [{"path": path, "reason": reason} for path in ("escapes.py", "shop")]


def test_an_empty_folder_has_nothing_in_it(tmp_path: Path) -> None:
    result = result_of("--path", tmp_path, "--workers", "2")
    counts = ("files", "measured", "lines", "functions", "complexity", "batches")
    assert [result[key] for key in counts] == [0] * len(counts)
    assert result["most_complex"] == []
    assert set(result["speed_up"].values()) == {None}
    assert "All runs agree" in run("--path", tmp_path).check().stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--path", "/nonexistent"], "'/nonexistent' is not a folder"),
        (["--path", __file__], "is not a folder"),
        (["--workers", "0"], "must be at least 1, not 0"),
        (["--workers", "many"], "invalid"),
        (["--speed", "11"], "unrecognized"),
    ],
)
def test_a_wrong_command_line_is_an_error(arguments: list[str], message: str) -> None:
    finished = run(*arguments)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_run_that_disagrees_is_an_error(tree: Path) -> None:
    finished = variant(
        """
        def run_map(batches, workers):
            for report in original(batches, workers):
                files = [f._replace(digest=f.digest[::-1]) for f in report.files]
                yield report._replace(files=tuple(files))

        original, census.run_map = census.run_map, run_map
        """,
        tree,
    )
    assert finished.returncode == 1
    assert json.loads(finished.stdout)["agree"] is False
    assert "disagrees with the serial run: map: escapes.py\n" in finished.stderr
    assert "queue: " not in finished.stderr


def test_a_lost_worker_is_an_error(tree: Path) -> None:
    finished = variant(
        """
        def serve(tasks, reports):
            tasks.get()

        census.serve = serve
        """,
        tree,
    )
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.endswith("\nno result: a worker ended before its work was done\n")


@pytest.mark.parametrize("phase", ["serial", "map", "queue"])
def test_ctrl_c_ends_it_with_one_line(tree: Path, phase: str) -> None:
    """As a terminal does, the signal is sent to the workers as well."""
    finished = variant(
        f"""
        import multiprocessing, os, signal

        class Interrupting(census.Progress):
            def advance(self, amount):
                super().advance(amount)
                if self._name == {phase!r}:
                    for worker in multiprocessing.active_children():
                        os.kill(worker.pid, signal.SIGINT)
                    # Here and now: a signal to the group may meet the main thread in an import,
                    # where CPython prints and drops exceptions.
                    signal.raise_signal(signal.SIGINT)

        census.Progress = Interrupting
        """,
        tree,
    )
    assert finished.returncode == 130
    assert finished.stdout == ""
    # A worker may be interrupted before any code of ours runs: then multiprocessing says so. A
    # traceback with a frame of ours in it stays, and is a failure.
    frame = r'  File "[^"]*/multiprocessing/[^\n]*\n(?:    [^\n]*\n)*'
    startup = rf"(?m)^Process [^\n]*\nTraceback [^\n]*\n(?:{frame})+KeyboardInterrupt\n"
    told = re.sub(startup, "", finished.stderr)
    *progress, last = told.splitlines()
    assert last == "interrupted"
    assert all(line.endswith(" s") for line in progress), finished.stderr


def test_batches_hold_every_file_once_and_shrink(census: ModuleType) -> None:
    sizes = sorted((900_000, *[n * 37 % 90_000 for n in range(1000)]), reverse=True)
    tree = census.Tree([f"{n}.py" for n in range(len(sizes))], sizes, [])
    batches = census.cut(tree, 2)
    assert [entry for batch in batches for entry in batch] == list(enumerate(tree.files))
    loads = [sum(sizes[index] + 1024 for index, _ in batch) for batch in batches]
    assert max(loads) < 1024 * 1024 + 90_000
    assert loads[-1] < 65_536 + 1024
    assert loads[0] > 4 * loads[-1]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_a_bar_only_on_a_terminal(
    census: ModuleType, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    with census.Progress("map", 1000, out) as progress:
        for _ in range(1000):
            progress.advance(1)
    text = out.getvalue()
    if terminal:
        assert text.startswith("\rmap    [....")
        assert text.endswith("\r\x1b[K")
        assert "\n" not in text
    else:
        shares = [line.split()[1] for line in text.splitlines()]
        assert shares == ["0%", "25%", "50%", "75%", "100%"]
