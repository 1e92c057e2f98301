#!/usr/bin/env python3
"""Measure every function of a source tree in parallel, and prove that the answer is right.

Each `.py` file of this interpreter's standard library (or of `--path`) is parsed with `ast`, and
every function in it measured. The work is done three times: serially, through
`WorkerPoolExecutor.map`, and through `Worker` with `Queue`. All runs use the same code on the same
batches, must agree to the last number (else the exit status is 1), and are timed from the first
worker's start to the last one's end. The CPU seconds, those of all workers together, tell why a
speed-up is what it is: more of them than serially means that the workers got in each other's way,
fewer than fit into the time means that the machine had something else to do.

The three numbers of a function, each without what is defined inside it (a nested function is
measured for itself; the body of a class belongs to nobody):

complexity  McCabe's: 1, and 1 more for each `if`, `elif`, `for`, `while`, `except`, conditional
            expression, `for` and `if` of a comprehension, `and` and `or`, guard of a `case`, and
            each `case` whose pattern can fail.
lines       from `def` to the last line of the body.
depth       how deep `if`, `for`, `while`, `try`, `with` and `match` are nested (`elif` adds none).
"""

# Longer than a module should be: it is one file on purpose, to be read, copied and run as it is.

from __future__ import annotations

import argparse
import ast
import gc
import hashlib
import heapq
import io
import json
import multiprocessing
import os
import queue
import signal
import stat
import sys
import sysconfig
import threading
import time
import warnings
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TextIO, TypeAlias

from freethreading import Queue, Worker, WorkerPoolExecutor, get_backend, get_ident

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Executor
    from types import TracebackType

Batch: TypeAlias = "tuple[tuple[int, str], ...]"  # of numbered files


class Function(NamedTuple):
    """The measurements of one function, in the order that decides which is the most complex."""

    complexity: int
    lines: int
    depth: int
    line: int
    name: str


class FileReport(NamedTuple):
    """What is sent back of a file: totals, and a digest of all the numbers of all its functions."""

    file: int  # its index
    lines: int = 0
    functions: int = 0
    complexity: int = 0
    digest: str = ""
    problem: str = ""


class BatchReport(NamedTuple):
    """What is sent back of a batch: small, however large the trees were."""

    files: tuple[FileReport, ...]
    most_complex: tuple[tuple[Function, int], ...]  # with the index of the file
    worker: int
    cpu_seconds: float
    peak_mib: float


class Tally:
    """The running totals of one function, or of a scope that isn't reported."""

    __slots__ = ("complexity", "depth", "name")

    def __init__(self, name: str) -> None:
        """Begin with the one path that any code has."""
        self.name = name
        self.complexity = 1
        self.depth = 0

    def inside(self, name: str) -> Tally:
        """Return a fresh tally for what is defined inside this one under a name."""
        return Tally(f"{self.name}.{name}" if self.name else name)


TOP: Final = 10
_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LOOPS: Final = (ast.For, ast.AsyncFor, ast.While)
_NESTING: Final = frozenset(
    (ast.If, *_LOOPS, ast.Try, ast.TryStar, ast.With, ast.AsyncWith, ast.Match),
)
_BLOCKS: Final = frozenset(("body", "orelse", "finalbody", "handlers", "cases"))


def _case_branches(case: ast.match_case) -> int:
    """Count a case's pattern if it can fail, and its guard."""
    return _can_fail(case.pattern) + (case.guard is not None)


def _can_fail(pattern: ast.pattern) -> bool:
    """Tell `_`, or a name, or what ends up there, from a pattern that has to match."""
    if isinstance(pattern, ast.MatchAs):
        return pattern.pattern is not None and _can_fail(pattern.pattern)
    return not isinstance(pattern, ast.MatchOr) or _can_fail(pattern.patterns[-1])


_BRANCHES: Final[dict[type, Callable[[Any], int]]] = {
    **dict.fromkeys((ast.If, *_LOOPS, ast.ExceptHandler, ast.IfExp), lambda _: 1),
    ast.BoolOp: lambda node: len(node.values) - 1,
    ast.comprehension: lambda node: 1 + len(node.ifs),
    ast.match_case: _case_branches,
}


