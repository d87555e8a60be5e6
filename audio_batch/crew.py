"""The devices of a run as their workers see them: loading, dying, beginning anew, being given up.

    load_all            every device's models side by side; whoever is ready begins
    welcome             one that joins later, or is back
    begin_anew          hold the device → end and begin its process → load → resume
    strike              it died: begin anew, or give it up after too many deaths in a row

All of it in the runner's thread, which is the main thread: Linux ends a child process with the
thread that began it. Only the waiting for models is done elsewhere, and comes back as a message.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence, Set
from typing import Protocol

from audio_batch import events
from audio_batch.control import Inbox
from audio_batch.errors import AudioBatchError, DeviceError, SetupError, UsageError, WorkerDied
from audio_batch.gpu.balancer import Balancer
from audio_batch.guards import Ladder
from audio_batch.outcome import RunResult, Stage

_PAUSES_S = (0.0, 2.0, 15.0, 60.0)
"""Before a device's models are loaded once more, after so many tries that failed."""

_NEVER = 5
"""So many deaths in a row, over as many recordings, of a device that has never done one: it is the
device (a library is missing or does not fit), not the recordings."""

_HOPELESS_X = 3
"""A device that has worked is trusted so many times longer."""


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
            The last one in service is only if it says itself that it fails, or has never done any.
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
        self.awaited: Callable[[], bool] = lambda: False
        """Whether a run that has no device any more waits for one; told in `wire`."""
        self._needed: Set[Stage] = frozenset()
        self._closed = False
        self._told: set[str] = set()
        self._generation: Counter[str] = Counter()
        self._loading_since_s: dict[str, float] = {}
        self._due_s: dict[str, float] = {}
        self._loaded_once: set[str] = set()
        self._worked: set[str] = set()
        self._strikes: Counter[str] = Counter()
        self._struck: defaultdict[str, set[str]] = defaultdict(set)
        self._blame: defaultdict[str, Counter[str]] = defaultdict(Counter)
        if reserve is not None:
            balancer.hold(reserve)

    # -- loading ----------------------------------------------------------------------------------

    def load_all(self, needed: Set[Stage]) -> None:
        """Begin to load every device's models side by side; each takes part once it is ready.

        Raises:
            SetupError: no device can run the models.
        """
        self._needed = needed
        for load in self._balancer.loads():
            if load.device.id != self._reserve:
                self.begin_anew(load.device.id)

    def _warn(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            if warning not in self._told:
                self._told.add(warning)
                self._emit(events.Notice(warning, warning=True))

    def begin_anew(self, device: str) -> None:
        """Load the device's models again while the others go on; it gets no tasks meanwhile."""
        self._balancer.hold(device)
        if self._closed:
            return
        self._generation[device] += 1
        self._loading_since_s[device] = time.monotonic()
        generation = self._generation[device]
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
                self._inbox.put(lambda: self._not_loaded(device, failure, generation))
            except Exception as error:
                unforeseen = DeviceError(f"{device} cannot load the models: {error!r}.")
                self._inbox.put(lambda: self._not_loaded(device, unforeseen, generation))
            else:
                self._inbox.put(lambda: self._loaded(device, warnings, generation))

        threading.Thread(target=load, name=f"Loader of {device}", daemon=True).start()

    def close(self) -> None:
        """The run is over: nothing is begun any more, whatever is still told of devices."""
        self._closed = True

    def _loaded(self, device: str, warnings: Sequence[str], generation: int) -> None:
        if generation != self._generation[device]:
            return  # it has been begun anew since
        self._loading_since_s.pop(device, None)
        # Late, but there: begun anew now, it would take with it what it is given to do.
        self._due_s.pop(device, None)
        self._loaded_once.add(device)
        self._warn(warnings)
        self._balancer.resume(device)

    def _not_loaded(self, device: str, error: AudioBatchError, generation: int) -> None:
        if generation != self._generation[device]:
            return
        self._loading_since_s.pop(device, None)
        if isinstance(error, SetupError | UsageError) and not self._loaded_once:
            raise error  # no device could
        if self._eased(device, error):
            return
        passing = isinstance(error, WorkerDied) or device in self._loaded_once
        self._strikes[device] += 1
        tries = self._strikes[device]
        if not passing or tries >= self._max_restarts:
            self.take_out(device, str(error))
            return
        self._emit(events.Notice(f"{error} It is tried again.", warning=True))
        # What it lacks may come back: memory of the dead, a network folder.
        self._due_s[device] = time.monotonic() + _PAUSES_S[min(tries, len(_PAUSES_S)) - 1]

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

    def look_after_loading(self, stall_s: float | None) -> None:
        """Begin what is due again, and give up what has been loading for too long."""
        now_s = time.monotonic()
        for device, due_s in list(self._due_s.items()):
            if now_s >= due_s:
                del self._due_s[device]
                self.begin_anew(device)
        for device, since_s in list(self._loading_since_s.items()):
            if stall_s is not None and now_s - since_s > stall_s:
                late = f"{device} has not loaded its models within {stall_s:.0f} s."
                self._not_loaded(device, WorkerDied(late), self._generation[device])

    @property
    def loading(self) -> bool:
        """Whether a library may be at work that cannot be interrupted."""
        return bool(self._loading_since_s)

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
    ) -> bool:
        """A device's process has died, or had to be killed, with these assets at work.

        Args:
            counts: False where it is known to have been the asset's doing.
            its_own_fault: whether the device itself said that it failed: after several assets in a
                row then even the last one is given up.
            wanted: whether there is more to do; else nothing is loaded.

        Returns:
            Whether it is given up without having done anything: the assets are not to blame.
        """
        self._strikes[device] += counts
        for asset in assets if counts else ():
            self._blame[asset][device] += 1
            self._struck[device].add(asset)
        others = [name for name in self.in_service() if name != device]
        strikes, struck = self._strikes[device], len(self._struck[device])
        if others:
            hopeless = strikes >= self._max_restarts
        elif device in self._worked:
            hopeless = its_own_fault and strikes >= _HOPELESS_X * self._max_restarts and struck > 1
        else:
            hopeless = struck > 1 and its_own_fault and strikes >= self._max_restarts
            hopeless = hopeless or min(strikes, struck) >= _NEVER
        if hopeless:
            self.take_out(device, f"it failed {strikes} times in a row, the last time by {how}")
            return device not in self._worked
        if wanted:
            self.begin_anew(device)
        else:
            self._balancer.hold(device)
        return False

    def finished(self, device: str) -> None:
        """An asset was done there: earlier deaths were not the device's."""
        self._strikes[device] = 0
        self._struck[device].clear()
        self._worked.add(device)

    def convict(self, asset: str) -> None:
        """It was the asset: the deaths that it brought are taken off the devices' count."""
        self._strikes.subtract(self._blame.pop(asset, Counter()))

    # -- joining ----------------------------------------------------------------------------------

    def welcome(self, device: str) -> None:
        """Load the models of a device that the balancer has just taken in.

        Whatever had befallen one of that name before is forgotten: it was another machine.
        """
        self._strikes.pop(device, None)
        self._struck.pop(device, None)
        self._due_s.pop(device, None)
        self._result.devices_out.pop(device, None)
        self.begin_anew(device)

    # -- going out --------------------------------------------------------------------------------

    def in_service(self) -> list[str]:
        """The devices that are not out, without one that is only held in reserve."""
        return [
            load.device.id
            for load in self._balancer.loads()
            if load.out_reason is None and load.device.id != self._reserve
        ]

    def last_out(self) -> str | None:
        """The device that went out last of those that are out."""
        return next(reversed(self._result.devices_out), None)

    def take_out(self, device: str, reason: str) -> None:
        """Give the device up; its work goes to the others."""
        self._balancer.take_out(device, reason)
        self._loading_since_s.pop(device, None)
        self._due_s.pop(device, None)
        self.tell()
        if not self.in_service() and not self._loaded_once and not self.awaited():
            raise SetupError(
                f"No device can run the models: {'; '.join(self._result.devices_out.values())}"
            )

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
