"""A batch in this process: a few threads read and write, and one after the other they have the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from moebius.many.jobs import Job, Outcome
from moebius.many.worker import THREADS, Worker

AHEAD = 2 * THREADS  # jobs that are taken from the list before the first of them has ended


def outcomes(jobs: Iterable[Job], worker: Worker) -> Generator[Outcome, None, None]:
    """In the order of the jobs, of which only a few are taken from the list ahead. Not iterated further, it ends at the next step."""
    pending: deque[Future[Outcome]] = deque()
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="moebius-batch")
    try:
        for job in jobs:
            before = pending[-1].exception if job.after is not None and pending else None  # waits until that one has ended
            pending.append(threads.submit(worker.one, job, before))
            while pending[0].done() or len(pending) >= AHEAD:
                yield ended(pending.popleft())
                if not pending:
                    break
        while pending:
            yield ended(pending.popleft())
    except BaseException:
        worker.stop()
        raise
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def ended(future: Future[Outcome]) -> Outcome:
    while not future.done():
        wait([future], timeout=0.5)  # with a limit, for Ctrl-C is not seen without one on every system
    return future.result()
