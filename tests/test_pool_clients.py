"""What programs do with an executor: joblib, scikit-learn, asyncio, wait and as_completed."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from typing import TYPE_CHECKING, Any

import pytest

import pool_tasks as tasks
from freethreading import Barrier, Event, Queue, WorkerDiedError, WorkerPoolExecutor
from support import wait_until
from test_worker import DEADLINE, PROCESSES, SHORT, only_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

joblib: Any = pytest.importorskip("joblib")
np: Any = pytest.importorskip("numpy")

WORKERS = 2


@pytest.fixture(scope="module")
def executor() -> Iterator[WorkerPoolExecutor]:
    """Return an executor that the tests share: none of them may harm it."""
    with WorkerPoolExecutor(WORKERS, tasks.keep, (Barrier(WORKERS),)) as shared:
        # All of its workers are there before the first test.
        assert sorted(shared.map(tasks.meet, range(WORKERS), timeout=DEADLINE)) == [0, 1]
        wait([shared.submit(tasks.square, 1)], DEADLINE)  # and who looks after them
        yield shared


# --- joblib ---------------------------------------------------------------------------------


class Backend(joblib.ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """joblib's jobs in a `WorkerPoolExecutor`, which outlives the calls."""

    supports_retrieve_callback = True
    # Not `supports_sharedmem`: joblib would send what can't be pickled then.
    uses_threads = not PROCESSES
    executor: WorkerPoolExecutor | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        return WORKERS if n_jobs is None or n_jobs < 0 else n_jobs

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,  # noqa: ANN401 - joblib has no types
        **_: object,
    ) -> int:
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Future[Any]], object] | None = None
    ) -> Future[Any]:
        assert self.executor is not None
        future = self.executor.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:  # noqa: ANN401 - the job's
        return out.result()


class BatchingBackend(joblib.parallel.AutoBatchingMixin, Backend):  # type: ignore[misc]  # as above
    """The same, with batches that grow while jobs are short."""

    def terminate(self) -> None:
        self.reset_batch_stats()


joblib.register_parallel_backend("freethreading", Backend)
joblib.register_parallel_backend("freethreading, batching", BatchingBackend)
every_backend = pytest.mark.parametrize("name", ["freethreading", "freethreading, batching"])


