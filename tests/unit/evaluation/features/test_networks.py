from __future__ import annotations

from typing import get_args

import torch

from epg.config.recipe import EvaluateConfig
from epg.evaluation.features.classifier import Classifier, ClassifierShape, save_classifier
from epg.evaluation.features.inception import FidInception
from epg.evaluation.features.networks import NETWORKS, open_network
from epg.stages.gate import KNOWN_METRICS


def test_a_recipe_can_name_what_can_be_opened():
    (member,) = get_args(EvaluateConfig.model_fields["networks"].annotation)
    assert set(get_args(member)) == set(NETWORKS)


def test_figures_belong_to_one_network_each():
    figures = Classifier.figures + FidInception.figures
    assert len(set(figures)) == len(figures)
    wants = {name: needs for name, needs in KNOWN_METRICS.items() if "networks" in needs}
    assert set(figures) == set(wants)
    for kind, network in (("classifier", Classifier), ("inception", FidInception)):
        assert {wants[name] for name in network.figures} == {f"evaluate.networks: [{kind}]"}


def test_the_runs_own_classifier_is_opened_from_its_file(tmp_path):
    path = tmp_path / "classifier.safetensors"
    save_classifier(path, Classifier(ClassifierShape("digits-cnn", 8, 1, 10, [0.3], [0.4])))
    network = open_network("classifier", path, torch.device("cpu"))
    assert network.name == "digits-cnn"
