"""Checkpoints on their way to a store that is far away, while training goes on.

A checkpoint is written to the local disk first, which training waits for, and from there a thread
brings it to the store. One is on its way at most, and one waits: a newer one takes its place. The
local copy stays until the store has all of it, the manifest last.

A store that is away for a while costs nothing: it is told, and asked again. One that stays away
ends the training, since there would be nothing to go on from; the newest checkpoint is then kept
on the local disk.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from epg.errors import UserError, one_line
from epg.numbers import short
from epg.store.lease import InUse
from epg.training.checkpoint_format import step_of
from epg.training.checkpoints import Checkpoints
from epg.training.keeper import Checkpoint, Keeper, Places

PATIENCE_SECONDS = 900.0  # without a checkpoint that the store takes, while they are made
PAUSE_SECONDS = 10.0  # between two tries
UNSENT = "epg-unsent-checkpoint-"  # beginning of a folder's name, beside the scratch folder


class Delivery(Keeper):
    """Saves like `Checkpoints`, and lets training go on while the store is being written to."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        tell: Callable[[str], None] = lambda text: None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Bind to a place.

        Args:
            checkpoints: of the store that is far away.
            tell: hears what is waited for.
            warn: hears of a store that does not take a checkpoint, from another thread.
        """
        self._checkpoints = checkpoints
        self._tell = tell
        self._warn = warn
        self._changed = threading.Condition()
        self._waiting: Path | None = None
        self._under_way: Path | None = None
        self._failing_since: float | None = None
        self._failure: Exception | None = None  # for good
        self._last_try = False  # somebody waits for the outcome
        self._closed = False
        self._room_told = False
        self._thread: threading.Thread | None = None

    def restore(self, places: Places) -> Checkpoint | None:
        """Copy the newest whole checkpoint of the store; see `Checkpoints.restore`."""
        return self._checkpoints.restore(places)

    def check(self) -> None:
        """Raise what ended the delivery for good; costs nothing.

        Raises:
            UserError: the store takes no checkpoint; somebody else has taken the stage over.
        """
        if self._failure is not None:
            raise self._failure

    def save(self, step: int, tensors: dict[str, Tensor], series: list[dict[str, Any]]) -> None:
        """Write a checkpoint to the local disk, and leave it to the thread to store it.

        Where there is no room for it, it goes to the store at once, and training waits.

        Raises:
            UserError: as `check`; the disk is full.
        """
        self.check()
        with self._changed:
            replaced, self._waiting = self._waiting, None
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)
        if not self._has_room(sum(tensor.nbytes for tensor in tensors.values())):
            self.settle()
            self._checkpoints.save(step, tensors, series)
            return
        staged = self._checkpoints.stage(step, tensors, series)
        with self._changed:
            self._waiting = staged
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="epg-checkpoints", daemon=True)
            self._thread.start()

    def _has_room(self, size: int) -> bool:
        found = self._checkpoints.has_room(size)
        if not found and not self._room_told:
            self._room_told = True
            self._warn(
                f"no room for a checkpoint of {short(size)}B on the local disk (EPG_SCRATCH names "
                "another folder): training waits until the store has it"
            )
        return found

    def settle(self) -> None:
        """Wait until the store has the newest checkpoint.

        Raises:
            UserError: it does not take it; where the checkpoint is instead.
        """
        with self._changed:
            newest = self._waiting or self._under_way
            if newest is not None and self._failure is None:
                self._tell(
                    f"waiting until the store has the checkpoint at step {step_of(newest.name)}"
                )
            self._last_try = True
            self._changed.notify_all()
            while (self._waiting or self._under_way) and self._failure is None:
                self._changed.wait()
            self._last_try = False
        self.check()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """See the last checkpoint to the store, unless all is to end at once.

        What fails here is told and no more: training is done, or has failed for its own reason.
        """
        at_once = isinstance(error, InUse) or not (error is None or isinstance(error, Exception))
        if not at_once:
            try:
                self.settle()
            except Exception as failure:
                if failure is not error:
                    self._warn(one_line(failure))
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # --- The thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (staged := self._next()) is not None:
                try:
                    self._checkpoints.put(staged, again=self._failing_since is not None)
                except UserError as error:
                    self._failed(staged, error)
                else:
                    self._done(staged)
        except Exception as error:  # nobody is to wait for a thread that has ended
            self._give_up(error)

    def _next(self) -> Path | None:
        """Wait for a checkpoint; None: there will be none."""
        with self._changed:
            while self._waiting is None and not self._closed:
                self._changed.wait()
            if self._closed or self._failure is not None:
                return None
            self._under_way, self._waiting = self._waiting, None
            return self._under_way

    def _done(self, staged: Path) -> None:
        shutil.rmtree(staged, ignore_errors=True)
        with self._changed:
            self._under_way = self._failing_since = None
            self._changed.notify_all()

    def _failed(self, staged: Path, error: UserError) -> None:
        """Let the newest one be tried again after a pause, or give up."""
        with self._changed:
            if self._closed or isinstance(error, InUse):
                self._give_up(error)
                return
            now = time.monotonic()
            if self._failing_since is None:
                self._failing_since = now
                if not self._last_try:
                    self._warn(
                        f"the checkpoint at step {step_of(staged.name)} is not stored yet: "
                        f"{one_line(error)}; training goes on, and it is tried again"
                    )
            newer = self._waiting
            if newer is not None:
                shutil.rmtree(staged, ignore_errors=True)
            if now - self._failing_since > PATIENCE_SECONDS or (self._last_try and newer is None):
                self._give_up(self._unsent(newer or staged, error))
                return
            self._waiting, self._under_way = newer or staged, None
            if not self._last_try:
                self._changed.wait(PAUSE_SECONDS)

    def _give_up(self, failure: Exception) -> None:
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _unsent(self, staged: Path, error: UserError) -> UserError:
        """Move a checkpoint that the store does not take to where it outlives this process."""
        step, place = step_of(staged.name), self._checkpoints.uri
        prefix = f"{UNSENT}{hashlib.sha256(place.encode()).hexdigest()[:8]}-"
        try:
            for older in staged.parent.parent.glob(f"{prefix}*"):
                shutil.rmtree(older, ignore_errors=True)
            kept = Path(tempfile.mkdtemp(prefix=prefix, dir=staged.parent.parent))
            kept = staged.rename(kept / staged.name)
        except OSError:
            advice = "run the same command again once it is there"
        else:
            advice = (
                f"it is kept as {kept}: once the store is there, copy that folder to {place}/ and "
                "run the same command again"
            )
        return UserError(
            f"the checkpoint at step {step} is not stored: {one_line(error)}; {advice}"
        )
