"""Encoder, class table and decoder: the network F that both objectives train."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from epg.model.decoder import Decoder
from epg.model.encoder import Encoder


def unpatchify(patches: Tensor, patch_size: int, channels: int) -> Tensor:
    """Arrange patch pixels [N, L, C * P * P] into images [N, C, H, W] (square, row by row)."""
    batch, tokens, _ = patches.shape
    side = int(tokens**0.5)
    x = patches.reshape(batch, side, side, channels, patch_size, patch_size)
    x = x.permute(0, 3, 1, 4, 2, 5)  # [N, C, rows, P, columns, P]
    return x.reshape(batch, channels, side * patch_size, side * patch_size)


class Generator(nn.Module):
    """F(c_in * x, c_noise, y): pixels in, pixels out; zero when freshly made.

    Source: docs/method.md, 3.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        num_classes: int,
        decoder_embed_dim: int,
        decoder_num_heads: int,
        dropout: float = 0.0,
    ) -> None:
        """Build from the encoder's keyword arguments and the decoder's own."""
        super().__init__()
        self.num_classes = num_classes
        self.channels = encoder["channels"]
        self.encoder = Encoder(**encoder)
        embed_dim = encoder["embed_dim"]
        self.class_embed = nn.Embedding(num_classes + 1, embed_dim)  # the last row: no class
        nn.init.normal_(self.class_embed.weight, std=0.02)
        self.decoder = Decoder(
            embed_dim=embed_dim,
            decoder_embed_dim=decoder_embed_dim,
            depth=encoder["depth"],
            num_heads=decoder_num_heads,
            mlp_ratio=encoder["mlp_ratio"],
            patch_size=encoder["patch_size"],
            channels=encoder["channels"],
            dropout=dropout,
        )

    @property
    def null_class(self) -> int:
        """Label that means: no class given."""
        return self.num_classes

    @property
    def decoder_shape(self) -> tuple[int, int]:
        """Tokens and width within the decoder, (L, D)."""
        return self.encoder.pos_embed.shape[1], self.decoder.norm.normalized_shape[0]

    def recompute(self, wanted: bool) -> None:
        """Compute blocks again for their gradient instead of keeping what they made."""
        self.encoder.recomputes = self.decoder.recomputes = wanted

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor,
        kept: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the model output [N, C, H, W] for `c_in * x` [N, C, H, W] at `c_noise` [N].

        Args:
            x: scaled noisy images.
            c_noise: their levels.
            labels: classes [N].
            kept: for each block of the decoder, what dropout keeps; see `decoder_shape`.
        """
        class_embedding = self.class_embed(labels)
        encoded = self.encoder(x, c_noise, class_embedding)
        tokens = self.encoder.norm(encoded.tokens)
        condition = encoded.time + class_embedding
        patches = self.decoder(tokens, encoded.skips, condition, kept)
        return unpatchify(patches.float(), self.encoder.patch_size, self.channels)
