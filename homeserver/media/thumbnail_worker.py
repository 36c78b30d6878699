"""The program of the worker process: it opens pictures of strangers, and nothing else of the server is in it.

It is started by its path, in isolation, and imports nothing but Pillow. One job per line on standard input, as JSON;
one line of JSON per job on standard output, then as many bytes as that says. It ends with its input.
"""

from __future__ import annotations

import io
import json
import re
import resource
import sys
import warnings
from typing import Any, BinaryIO

from PIL import Image, ImageMath, ImageOps

# What sets a picture upright, by its EXIF orientation; the others lie right.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The formats of the web, with decoders that are fuzzed by many; no others are ever tried.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
# MPO is a JPEG with another picture behind the first one (how bright or how far away things are); everybody shows the first.
TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
}
QUALITY = 82
MAX_PROFILE_BYTES = 8192
MIB = 1024 * 1024
# LIMIT(animations with more frames, or with more to decode or to keep than this, get a still thumbnail)
MAX_FRAMES = 300
MAX_DECODED = 4
"""Times as many pixels as a still picture may have."""
MAX_KEPT_BYTES = 64 * MIB
# Of the processor, and well within what the server waits for a job: there must be time for a still one.
ANIMATION_S = 4.0
# LIMIT(a JPEG with more scans than this has no thumbnail: each may be a few bytes and costs a walk over all pixels;
# encoders make about ten)
MAX_SCANS = 100
# LIMIT(nor has one with more segments than this: an empty one is four bytes and costs a step of the walk that counts the scans)
MAX_SEGMENTS = 10_000
MAX_WALKED_BYTES = 128 * MIB
# Of what has a length, and of the end. The others (restarts, the start, TEM) stand alone: there may be millions of them.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
# As often as WebP can say.
MAX_LOOPS = 65_535
# Shorter frames are shown by browsers for this long.
SHORTEST_MS, SHORT_MS = 20, 100
LONGEST_MS = 60_000


class RefusedError(Exception):
    """No thumbnail; the text is the verdict: `unsupported` or `too_large`."""


def limit_resources(max_pixels: int) -> None:
    """Whatever a picture makes its decoder do: no large memory, no files, no core dumps."""
    # Decoded, converted, resized: four copies of four bytes per pixel, beside the interpreter and its libraries.
    memory = 512 * MIB + 16 * max_pixels
    for kind, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        try:
            resource.setrlimit(kind, (limit, limit))
        except (ValueError, OSError):
            # The administrator's own limit is lower still, or this system does not know this one.
            continue


def make_thumbnail(job: dict[str, Any], max_pixels: int) -> tuple[str, bytes]:
    """The content type and bytes; without bytes the original is to be sent as it is."""
    with Image.open(job["path"], formats=FORMATS) as image:
        refuse_costly(image, job["path"], max_pixels)
        width, height = upright_size(image)
        content_type = TYPES[image.format or ""]
        is_animated = bool(getattr(image, "is_animated", False)) and image.format != "MPO"
        target = target_size(width, height, job["width"], job["height"], job["method"])
        if target is None and (job["animated"] or not is_animated):
            return content_type, b""
        if not job["animated"] or not is_animated or target is None:
            return encode(reduce(image, target or (width, height), job["method"]))
        moving = try_to_animate(image, target, job["method"], max_pixels)
    if moving is not None:
        return "image/webp", moving
    # Opened anew: who knows where a decoder stands that has failed.
    return make_thumbnail({**job, "animated": False}, max_pixels)


def orientation_of(image: Image.Image) -> Any:
    """As EXIF says it, whose values may be of any type; see `UPRIGHT`."""
    return image.getexif().get(0x0112, 1)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as they are shown: an orientation above 4 swaps the sides."""
    width, height = image.size
    return (height, width) if orientation_of(image) in (5, 6, 7, 8) else (width, height)


def refuse_costly(image: Image.Image, path: str, max_pixels: int) -> None:
    """Before anything is decoded: what has too many pixels, or more scans over them or segments than a JPEG needs.

    Walks over the segments as the decoder does: what is within them, or behind the end, may look like a scan.
    """
    if image.width * image.height > max_pixels:
        raise RefusedError("too_large")
    if image.format not in ("JPEG", "MPO"):
        return
    with open(path, "rb") as file:
        data = file.read(MAX_WALKED_BYTES)
    scans = segments = 0
    found = MARKER.search(data)
    while found is not None and data[found.start() + 1] != 0xD9:
        marker, end = data[found.start() + 1], found.end()
        scans += marker == 0xDA
        segments += 1
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            raise RefusedError("unsupported")
        found = MARKER.search(data, end + int.from_bytes(data[end : end + 2], "big"))


def try_to_animate(image: Image.Image, target: tuple[int, int], method: str, max_pixels: int) -> bytes | None:
    """As `animate`; None also where that fails, for the first frame may be sound all the same."""
    try:
        return animate(image, target, method, max_pixels)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 (as in `answer`: decoders and encoders raise anything)
        return None


def animate(image: Image.Image, target: tuple[int, int], method: str, max_pixels: int) -> bytes | None:
    """All frames in the target's size, as WebP; None where a limit says that it had better stand still."""
    # spec: client-server-api#get_matrixclientv1mediathumbnailservernamemediaid (animated)
    deadline = processor_s() + ANIMATION_S
    most = min(
        MAX_FRAMES,
        MAX_DECODED * max_pixels // (image.width * image.height),
        MAX_KEPT_BYTES // (4 * target[0] * target[1]),
    )
    repeats = image.info.get("loop")
    frames: list[Image.Image] = []
    durations: list[int] = []
    while True:
        # Frames are counted as they come: a head may promise any number.
        try:
            image.seek(len(frames))
        except EOFError:
            break
        if len(frames) >= most or processor_s() > deadline:
            return None
        frame = reduce(image, target, method).convert("RGBA")
        frame.info.clear()
        frames.append(frame)
        durations.append(shown_for(image.info.get("duration")))
    # A GIF that says nothing of repeats is shown once, and what it counts comes after the first time.
    loop = 1 if repeats is None else repeats + (image.format == "GIF" and repeats > 0)
    out = io.BytesIO()
    frames[0].save(
        out,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=min(loop, MAX_LOOPS),
        method=1,
    )
    return out.getvalue()


