"""Stage 2 assembled: encoder and fresh decoder, trained by denoising or by consistency."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from epg.config.recipe import Recipe
from epg.config.training import FinetuneConfig
from epg.data.augment import random_flip, to_float
from epg.diffusion.denoisers import denoise_consistently, denoise_directly
from epg.diffusion.preconditioning import c_in, c_noise, per_image
from epg.diffusion.schedule import log_normal_sigmas, nearest_levels, sigma_grid
from epg.diffusion.seeds import SampleNoise, derive_seed
from epg.model.encoder import Encoder
from epg.model.generator import Generator
from epg.model.precision import Precision
from epg.model.projector import Projector
from epg.objectives.consistency import consistency_loss, pair_level, pair_weight
from epg.objectives.contrastive import info_nce
from epg.objectives.denoising import denoising_loss, level_weights
from epg.training.objective import Losses
from epg.training.schedules import ema_decay_at, layer_factors, stage_at
from epg.training.world import World


class _Finetuning:
    """What both objectives share: the generator, its moving average, and the images."""

    objective: str

    def __init__(
        self,
        recipe: Recipe,
        encoder: dict[str, Tensor],
        device: torch.device,
        world: World | None,
        precision: Precision | None,
        dropout: float,
    ) -> None:
        """Build a generator around the pre-trained encoder's weights."""
        self._recipe = recipe
        self._world = world or World.single(device)
        self._precision = precision or Precision.full()
        torch.manual_seed(derive_seed(recipe.seed, self.objective, "weights"))
        self.generator = Generator(**recipe.generator_arguments(dropout))
        self.generator.encoder.load_state_dict(encoder)
        self.generator.to(device).train()
        self._shared: FinetuneConfig = getattr(recipe, self.objective)
        self.averages = {
            decay: copy.deepcopy(self.generator).eval().requires_grad_(False)
            for decay in self._shared.ema_decays
        }
        self.generator.encoder.requires_grad_(self._shared.encoder_trainable)
        self.generator.recompute(self._shared.activation_checkpointing)
        self._network = self._precision.network(self._precision.compiled(self.generator))

    @property
    def ema(self) -> Generator:
        """The moving average at the main rate."""
        return self.averages[self._shared.ema_decays[0]]

    @property
    def network(self) -> nn.Module:
        """The generator, encoder included."""
        return self.generator

    @property
    def undecayed(self) -> frozenset[str]:
        """No parameter is spared."""
        return frozenset()

    @property
    def learning_rate_factors(self) -> Mapping[str, float]:
        """Smaller by `layer_decay` with each encoder block towards the image."""
        names = (name for name, _ in self.generator.named_parameters())
        return layer_factors(names, self._recipe.model.depth, self._shared.layer_decay)

    def state(self) -> dict[str, Tensor]:
        """Weights and their moving averages."""
        state = {f"model.{name}": t for name, t in self.generator.state_dict().items()}
        for decay, average in self.averages.items():
            prefix = "ema" if average is self.ema else f"ema-{decay:g}"
            state |= {f"{prefix}.{name}": t for name, t in average.state_dict().items()}
        return state

    def _prepare(self, images: Tensor, random: SampleNoise) -> tuple[Tensor, Tensor]:
        """Return clean images in model units and noise, both [N, C, H, W]."""
        data = self._recipe.data
        clean = to_float(images, *data.normalisation)
        if data.horizontal_flip:
            clean = random_flip(clean, random)
        return clean, random.normal("noise", clean.shape[1:])

    def _levels(self, random: SampleNoise, mean: float, std: float) -> Tensor:
        """Return log-normal unshifted levels, float64 [N]."""
        return log_normal_sigmas(random.normal("level", dtype=torch.float64), mean, std)

    def after_step(self, step: int) -> None:
        """Update the moving averages of the weights."""
        for decay, average in self.averages.items():
            update = get_ema_multi_avg_fn(ema_decay_at(step, decay, self._shared.ema_warmup))
            update(list(average.parameters()), list(self.generator.parameters()), 0)

    def warning(self, row: dict[str, Any]) -> str | None:
        """Nothing is watched for."""
        del row
        return None

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The moving averages of the generator's weights, `generator` at the main rate."""
        return {
            kind: self.averages[decay].state_dict() for kind, decay in self._shared.averages.items()
        }