def _fields_with_code() -> dict[type, tuple[str, ...]]:
    """Say for each kind of node in an expression which fields may have branches further down."""
    names_only = {"arg", "attr", "ctx", "conversion", "id", "kind", "op", "ops", "str"}
    kinds: list[type[ast.AST]] = [ast.arg, ast.arguments, ast.comprehension, ast.keyword]
    kinds += [ast.withitem, *ast.expr.__subclasses__()]
    kinds.remove(ast.Constant)
    found = {kind: tuple(f for f in kind._fields if f not in names_only) for kind in kinds}
    return {kind: fields for kind, fields in found.items() if fields}


_INNER: Final = _fields_with_code()


def _expression_branches(parts: list[Any]) -> int:
    """Count the branches in expressions (or lists of them), whatever they are nested in."""
    count = 0
    while parts:
        part = parts.pop()
        kind = type(part)
        if kind is list:
            parts += part
        elif (fields := _INNER.get(kind)) is not None:
            if kind in _BRANCHES:
                count += _BRANCHES[kind](part)
            for field in fields:
                parts.append(getattr(part, field))
    return count


def measure(tree: ast.Module) -> list[Function]:
    """Measure every function of a module, methods and nested functions included.

    Iterative, so that no nesting is too deep for it.
    """
    functions: list[tuple[ast.FunctionDef | ast.AsyncFunctionDef, Tally]] = []
    todo: list[tuple[ast.AST, Tally, int]] = [(node, Tally(""), 0) for node in tree.body]
    while todo:
        node, tally, depth = todo.pop()
        if isinstance(node, _SCOPES):
            inner, depth = tally.inside(node.name), 0
            if not isinstance(node, ast.ClassDef):
                functions.append((node, inner))
        else:
            inner, depth = tally, depth + (type(node) in _NESTING)
            tally.depth = max(tally.depth, depth)
            if type(node) in _BRANCHES:
                tally.complexity += _BRANCHES[type(node)](node)
        outside: list[Any] = []  # decorators, defaults and bases count where they are evaluated
        for field in node._fields:
            if field in _BLOCKS:
                todo += [(c, inner, depth - _is_elif(c, node)) for c in getattr(node, field)]
            else:
                outside.append(getattr(node, field))
        tally.complexity += _expression_branches(outside)
    return sorted((_finished(*function) for function in functions), key=lambda f: f.line)


def _is_elif(node: ast.AST, parent: ast.AST) -> bool:
    """Tell an `elif` from an `if` under an `else`, which stands further right."""
    if not (isinstance(node, ast.If) and isinstance(parent, ast.If)):
        return False
    return node.col_offset == parent.col_offset


def _finished(node: ast.FunctionDef | ast.AsyncFunctionDef, tally: Tally) -> Function:
    last = node.end_lineno or node.lineno
    return Function(tally.complexity, last - node.lineno + 1, tally.depth, node.lineno, tally.name)


def read_source(path: str) -> bytes:
    """Return a file's content, refusing what may block for ever (a pipe, a device)."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - paths travel as text
        raise OSError(0, "not a regular file")
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def measure_file(index: int, path: str) -> tuple[FileReport, list[Function]]:
    """Measure one file; what keeps it from being read or parsed becomes part of the report."""
    try:
        source = read_source(path)
        functions = measure(ast.parse(source, path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        return FileReport(index, problem=_reason(problem)), []
    digest = hashlib.sha256(repr([tuple(function) for function in functions]).encode())
    complexity = sum(function.complexity for function in functions)
    lines = len(source.splitlines())
    report = FileReport(index, lines, len(functions), complexity, digest.hexdigest())
    return report, functions


def _reason(problem: BaseException) -> str:
    """Say in one line, without the path, why a file can't be measured."""
    detail = str(problem)
    if isinstance(problem, OSError):
        detail = problem.strerror or detail
    elif isinstance(problem, SyntaxError):
        detail = problem.msg + (f" (line {problem.lineno})" if problem.lineno else "")
    return " ".join(f"{type(problem).__name__}: {detail}".split())