@pytest.fixture
def _backend(executor: WorkerPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let joblib's jobs run in the shared executor."""
    monkeypatch.setattr(Backend, "executor", executor)


def parallel(name: str = "freethreading", **options: object) -> Any:  # noqa: ANN401 - as above
    return joblib.Parallel(n_jobs=WORKERS, backend=name, **options)


@pytest.mark.usefixtures("_backend")
@every_backend
def test_joblib_maps_over_arrays(name: str) -> None:
    blocks = [np.arange(100_000, dtype="f8") + number for number in range(20)]
    results = parallel(name)(joblib.delayed(tasks.doubled)(block) for block in blocks)
    assert len(results) == len(blocks)
    for block, result in zip(blocks, results, strict=True):
        np.testing.assert_array_equal(result, block * 2)
        result[0] = -1  # it is the caller's own
        assert block[0] >= 0


@pytest.mark.usefixtures("_backend")
@every_backend
@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
def test_joblib_runs_many_short_jobs(name: str, batch_size: str | int) -> None:
    jobs = (joblib.delayed(tasks.square)(number) for number in range(500))
    results = parallel(name, batch_size=batch_size)(jobs)
    assert results == [number * number for number in range(500)]


@pytest.mark.usefixtures("_backend")
@pytest.mark.parametrize("order", ["generator", "generator_unordered"])
def test_joblib_gives_results_as_they_come(order: str) -> None:
    jobs = (joblib.delayed(tasks.square)(number) for number in range(50))
    results = list(parallel(return_as=order)(jobs))
    assert (results if order == "generator" else sorted(results)) == [n * n for n in range(50)]


@pytest.mark.usefixtures("_backend")
def test_joblib_keeps_its_workers_from_call_to_call() -> None:
    with parallel() as shared:
        for count in (1, 10, 100):
            jobs = (joblib.delayed(tasks.square)(number) for number in range(count))
            assert shared(jobs) == [number * number for number in range(count)]


@pytest.mark.usefixtures("_backend")
def test_an_exception_in_a_job_ends_the_call_and_nothing_else() -> None:
    jobs = [joblib.delayed(tasks.fail_for)(number, 5) for number in range(20)]
    with pytest.raises(tasks.PlainError) as caught:
        parallel()(jobs)
    assert caught.value.args == (5,)
    assert parallel()(jobs[:5]) == [0, 1, 2, 3, 4]


@only_processes
def test_a_worker_that_dies_ends_the_call_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor of loky is broken from then on."""
    jobs = [joblib.delayed(tasks.die_for)(number, 5) for number in range(20)]
    with WorkerPoolExecutor(WORKERS) as executor:
        monkeypatch.setattr(Backend, "executor", executor)
        with pytest.raises(WorkerDiedError):
            parallel()(jobs)
        assert parallel()(jobs[:5]) == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("_backend")
def test_joblib_within_a_job() -> None:
    results = parallel()(joblib.delayed(tasks.nested)(count) for count in range(4))
    assert results == [[], [0], [0, 1], [0, 1, 4]]


# --- scikit-learn ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    """Return some points, and the class of each."""
    datasets: Any = pytest.importorskip("sklearn.datasets")
    points, classes = datasets.make_classification(60, 5, random_state=0)
    return points, classes


@pytest.mark.usefixtures("_backend")
def test_scikit_learn_validates_models(data: tuple[Any, Any]) -> None:
    model = pytest.importorskip("sklearn.linear_model").LogisticRegression()
    cross_val_score = pytest.importorskip("sklearn.model_selection").cross_val_score
    expected = cross_val_score(model, *data, cv=4)
    with joblib.parallel_config(backend="freethreading", n_jobs=WORKERS):
        scores = cross_val_score(model, *data, cv=4)
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.usefixtures("_backend")
def test_scikit_learn_grows_forests(data: tuple[Any, Any]) -> None:
    forest_of = pytest.importorskip("sklearn.ensemble").RandomForestClassifier
    points, classes = data
    expected = forest_of(6, random_state=0).fit(points, classes)
    with joblib.parallel_config(backend="freethreading", n_jobs=WORKERS):
        forest = forest_of(6, random_state=0, n_jobs=WORKERS).fit(points, classes)
        found = forest.predict_proba(points)
    np.testing.assert_array_equal(found, expected.predict_proba(points))


# --- asyncio --------------------------------------------------------------------------------


def test_a_loop_runs_many_tasks_in_the_executor(executor: WorkerPoolExecutor) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        squares = [loop.run_in_executor(executor, tasks.square, number) for number in range(200)]
        failing = loop.run_in_executor(executor, tasks.raise_plain, 1)
        with pytest.raises(tasks.PlainError):
            await asyncio.wait_for(failing, DEADLINE)
        return await asyncio.wait_for(asyncio.gather(*squares), DEADLINE)

    assert asyncio.run(main()) == [number * number for number in range(200)]


@pytest.fixture
def occupied() -> Iterator[tuple[WorkerPoolExecutor, Event]]:
    """Return an executor whose only worker waits for an event."""
    event = Event()
    started: Queue[int] = Queue()
    with WorkerPoolExecutor(1) as alone:
        future = alone.submit(tasks.report_and_wait, started, event)
        started.get(timeout=DEADLINE)
        yield alone, event
        event.set()
        assert future.result(DEADLINE) is True


def test_what_is_pending_is_cancelled_with_its_asyncio_future(
    occupied: tuple[WorkerPoolExecutor, Event],
) -> None:
    executor, event = occupied
    counter: Queue[int] = Queue()
    pending = [executor.submit(tasks.count_up, counter) for _ in range(10)]

    async def main() -> None:
        wrapped = [asyncio.wrap_future(future) for future in pending]
        for future in wrapped[1:]:
            assert future.cancel()
        for future in wrapped[1:]:
            with pytest.raises(asyncio.CancelledError):
                await future
        await asyncio.sleep(0)  # the loop tells the executor's futures when it comes by
        assert all(future.cancelled() for future in pending[1:])
        event.set()
        await asyncio.wait_for(wrapped[0], DEADLINE)

    asyncio.run(main())
    with pytest.raises(CancelledError):
        pending[1].result(DEADLINE)
    executor.submit(tasks.square, 1).result(DEADLINE)
    assert counter.qsize() == 1


def test_a_cancelled_coroutine_cancels_what_it_waits_for(
    occupied: tuple[WorkerPoolExecutor, Event],
) -> None:
    executor, event = occupied
    counter: Queue[int] = Queue()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(
                loop.run_in_executor(executor, tasks.count_up, counter), timeout=SHORT
            )
        event.set()
        assert await loop.run_in_executor(executor, tasks.square, 3) == 9

    asyncio.run(main())
    assert counter.qsize() == 0


def test_loops_in_several_threads_use_one_executor(executor: WorkerPoolExecutor) -> None:
    async def main(start: int) -> list[int]:
        loop = asyncio.get_running_loop()
        numbers = range(start, start + 100)
        calls = [loop.run_in_executor(executor, tasks.square, number) for number in numbers]
        return await asyncio.wait_for(asyncio.gather(*calls), DEADLINE)

    results: dict[int, list[int]] = {}
    threads = [
        threading.Thread(
            target=lambda start=start: results.update({start: asyncio.run(main(start))})
        )
        for start in (0, 1000, 2000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {
        start: [number * number for number in range(start, start + 100)]
        for start in (0, 1000, 2000)
    }


# --- wait and as_completed ------------------------------------------------------------------


def test_wait_returns_when_it_is_told_to(occupied: tuple[WorkerPoolExecutor, Event]) -> None:
    alone, event = occupied
    with WorkerPoolExecutor(1) as other:
        blocked: Future[Any] = alone.submit(tasks.square, 2)
        quick: Future[Any] = other.submit(tasks.square, 3)
        done, rest = wait([blocked, quick], DEADLINE, FIRST_COMPLETED)
        assert (done, rest) == ({quick}, {blocked})
        failing: Future[Any] = other.submit(tasks.raise_plain)
        done, rest = wait([blocked, failing], DEADLINE, FIRST_EXCEPTION)
        assert (done, rest) == ({failing}, {blocked})
        done, rest = wait([blocked, quick], SHORT, ALL_COMPLETED)
        assert (done, rest) == ({quick}, {blocked})
        event.set()
        done, rest = wait([blocked, quick, failing], DEADLINE)
        assert (done, rest) == ({blocked, quick, failing}, set())


def test_as_completed_gives_each_future_once_from_several_executors(
    executor: WorkerPoolExecutor,
) -> None:
    with WorkerPoolExecutor(1) as other, ThreadPoolExecutor(1) as stdlib:
        fronts: list[Executor] = [executor, other, stdlib]
        futures = [front.submit(tasks.square, number) for number in range(30) for front in fronts]
        found = list(as_completed(futures, DEADLINE))
    assert len(found) == len(set(found)) == len(futures)
    assert sorted(future.result(0) for future in found) == sorted(
        number * number for number in range(30) for _ in fronts
    )


def test_as_completed_gives_what_was_cancelled_first(
    occupied: tuple[WorkerPoolExecutor, Event],
) -> None:
    executor, event = occupied
    futures = [executor.submit(tasks.square, number) for number in range(10)]
    completed = as_completed(futures, DEADLINE)
    assert all(future.cancel() for future in futures[5:])
    cancelled = [next(completed) for _ in range(5)]
    assert set(cancelled) == set(futures[5:])
    event.set()
    assert {future.result(DEADLINE) for future in completed} == {0, 1, 4, 9, 16}


def test_as_completed_gives_up_in_time(occupied: tuple[WorkerPoolExecutor, Event]) -> None:
    executor, _ = occupied
    future = executor.submit(tasks.square, 2)
    with pytest.raises(TimeoutError, match="1 \\(of 1\\) futures unfinished"):
        list(as_completed([future], SHORT))
    assert future.cancel()
    wait_until(future.done, "the future has ended")


@only_processes
def test_as_completed_gives_what_ended_with_its_worker() -> None:
    with WorkerPoolExecutor(2) as executor:
        doomed: list[Future[Any]] = [executor.submit(tasks.kill_oneself) for _ in range(2)]
        others: list[Future[Any]] = [executor.submit(tasks.square, number) for number in range(20)]
        ended = list(as_completed([*doomed, *others], DEADLINE))
    assert len(ended) == 22
    assert all(isinstance(future.exception(0), WorkerDiedError) for future in doomed)
    assert [future.result(0) for future in others] == [number * number for number in range(20)]
