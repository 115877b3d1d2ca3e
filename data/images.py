"""Image files as tensors (docs/method.md, section 1)."""

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dhpf.common.errors import UserError
from dhpf.common.files import describe_content
from dhpf.data import MAX_PIXELS

FORMATS = "JPEG MPO PNG BMP DIB GIF TIFF WEBP PPM JPEG2000 TGA AVIF HEIF"
HEIF = (".heic", ".heif", ".hif")
GREY_MAXIMA = (1, 255, 4095, 65535)  # what numeric pixels may reach: 0..1, and 8, 12 and 16 bits
IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), dtype=np.float32)
IMAGENET_STD = np.array((0.229, 0.224, 0.225), dtype=np.float32)


@cache
def formats() -> tuple[str, ...]:
    """The raster formats that can be read here; HEIF where pillow-heif is installed.

    Pillow knows others that start programs (Ghostscript for EPS) or fetch what they need.
    """
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS.split() if name in Image.OPEN)


@contextmanager
def opened_image(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """An image file; whatever goes wrong with it, also while it is decoded inside, names the file.

    Pillow's own limit, `PIL.Image.MAX_IMAGE_PIXELS`, holds besides: it refuses twice as many.
    """
    too_many = f"pixels are more than {max_pixels}: make it smaller, or let match.py --max-pixels allow them"
    try:
        # Pillow warns of sizes, tags and palettes that do not matter here.
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=formats()) as image:
            if min(image.size) < 1:
                raise UserError(f"{path}: the image has no pixels")
            if image.width * image.height > max_pixels:
                raise UserError(f"{path}: {image.width}×{image.height} {too_many}")
            yield image
    except FileNotFoundError:
        raise UserError(f"{path}: the image is missing") from None
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: there is no memory for the image, make it smaller") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: its {too_many}") from error
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # which is not the image's fault
        if path.suffix.lower() in HEIF and "HEIF" not in formats():
            raise UserError(f"{path}: install the package pillow-heif, which reads this image") from error
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is {describe_content(path) or 'of no format that is read'}"
        raise UserError(f"{path}: the image cannot be decoded ({reason})") from error


def upright(image: Image.Image) -> Image.Image:
    """An image as it is shown: turned as its EXIF says, of which nothing else is looked at."""
    if image.format in ("TIFF", "PNG"):
        image.load()  # a PNG may have EXIF behind its pixels
    orientation = 1
    with suppress(Exception):  # damaged EXIF says nothing
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation == 1 or image.format == "TIFF":  # Pillow turns a TIFF when it is loaded
        return image
    for name in ("exif", "Raw profile type exif"):
        image.info.pop(name, None)  # exif_transpose would write it anew, which fails at odd tags
    return ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as 8-bit RGB in stored orientation; numeric pixels are scaled, where PIL itself would clip.

    What transparent pixels hide is shown, as in the published program.
    Raises: UserError: no depth that pictures have.
    """
    if image.mode[0] in "IF":
        return grey(np.asarray(image)).convert("RGB")
    image.load()
    if image.mode == "RGB":
        return image
    image.info.pop("transparency", None)  # opaque palette colours, without PIL's warning
    return image.convert("RGB")


def grey(values: NDArray[Any]) -> Image.Image:
    """Numeric pixels as 8-bit grey: of 0..1, or of the least depth of 8, 12 or 16 bits that holds the largest.

    Raises: UserError: negative, larger or no numbers.
    """
    low, high = float(values.min()), float(values.max())
    depth = next((depth for depth in GREY_MAXIMA if high <= depth), None)
    if not low >= 0 or depth is None:
        raise UserError(
            f"its values reach from {low:g} to {high:g}: store it in 8, 12 or 16 bits, or as 0 to 1"
        )
    scaled = values if depth == 255 else values * (255 / depth)
    return Image.fromarray(np.round(scaled).astype(np.uint8))


def on_white(image: Image.Image) -> Image.Image:
    """Any image as it is seen on white paper, as 8-bit RGB: the colours that transparent pixels hide do not matter."""
    if "transparency" not in image.info and not image.mode.endswith("A"):
        return to_rgb(image)
    image.load()
    seen = Image.new("RGBA", image.size, "white")
    seen.alpha_composite(image.convert("RGBA"))
    return seen.convert("RGB")


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """An image of no longer side than that: itself, or a smaller one."""
    return image if max(image.size) <= side else ImageOps.contain(image, (side, side))


def normalised(image: Image.Image, side: int) -> Tensor:
    """An RGB image as the network's input, float32 [3, side, side] (method, section 1).

    Bilinear resizing of the PIL image is what torchvision's `Resize((side, side))` does.  In NumPy: torch
    would start threads for so little.
    """
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32)
    scaled = (pixels / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