def measure_batch(batch: Batch) -> BatchReport:
    """Measure some files: the task of every run, and all that a worker is asked to do."""
    files: list[FileReport] = []
    top: list[tuple[Function, int]] = []
    began = time.thread_time()
    for index, path in batch:
        report, functions = measure_file(index, path)
        files.append(report)
        top = heapq.nlargest(TOP, [*top, *((function, index) for function in functions)])
    spent = time.thread_time() - began
    return BatchReport(tuple(files), tuple(top), get_ident(), spent, peak_mib())


def peak_mib() -> float:
    """Return the largest size that this process has had in memory, 0 where that is unknown."""
    if sys.platform == "win32":
        return 0.0
    import resource  # noqa: PLC0415 - Unix only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def prepare() -> None:
    """Set up whoever measures: called in each worker, and for the serial run in the main one.

    Trees of `ast` have no cycles, so counting references frees them at once; the collector would
    only walk them over and over (and on free-threaded Python stop all threads meanwhile).
    """
    gc.disable()
    warnings.simplefilter("ignore")  # other people's invalid escapes
    in_main = multiprocessing.parent_process() is None
    if not in_main and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main program's business


class Skipped(NamedTuple):
    """A file or folder that couldn't be measured."""

    path: str
    reason: str


class Tree(NamedTuple):
    """The files of a source tree, the largest first; `sizes` are those of `files`."""

    files: list[str]
    sizes: list[int]
    closed: list[Skipped]  # folders that can't be listed


def list_tree(root: Path, left_out: frozenset[str]) -> Tree:
    """Find the `.py` files below a folder, and read each once: no run shall pay for a cold disk."""
    closed: list[Skipped] = []

    def note(problem: OSError) -> None:
        closed.append(Skipped(os.path.relpath(problem.filename, root), _reason(problem)))

    found: list[tuple[int, str]] = []
    for folder, folders, names in os.walk(root, onerror=note):
        folders[:] = [name for name in folders if name not in left_out]
        paths = [os.path.join(folder, name) for name in names if name.endswith(".py")]  # noqa: PTH118
        found += [(-_size(path), path) for path in paths]
    found.sort()
    return Tree([path for _, path in found], [-size for size, _ in found], sorted(closed))


def _size(path: str) -> int:
    try:
        return len(read_source(path))
    except OSError:
        return 0  # whoever measures it says why


_PER_FILE: Final = 1024  # what opening a file costs, in bytes of parsing
_LEAST: Final = 64 * 1024
_MOST: Final = 1024 * 1024


