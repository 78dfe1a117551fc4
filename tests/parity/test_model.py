"""Exact counts of the paper's sizes, and the network against independent implementations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from epg.diffusion.seeds import SampleNoise
from epg.model.decoder import DecoderBlock
from epg.model.encoder import Encoder
from epg.model.flops import (
    encoder_cost,
    encoder_parameters,
    generator_cost,
    generator_parameters,
)
from epg.model.generator import Generator, unpatchify
from epg.model.layers import Block, time_token
from epg.model.projector import Projector


def encoder_of(
    depth: int = 12, dim: int = 768, heads: int = 12, patch: int = 16, size: int = 256
) -> dict[str, Any]:
    return {
        "image_size": size,
        "patch_size": patch,
        "channels": 3,
        "embed_dim": dim,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": 4.0,
    }


def generator_of(encoder: dict[str, Any], dim: int, heads: int) -> dict[str, Any]:
    return {
        "encoder": encoder,
        "num_classes": 1000,
        "decoder_embed_dim": dim,
        "decoder_num_heads": heads,
    }


LARGE = {"depth": 16, "dim": 1024, "heads": 16}
# name -> (arguments, parameters, GMACs without attention, GMACs); docs/method.md, section 3
SIZES = {
    "S/16": (generator_of(encoder_of(6), 768, 12), 115_531_776, None, 25.29),
    "B/16": (generator_of(encoder_of(), 768, 12), 228_911_616, None, 50.28),
    "L/16": (generator_of(encoder_of(**LARGE), 1024, 16), 540_215_040, 113.05, 117.41),
    "XL/16": (generator_of(encoder_of(), 1584, 22), 582_986_064, 127.53, 131.29),
    "XXL/16": (generator_of(encoder_of(), 1920, 16), 788_921_472, 175.87, 180.16),
    "G/16": (generator_of(encoder_of(), 2688, 21), 1_391_899_008, 320.47, 325.99),
    "L/32 at 512": (
        generator_of(encoder_of(**LARGE, patch=32, size=512), 1024, 16),
        544_935_936,
        114.26,
        118.62,
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name: str) -> None:
    arguments, parameters, without_attention, gmacs = SIZES[name]
    with torch.device("meta"):
        generator = Generator(**arguments)
    assert sum(p.numel() for p in generator.parameters()) == parameters
    assert generator_parameters(arguments) == parameters
    cost = generator_cost(arguments)
    assert cost.gmacs == pytest.approx(gmacs, abs=0.01)
    if without_attention is not None:
        # The paper adds 5 operations per LayerNorm element; we count products only.
        assert cost.gmacs_without_attention == pytest.approx(without_attention, abs=0.02)


@pytest.mark.parametrize(
    ("depth", "dim", "heads", "parameters"),
    [(6, 768, 12, 43_304_448), (12, 768, 12, 85_817_856), (16, 1024, 16, 202_545_152)],
)
def test_published_encoders(depth: int, dim: int, heads: int, parameters: int) -> None:
    arguments = encoder_of(depth, dim, heads)
    with torch.device("meta"):
        encoder = Encoder(**arguments)
        projector = Projector(dim, 4096, 256)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder_parameters(arguments) == parameters
    printed = {43_304_448: 64, 85_817_856: 107, 202_545_152: 225}[parameters]
    total = parameters + sum(p.numel() for p in projector.parameters())
    assert round(total / 1e6) == printed


def test_base_encoder_costs_what_the_paper_says() -> None:
    assert encoder_cost(encoder_of()).gmacs == pytest.approx(23.29, abs=0.01)


@pytest.mark.parametrize("name", ["B/16", "XL/16"])
def test_closed_form_equals_a_count_on_the_meta_device(name: str) -> None:
    arguments = SIZES[name][0]
    with torch.device("meta"):
        generator = Generator(**arguments).eval()
        inputs = torch.empty(1, 3, 256, 256), torch.empty(1), torch.zeros(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        generator(*inputs)
    assert generator_cost(arguments).gflops == pytest.approx(
        counter.get_total_flops() / 1e9, rel=1e-6
    )


TINY = {
    "image_size": 8,
    "patch_size": 2,
    "channels": 1,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 4.0,
}


def tiny_generator(decoder_dim: int = 24, dropout: float = 0.0) -> Generator:
    torch.manual_seed(0)
    return Generator(TINY, 10, decoder_dim, 2, dropout)


def test_block_equals_timms() -> None:
    timm_block = pytest.importorskip("timm.models.vision_transformer").Block
    torch.manual_seed(0)
    ours = Block(32, 4, 4.0)
    theirs = timm_block(32, 4, mlp_ratio=4.0, qkv_bias=False)
    theirs.load_state_dict(ours.state_dict())
    theirs.norm1.eps = theirs.norm2.eps = 1e-6
    x = torch.randn(3, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_time_token_is_one_then_zero_at_level_one() -> None:
    token = time_token(torch.tensor([0.0]), 8)
    assert torch.equal(token, torch.tensor([[1.0] * 4 + [0.0] * 4]))


def test_time_token_has_no_float32_drift_at_large_arguments() -> None:
    import math

    token = time_token(torch.tensor([1442.080]), 768)
    value = float(torch.tensor(1442.080))
    expected = [math.cos(value * 10_000 ** (-j / 384)) for j in (0, 1, 200, 383)]
    assert token[0, [0, 1, 200, 383]].tolist() == pytest.approx(expected, abs=2e-4)


def test_fresh_generator_predicts_zero() -> None:
    generator = tiny_generator()
    out = generator(torch.randn(2, 1, 8, 8), torch.zeros(2), torch.tensor([3, 10]))
    assert torch.equal(out, torch.zeros(2, 1, 8, 8))


def test_fresh_decoder_block_is_its_merge_alone() -> None:
    torch.manual_seed(0)
    generator = tiny_generator()
    block = generator.decoder.blocks[0]
    assert isinstance(block, DecoderBlock)
    x, skip = torch.randn(2, 5, 24), torch.randn(2, 5, 16)
    expected = block.merge_norm(block.merge(torch.cat([x, skip], dim=-1)))
    torch.testing.assert_close(block(x, skip, torch.randn(2, 16), None), expected)


def test_token_order_is_cls_time_patches() -> None:
    torch.manual_seed(0)
    encoder = Encoder(**TINY)
    with torch.no_grad():
        for block in encoder.blocks:
            for parameter in block.parameters():
                parameter.zero_()  # blocks pass their input through
    x, level = torch.randn(1, 1, 8, 8), torch.tensor([5.0])
    tokens = encoder(x, level).tokens - encoder.pos_embed
    torch.testing.assert_close(tokens[:, 0], encoder.cls_token[:, 0])
    torch.testing.assert_close(tokens[:, 1], time_token(level, 16), rtol=1e-5, atol=1e-6)
    swapped = x.clone()
    swapped[..., 0:2, 0:2], swapped[..., 0:2, 2:4] = x[..., 0:2, 2:4], x[..., 0:2, 0:2]
    moved = encoder(swapped, level).tokens - encoder.pos_embed
    torch.testing.assert_close(moved[:, 2], tokens[:, 3])
    torch.testing.assert_close(moved[:, 3], tokens[:, 2])
    torch.testing.assert_close(moved[:, 4:], tokens[:, 4:])


def test_skips_are_taken_last_first() -> None:
    generator = tiny_generator()
    seen = []
    for block in generator.decoder.blocks:
        block.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    x, level = torch.randn(1, 1, 8, 8), torch.zeros(1)
    labels = torch.tensor([1])
    encoded = generator.encoder(x, level, generator.class_embed(labels))
    generator(x, level, labels)
    assert torch.equal(seen[0], encoded.skips[-1])
    assert torch.equal(seen[-1], encoded.skips[0])


def test_unpatchify_inverts_the_patch_order_of_the_embedding() -> None:
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    patches = torch.nn.functional.unfold(images, 2, stride=2).transpose(1, 2)
    assert torch.equal(unpatchify(patches, 2, 3), images)


def test_null_class_is_the_last_row() -> None:
    generator = tiny_generator()
    assert generator.null_class == 10
    assert generator.class_embed.num_embeddings == 11


def test_dropout_masks_are_shared_by_equal_numbers_and_off_in_eval() -> None:
    generator = tiny_generator(dropout=0.5)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    arguments = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.tensor([1, 2])

    def run(seed: int) -> torch.Tensor:
        noise = SampleNoise(seed, "test", 0, 0, 2)
        return generator(
            *arguments, lambda block, shape: noise.uniform(f"dropout/{block}", shape[1:])
        )

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    with pytest.raises(ValueError, match="random numbers"):
        generator(*arguments)
    generator.eval()
    assert torch.equal(run(1), run(2))
