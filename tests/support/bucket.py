"""``FakeBucket``: S3 as far as we use it, in memory, that lets nobody in whose signature it does not compute itself.

    bucket = FakeBucket(time)
    app = TestApp(self, config=..., appservice_http=BucketHttp(bucket))

``bucket.script`` may answer first: what a hostile or broken bucket would say. `serve` puts it on a socket.
"""

from __future__ import annotations

import hmac
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from twisted.internet.defer import Deferred, maybeDeferred

from homeserver.config.schema import S3
from homeserver.http.client import HttpLimits, HttpResponse
from homeserver.http.transport import AnswerTooLarge, Unreachable

KEY_ID, SECRET, REGION, NAME = "AKIDCHAOS", "s3kr3t/with+signs=", "eu-test-1", "chaos-media"
ENDPOINT = "http://s3.test.example:9000"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass
class Call:
    """One request as it came."""

    method: str
    target: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    ends_early: bool = False
    """The connection breaks after the body, which is said to be longer."""


def error(status: int, code: str) -> Reply:
    return Reply(status, f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode())


def s3_settings(**changes: object) -> S3:
    given: dict[str, object] = {
        "bucket": NAME,
        "access_key_id": KEY_ID,
        "secret_access_key": SECRET,
        "endpoint": ENDPOINT,
        "region": REGION,
        "prefix": "chat/media",
    }
    return S3(**{**given, **changes})  # type: ignore[arg-type]


class FakeBucket:
    """See the module. ``now_s`` is the bucket's own clock."""

    def __init__(self, now_s: Callable[[], float], page: int = 3) -> None:
        self.now_s = now_s
        self.page = page
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.uploads: dict[str, tuple[str, dict[int, bytes]]] = {}
        self.calls: list[Call] = []
        self.script: Callable[[Call], Reply | Exception | None] = lambda _: None
        self._begun = 0
        self._lock = Lock()

    def names(self) -> list[str]:
        """Of the files it has."""
        found = [key.rpartition("/")[2] for key in self.objects if "/files/" in f"/{key}"]
        return sorted(found)

    def answer(self, call: Call) -> Reply | Exception:
        with self._lock:
            self.calls.append(call)
            scripted = self.script(call)
            return scripted if scripted is not None else self._check(call) or self._answer(call)

    # --- who asks ---

    def _check(self, call: Call) -> Reply | None:
        found = _AUTHORIZATION.fullmatch(call.headers.get("authorization", ""))
        if found is None:
            return error(403, "AccessDenied")
        key_id, day, region, signed, signature = found.groups()
        if key_id != KEY_ID:
            return error(403, "InvalidAccessKeyId")
        if region != REGION:
            return error(400, "AuthorizationHeaderMalformed")
        moment, digest = call.headers.get("x-amz-date", ""), call.headers.get("x-amz-content-sha256", "")
        if digest != sha256(call.body).hexdigest():
            return error(400, "XAmzContentSHA256Mismatch")
        skew = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp() - self.now_s()
        if abs(skew) > 900 or not moment.startswith(day):
            return error(403, "RequestTimeTooSkewed")
        names = signed.split(";")
        if not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names) or names != sorted(names):
            return error(403, "AccessDenied")
        parts = urlsplit(call.target)
        query = "&".join(
            sorted(
                f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
                for name, value in parse_qsl(parts.query, keep_blank_values=True)
            )
        )
        lines = "".join(f"{name}:{' '.join(call.headers[name].split())}\n" for name in names)
        path = quote(unquote(parts.path), safe="/-_.~")
        canonical = f"{call.method}\n{path}\n{query}\n{lines}\n{signed}\n{digest}"
        scope = f"{day}/{REGION}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        key = b"AWS4" + SECRET.encode()
        for step in (day, REGION, "s3", "aws4_request"):
            key = hmac.new(key, step.encode(), "sha256").digest()
        expected = hmac.new(key, text.encode(), "sha256").hexdigest()
        return None if hmac.compare_digest(expected, signature) else error(403, "SignatureDoesNotMatch")

    # --- what is wanted ---

    def _answer(self, call: Call) -> Reply:
        host, path = call.headers["host"].partition(":")[0], unquote(call.path)
        if host.startswith(f"{NAME}."):
            key = path.removeprefix("/")
        elif path == f"/{NAME}" or path.startswith(f"/{NAME}/"):
            key = path.removeprefix(f"/{NAME}").removeprefix("/")
        else:
            return error(404, "NoSuchBucket")
        query = call.query
        if not key:
            return self._list(query)
        if call.method == "PUT":
            return self._put(key, query, call.body)
        if call.method == "POST":
            return self._post(key, query, call.body)
        if call.method == "DELETE":
            if "uploadId" in query:
                self.uploads.pop(query["uploadId"], None)
            else:
                self.objects.pop(key, None)
            return Reply(204)
        found = self.objects.get(key)
        return error(404, "NoSuchKey") if found is None else Reply(200, found[0])

    def _put(self, key: str, query: Mapping[str, str], body: bytes) -> Reply:
        etag = {"etag": f'"{md5(body).hexdigest()}"'}
        if "uploadId" not in query:
            self.objects[key] = (body, self.now_s())
            return Reply(200, headers=etag)
        upload = self.uploads.get(query["uploadId"])
        if upload is None or upload[0] != key:
            return error(404, "NoSuchUpload")
        upload[1][int(query["partNumber"])] = body
        return Reply(200, headers=etag)

    def _post(self, key: str, query: Mapping[str, str], body: bytes) -> Reply:
        if "uploads" in query:
            self._begun += 1
            upload_id = f"up/load+{self._begun}="
            self.uploads[upload_id] = (key, {})
            text = f"<UploadId>{upload_id}</UploadId>"
            return Reply(
                200,
                f'<InitiateMultipartUploadResult xmlns="{_NAMESPACE}">{text}'
                "</InitiateMultipartUploadResult>".encode(),
            )
        found = self.uploads.get(query.get("uploadId", ""))
        if found is None or found[0] != key:
            return error(404, "NoSuchUpload")
        named = re.findall(
            r'<Part><PartNumber>(\d+)</PartNumber><ETag>"([0-9a-f]{32})"</ETag></Part>', body.decode()
        )
        parts = found[1]
        if [(int(number), etag) for number, etag in named] != [
            (number, md5(parts[number]).hexdigest()) for number in sorted(parts)
        ]:
            return error(400, "InvalidPart")
        if any(len(parts[number]) < 5 * 1024 * 1024 for number in sorted(parts)[:-1]):
            return error(400, "EntityTooSmall")
        self.objects[key] = (b"".join(parts[number] for number in sorted(parts)), self.now_s())
        del self.uploads[query["uploadId"]]
        return Reply(
            200,
            f'<?xml version="1.0"?><CompleteMultipartUploadResult xmlns="{_NAMESPACE}">'
            '<ETag>"e"</ETag></CompleteMultipartUploadResult>'.encode(),
        )

    def _list(self, query: Mapping[str, str]) -> Reply:
        if query.get("list-type") != "2":
            return error(400, "InvalidArgument")
        after = query.get("continuation-token", "")
        keys = [
            key for key in sorted(self.objects) if key.startswith(query.get("prefix", "")) and key > after
        ]
        most = min(self.page, int(query.get("max-keys", "1000")))
        shown, more = keys[:most], len(keys) > most
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_iso(self.objects[key][1])}</LastModified>"
            f"<Size>{len(self.objects[key][0])}</Size></Contents>"
            for key in shown
        )
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        return Reply(
            200,
            f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="{_NAMESPACE}">'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>".encode(),
        )


