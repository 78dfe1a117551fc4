"""Progress never stops the work that it tells of."""

from __future__ import annotations

import contextlib
import os

from epg.telemetry.progress import StageReporter


def test_a_reader_that_is_gone_stops_nothing(monkeypatch):
    """A pod that is told to end loses its log first; what is left of its second is for saving."""
    monkeypatch.delenv("EPG_EVENTS", raising=False)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as gone:
        monkeypatch.setattr("sys.stderr", gone)
        reporter = StageReporter("pretrain")
        reporter.started()
        reporter.progress(1, 2)
        reporter.message("stopped at step 7, checkpoint saved")
        monkeypatch.undo()
        with contextlib.suppress(BrokenPipeError):
            gone.close()
