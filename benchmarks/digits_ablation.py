r"""What pre-training is worth on digits: each loss alone, both, and none, equally fine-tuned.

Every variant gets an encoder from stage 1 and fine-tunes it for both objectives, with the same
budgets: `from scratch` (stage 1's fresh weights of the same seed), `contrastive only`,
`consistency only`, `both`. A seed stands for all that is random: split, weights, order, noise.
Judges that no training saw: the SVC on raw pixels and the classifier's features (both trained on
the training split, never on samples), the held-out digits in the Fréchet distance; beside them a
logistic regression on the frozen encoder's features, fitted on the training and judged on the
held-out split.

What differs besides the encoder: consistency fine-tuning has an auxiliary term in the features of
the stage-1 network, which `from scratch` does not have, so its weight is 0 there. `consistency
only` leaves the projector, through which the auxiliary term looks, as it was initialised. With
`--no-auxiliary` the weight is 0 everywhere, and the encoder's weights are all that differs.

A row is written as soon as it is measured, and one that the JSON has is not measured again.

With `--pictures` a grid of samples is kept for every row: from how many steps on are they more than
noise?

    python -m benchmarks.digits_ablation --steps 300 --seeds 0 1 2 3 4 \
        --output benchmarks/results/digits_ablation.json --figure docs/images/digits_ablation.svg
    python -m benchmarks.digits_ablation --steps 400 --seeds 0 1 2 3 4   # 400 steps each
    python -m benchmarks.digits_ablation --full                          # the recipe's own steps
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.support import ablation
from epg.config.loading import parse_overrides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="digits")
    arguments = ablation.arguments_of(parser)
    device = ablation.choose_device(arguments.device)
    settings = parse_overrides(arguments.set)
    if arguments.no_auxiliary:
        settings["consistency.auxiliary_weight"] = 0.0
    head = ablation.head_of("digits_ablation", arguments.recipe, settings, device)
    with tempfile.TemporaryDirectory(prefix="ablation-") as scratch:
        folder = (arguments.work or Path(scratch)).absolute()
        bench = ablation.Bench(arguments.recipe, settings, folder, pictures=arguments.pictures)
        ablation.measured(arguments, bench, head)


if __name__ == "__main__":
    main()
