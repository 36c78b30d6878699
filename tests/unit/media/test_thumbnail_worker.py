"""What the worker makes of pictures, and that nothing which a picture does reaches the server."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from twisted.trial import unittest

from homeserver.media import thumbnail_worker
from homeserver.media.pictures import Picture, PictureWorker
from homeserver.media.thumbnail_worker import answer, shown_for, target_size
from homeserver.media.thumbnails import next_size
from tests.unit.media.pictures import animation, load, picture, save, turned

MAX_PIXELS = 4_000_000
SIDES = st.integers(1, 5000)


def png_head(width: int, height: int) -> bytes:
    """A PNG that promises a size and has nearly no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


class Sizes(unittest.TestCase):
    """# spec: client-server-api#thumbnails"""

    def test_sizes(self) -> None:
        self.assertEqual((320, 160), target_size(1000, 500, 320, 240, "scale"))
        self.assertEqual((96, 96), target_size(1000, 500, 96, 96, "crop"))
        self.assertEqual((500, 500), target_size(1000, 500, 800, 800, "crop"))
        self.assertIsNone(target_size(300, 200, 320, 240, "scale"))
        self.assertIsNone(target_size(96, 96, 96, 96, "crop"))
        self.assertEqual((1, 5), target_size(1, 5000, 5, 5, "scale"))

    @given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["crop", "scale"]))
    def test_never_larger_and_never_empty(
        self, width: int, height: int, box_w: int, box_h: int, method: str
    ) -> None:
        target = target_size(width, height, box_w, box_h, method)
        if target is None:
            self.assertTrue(width <= box_w or height <= box_h)
            return
        self.assertTrue(1 <= target[0] <= width and 1 <= target[1] <= height)
        if method == "scale":
            self.assertTrue(target[0] == min(width, box_w) or target[1] == min(height, box_h))

    @given(st.integers(1, 2**53), st.integers(1, 2**53), st.sampled_from(["crop", "scale"]))
    def test_what_is_made_is_as_large_as_asked_for(self, width: int, height: int, method: Any) -> None:
        size = next_size(width, height, method, animated=False)
        self.assertTrue(1 <= size.width <= 8192 and 1 <= size.height <= 8192)
        self.assertTrue(size.width >= min(width, 8192) or max(width, height) > 8192)
        self.assertTrue(size.height >= min(height, 8192) or max(width, height) > 8192)

    def test_usual_sizes(self) -> None:
        crops = [next_size(*asked, "crop", animated=False).name for asked in [(32, 32), (40, 40), (33, 20)]]
        self.assertEqual(["crop-32x32", "crop-96x96", "crop-96x59"], crops)
        scales = [next_size(*asked, "scale", animated=True).name for asked in [(1, 1), (800, 600)]]
        self.assertEqual(["scale-96x96-animated", "scale-800x600-animated"], scales)


