"""Worker threads of this process. They live for the whole run: models keep state per thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from audio_batch.pipeline import Job
from audio_batch.pools.base import Finished, Work


class ThreadPool:
    """See `Pool`. Threads are named Worker-1, Worker-2, …"""

    def __init__(self, work: Work, workers: int) -> None:
        self.workers = workers
        self._work = work
        numbers = itertools.count(1)

        def name_thread() -> None:
            threading.current_thread().name = f"Worker-{next(numbers)}"

        self._executor = ThreadPoolExecutor(workers, initializer=name_thread)

    def submit(
        self,
        job: Job,
        *,
        started: Callable[[Job, str], None],
        finished: Callable[[Finished], None],
    ) -> None:
        """See `Pool.submit`."""

        def run() -> None:
            worker = threading.current_thread().name
            started(job, worker)
            finished(Finished(job, self._work(job), worker))

        self._executor.submit(run)

    def close(self) -> None:
        """See `Pool.close`."""
        self._executor.shutdown(wait=True)