def processor_s() -> float:
    """What this process has had of the processor."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def shown_for(duration: object) -> int:
    """Milliseconds of a frame, as browsers take them."""
    if not isinstance(duration, int | float) or not duration >= SHORTEST_MS:
        return SHORT_MS
    return int(min(duration, LONGEST_MS))


def measure(job: dict[str, Any], max_pixels: int) -> dict[str, Any]:
    """The type and size of a picture whose first frame can be decoded."""
    with Image.open(job["path"], formats=FORMATS) as image:
        refuse_costly(image, job["path"], max_pixels)
        width, height = upright_size(image)
        content_type = TYPES[image.format or ""]
        image.draft("RGB", (64, 64))
        image.load()
    return {"content_type": content_type, "width": width, "height": height}


def target_size(
    width: int, height: int, box_width: int, box_height: int, method: str
) -> tuple[int, int] | None:
    """The thumbnail's size; None where the picture is not larger. Nothing is ever made larger than it was."""
    # spec: client-server-api#thumbnails
    if method == "crop":
        # As large as asked for in that shape, or as much of that shape as the picture has.
        scale = min(1.0, width / box_width, height / box_height)
        target = (max(1, round(box_width * scale)), max(1, round(box_height * scale)))
    else:
        scale = min(1.0, box_width / width, box_height / height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return None if target[0] >= width and target[1] >= height else target


def reduce(image: Image.Image, target: tuple[int, int], method: str) -> Image.Image:
    """The first frame, upright, in the target's size."""
    # Lets a JPEG be decoded at a fraction of its size; twice the target keeps it sharp.
    longest = 2 * max(target)
    image.draft("RGB", (longest, longest))
    image.load()
    # Not by `exif_transpose`, which writes the EXIF anew and fails where one of its fields is of a wrong type.
    turn = UPRIGHT.get(orientation_of(image))
    upright = image if turn is None else image.transpose(turn)
    if upright.mode.startswith("I"):
        upright = grey_of_eight_bits(upright)
    has_alpha = upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info
    plain = upright.convert("RGBA" if has_alpha else "RGB")
    if upright.mode not in ("RGB", "RGBA"):
        # Of a palette or of inks: it says nothing of these colours.
        plain.info.pop("icc_profile", None)
    if plain.size == target:
        return plain
    if method == "crop":
        return ImageOps.fit(plain, target, Image.Resampling.LANCZOS)
    return plain.resize(target, Image.Resampling.LANCZOS, reducing_gap=2.0)


def grey_of_eight_bits(image: Image.Image) -> Image.Image:
    """One with 16 bits (a PNG has no more), which `convert` would cut off at 255 instead of dividing it."""
    whole = image.convert("I")
    grey = whole.point(lambda value: value / 256).convert("L")
    transparent = grey.info.pop("transparency", None)
    if not isinstance(transparent, int):
        return grey
    # Of all 16 bits: others have the same eight.
    grey.putalpha(
        ImageMath.lambda_eval(lambda of: of["convert"]((of["grey"] != transparent) * 255, "L"), grey=whole)
    )
    return grey


def encode(image: Image.Image) -> tuple[str, bytes]:
    """JPEG, or PNG where something is transparent."""
    # What the file says of its camera and place does not come along; what its colours mean must.
    profile = image.info.get("icc_profile")
    image.info.clear()
    kept = profile if isinstance(profile, bytes) and len(profile) <= MAX_PROFILE_BYTES else None
    out = io.BytesIO()
    if image.mode == "RGBA":
        image.save(out, "PNG", icc_profile=kept)
        return "image/png", out.getvalue()
    image.save(out, "JPEG", quality=QUALITY, icc_profile=kept)
    return "image/jpeg", out.getvalue()


def answer(line: bytes, max_pixels: int) -> tuple[dict[str, Any], bytes]:
    """One job. Every failure of a decoder is the picture's fault."""
    try:
        job = json.loads(line)
        if job["method"] == "measure":
            return {"verdict": "measured", "length": 0, **measure(job, max_pixels)}, b""
        content_type, data = make_thumbnail(job, max_pixels)
    except RefusedError as refusal:
        return {"verdict": str(refusal), "length": 0}, b""
    except FileNotFoundError:
        return {"verdict": "lost", "length": 0}, b""
    except MemoryError:
        return {"verdict": "too_large", "length": 0}, b""
    except Exception:  # noqa: BLE001 (decoders raise anything: struct.error, SyntaxError, zlib.error, IndexError)
        return {"verdict": "unsupported", "length": 0}, b""
    verdict = "made" if data else "original"
    return {"verdict": verdict, "content_type": content_type, "length": len(data)}, data


def main(source: BinaryIO, sink: BinaryIO, max_pixels: int) -> None:
    """Until the input ends."""
    # Sizes are checked before anything is decoded, in one place.
    Image.MAX_IMAGE_PIXELS = None
    warnings.simplefilter("ignore")
    Image.preinit()
    Image.init()
    limit_resources(max_pixels)
    for line in source:
        head, data = answer(line, max_pixels)
        sink.write(json.dumps(head).encode("ascii") + b"\n" + data)
        sink.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[1]))
