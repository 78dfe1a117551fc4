"""What all toy stages do."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from epg.errors import UserError
from epg.runs.entry import open_run
from epg.runs.perform import perform
from epg.stages.catalog import STAGES
from epg.stages.settings import training_config


def setting(name: str, stage: str) -> str | None:
    """`TOY_FAIL=gate-denoising:user,...` → `user` for stage gate-denoising."""
    pairs = (pair.partition(":") for pair in os.environ.get(name, "").split(",") if pair)
    return {key: value or "yes" for key, _, value in pairs}.get(stage)


def toy(stage, recipe, overrides, store, run_name, *, outputs=(), metrics=None):
    """Do a stage's pretended work; `outputs` are KFP artifacts to write."""
    run = open_run(recipe, overrides, store, run_name)

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
        for name in ("report",) if stage == "report" else ("result",):
            results.put_bytes(name, f"{name}.html", b"<p>toy</p>")
        results.metrics.update(metrics or {})

    config = {"seed": run.recipe.seed}
    if STAGES[stage].kind == "training":
        config = training_config(run.recipe, stage)
    always = stage == "report"
    record = perform(run, STAGES[stage], config=config, inputs={}, work=work, always=always)
    for artifact in outputs:
        Path(artifact.path).write_text("toy")
        artifact.metadata["epg"] = "{}"
    return record