class Made(unittest.TestCase):
    """One job after the other, in this process: only pictures of our own."""

    def setUp(self) -> None:
        # As in the worker, which looks at sizes itself.
        self.patch(Image, "MAX_IMAGE_PIXELS", None)

    def make(
        self, data: bytes, width: int, height: int, method: str = "scale", **more: Any
    ) -> tuple[Any, bytes]:
        path = Path(self.mktemp())
        path.write_bytes(data)
        job = {
            "path": str(path),
            "width": width,
            "height": height,
            "method": method,
            "animated": False,
            **more,
        }
        return answer(json.dumps(job).encode(), MAX_PIXELS)

    def test_formats(self) -> None:
        for kind in ("PNG", "JPEG", "GIF", "WEBP"):
            head, data = self.make(picture(400, 200, kind), 96, 96)
            self.assertEqual(("made", "image/jpeg"), (head["verdict"], head["content_type"]), kind)
            small = load(data)
            self.assertEqual(((96, 48), "JPEG"), (small.size, small.format))
            red, _, blue = small.getpixel((10, 24))  # type: ignore[misc]
            self.assertTrue(red > 200 and blue < 60)

    def test_turned_with_a_field_of_a_wrong_type(self) -> None:
        # The resolution, as text.
        fields = [(0x0112, 3, 1, b"\0\x06\0\0"), (0x011A, 2, 4, b"abc\0")]
        exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(fields))
        exif += b"".join(struct.pack(">HHI4s", *field) for field in fields) + b"\0\0\0\0"
        head, data = self.make(picture(400, 200, "JPEG", exif=exif), 96, 96)
        self.assertEqual("made", head["verdict"])
        self.assertEqual((48, 96), load(data).size)

    def test_many_scans(self) -> None:
        data = picture(400, 200, "JPEG", progressive=True)
        start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
        many = data[:end] + data[start:end] * 100 + data[end:]
        for method in ("scale", "measure"):
            self.assertEqual("unsupported", self.make(many, 96, 96, method)[0]["verdict"])
        # A film behind the picture, or a comment in it, are no scans.
        film = b"\xff\xda\0\x02" * 200
        comment = b"\xff\xfe" + struct.pack(">H", len(film) + 2) + film
        self.assertEqual("made", self.make(data[:2] + comment + data[2:] + film, 96, 96)[0]["verdict"])

    def test_many_segments(self) -> None:
        data = picture(400, 200, "JPEG")
        empty = b"\xff\xe0\0\x02"
        for count, verdict in ((9_000, "made"), (11_000, "unsupported")):
            self.assertEqual(verdict, self.make(data[:2] + empty * count + data[2:], 96, 96)[0]["verdict"])

    def test_grey_of_16_bits_with_one_that_is_transparent(self) -> None:
        # Brighter on the right, by less than what is left of it in eight bits.
        row = struct.pack("<H", 30_000) * 200 + struct.pack("<H", 30_001) * 200
        image = Image.frombytes("I;16", (400, 200), row * 200)
        out = io.BytesIO()
        image.save(out, "PNG", transparency=30_000)
        head, data = self.make(out.getvalue(), 96, 96)
        self.assertEqual(("made", "image/png"), (head["verdict"], head["content_type"]))
        small = load(data)
        self.assertEqual(0, small.getpixel((10, 20))[3])  # type: ignore[index]
        self.assertEqual((117, 117, 117, 255), small.getpixel((80, 20)))

    def test_grey_of_16_bits(self) -> None:
        head, data = self.make(save(Image.new("I;16", (400, 200), 30000), "PNG"), 96, 96)
        self.assertEqual(("made", "image/jpeg"), (head["verdict"], head["content_type"]))
        self.assertEqual((117, 117, 117), load(data).convert("RGB").getpixel((40, 20)))

    def test_transparent_stays_transparent(self) -> None:
        head, data = self.make(picture(400, 200, "PNG", "RGBA"), 96, 96)
        self.assertEqual("image/png", head["content_type"])
        self.assertEqual(128, load(data).getpixel((10, 10))[3])  # type: ignore[index]

    def test_crop(self) -> None:
        _, data = self.make(picture(400, 200), 32, 32, "crop")
        self.assertEqual((32, 32), load(data).size)

    def test_upright_and_without_metadata(self) -> None:
        _, data = self.make(turned(400, 200), 96, 96)
        small = load(data)
        self.assertEqual((48, 96), small.size)
        self.assertEqual({}, dict(small.getexif()))

    def test_what_colours_mean_comes_along_and_nothing_else(self) -> None:
        profile = b"\0" * 4000
        for mode, kind in (("RGB", "JPEG"), ("RGBA", "PNG")):
            _, data = self.make(picture(400, 200, kind, mode, icc_profile=profile), 96, 96)
            self.assertEqual(profile, load(data).info.get("icc_profile"))
            _, data = self.make(picture(400, 200, kind, mode, icc_profile=b"\0" * 9000), 96, 96)
            self.assertNotIn("icc_profile", load(data).info)
        _, data = self.make(picture(400, 200, "JPEG", "CMYK", icc_profile=profile), 96, 96)
        self.assertNotIn("icc_profile", load(data).info)
        _, data = self.make(picture(400, 200, "JPEG", comment=b"at home"), 96, 96)
        self.assertNotIn("comment", load(data).info)

    def test_a_photograph_with_another_picture_behind_it(self) -> None:
        out = io.BytesIO()
        first, second = Image.new("RGB", (400, 300), "red"), Image.new("RGB", (100, 75), "blue")
        first.save(out, "MPO", save_all=True, append_images=[second])
        for animated in (False, True):
            head, data = self.make(out.getvalue(), 96, 96, animated=animated)
            self.assertEqual(("made", "image/jpeg"), (head["verdict"], head["content_type"]))
            self.assertEqual((96, 72), load(data).size)
        head, _ = self.make(out.getvalue(), 800, 600, animated=True)
        self.assertEqual(("original", "image/jpeg"), (head["verdict"], head["content_type"]))

    def test_small_pictures_as_they_are(self) -> None:
        for kind, content_type in (("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")):
            head, data = self.make(picture(50, 40, kind), 96, 96)
            self.assertEqual(("original", content_type, b""), (head["verdict"], head["content_type"], data))

    def test_animations_stand_still_unless_wanted(self) -> None:
        head, data = self.make(animation(50, 40), 96, 96)
        self.assertEqual(("made", (50, 40)), (head["verdict"], load(data).size))
        head, _ = self.make(animation(50, 40), 96, 96, animated=True)
        self.assertEqual(("original", "image/gif"), (head["verdict"], head["content_type"]))

    def test_animations_move_where_wanted(self) -> None:
        for kind in ("GIF", "WEBP", "PNG"):
            for method in ("scale", "crop"):
                head, data = self.make(animation(200, 200, kind), 96, 96, method, animated=True)
                self.assertEqual(("made", "image/webp"), (head["verdict"], head["content_type"]), kind)
                small = load(data)
                self.assertEqual(((96, 96), 2), (small.size, small.n_frames))  # type: ignore[attr-defined]
                colours = []
                for number in range(2):
                    small.seek(number)
                    colours.append(small.convert("RGB").getpixel((50, 50)))
                    self.assertEqual(100, small.info["duration"])
                (red, _, _), (_, _, blue) = colours  # type: ignore[misc]
                self.assertTrue(red > 200 and blue > 200)
            head, data = self.make(animation(200, 200, kind), 96, 96)
            self.assertFalse(getattr(load(data), "is_animated", False))
            self.assertIn(head["content_type"], ("image/jpeg", "image/png"))

    def test_repeats(self) -> None:
        frames = [Image.new("RGB", (200, 200), colour) for colour in ("red", "blue")]
        for kind, options, expected in (
            ("GIF", {}, 1),
            ("GIF", {"loop": 0}, 0),
            ("GIF", {"loop": 2}, 3),
            # More than WebP can say.
            ("GIF", {"loop": 65_535}, 65_535),
            ("PNG", {"loop": 70_000}, 65_535),
        ):
            data = save(frames[0], kind, save_all=True, append_images=frames[1:], duration=5, **options)
            _, small = self.make(data, 96, 96, animated=True)
            self.assertEqual(expected, load(small).info["loop"], (kind, options))

    def test_animations_that_are_cut_off_stand_still(self) -> None:
        grey = Image.linear_gradient("L")
        frames = [grey, grey.transpose(Image.Transpose.ROTATE_90), grey]
        for kind in ("GIF", "WEBP", "PNG"):
            whole = save(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
            verdicts = set()
            for length in range(len(whole) // 20, len(whole), len(whole) // 20):
                (still, _), (moving, data) = (
                    self.make(whole[:length], 96, 96, animated=animated) for animated in (False, True)
                )
                self.assertEqual(still["verdict"], moving["verdict"], (kind, length))
                if data:
                    self.assertEqual((96, 96), load(data).size)
                verdicts.add((moving["verdict"], moving.get("content_type")))
            if kind == "GIF":
                self.assertIn(("made", "image/jpeg"), verdicts)

    def test_animations_that_are_too_much_stand_still(self) -> None:
        for name, value in (
            ("MAX_FRAMES", 1),
            ("MAX_DECODED", 0),
            ("MAX_KEPT_BYTES", 1),
            ("ANIMATION_S", -1.0),
        ):
            limited = self.patch(thumbnail_worker, name, value)
            head, data = self.make(animation(200, 200), 96, 96, animated=True)
            self.assertEqual(("made", "image/jpeg"), (head["verdict"], head["content_type"]), name)
            self.assertTrue(load(data).getpixel((50, 50))[0] > 200)  # type: ignore[index]
            limited.restore()

    def test_many_frames_of_nearly_nothing(self) -> None:
        frames = [Image.new("P", (1900, 1900), number % 2) for number in range(40)]
        data = save(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=10)
        self.assertLess(len(data), 1_000_000)
        head, _ = self.make(data, 96, 96, animated=True)
        self.assertIn(
            (head["verdict"], head["content_type"]), [("made", "image/jpeg"), ("made", "image/png")]
        )

    def test_how_long_a_frame_is_shown(self) -> None:
        given = [None, 0, 10, 20, 55.5, 10**9, float("nan"), "x"]
        self.assertEqual([100, 100, 100, 20, 55, 60_000, 100, 100], [shown_for(one) for one in given])

    def test_refused(self) -> None:
        whole = picture(400, 400)
        for data, verdict in (
            (png_head(100_000, 100_000), "too_large"),
            (png_head(2001, 2000), "too_large"),
            (png_head(1000, 1000), "unsupported"),
            (whole[: len(whole) // 2], "unsupported"),
            (b"", "unsupported"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
            (picture(400, 400, "TIFF"), "unsupported"),
        ):
            head, out = self.make(data, 96, 96)
            self.assertEqual((verdict, b""), (head["verdict"], out))
        self.assertEqual("lost", self.make(b"", 96, 96, path="/nowhere/at/all")[0]["verdict"])

    @given(st.binary(max_size=300), st.integers(0, 200))
    def test_damaged(self, noise: bytes, place: int) -> None:
        for kind in ("PNG", "JPEG", "GIF", "WEBP"):
            good = picture(120, 120, kind)
            head, _ = self.make(good[:place] + noise + good[place + len(noise) :], 32, 32)
            self.assertIn(head["verdict"], ("made", "unsupported", "too_large", "original"))


class Process(unittest.TestCase):
    """The real process."""

    def worker(self, program: str | None = None, job_limit_s: float = 10.0) -> PictureWorker:
        if program is None:
            worker = PictureWorker(MAX_PIXELS)
        else:
            path = Path(self.mktemp()).absolute()
            path.write_text(program)
            worker = PictureWorker(MAX_PIXELS, path, job_limit_s)
        self.addCleanup(worker.end)
        return worker

    def make(self, worker: PictureWorker, data: bytes) -> Picture:
        path = Path(self.mktemp()).absolute()
        path.write_bytes(data)
        return worker.make(path, 32, 32, "crop", animated=False)

    def test_several_jobs(self) -> None:
        worker = self.worker()
        self.assertFalse(worker.is_running)
        for _ in range(3):
            made = self.make(worker, picture(100, 100))
            self.assertEqual(
                ("made", "image/jpeg", (32, 32)), (made.verdict, made.content_type, load(made.data).size)
            )
        self.assertEqual("unsupported", self.make(worker, b"nothing").verdict)
        self.assertEqual("too_large", self.make(worker, png_head(60_000, 60_000)).verdict)
        self.assertTrue(worker.is_running)
        worker.end()
        self.assertFalse(worker.is_running)
        self.assertEqual("made", self.make(worker, picture(100, 100)).verdict)

    def test_it_has_little_memory(self) -> None:
        program = (
            "import sys; sys.path.insert(0, {folder!r})\n"
            "import json, thumbnail_worker as worker\n"
            "worker.limit_resources(1000)\n"
            "for line in sys.stdin.buffer:\n"
            "    verdict = 'unsupported'\n"
            "    try:\n"
            "        bytearray(2 * 1024 ** 3)\n"
            "        verdict = 'made'\n"
            "    except MemoryError: pass\n"
            "    print(json.dumps({{'verdict': verdict, 'length': 0}}), flush=True)\n"
        ).format(folder=str(Path(__file__).parents[3] / "homeserver" / "media"))
        self.assertEqual("unsupported", self.make(self.worker(program), b"").verdict)

    def test_its_life_ends_with_its_sanity(self) -> None:
        for program in (
            "",
            "import os, sys; sys.stdin.readline(); os.abort()",
            "import sys; sys.stdin.readline(); print('x' * 5000, flush=True)",
            "import sys; sys.stdin.readline(); print('{}', flush=True)",
            'import sys; sys.stdin.readline(); print(\'{"verdict":"made","length":-1}\', flush=True)',
            'import sys; sys.stdin.readline(); print(\'{"verdict":"made","length":9}\\n12\', flush=True)',
            'import sys; sys.stdin.readline(); print(\'{"verdict":"made","length":1e99}\', flush=True)',
            'import sys; sys.stdin.readline(); print(\'{"verdict":"made","length":0,"content_type":"text/html"}\')',
        ):
            worker = self.worker(program)
            self.assertEqual("unsupported", self.make(worker, b"").verdict, program)
            self.assertFalse(worker.is_running)

    def test_who_takes_too_long_is_killed(self) -> None:
        worker = self.worker("import sys, threading; sys.stdin.readline(); threading.Event().wait()", 0.05)
        self.assertEqual("unsupported", self.make(worker, b"").verdict)
        self.assertFalse(worker.is_running)

    def test_none_is_started_after_the_end(self) -> None:
        worker = self.worker()
        worker.close()
        self.assertEqual("stopped", self.make(worker, picture(50, 50)).verdict)
        self.assertFalse(worker.is_running)
