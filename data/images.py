"""Image files as tensors (docs/method.md, section 1)."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dhpf.common.errors import UserError

FORMATS = (
    "JPEG",
    "MPO",
    "PNG",
    "BMP",
    "DIB",
    "GIF",
    "TIFF",
    "WEBP",
    "PPM",
    "JPEG2000",
    "TGA",
    "AVIF",
    "HEIF",
)
IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), dtype=np.float32)
IMAGENET_STD = np.array((0.229, 0.224, 0.225), dtype=np.float32)
ORIENTATION = 0x0112  # the EXIF tag
Turn = Image.Transpose
TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}


@cache
def formats() -> tuple[str, ...]:
    """The raster formats that can be read here; HEIF where pillow-heif is installed.

    Pillow knows others that start programs (Ghostscript for EPS) or fetch what they need.
    """
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """An image file; whatever goes wrong with it, also while it is decoded inside, names the file."""
    try:
        with Image.open(path, formats=formats()) as image:
            if min(image.size) < 1:
                raise UserError(f"{path}: the image has no pixels")
            yield image
    except FileNotFoundError:
        raise UserError(f"{path}: the image is missing") from None
    except UserError:
        raise
    except Exception as error:  # PIL's readers raise almost anything on damaged files
        raise UserError(f"{path}: the image cannot be decoded ({error})") from error


def upright(image: Image.Image) -> Image.Image:
    """An image as it is shown: turned as its EXIF says."""
    turn = TURNS.get(dict(image.getexif()).get(ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as 8-bit RGB in stored orientation; 16-bit gray is scaled, where PIL itself would clip."""
    if image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    image.load()
    image.info.pop("transparency", None)  # opaque palette colours, without PIL's warning
    return image.convert("RGB")


def normalised(image: Image.Image, side: int) -> Tensor:
    """An RGB image as the network's input, float32 [3, side, side] (method, section 1).

    Bilinear resizing of the PIL image is what torchvision's `Resize((side, side))` does.  In NumPy: torch
    would start threads for so little.
    """
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32)
    scaled = (pixels / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
