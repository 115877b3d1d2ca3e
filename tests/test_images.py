"""Which files are opened as images."""

import subprocess
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image, features

from dhpf.common.errors import UserError
from dhpf.data.images import formats, opened_image

PICTURE = Image.effect_noise((24, 16), 50).convert("RGB")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF"])
def test_raster_formats_are_read(tmp_path: Path, form: str) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow cannot read AVIF")
    PICTURE.save(tmp_path / "picture", form)
    with opened_image(tmp_path / "picture") as image:
        assert image.convert("RGB").size == PICTURE.size
    assert form in formats()


def test_no_program_is_started_for_a_picture_that_is_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow has Ghostscript draw an EPS; one that is called .jpg too."""
    PICTURE.save(tmp_path / "page.jpg", "EPS")
    for place in (EpsImagePlugin.subprocess, subprocess):
        monkeypatch.setattr(place, "check_call", pytest.fail)
    with (
        pytest.raises(UserError, match=r"page\.jpg: the image cannot be decoded"),
        opened_image(tmp_path / "page.jpg") as image,
    ):
        image.load()
