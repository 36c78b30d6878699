"""Pictures for tests, drawn and not photographed."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def picture(width: int, height: int, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """Left half red, right half blue."""
    image = Image.new(mode, (width, height), "red" if mode != "RGBA" else (255, 0, 0, 128))
    image.paste("blue" if mode != "RGBA" else (0, 0, 255, 255), (width // 2, 0, width, height))
    return save(image, kind, **options)


def animation(width: int, height: int, kind: str = "GIF") -> bytes:
    """Two frames."""
    frames = [Image.new("RGB", (width, height), colour) for colour in ("red", "blue")]
    return save(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def turned(width: int, height: int) -> bytes:
    """A JPEG that says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(width, height, "JPEG", exif=exif)


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def load(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
