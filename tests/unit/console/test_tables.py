from __future__ import annotations

from epg.console.tables import figure_lines
from epg.protocol import FACTS, HASHES, FeatureSpace, Protocol, Reference


def test_figures_stand_with_interval_protocol_and_how_they_were_measured():
    protocol = Protocol(
        {"inception": FeatureSpace("inception-2015-12-05", "6726825d" * 8)},
        {"inception": Reference("file", 0, "abcdef01" * 8, "adm.npz", network_assumed=True)},
        50_000,
        "balanced",
        3,
    )
    metrics = {"fid": 12.3456789, "num_samples": 50_000}
    hashes = protocol.hashes(metrics)
    details = {FACTS: protocol.facts(), HASHES: hashes, "intervals": {"fid": [12.1, 12.55]}}
    lines = figure_lines(metrics, details)
    assert [line.split() for line in lines[:3]] == [
        ["interval", "protocol"],
        ["fid", "12.3457", "12.1", "to", "12.6", hashes["fid"]],
        ["num_samples", "50,000"],
    ]
    assert lines[4].split("  ")[-1].strip() == "50,000, labels balanced"
    assert lines[6].endswith("inception-2015-12-05, weights 6726825d6726")
    assert lines[7].endswith(
        "the file adm.npz, abcdef01abcd, which does not say its network: this one is assumed"
    )
