"""Inception's features: ours, torch-fidelity's and pytorch-fid's, on the same random weights.

Ours folds batch normalisation into the convolutions, packs their weights, keeps channels last, and
takes four images at a time. Two cases: images already in memory to features (torch-fidelity's are
compared with ours first), and generated images to mean and covariance, where the usual way writes
PNG files and reads them again (pytorch-fid, where it is installed, resizes otherwise, so its
features differ). Images are crops of photographs. The ways take turns; the figure is the least CPU
time.

    OMP_NUM_THREADS=1 python -m benchmarks.features --output benchmarks/results/features.json
    python -m benchmarks.features --images 8 --rounds 1    # seconds
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.utils import save_image

from benchmarks.support.pictures import jpegs
from benchmarks.support.rounds import OURS, ratios, report, take_turns, versions
from epg.evaluation.features.describing import GROUP
from epg.evaluation.features.inception import FidInception
from epg.evaluation.metrics.moments import MomentAccumulator

FIDELITY, PYTORCH_FID = "torch-fidelity", "pytorch-fid"
BATCH = 16  # of the peers, which are fastest so

Network = Callable[[torch.Tensor], torch.Tensor]


def random_weights(model: FidInception) -> None:
    """Weights that keep the size of activations, and statistics away from 0 and 1."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)


def networks(folder: Path) -> tuple[FidInception, dict[str, Network]]:
    """Our network, and peers with the same weights: uint8 [N, 3, H, W] -> [N, 2048]."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    ours = FidInception()
    random_weights(ours)
    path = folder / "weights.pth"
    torch.save(ours.state_dict(), path)
    fidelity = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
    ).eval()
    peers: dict[str, Network] = {FIDELITY: lambda images: fidelity(images)[0]}
    if importlib.util.find_spec("pytorch_fid") is not None:
        inception: Any = importlib.import_module("pytorch_fid.inception")
        state = dict(ours.state_dict().items())
        inception.load_state_dict_from_url = lambda *arguments, **named: state
        other = inception.InceptionV3().eval()
        peers[PYTORCH_FID] = lambda images: other(images.float() / 255)[0][:, :, 0, 0]
    return ours.fold(), peers


def pictures(count: int, size: int) -> torch.Tensor:
    """Crops of photographs, uint8 [N, size, size, 3]."""
    found = []
    for data in jpegs(count):
        image = Image.open(io.BytesIO(data)).convert("RGB").crop((60, 20, 396, 356))
        found.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
    return torch.from_numpy(np.stack(found))


def through_files(images: torch.Tensor, network: Network, folder: Path) -> None:
    """Write PNG files of generated images [N, H, W, 3], read them, and take the moments."""
    count, found = len(images), []
    for i, image in enumerate(images.permute(0, 3, 1, 2).float() / 255):
        save_image(image, folder / f"{i}.png")
    for start in range(0, count, BATCH):
        names = range(start, min(start + BATCH, count))
        read = [np.asarray(Image.open(folder / f"{i}.png").convert("RGB")) for i in names]
        found.append(network(torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).contiguous()))
    features = torch.cat(found).double().numpy()
    features.mean(0)
    np.cov(features, rowvar=False)


def measure(images: torch.Tensor, rounds: int) -> dict[str, Any]:
    """Return seconds and ratios of both cases."""
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        folder = Path(place)
        ours, peers = networks(folder)
        planes = images.permute(0, 3, 1, 2).contiguous()

        def of_peer(network: Network) -> torch.Tensor:
            return torch.cat([network(part) for part in planes.split(BATCH)])

        def features() -> torch.Tensor:
            return torch.cat([ours.describe(part).pool for part in images.split(GROUP)])

        def statistics() -> None:
            sums = MomentAccumulator(2048)
            for part in images.split(GROUP):
                sums.add(ours.describe(part).pool)
            sums.moments()

        one, other = features(), of_peer(peers[FIDELITY])
        difference = float((one - other).abs().max() / other.abs().max())
        assert difference < 1e-4, difference
        alone = {name: lambda net=net: of_peer(net) for name, net in peers.items()}
        files = {n: lambda net=net: through_files(images, net, folder) for n, net in peers.items()}
        seconds = {
            "features": take_turns({OURS: features, **alone}, rounds),
            "images_to_statistics": take_turns({OURS: statistics, **files}, rounds),
        }
    return {
        "largest_relative_difference": difference,
        "seconds": seconds,
        "ratios": {case: ratios(rows) for case, rows in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(pictures(arguments.images, arguments.size), arguments.rounds)
    about = {
        "versions": versions("torch", "torch-fidelity", "pytorch-fid"),
        "threads": 1,
        "images": arguments.images,
        "size": arguments.size,
        "rounds": arguments.rounds,
    }
    report("features", arguments.output, {**about, **found})


if __name__ == "__main__":
    main()
