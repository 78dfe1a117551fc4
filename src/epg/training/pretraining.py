"""Stage 1 assembled: encoder, projector, their EMA target, and the losses of one step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from epg.config.recipe import Recipe
from epg.data.augment import draw_views, normalize, random_flip, to_float, views_of
from epg.diffusion.schedule import num_scales_at, sigma_grid
from epg.diffusion.seeds import derive_seed
from epg.model.encoder import Encoder
from epg.model.precision import Precision
from epg.model.projector import Projector
from epg.objectives.collapse import is_collapsed
from epg.objectives.pretraining import (
    PretrainingInputs,
    consistency_temperature,
    pretraining_losses,
)
from epg.training.objective import Losses
from epg.training.world import World


class Pretraining:
    """Representation-consistency pre-training.

    Source: docs/method.md, 2.2.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        world: World | None = None,
        precision: Precision | None = None,
    ) -> None:
        """Build fresh weights from the recipe's seed."""
        self._recipe = recipe
        self._world = world or World.single()
        self._config = recipe.pretrain
        torch.manual_seed(derive_seed(recipe.seed, "pretrain", "weights"))
        self.encoder = Encoder(**recipe.encoder_arguments()).to(device)
        self.projector = Projector(**recipe.projector_arguments()).to(device)
        self.encoder.recomputes = recipe.pretrain.activation_checkpointing
        self.online = nn.ModuleDict({"encoder": self.encoder, "projector": self.projector})
        self._target_encoder = copy.deepcopy(self.encoder)
        self._target_projector = copy.deepcopy(self.projector)
        self.target = nn.ModuleDict(
            {"encoder": self._target_encoder, "projector": self._target_projector}
        ).requires_grad_(False)
        if self._world.size > 1:
            for projector in (self.projector, self._target_projector):
                projector.share_statistics(self._world.total, self._world.size)
        precision = precision or Precision.full()
        precision.compiled(self.online)
        precision.compiled(self.target)
        run = precision.network
        self._features = run(self.encoder.features)
        self._project = run(self.projector)
        self._target_features = run(self._target)
        self._target_neighbour = run(self._target_encoder.features)
        self._views_of = precision.fused(views_of)
        self.online.train()
        # In training mode its BatchNorm uses its own batch; else buffers that nobody updates.
        self.target.train(self._config.target_batch_norm == "batch")

    @property
    def network(self) -> nn.Module:
        """Encoder and projector."""
        return self.online

    @property
    def undecayed(self) -> frozenset[str]:
        """No parameter is spared."""
        return frozenset()

    @property
    def learning_rate_factors(self) -> Mapping[str, float]:
        """All learn at one rate."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Online and target weights, buffers included."""
        state = {f"online.{name}": t for name, t in self.online.state_dict().items()}
        return state | {f"target.{name}": t for name, t in self.target.state_dict().items()}

    def losses(
        self, images: Tensor, labels: Tensor, step: int, part: int = 0, parts: int = 1
    ) -> Losses:
        """Weighted terms `contrastive` and `consistency`; labels are not looked at."""
        del labels
        recipe, config = self._recipe, self._config
        random = self._world.noise(recipe.seed, "pretrain", step, images, part, parts)
        mean, std = recipe.data.normalisation
        views = self._views_of(
            images,
            draw_views(random),
            config.augmentation,
            recipe.data.horizontal_flip,
            random.first,
        )
        clean = to_float(images, mean, std)
        if recipe.data.horizontal_flip:
            clean = random_flip(clean, random)
        noisier, cleaner = self._neighbours(step)
        shift = recipe.sigma_shift
        diffusion = recipe.diffusion
        tau = consistency_temperature(
            noisier,
            step,
            config.steps,
            config.temperature_consistency,
            config.temperature_consistency_start,
            (diffusion.sigma_min, diffusion.sigma_max),
        )
        terms = pretraining_losses(
            PretrainingInputs(
                view1=normalize(views[0], mean, std),
                view2=normalize(views[1], mean, std),
                clean=clean,
                noise=random.normal("noise", clean.shape[1:]),
                sigma_floor=shift * diffusion.sigma_min,
                sigma_noisier=shift * noisier,
                sigma_cleaner=shift * cleaner,
            ),
            online=self._features,
            project=self._project,
            target=self._target_features if config.contrastive_target == "ema" else None,
            neighbour=(self._target_neighbour if config.consistency_target == "ema" else None),
            sigma_data=diffusion.sigma_data,
            temperature_contrastive=config.temperature_contrastive,
            temperature_consistency=tau,
            gather=self._world.gather,
            rank=self._world.rank,
        )
        return Losses(
            {
                "contrastive": config.contrastive_weight * terms.contrastive,
                "consistency": config.consistency_weight * terms.consistency,
            },
            {"feature_std": terms.feature_deviation},
        )

    def _target(self, x: Tensor, level: Tensor) -> Tensor:
        return self._target_projector(self._target_encoder.features(x, level))

    def _neighbours(self, step: int) -> tuple[float, float]:
        """Two adjacent unshifted levels, one draw for the whole batch, from (seed, step) alone."""
        config, diffusion = self._config, self._recipe.diffusion
        count = num_scales_at(step, config.steps, config.num_scales_start, config.num_scales_end)
        grid = sigma_grid(count, diffusion.sigma_min, diffusion.sigma_max, diffusion.rho)
        index = derive_seed(self._recipe.seed, "pretrain", "level", step) % (count - 1)
        return float(grid[index]), float(grid[index + 1])

    def after_step(self, step: int) -> None:
        """Move the target's parameters: xi = m xi + (1 - m) theta."""
        del step
        update = get_ema_multi_avg_fn(self._config.target_ema_decay)
        update(list(self.target.parameters()), list(self.online.parameters()), 0)

    def warning(self, row: dict[str, Any]) -> str | None:
        """Tell of a collapse: both directions' loss is at ln B, and all features are one."""
        config, deviation = self._config, row["feature_std"]
        if not config.contrastive_weight:
            return None
        direction = row["loss_contrastive"] / (2 * config.contrastive_weight)
        if not is_collapsed(direction, config.batch_size, deviation):
            return None
        return (
            f"step {row['step']}: pre-training has collapsed: all images have nearly the same "
            f"features (deviation {deviation:.2g}, 1 is spread evenly) and the contrastive loss "
            f"tells none apart ({direction:.4g}, ln {config.batch_size}): lower "
            "pretrain.learning_rate or lengthen pretrain.warmup_steps"
        )

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The online encoder and, for consistency fine-tuning, its projector."""
        return {"encoder": self.encoder.state_dict(), "projector": self.projector.state_dict()}