def cut(tree: Tree, workers: int) -> list[Batch]:
    """Cut the files into batches that shrink with what is left, so that all workers end at once."""
    batches: list[Batch] = []
    left = sum(tree.sizes) + _PER_FILE * len(tree.sizes)
    batch: list[tuple[int, str]] = []
    filled = 0
    for index, (path, size) in enumerate(zip(tree.files, tree.sizes, strict=True)):
        batch.append((index, path))
        filled += size + _PER_FILE
        if filled >= min(_MOST, max(_LEAST, left // (4 * workers))):
            batches.append(tuple(batch))
            left -= filled
            batch, filled = [], 0
    return [*batches, tuple(batch)] if batch else batches


Reports: TypeAlias = "Generator[BatchReport, None, None]"


def run_serial(batches: Sequence[Batch], _workers: int) -> Reports:
    """Measure in this thread of this process."""
    yield from map(measure_batch, batches)


def run_map(batches: Sequence[Batch], workers: int) -> Reports:
    """Measure through `WorkerPoolExecutor.map`."""
    with WorkerPoolExecutor(workers, initializer=prepare) as executor:
        yield from _mapped(executor, batches)


def run_stdlib(batches: Sequence[Batch], workers: int) -> Reports:
    """Measure through the stdlib's own pool of the same kind and size."""
    with _stdlib_pool(workers) as executor:
        yield from _mapped(executor, batches)


def _stdlib_pool(workers: int) -> Executor:
    if get_backend() == "threading":
        return ThreadPoolExecutor(workers, initializer=prepare)
    method = "forkserver" if sys.platform == "linux" else "spawn"
    return ProcessPoolExecutor(workers, multiprocessing.get_context(method), prepare)


def _mapped(executor: Executor, batches: Sequence[Batch]) -> Reports:
    """Map, and begin nothing more once the caller has stopped listening."""
    try:
        yield from executor.map(measure_batch, batches)
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise


def run_queue(batches: Sequence[Batch], workers: int) -> Reports:
    """Measure through `Worker` and two `Queue`s."""
    tasks: Queue[Batch | None] = Queue()
    reports: Queue[BatchReport] = Queue()
    crew: list[Worker] = []
    for batch in batches:
        tasks.put(batch)
    try:
        for _ in range(workers):
            crew.append(Worker(target=serve, args=(tasks, reports), daemon=True))
            crew[-1].start()
        for _ in batches:
            yield _receive(reports, crew)
    finally:
        _dismiss(tasks, crew)


def serve(tasks: Queue[Batch | None], reports: Queue[BatchReport]) -> None:
    """Measure batch after batch until there is a None instead."""
    prepare()
    for batch in iter(tasks.get, None):
        reports.put(measure_batch(batch))


def _receive(reports: Queue[BatchReport], crew: Sequence[Worker]) -> BatchReport:
    """Wait for a report, looking up now and then to see whether a worker was lost."""
    while True:
        try:
            return reports.get(timeout=1.0)
        except queue.Empty:
            if not all(worker.is_alive() for worker in crew):
                message = "a worker ended before its work was done"
                raise WorkerLostError(message) from None


def _dismiss(tasks: Queue[Batch | None], crew: Sequence[Worker]) -> None:
    """End the workers, taking back what nobody has begun (nothing, unless the run failed)."""
    try:
        while True:
            tasks.get_nowait()
    except queue.Empty:
        pass
    for _ in crew:
        tasks.put(None)
    for worker in crew:
        if worker.is_alive():
            worker.join()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Hold Ctrl-C back for a moment; processes started meanwhile, and theirs, never see it."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def warm_up() -> None:
    """Start the server that forks the workers, once per program: no run is charged for it."""
    with _interrupts_held_back():
        worker = Worker(target=prepare)
        worker.start()
        worker.join()


class Progress:
    """A bar on a terminal, a line now and then anywhere else."""

    _WIDTH: Final = 36
    _EVERY: Final = 0.1

    def __init__(self, name: str, total: int, out: TextIO) -> None:
        """Measure the time from here; `total` is what the amounts will add up to."""
        self._name, self._total, self._out = name, max(total, 1), out
        self._done = 0
        self._began = self._drawn = time.perf_counter()
        self._tty = out.isatty()

    def __enter__(self) -> Self:
        """Show that the work begins."""
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        if self._tty:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def advance(self, amount: int) -> None:
        """Count an amount as done."""
        quarter = 4 * self._done // self._total
        self._done += amount
        if self._tty:
            if time.perf_counter() - self._drawn >= self._EVERY:
                self._draw()
        elif 4 * self._done // self._total > quarter:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.perf_counter()
        share = self._done / self._total
        bar = "#" * int(share * self._WIDTH)
        text = f"{share:4.0%} {self._drawn - self._began:6.1f} s"
        if self._tty:
            self._out.write(f"\r{self._name:<7}[{bar:.<{self._WIDTH}}]{text}\x1b[K")
        else:
            self._out.write(f"{self._name:<7}{text}\n")
        self._out.flush()


class Run(NamedTuple):
    """What one run found, and what it took."""

    files: dict[int, FileReport]
    most_complex: list[tuple[Function, int]]
    seconds: float
    cpu_seconds: float  # of all workers together
    peaks_mib: dict[int, float]  # of each worker


class WorkerLostError(RuntimeError):
    """A worker ended before its work was done."""


class Census(NamedTuple):
    """All runs, the serial one first, over one tree."""

    root: Path
    tree: Tree
    batches: int
    workers: int
    runs: dict[str, Run]

    @property
    def measured(self) -> list[FileReport]:
        """The files that could be measured."""
        return [report for report in self.runs["serial"].files.values() if not report.problem]

    @property
    def most_complex(self) -> list[tuple[Function, str]]:
        """The most complex functions, with their files."""
        return [(f, self.relative(index)) for f, index in self.runs["serial"].most_complex]

    @property
    def skipped(self) -> list[Skipped]:
        """What couldn't be measured, and why."""
        reports = self.runs["serial"].files.values()
        files = [Skipped(self.relative(r.file), r.problem) for r in reports if r.problem]
        return sorted([*self.tree.closed, *files])

    @property
    def digest(self) -> str:
        """A digest of every number of every function of every file."""
        reports = sorted((self.relative(report.file), report.digest) for report in self.measured)
        return hashlib.sha256(repr(reports).encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def disagreements(self) -> list[str]:
        """The files on which a run came to another result than the serial one, and the run."""
        expected = self.runs["serial"].files
        return [
            f"{name}: {self.relative(index)}"
            for name, run in self.runs.items()
            for index in range(len(self.tree.files))
            if run.files.get(index) != expected.get(index)
        ]

    def relative(self, index: int) -> str:
        """Name a file as seen from the root."""
        return os.path.relpath(self.tree.files[index], self.root)

    def speed_up(self, run: str) -> float | None:
        """Say how many times as fast as the serial run another was; None if there was no work."""
        return self.runs["serial"].seconds / self.runs[run].seconds if self.tree.files else None


def take(name: str, reports: Reports, tree: Tree) -> Run:
    """Do one run, timed from before its first worker starts until after its last has ended."""
    files: dict[int, FileReport] = {}
    top: list[tuple[Function, int]] = []
    peaks: dict[int, float] = {}
    spent = 0.0
    began = time.perf_counter()
    with Progress(name, sum(tree.sizes), sys.stderr) as progress, closing(reports):
        for report in reports:
            files |= {entry.file: entry for entry in report.files}
            top = heapq.nlargest(TOP, [*top, *report.most_complex])
            peaks[report.worker] = report.peak_mib
            spent += report.cpu_seconds
            progress.advance(sum(tree.sizes[entry.file] for entry in report.files))
    return Run(files, top, time.perf_counter() - began, spent, peaks)


def take_all(root: Path, left_out: frozenset[str], workers: int, *, stdlib: bool) -> Census:
    """Do every run."""
    tree = list_tree(root, left_out)
    batches = cut(tree, workers)
    runners = {"serial": run_serial, "map": run_map, "queue": run_queue}
    if stdlib:
        runners["stdlib"] = run_stdlib
    prepare()
    warm_up()
    runs = {name: take(name, run(batches, workers), tree) for name, run in runners.items()}
    return Census(root, tree, len(batches), workers, runs)


def as_json(census: Census) -> str:
    """Put the whole result into one JSON object."""
    data = {
        "python": sys.version.split()[0],
        "backend": get_backend(),
        "workers": census.workers,
        "path": str(census.root),
        "files": len(census.tree.files),
        "bytes": sum(census.tree.sizes),
        "batches": census.batches,
        "measured": len(census.measured),
        "lines": sum(file.lines for file in census.measured),
        "functions": sum(file.functions for file in census.measured),
        "complexity": sum(file.complexity for file in census.measured),
        "most_complex": [{"file": file, **f._asdict()} for f, file in census.most_complex],
        "skipped": [skipped._asdict() for skipped in census.skipped],
        "agree": not census.disagreements,
        "digest": census.digest,
        "seconds": {name: round(run.seconds, 4) for name, run in census.runs.items()},
        "cpu_seconds": {name: round(run.cpu_seconds, 4) for name, run in census.runs.items()},
        "speed_up": {name: census.speed_up(name) for name in census.runs},
        "peak_mib": {name: _peaks(run) for name, run in census.runs.items()},
    }
    return json.dumps(data, indent=2)


def _peaks(run: Run) -> list[float]:
    """List the peak memory of each process that worked in a run: of one, if they were threads."""
    peaks = sorted((round(peak, 1) for peak in run.peaks_mib.values()), reverse=True)
    return peaks[:1] if get_backend() == "threading" else peaks


def as_text(census: Census) -> str:
    """Tell the result to a person."""
    kind = "threads" if get_backend() == "threading" else "processes"
    sections = [
        [
            f"Census of {census.root}",
            f"CPython {sys.version.split()[0]}, backend {get_backend()}",
            f"workers: {census.workers} {kind}, batches: {census.batches}",
        ],
        [
            f"files     {len(census.tree.files):>11,}",
            f"skipped   {len(census.skipped):>11,}",
            f"bytes     {sum(census.tree.sizes):>11,}",
            f"lines     {sum(file.lines for file in census.measured):>11,}",
            f"functions {sum(file.functions for file in census.measured):>11,}",
        ],
        ["complexity  lines  depth  function", *_league_table(census)],
        [f"run     seconds  speed-up  CPU seconds  {_peak_heading()}", *_run_table(census)],
    ]
    if census.skipped:
        sections.append(["skipped:", *(f"  {path}: {why}" for path, why in census.skipped)])
    if not census.disagreements:
        sections.append([f"All runs agree to the last number: {census.digest[:16]}."])
    return "\n\n".join("\n".join(section) for section in sections)


def _peak_heading() -> str:
    whole = get_backend() == "threading"
    return "peak memory (MiB) of the process so far" if whole else "peak memory (MiB) per worker"


def _league_table(census: Census) -> Iterator[str]:
    for f, file in census.most_complex:
        yield f"{f.complexity:>10}  {f.lines:>5}  {f.depth:>5}  {f.name} ({file}:{f.line})"


def _run_table(census: Census) -> Iterator[str]:
    for name, run in census.runs.items():
        faster = census.speed_up(name)
        peaks = ", ".join(f"{peak:.0f}" for peak in _peaks(run))
        ratio = "-" if faster is None else f"{faster:.2f}"
        yield f"{name:<6} {run.seconds:>8.2f}  {ratio:>8}  {run.cpu_seconds:>11.2f}  {peaks}"


def usable_cpus() -> int:
    """Count the CPUs that this process may use."""
    if sys.version_info >= (3, 13):
        cpus = os.process_cpu_count()
    elif sys.platform == "linux":
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count()
    return cpus or 1


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        message = f"must be at least 1, not {number}"
        raise argparse.ArgumentTypeError(message)
    return number


def _folder(text: str) -> Path:
    if not os.path.isdir(text):  # noqa: PTH112 - raises nothing, whatever may be looked at
        message = f"{text!r} is not a folder"
        raise argparse.ArgumentTypeError(message)
    return Path(text).resolve()


def parse_arguments() -> argparse.Namespace:
    """Read the command line; what is wrong with it is said on stderr, with exit status 2."""
    parser = argparse.ArgumentParser(description="Measure every function of a source tree.")
    option = parser.add_argument
    option(
        "--workers",
        type=_at_least_one,
        default=usable_cpus(),
        metavar="N",
        help="default: usable CPUs",
    )
    option("--path", type=_folder, metavar="DIR", help="default: the standard library")
    option("--json", action="store_true", help="print one JSON object and nothing else")
    option("--compare-stdlib", action="store_true", help="time the stdlib's own pool as well")
    return parser.parse_args()


def main() -> int:
    """Take the census and return the exit status."""
    arguments = parse_arguments()
    root, left_out = arguments.path, frozenset[str]()
    if root is None:
        root = Path(sysconfig.get_path("stdlib"))
        left_out = frozenset(("site-packages", "dist-packages"))
    try:
        census = take_all(root, left_out, arguments.workers, stdlib=arguments.compare_stdlib)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (WorkerLostError, BrokenExecutor) as problem:
        print(f"no result: {problem}", file=sys.stderr)
        return 1
    text = as_json(census) if arguments.json else as_text(census)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may be any bytes
    print(text)
    disagreements = census.disagreements
    for disagreement in disagreements[:TOP]:
        print(f"disagrees with the serial run: {disagreement}", file=sys.stderr)
    if len(disagreements) > TOP:
        print(f"... and {len(disagreements) - TOP} more disagreements", file=sys.stderr)
    return 1 if disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
