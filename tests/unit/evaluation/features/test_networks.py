from __future__ import annotations

from typing import Any, get_args

import torch

from epg.config.evaluating import EvaluateConfig
from epg.evaluation.features.classifier import Classifier, ClassifierShape, save_classifier
from epg.evaluation.features.dinov2 import DinoV2
from epg.evaluation.features.inception import FidInception
from epg.evaluation.features.networks import NETWORKS, open_networks
from epg.measures import MEASURES
from epg.measures import NETWORKS as NAMED


def test_a_recipe_can_name_what_can_be_opened():
    (member,) = get_args(EvaluateConfig.model_fields["networks"].annotation)
    assert set(get_args(member)) == set(NETWORKS) == set(NAMED)


def test_figures_are_those_of_the_table_of_measures():
    networks: dict[str, Any] = {
        "classifier": Classifier,
        "inception": FidInception,
        "dinov2": DinoV2,
    }
    for kind, network in networks.items():
        wanted = {
            measure.name
            for measure in MEASURES
            if measure.networks == (kind,) and not measure.setting
        }
        assert set(network.figures) == wanted


def test_the_runs_own_classifier_is_opened_from_its_file(tmp_path):
    path = tmp_path / "classifier.safetensors"
    save_classifier(path, Classifier(ClassifierShape("digits-cnn", 8, 1, 10, [0.3], [0.4])))
    device = torch.device("cpu")
    networks = open_networks(["classifier"], path, device, root=None, scratch=tmp_path)
    network = networks["classifier"]
    assert len(network.weights_digest) == 64
    assert network.name == "digits-cnn"
