from epg.runs.entry import Component
from epg.runs.handover import HandOver
from epg.stages.toy import is_toy, toy


def evaluate(run, objective, shards, generator, statistics):
    assert statistics.stage == "reference-statistics"
    assert generator.stage == f"finetune-{objective}"
    values = {"frechet_distance": 1.5, "svc_agreement": 0.95, "nfe": 41, "num_samples": 1000}
    return toy(run, f"evaluate-{objective}", outputs=("grid_page",), metrics=values)


evaluate_component = Component(
    evaluate,
    takes={
        "shards": is_toy,
        "generator": HandOver.from_json,
        "statistics": HandOver.from_json,
    },
    shows={"grid": "grid_page"},
    measures="metrics",
)
