from pathlib import Path

from epg.runs.entry import stage_entry
from epg.stages.toy import toy


@stage_entry
def evaluate_component(
    shards,
    statistics,
    generator,
    metrics,
    grid,
    objective,
    recipe,
    overrides,
    store,
    run_name,
):
    assert Path(generator.path).read_text() == "toy"
    assert Path(statistics.path).read_text() == "toy"
    values = {"frechet_distance": 1.5, "svc_agreement": 0.95, "nfe": 41, "num_samples": 1000}
    stage = f"evaluate-{objective}"
    toy(stage, recipe, overrides, store, run_name, outputs=[grid], metrics=values)
    metrics.log_metric("svc_agreement", 0.95)
