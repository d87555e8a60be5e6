"""The devices of a run as their workers see them: loading, dying, beginning anew, being given up.

    load_all            every device's models side by side, before any asset is touched
    begin_anew          hold the device → end and begin its process → load → resume
    strike              it died: begin anew, or give it up after too many deaths in a row

All of it in the runner's thread, which is the main thread: Linux ends a child process with the
thread that began it. Only the waiting for models is done elsewhere, and comes back as a message.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence, Set
from typing import Protocol

from audio_batch import events
from audio_batch.control import Inbox, StopControl
from audio_batch.errors import AudioBatchError, DeviceError, SetupError
from audio_batch.gpu.balancer import Balancer
from audio_batch.guards import Ladder
from audio_batch.outcome import RunResult, Stage

_TICK_S = 0.5


class Loader(Protocol):
    """Brings models to devices. Whatever was loaded there before is given up."""

    def begin(self, device: str, needed: Set[Stage]) -> None:
        """Begin to load; main thread, returns at once. Raises DeviceError."""
        ...

    def load(self, device: str, needed: Set[Stage]) -> Sequence[str]:
        """Load, or wait until that is done; any thread. What to warn of.

        Raises:
            DeviceError: this device cannot.
            SetupError, UsageError: no device can.
        """
        ...


class Crew:
    """See the module's docstring.

    Args:
        reserve: a device that is used only when every other one is out.
        max_restarts: deaths in a row, with nothing done between, after which a device is given up.
            The last one in service is not: what cannot be done there is found out asset by asset.
    """

    def __init__(
        self,
        balancer: Balancer,
        loader: Loader,
        *,
        max_restarts: int,
        reserve: str | None,
        ladder: Ladder | None,
        inbox: Inbox,
        emit: Callable[[events.Event], None],
        result: RunResult,
    ) -> None:
        self._balancer = balancer
        self._loader = loader
        self._max_restarts = max_restarts
        self._reserve = reserve
        self._ladder = ladder
        self._inbox = inbox
        self._emit = emit
        self._result = result
        self._needed: Set[Stage] = frozenset()
        self._told: set[str] = set()
        self._strikes: Counter[str] = Counter()
        self._struck: defaultdict[str, set[str]] = defaultdict(set)
        self._blame: defaultdict[str, Counter[str]] = defaultdict(Counter)
        if reserve is not None:
            balancer.hold(reserve)

    # -- loading ----------------------------------------------------------------------------------

    def load_all(self, needed: Set[Stage], stop: StopControl) -> bool:
        """Load every device's models side by side; a device that cannot is taken out.

        A stop leaves at once: nothing has begun, and a library that loads cannot be interrupted.

        Returns:
            Whether all was waited for.

        Raises:
            SetupError, UsageError: no device can run the models.
        """
        self._needed = needed
        ids = [x.device.id for x in self._balancer.loads() if x.device.id != self._reserve]
        executor = concurrent.futures.ThreadPoolExecutor(len(ids), thread_name_prefix="Loader")
        loading = {}
        for device in ids:
            try:
                self._loader.begin(device, needed)
            except DeviceError as error:
                self.take_out(device, str(error))
            else:
                loading[device] = executor.submit(self._loader.load, device, needed)
        waiting = set(loading.values())
        while waiting:
            waiting = concurrent.futures.wait(waiting, timeout=_TICK_S).not_done
            if waiting and stop.requested.is_set():
                executor.shutdown(wait=False)
                return False
        executor.shutdown()
        for device, future in loading.items():
            try:
                self._warn(future.result())
            except DeviceError as error:
                if not self._eased(device, error):
                    self.take_out(device, str(error))
        if not self.in_service() and self._reserve is None:
            raise SetupError(
                f"No device can run the models: {'; '.join(self._result.devices_out.values())}"
            )
        return True

    def _warn(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            if warning not in self._told:
                self._told.add(warning)
                self._emit(events.Notice(warning, warning=True))

    def begin_anew(self, device: str) -> None:
        """Load the device's models again while the others go on; it gets no tasks meanwhile."""
        self._balancer.hold(device)
        try:
            self._loader.begin(device, self._needed)
        except DeviceError as error:
            self.take_out(device, str(error))
            return

        def load() -> None:
            try:
                warnings = self._loader.load(device, self._needed)
            except AudioBatchError as error:
                failure = error
                self._inbox.put(lambda: self._not_loaded(device, failure))
            else:
                self._inbox.put(lambda: self._loaded(device, warnings))

        threading.Thread(target=load, name=f"Loader of {device}", daemon=True).start()

    def _loaded(self, device: str, warnings: Sequence[str]) -> None:
        self._warn(warnings)
        self._balancer.resume(device)

    def _eased(self, device: str, error: AudioBatchError) -> bool:
        """Whether models that did not fit are being loaded in less memory."""
        if not (isinstance(error, DeviceError) and error.lacks_memory and self._ladder):
            return False
        sentence = self._ladder.ease_loading(device)
        if sentence is None:
            return False
        self._emit(events.Notice(sentence, warning=True))
        self.begin_anew(device)
        return True

    def _not_loaded(self, device: str, error: AudioBatchError) -> None:
        if self._eased(device, error):
            return
        self._strikes[device] += 1
        if self._strikes[device] >= self._max_restarts:
            self.take_out(device, str(error))
        else:
            self.begin_anew(device)

    def is_held(self, device: str) -> bool:
        """Whether a device is being loaded."""
        return any(load.held for load in self._balancer.loads() if load.device.id == device)

    # -- dying ------------------------------------------------------------------------------------

    def strike(
        self,
        device: str,
        how: str,
        assets: Sequence[str],
        *,
        counts: bool = True,
        its_own_fault: bool = False,
        wanted: bool = True,
    ) -> None:
        """A device's process has died, or had to be killed, with these assets at work.

        Args:
            counts: False where it is known to have been the asset's doing.
            its_own_fault: whether the device itself said that it failed: after several assets in a
                row then even the last one is given up.
            wanted: whether there is more to do; else nothing is loaded.
        """
        self._strikes[device] += counts
        for asset in assets if counts else ():
            self._blame[asset][device] += 1
            self._struck[device].add(asset)
        others = [name for name in self.in_service() if name != device]
        hopeless = bool(others) or (its_own_fault and len(self._struck[device]) > 1)
        if self._strikes[device] >= self._max_restarts and hopeless:
            count = self._strikes[device]
            self.take_out(device, f"it failed {count} times in a row, the last time by {how}")
        elif wanted:
            self.begin_anew(device)
        else:
            self._balancer.hold(device)

    def finished(self, device: str) -> None:
        """An asset was done there: earlier deaths were not the device's."""
        self._strikes[device] = 0
        self._struck[device].clear()

    def convict(self, asset: str) -> None:
        """It was the asset: the deaths that it brought are taken off the devices' count."""
        self._strikes.subtract(self._blame.pop(asset, Counter()))

    # -- going out --------------------------------------------------------------------------------

    def in_service(self) -> list[str]:
        """The devices that are not out, without one that is only held in reserve."""
        return [
            load.device.id
            for load in self._balancer.loads()
            if load.out_reason is None and load.device.id != self._reserve
        ]

    def take_out(self, device: str, reason: str) -> None:
        """Give the device up; its work goes to the others."""
        self._balancer.take_out(device, reason)
        self.tell()

    def tell(self) -> None:
        """Say once of each device that it is out; the balancer itself notices a lost GPU."""
        for load in self._balancer.loads():
            if load.out_reason is not None and load.device.id not in self._result.devices_out:
                self._result.devices_out[load.device.id] = load.out_reason
                self._emit(events.DeviceOut(load.device.id, load.out_reason))
        if self._reserve is not None and not self.in_service():
            device, self._reserve = self._reserve, None
            text = f"No GPU is left: the run goes on with the {device.upper()} (--cpu-fallback)."
            self._emit(events.Notice(text, warning=True))
            self.begin_anew(device)
