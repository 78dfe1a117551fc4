"""How one image is stored in a shard, and how its bytes become pixels again.

| `data.encoding` | stored | read |
|---|---|---|
| `raw` | pixels of the crop | a copy |
| `png` | the crop, compressed without loss | decoded |
| `jpeg` | the crop at `data.jpeg_quality`, full chroma: other pixels, **lossy** | decoded |
| `passthrough` | the bytes of the source's file | decoded and cropped, at every reading |
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from epg.data.jpeg import decode_jpeg
from epg.data.settings import EncodingSettings
from epg.data.shard_format import ShardError, decode_pixels, encode_pixels

if TYPE_CHECKING:
    from epg.data.sources.base import Image

_PNG_LEVEL = 1  # a third of the time of 6, for 6 % more bytes
#: Bytes of a stored image by those of its pixels, to plan shards by: measured on photographs.
_TYPICAL = {"raw": 1.0, "png": 0.55, "jpeg": 0.2}
_OVERHEAD = 2048  # bytes of a sample's headers and label in a tar


class StoredFormat(NamedTuple):
    """What stored images are: enough to make pixels of their bytes.

    Attributes are those of `ImageSettings` and `Manifest`.
    """

    image_size: int
    channels: int
    crop: str
    encoding: str


def planned_bytes(settings: EncodingSettings, file_bytes: int = 0) -> float:
    """Return about how many bytes a sample will take in a shard; exactly so for `raw`.

    Args:
        settings: of the shards.
        file_bytes: of the sample's file; 0 for pixels that never were a file.
    """
    pixels = settings.image_size**2 * settings.channels
    if settings.encoding == "passthrough":
        return (file_bytes or pixels) + _OVERHEAD
    return pixels * _TYPICAL[settings.encoding] + _OVERHEAD


def encode_image(image: Image, settings: EncodingSettings) -> Image:
    """Return the image with the bytes that are stored, unless it has them."""
    if image.content:
        return image
    if settings.encoding in ("raw", "passthrough"):  # pixels that never were a file stay pixels
        return image._replace(content=encode_pixels(image.pixels), extension="npy")
    from PIL import Image as Pillow

    grey = image.pixels.shape[2] == 1
    picture = Pillow.fromarray(image.pixels[..., 0] if grey else image.pixels)
    stream = io.BytesIO()
    if settings.encoding == "png":
        picture.save(stream, "PNG", compress_level=_PNG_LEVEL)
        return image._replace(content=stream.getvalue(), extension="png")
    picture.save(stream, "JPEG", quality=settings.jpeg_quality, subsampling=0)
    return image._replace(content=stream.getvalue(), extension="jpg")


def decode_image(
    content: memoryview, extension: str, stored: StoredFormat, out: NDArray[np.uint8]
) -> None:
    """Put a stored image's pixels into `out`, uint8 [size, size, C], contiguous.

    Raises:
        ShardError: it is no image of that kind.
    """
    shape = (stored.image_size, stored.image_size, stored.channels)
    if extension == "npy":
        out[...] = decode_pixels(content, shape)
    elif stored.encoding == "passthrough":
        out[...] = _decode_file(bytes(content), stored)
    elif extension not in ("png", "jpg"):
        raise ShardError(f"a .{extension} where data.encoding is {stored.encoding}")
    elif extension == "png" or decode_jpeg(content, shape, out) is None:
        pixels = _decode_crop(bytes(content), extension)
        if pixels.shape != shape:
            raise ShardError(f"an image of shape {pixels.shape}, expected {shape}")
        out[...] = pixels


def _decode_crop(data: bytes, extension: str) -> NDArray[np.uint8]:
    """Decode what `encode_image` has encoded. Raises `ShardError`."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(data), formats=("PNG" if extension == "png" else "JPEG",)) as p:
            if p.mode not in ("L", "RGB") or p.width * p.height > 2**26:
                raise ShardError(f"an image of mode {p.mode}, {p.width}×{p.height}")
            pixels = np.asarray(p, np.uint8)
            return pixels[..., None] if pixels.ndim == 2 else pixels
    except ShardError:
        raise
    except Exception as error:  # a decoder may raise anything
        raise ShardError(f"an image that cannot be decoded ({error})") from None


def _decode_file(data: bytes, stored: StoredFormat) -> NDArray[np.uint8]:
    """Decode and crop a source's file as sharding would have done. Raises `ShardError`."""
    from epg.data.sources.base import BadImageError
    from epg.data.sources.decode import load_image

    try:
        return load_image(data, stored).pixels
    except BadImageError as bad:
        raise ShardError(f"an image that cannot be used: {bad}") from None
