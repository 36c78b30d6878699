"""What tests of the content repository begin with: two users, small limits, and short names for requests."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from homeserver.config.schema import Media
from homeserver.media.storage import MediaStore
from tests.support.app import SERVER_NAME, TestApp, new_time, test_config
from tests.support.bucket import BucketHttp, FakeBucket, s3_settings
from tests.support.databases import DatabaseCase
from tests.support.http import Answer, Query

C = TypeVar("C", bound=DatabaseCase)
UPLOAD = "/_matrix/media/v3/upload"
CREATE = "/_matrix/media/v1/create"
DOWNLOAD = "/_matrix/client/v1/media/download"
THUMBNAIL = "/_matrix/client/v1/media/thumbnail"
OLD = "/_matrix/media/v3/download"
OLD_THUMBNAIL = "/_matrix/media/v3/thumbnail"
POLICY = (
    "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; "
    "style-src 'unsafe-inline'; object-src 'self';"
)


def in_a_bucket_too(case: type[C]) -> type[C]:
    """Add a class to the module of the decorated one whose files are in a bucket."""
    name = f"{case.__name__}InABucket"
    members = {
        "in_bucket": True,
        "__module__": case.__module__,
        "__qualname__": name,
        "__doc__": case.__doc__,
    }
    setattr(sys.modules[case.__module__], name, type(name, (case,), members))
    return case


class Arriving:
    """A body that comes when the test says so."""

    def __init__(self) -> None:
        self.asked: Deferred[bytes | None] = Deferred()

    def read_chunk(self) -> Deferred[bytes | None]:
        self.asked = Deferred()
        return self.asked


class MediaCase(DatabaseCase):
    """Alice and Bob with small limits."""

    in_bucket = False

    def setUp(self) -> None:
        media = Media(max_upload_bytes=1_000_000, max_pending_uploads=3, max_thumbnail_pixels=1_000_000)
        time = new_time()
        self.bucket = FakeBucket(time.seconds)
        self.bucket_http = BucketHttp(self.bucket)
        if self.in_bucket:
            media = replace(media, storage="s3", s3=s3_settings())
        config = test_config(data_dir=Path(self.mktemp()).absolute(), media=media)
        self.app = TestApp(self, self.new_database(), config, time=time, appservice_http=self.bucket_http)
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")

    def configure(self, **changes: Any) -> None:
        config = self.app.app.services.settings.config
        self.app.app.reload(replace(config, media=replace(config.media, **changes)))

    def post(
        self,
        data: bytes,
        content_type: str | None = "image/png",
        query: Query | None = None,
        token: str | None = None,
    ) -> Answer:
        headers = {} if content_type is None else {"Content-Type": content_type}
        return self.app.answer("POST", UPLOAD, data, token or self.alice, query, headers)

    def upload(self, data: bytes, content_type: str | None = "image/png", name: str | None = None) -> str:
        """The path of the address: `server/id`."""
        answer = self.post(data, content_type, None if name is None else {"filename": name})
        self.assertEqual(200, answer.status, answer.json)
        uri: str = answer.json["content_uri"]
        self.assertTrue(uri.startswith(f"mxc://{SERVER_NAME}/"))
        return uri.removeprefix("mxc://")

    def get(
        self,
        address: str,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        top: str = DOWNLOAD,
    ) -> Answer:
        return self.app.answer("GET", f"{top}/{address}", None, self.alice, query, headers)

    def create(self, token: str | None = None) -> str:
        answer = self.app.ok("POST", CREATE, None, token or self.alice)
        uri: str = answer["content_uri"]
        return uri.removeprefix("mxc://")

    @property
    def folder(self) -> Path:
        """Where files are, or what is there of the bucket's."""
        return self.app.config.data_dir / ("media-cache" if self.in_bucket else "media")

    @property
    def storage(self) -> MediaStore:
        return self.app.app.services.media.repository._storage

    def stored(self, folder: str = "files") -> list[str]:
        """The names of what is stored: where it is for good."""
        if self.in_bucket and folder == "files":
            return self.bucket.names()
        found: list[str] = []
        for _, _, names in os.walk(self.folder / folder):
            found += names
        return sorted(found)

    def refused(self, answer: Answer, status: int, errcode: str) -> None:
        self.assertEqual((status, errcode), (answer.status, answer.errcode), answer.json)
