"""Which files are opened as images, and what is seen of them."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import EpsImagePlugin, Image

from dhpf.common.errors import UserError
from dhpf.data.images import opened_image, to_rgb
from dhpf.matching.matcher import as_rgb

PICTURE = Image.effect_noise((24, 16), 50).convert("RGB")


def test_no_program_is_started_for_an_eps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow has Ghostscript draw an EPS; one that is called .jpg too."""
    PICTURE.save(tmp_path / "page.jpg", "EPS")
    for place in (EpsImagePlugin.subprocess, subprocess):
        monkeypatch.setattr(place, "check_call", pytest.fail)
    with pytest.raises(UserError, match=r"page\.jpg"), opened_image(tmp_path / "page.jpg") as image:
        image.load()


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PICTURE.save(tmp_path / "large.png")
    assert as_rgb(tmp_path / "large.png", 24 * 16).size == (24, 16)
    with pytest.raises(UserError, match=r"large\.png: .*--max-pixels"):
        as_rgb(tmp_path / "large.png", 24 * 16 - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 16 // 2 - 1)  # Pillow refuses twice as many
    with pytest.raises(UserError, match=r"large\.png: .*--max-pixels"):
        as_rgb(tmp_path / "large.png")


# Numeric pixels, alpha, EXIF


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("mode", "ending"), [("LA", "png"), ("CMYK", "jpg"), ("P", "gif"), ("RGBA", "png"), ("RGB", "jpg")]
)
def test_benchmarks_see_stored_colours_in_stored_orientation(tmp_path: Path, mode: str, ending: str) -> None:
    grey, exif = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8), Image.Exif()
    exif[0x0112] = 6  # turn by 90° to be shown
    image = Image.fromarray(grey).convert("P" if mode == "P" else "RGB").convert(mode)
    if mode == "RGBA":
        image.putalpha(90)
    options = (
        {"exif": exif, "quality": 100} if ending == "jpg" else {"transparency": 7} if mode == "P" else {}
    )
    image.save(tmp_path / f"image.{ending}", **options)
    with opened_image(tmp_path / f"image.{ending}") as stored:
        found = np.asarray(to_rgb(stored)).astype(int)
    assert found.shape == (48, 64, 3)
    assert np.abs(found - grey[..., None]).max() < 7  # JPEG's and CMYK's rounding


def ramp(maximum: float, dtype: type) -> NDArray[Any]:
    """A ramp from 0 to `maximum`, 64 pixels wide."""
    return np.repeat(np.linspace(0, maximum, 64)[None], 16, 0).astype(dtype)


@pytest.mark.parametrize(
    ("maximum", "dtype"),
    [(1, np.float32), (4095, np.float32), (255, np.int32), (65535, np.int32), (4095, np.uint16)],
)
def test_numeric_pixels_look_alike_at_every_depth(tmp_path: Path, maximum: float, dtype: type) -> None:
    Image.fromarray(ramp(maximum, dtype)).save(tmp_path / "numbers.tif")
    found = np.asarray(as_rgb(tmp_path / "numbers.tif")).astype(int)
    assert np.abs(found - np.linspace(0, 255, 64)[None, :, None]).max() <= 1.5


def test_what_transparent_pixels_hide_does_not_matter(tmp_path: Path) -> None:
    """RGBA of hidden colours, and a palette, are seen on white; benchmarks see what is stored."""
    rgba = np.zeros((16, 24, 4), np.uint8)
    rgba[4:12, 6:18] = 200, 40, 30, 255
    hidden = rgba.copy()
    hidden[rgba[..., 3] == 0, :3] = 9, 200, 77
    Image.fromarray(hidden).save(tmp_path / "hidden.png")
    palette = Image.new("P", (24, 16), 0)
    palette.putpalette([5, 6, 7, 200, 40, 30])
    palette.paste(1, (6, 4, 18, 12))
    palette.save(tmp_path / "palette.png", transparency=0)
    seen = np.where(rgba[..., 3:] == 255, rgba[..., :3], 255)
    for name in ("hidden", "palette"):
        np.testing.assert_array_equal(np.asarray(as_rgb(tmp_path / f"{name}.png")), seen)
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.open(tmp_path / "hidden.png"))), hidden[..., :3])
