from __future__ import annotations

import pytest
import torch

from epg.evaluation.features.packing import PackedConvolution, can_pack

pytestmark = pytest.mark.skipif(not can_pack(), reason="torch has no oneDNN here")


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(1, 1, 0), (3, 2, 0), ((1, 7), 1, (0, 3))]
)
def test_a_packed_convolution_is_the_same_for_any_number_of_images(kernel, stride, padding):
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(32, 48, kernel, stride=stride, padding=padding)
    images = torch.randn(5, 32, 17, 17).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        wanted = plain(images)
        packed = PackedConvolution(plain, 4)
        for few in (5, 4, 1):
            found = packed(images[:few])
            assert found.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(found, wanted[:few], rtol=1e-5, atol=1e-5)