class Denoising(_Finetuning):
    """Diffusion fine-tuning.

    Source: docs/method.md, 4.1.
    """

    objective = "denoising"

    def __init__(
        self,
        recipe: Recipe,
        encoder: dict[str, Tensor],
        device: torch.device,
        world: World | None = None,
        precision: Precision | None = None,
    ) -> None:
        """Build the generator, the grid of levels and their weights."""
        super().__init__(recipe, encoder, device, world, precision, dropout=0.0)
        self._config = recipe.denoising
        diffusion = recipe.diffusion
        grid = sigma_grid(
            self._config.num_scales, diffusion.sigma_min, diffusion.sigma_max, diffusion.rho
        )
        self._grid = grid.to(device)
        self._weights = level_weights(grid).to(device)

    @property
    def undecayed(self) -> frozenset[str]:
        """Positions and CLS token.

        Source: docs/method.md, 4.3.
        """
        return frozenset({"encoder.pos_embed", "encoder.cls_token"})

    def losses(
        self, images: Tensor, labels: Tensor, step: int, part: int = 0, parts: int = 1
    ) -> Losses:
        """The single term `denoising`."""
        recipe, config = self._recipe, self._config
        random = self._world.noise(recipe.seed, self.objective, step, images, part, parts)
        clean, noise = self._prepare(images, random)
        drawn = self._levels(random, config.sigma_log_mean, config.sigma_log_std)
        levels = nearest_levels(drawn, self._grid)
        dropped = random.uniform("label") < config.class_dropout_prob
        labels = torch.where(dropped, self.generator.null_class, labels)
        loss = denoising_loss(
            lambda x, sigma: denoise_directly(
                self._network, x, sigma, labels, recipe.diffusion.sigma_data
            ),
            clean,
            noise,
            recipe.sigma_shift * self._grid[levels],
            self._weights[levels],
        )
        return Losses({"denoising": loss}, {})


class Consistency(_Finetuning):
    """Consistency fine-tuning without a teacher.

    Source: docs/method.md, 5.4.
    """

    objective = "consistency"

    def __init__(
        self,
        recipe: Recipe,
        encoder: dict[str, Tensor],
        projector: dict[str, Tensor],
        device: torch.device,
        world: World | None = None,
        precision: Precision | None = None,
    ) -> None:
        """Build the generator and the frozen stage-1 network of the auxiliary term."""
        dropout = recipe.consistency.dropout
        super().__init__(recipe, encoder, device, world, precision, dropout)
        self._config = recipe.consistency
        self._frozen_encoder = Encoder(**recipe.encoder_arguments())
        self._frozen_encoder.load_state_dict(encoder)
        self._frozen_projector = Projector(**recipe.projector_arguments())
        self._frozen_projector.load_state_dict(projector)
        for module in (self._frozen_encoder, self._frozen_projector):
            module.to(device).eval().requires_grad_(False)
        self._precision.compiled(self._frozen_encoder)
        encode, project = self._frozen_encoder.features, self._frozen_projector
        self._frozen = self._precision.network(
            (lambda scaled, level: project(encode(scaled, level)))
            if self._config.auxiliary_projector
            else encode
        )

    def losses(
        self, images: Tensor, labels: Tensor, step: int, part: int = 0, parts: int = 1
    ) -> Losses:
        """Terms `consistency` and `auxiliary`."""
        recipe, config = self._recipe, self._config
        diffusion, shift = recipe.diffusion, recipe.sigma_shift
        random = self._world.noise(recipe.seed, self.objective, step, images, part, parts)
        clean, noise = self._prepare(images, random)
        t = self._levels(random, config.sigma_log_mean, config.sigma_log_std)
        t = t.clamp(diffusion.sigma_min, diffusion.sigma_max)
        stage = stage_at(step, config.steps_per_stage)
        r = pair_level(t, stage, config.ratio_base, diffusion.sigma_min)

        kept = self._kept(random)  # the same values in both passes

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return denoise_consistently(
                lambda scaled, level, y: self._network(scaled, level, y, kept),
                x,
                sigma,
                labels,
                diffusion.sigma_data,
                shift * diffusion.sigma_min,
            )

        loss, output = consistency_loss(
            denoise,
            denoise,
            clean,
            noise,
            shift * t,
            shift * r,
            pair_weight(t, r, shift),
            config.huber_c,
        )
        if not recipe.has_auxiliary_term:
            return Losses({"consistency": loss}, {})
        query = self._frozen_features(output)
        with torch.no_grad():
            key = self._frozen_features(clean)
        world = self._world
        auxiliary = info_nce(query, key, config.auxiliary_temperature, world.gather, world.rank)
        terms = {"consistency": loss, "auxiliary": config.auxiliary_weight * auxiliary}
        return Losses(terms, {})

    def _kept(self, random: SampleNoise) -> list[Tensor] | None:
        """Which values each block of the decoder keeps, booleans [N, L, D]; None: all."""
        dropout = self._config.dropout
        if not dropout:
            return None
        shape = self.generator.decoder_shape
        return [
            random.uniform(f"dropout/{block}", shape) >= dropout
            for block in range(len(self.generator.decoder.blocks))
        ]

    def _frozen_features(self, images: Tensor) -> Tensor:
        """Stage-1 features of images at the lowest level, [N, D]."""
        diffusion = self._recipe.diffusion
        floor = self._recipe.sigma_shift * diffusion.sigma_min
        sigma = torch.full((len(images),), floor, dtype=torch.float64, device=images.device)
        scaled = per_image(c_in(sigma, diffusion.sigma_data)) * images
        return self._frozen(scaled, c_noise(sigma))
