"""Where jobs run. A pool decides *where* `process` runs, never *what* it does.

`SerialPool` is the reference: every other pool must give the same outcomes.
"""

from audio_batch.pools.base import Death, Finished, Pool, Work
from audio_batch.pools.serial import SerialPool
from audio_batch.pools.threads import ThreadPool

__all__ = ["Death", "Finished", "Pool", "SerialPool", "ThreadPool", "Work"]
