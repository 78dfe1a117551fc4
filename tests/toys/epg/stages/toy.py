"""What all toy stages do."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from epg.errors import UserError
from epg.runs.perform import perform
from epg.stages.catalog import STAGES
from epg.stages.settings import training_config

TOY = b"<p>toy</p>"


def setting(name: str, stage: str) -> str | None:
    """`TOY_FAIL=gate-denoising:user,...` → `user` for stage gate-denoising."""
    pairs = (pair.partition(":") for pair in os.environ.get(name, "").split(",") if pair)
    return {key: value or "yes" for key, _, value in pairs}.get(stage)


def is_toy(content):
    """Check what a toy before this one has handed over."""
    assert content == TOY
    return content


def toy(run, stage, *, outputs=("result",), metrics=None, inputs=None):
    """Do a stage's pretended work; `outputs` are the names of what it stores."""

    def stop(number, frame):
        Path(os.environ["EPG_LOCAL_DIR"], f"{stage}.checkpoint").write_text(str(os.getpid()))
        sys.exit(143)

    def work(reporter, results):
        signal.signal(signal.SIGTERM, signal.SIG_IGN if setting("TOY_DEAF", stage) else stop)
        Path(os.environ["EPG_LOCAL_DIR"], f"{stage}.pid").write_text(str(os.getpid()))
        failure = setting("TOY_FAIL", stage)
        if failure == "user":
            raise UserError(f"{stage} was told to fail: tell it otherwise")
        if failure == "crash":
            raise RuntimeError("a bug, say")
        reporter.message("metrics at http://127.0.0.1:9464/metrics")
        steps = int(float(setting("TOY_SLEEP", stage) or 0.05) / 0.05)
        for step in range(1, steps + 1):
            time.sleep(0.05)
            reporter.progress(step, steps, loss=1 / step, images_per_second=300.0)
        for name in outputs:
            results.put_bytes(name, f"{name}.html", TOY)
        results.metrics.update(metrics or {})

    config = {"seed": run.recipe.seed}
    if STAGES[stage].kind == "training":
        config = training_config(run.recipe, stage)
    always = stage == "report"
    return perform(run, STAGES[stage], config=config, inputs=inputs or {}, work=work, always=always)