class BucketHttp:
    """What ``HttpClient`` does, without a network. ``held`` requests are answered by `release`.

    ``halts`` says after how many bytes an answer stops, until `release` lets the rest come.
    """

    def __init__(self, bucket: FakeBucket) -> None:
        self.bucket = bucket
        self.holds: Callable[[Call], bool] = lambda _: False
        self.halts: Callable[[Call], int | None] = lambda _: None
        self.held: list[tuple[Deferred[None], Call]] = []

    def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        limits: HttpLimits,
        receive: Callable[[bytes], None] | None = None,
    ) -> Deferred[HttpResponse]:
        assert limits.max_redirects == 0
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        call = Call(method, target, {"host": parts.netloc, **headers}, body or b"")
        begun = self.halts(call)
        if begun is not None and receive is not None:
            reply = self.bucket.answer(call)
            assert isinstance(reply, Reply)
            _hand_over(reply.body[:begun], receive)
            rest: Deferred[None] = Deferred()
            self.held.append((rest, call))
            return rest.addCallback(lambda _: _end(url, reply, reply.body[begun:], receive))
        if not self.holds(call):
            return maybeDeferred(self._answer, url, call, limits, receive)
        waiting: Deferred[None] = Deferred()
        self.held.append((waiting, call))
        return waiting.addCallback(lambda _: self._answer(url, call, limits, receive))

    def release(self) -> None:
        held, self.held = self.held, []
        for waiting, _ in held:
            if not waiting.called:
                waiting.callback(None)

    def _answer(
        self, url: str, call: Call, limits: HttpLimits, receive: Callable[[bytes], None] | None
    ) -> HttpResponse:
        reply = self.bucket.answer(call)
        if isinstance(reply, Exception):
            raise reply
        if len(reply.body) > limits.max_bytes:
            raise AnswerTooLarge("the answer is too large")
        taken = receive if receive is not None and 200 <= reply.status < 300 else None
        return _end(url, reply, reply.body, taken)


def _end(url: str, reply: Reply, rest: bytes, taken: Callable[[bytes], None] | None) -> HttpResponse:
    if taken is not None:
        _hand_over(rest, taken)
    if reply.ends_early:
        raise Unreachable("the answer broke off")
    return HttpResponse(url, reply.status, b"" if taken else reply.body, reply.headers)


def _hand_over(data: bytes, taken: Callable[[bytes], None]) -> None:
    for start in range(0, len(data), 65_536):
        taken(data[start : start + 65_536])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: FakeBucket

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.bucket.answer(Call(self.command, self.path, headers, body))
        if isinstance(reply, Exception):
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Length", str(len(reply.body) + (100 if reply.ends_early else 0)))
        self.end_headers()
        self.wfile.write(reply.body)
        self.close_connection = self.close_connection or reply.ends_early

    do_GET = do_PUT = do_POST = do_DELETE = _do  # noqa: N815 (the names that are called)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that has had enough."""


def serve(bucket: FakeBucket, certificate: tuple[Path, Path] | None = None) -> tuple[str, Callable[[], None]]:
    """On a socket of this machine, over TLS where there is a certificate with its key: the endpoint, and what ends it."""
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    server = _Server(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        # The handshake is the handler's thread's, as it would be a server's.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    scheme = "http" if certificate is None else "https"
    return f"{scheme}://127.0.0.1:{server.server_address[1]}", stop


def _iso(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
