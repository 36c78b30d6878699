"""Every configuration key: type, default, limits, documentation. The file is YAML of the same shape.

Durations are plain numbers with the unit in the name (`*_s`), sizes likewise (`*_bytes`). Paths are relative
to the folder of the configuration file. All defaults work; only `server_name` is required.
"""

# ruff: noqa: RUF009 (`option` and `section` return dataclass fields: what `dataclasses.field` itself does)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from federation.ids import ServerName, parse_server_name
from homeserver.config import checks
from homeserver.config.options import free, option, section

IpNetwork: TypeAlias = IPv4Network | IPv6Network
Serve: TypeAlias = Literal["client", "federation", "web", "health", "metrics"]
RegistrationMode: TypeAlias = Literal["closed", "token", "open"]

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TlsFiles:
    certificate_file: Path = option(doc="PEM file with the certificate and its chain.")
    private_key_file: Path = option(doc="PEM file with the private key.")


@dataclass(frozen=True, slots=True)
class Listener:
    port: int = option(minimum=0, maximum=65535, doc="TCP port; 0 takes any free one.")
    bind: str = option(
        "127.0.0.1", check=checks.check_bind, doc="Address to listen on; `0.0.0.0` or `::` for all."
    )
    serve: tuple[Serve, ...] = option(
        ("client", "federation", "web", "health"),
        doc="What is answered here. Put `metrics` on a private address.",
    )
    tls: TlsFiles | None = option(
        None,
        doc="Files for HTTPS; `null` serves plain HTTP, for a proxy in front. After a renewal SIGHUP has new connections "
        "get what is in the files; where that cannot be used, they get what they had, and the log says so.",
    )
    trust_forwarded_for: bool = option(
        False,
        doc="Take the client's address from `X-Forwarded-For`: the last one there, which the proxy in front wrote. "
        "Only behind a proxy that sets it or appends to it; one that is itself behind others has to put the client's last.",
    )


@dataclass(frozen=True, slots=True)
class Registration:
    mode: RegistrationMode = option(
        "closed",
        reloadable=True,
        doc="Who may make an account: nobody, holders of a registration token, anybody.",
    )
    guests: bool = option(False, reloadable=True, doc="Let people look around without an account.")
    shared_secret: str | None = option(
        None,
        secret=True,
        check=checks.check_not_empty,
        doc="Lets tools that know it create accounts through `/_synapse/admin/v1/register`.",
    )


@dataclass(frozen=True, slots=True)
class Passwords:
    minimum_length: int = option(
        1,
        minimum=1,
        maximum=512,
        reloadable=True,
        doc="Shortest password accepted; 10 is sensible where strangers join.",
    )
    require_digit: bool = option(False, reloadable=True, doc="Ask for a digit in new passwords.")
    require_symbol: bool = option(
        False, reloadable=True, doc="Ask for a character that is no letter or digit."
    )
    require_uppercase: bool = option(False, reloadable=True, doc="Ask for an upper-case letter.")
    require_lowercase: bool = option(False, reloadable=True, doc="Ask for a lower-case letter.")


@dataclass(frozen=True, slots=True)
class Sessions:
    access_token_lifetime_s: int = option(
        300, minimum=10, maximum=31_536_000, doc="Life of an access token, for clients that can refresh it."
    )
    refresh_token_lifetime_s: int | None = option(
        None, minimum=60, maximum=315_360_000, doc="Unused refresh tokens end after this; `null` for never."
    )
    interactive_auth_lifetime_s: int = option(
        900, minimum=60, maximum=86_400, doc="How long a client may take over the steps of a confirmation."
    )


@dataclass(frozen=True, slots=True)
class Outbound:
    allow_private_ranges: tuple[IpNetwork, ...] = option(
        (), doc="CIDR ranges that the server may call although private or loopback."
    )
    ca_file: Path | None = option(
        None, doc="PEM file with further certificate authorities, beside the system's."
    )


@dataclass(frozen=True, slots=True)
class Federation:
    enabled: bool = option(True, doc="Talk to other servers at all.")
    verify_certificates: bool = option(
        True, doc="Check other servers' certificates. Off only on test networks."
    )
    allow_servers: tuple[str, ...] | None = option(
        None,
        reloadable=True,
        check=checks.check_server_name,
        doc="Talk to these servers only; `null` for all.",
    )
    deny_servers: tuple[str, ...] = option(
        (), reloadable=True, check=checks.check_server_name, doc="Never talk to these servers."
    )
    trusted_key_servers: tuple[str, ...] = option(
        ("matrix.org",),
        check=checks.check_server_name,
        doc="Servers asked for keys of servers that are gone.",
    )
    retry_min_s: float = option(
        10,
        minimum=0.1,
        maximum=86_400,
        reloadable=True,
        doc="First wait after a destination failed; then it doubles.",
    )
    retry_max_s: float = option(
        3600,
        minimum=1,
        maximum=604_800,
        reloadable=True,
        doc="Longest wait between attempts at a destination.",
    )


@dataclass(frozen=True, slots=True)
class PublicRooms:
    without_auth: bool = option(False, reloadable=True, doc="Show the room directory to anybody.")
    over_federation: bool = option(True, reloadable=True, doc="Show the room directory to other servers.")


@dataclass(frozen=True, slots=True)
class UserDirectory:
    search_all_users: bool = option(
        False,
        reloadable=True,
        doc="Find everybody who has an account here by the beginning of their name, and not only who is in a room with "
        "the searcher, in a public room, or asked for by their whole name. On a server whose users know each other.",
    )


@dataclass(frozen=True, slots=True)
class RateLimit:
    per_second: float = option(
        minimum=0.001,
        maximum=1_000_000,
        reloadable=True,
        default_text="that of the class",
        doc="Requests that refill a second.",
    )
    burst: int = option(
        minimum=1,
        maximum=1_000_000,
        reloadable=True,
        default_text="that of the class",
        doc="Requests at once before waiting begins.",
    )


@dataclass(frozen=True, slots=True)
class RateLimits:
    enabled: bool = option(True, reloadable=True, doc="Refuse too many requests with 429.", in_sample=True)
    login: RateLimit = option(RateLimit(0.2, 8), doc="Attempts to log in, by address and by account.")
    register: RateLimit = option(RateLimit(0.2, 5), doc="New accounts, by address.")
    letters: RateLimit = option(
        RateLimit(0.001, 10),
        doc="Letters with which a mail address is verified or a password set anew, by mail address. Anybody can ask for "
        "them: this is what a stranger can be sent.",
    )
    send: RateLimit = option(RateLimit(20, 100), doc="Events sent, by user.")
    join: RateLimit = option(RateLimit(2, 30), doc="Rooms joined or knocked on, by user.")
    invite: RateLimit = option(
        RateLimit(1, 50),
        doc="Invites, by user; those that come with a new room too. A room with more of them than `burst` can be made "
        "by who has invited nobody lately, and then nobody else until as many would have been possible.",
    )
    create_room: RateLimit = option(RateLimit(0.5, 20), doc="Rooms created or upgraded, by user.")
    media: RateLimit = option(RateLimit(10, 100), doc="Uploads and downloads, by user.")
    preview: RateLimit = option(RateLimit(1, 30), doc="Previews of links, by user.")
    search: RateLimit = option(RateLimit(2, 20), doc="Searches and directory look-ups, by user.")
    write: RateLimit = option(RateLimit(20, 200), doc="Every other change, by user.")
    read: RateLimit = option(RateLimit(100, 500), doc="Every other read, by user or address.")
    federation: RateLimit = option(
        RateLimit(500, 2000),
        doc="Requests of other servers, by server (by address where they are not signed).",
    )

    def classes(self) -> dict[str, RateLimit]:
        """The limits by the class name that routes use."""
        limits = {declared.name: getattr(self, declared.name) for declared in fields(self)}
        return {name: limit for name, limit in limits.items() if isinstance(limit, RateLimit)}


@dataclass(frozen=True, slots=True)
class Switch:
    enabled: bool = option(True, doc="Whether the feature is on.")


@dataclass(frozen=True, slots=True)
class S3:
    bucket: str = option(check=checks.check_bucket, doc="The bucket, which has to be there.")
    access_key_id: str = option(
        check=checks.check_plain_name, doc="The access key: which, and not what it is."
    )
    secret_access_key: str | None = option(
        None, secret=True, check=checks.check_not_empty, doc="The secret of the access key."
    )
    secret_access_key_file: Path | None = option(
        None, doc="A file with that secret alone, instead of writing it here."
    )
    endpoint: str | None = option(
        None,
        check=checks.check_http_url,
        default_text="`https://s3.<region>.amazonaws.com`",
        doc="Where the storage answers. It is your choice, so it may be on this machine or a private network: "
        "`outbound.allow_private_ranges` does not concern it. Its certificate is checked, with `outbound.ca_file` too.",
    )
    region: str = option("us-east-1", check=checks.check_plain_name, doc="The region of the bucket.")
    prefix: str = option(
        "",
        check=checks.check_key_prefix,
        doc="What the keys of all objects begin with, like `chat/media`. No two servers may have the same bucket and "
        "prefix.",
    )
    addressing: Literal["path", "virtual"] = option(
        "path",
        doc="Where the bucket's name stands: `https://endpoint/bucket/key` or `https://bucket.endpoint/key`.",
    )
    cache_bytes: int = option(
        1024 * MIB,
        minimum=MIB,
        maximum=1024**5,
        doc="Room in `data_dir` for files and thumbnails that are used; it may be emptied at any time.",
    )

    @property
    def base_url(self) -> str:
        """`endpoint` or its default, without a slash at the end."""
        return (self.endpoint or f"https://s3.{self.region}.amazonaws.com").rstrip("/")


@dataclass(frozen=True, slots=True)
class Media:
    max_upload_bytes: int = option(
        50 * MIB,
        minimum=1,
        maximum=64 * 1024 * MIB,
        reloadable=True,
        doc="Largest file that may be uploaded, or fetched from another server.",
    )
    storage: Literal["file_system", "s3"] = option(
        "file_system",
        doc="Where files are: the folder `media` in `data_dir`, or a bucket of S3 or of what speaks like it.",
    )
    s3: S3 | None = option(None, doc="The bucket, where `storage` is `s3`.")
    remote_retention_s: int = option(
        90 * 86_400,
        # That somebody has looked is noted once a day.
        minimum=2 * 86_400,
        maximum=10 * 31_536_000,
        reloadable=True,
        doc="Files of other servers are removed when nobody has looked at them for so long; they can be fetched again.",
    )
    max_thumbnail_pixels: int = option(
        32_000_000,
        minimum=10_000,
        maximum=1_000_000_000,
        doc="Larger pictures get no thumbnail: they would fill memory.",
    )
    pending_upload_lifetime_s: int = option(
        86_400,
        minimum=60,
        maximum=31_536_000,
        reloadable=True,
        doc="Time to send the file to an address made beforehand.",
    )
    max_pending_uploads: int = option(
        20, minimum=1, maximum=10_000, reloadable=True, doc="Addresses that one user may hold without a file."
    )
    user_quota_bytes: int | None = option(
        None,
        minimum=1,
        maximum=2**53 - 1,
        reloadable=True,
        doc="Bytes that one user may upload in all; `null` for as many as there is room for.",
    )
    user_quota_files: int | None = option(
        None,
        minimum=1,
        maximum=2**53 - 1,
        reloadable=True,
        doc="Files that one user may upload in all; `null` for any number.",
    )
    quota_info_uri: str | None = option(
        None,
        check=checks.check_page_url,
        reloadable=True,
        doc="A page that explains the two quotas to who has reached one; clients show it. `null`: one of the server's.",
    )
    freeze_unauthenticated_ts_ms: int | None = option(
        None,
        minimum=0,
        maximum=2**53 - 1,
        reloadable=True,
        doc="Files stored from this moment on (milliseconds since 1970) are only shown to those who are logged in; "
        "`null` shows all files to everybody who knows the address, for clients of before 2024.",
    )


@dataclass(frozen=True, slots=True)
class Caches:
    events_bytes: int = option(64 * MIB, minimum=MIB, maximum=1024**4, doc="Events by number.")
    client_events_bytes: int = option(
        32 * MIB, minimum=MIB, maximum=1024**4, doc="Events as clients get them."
    )
    states_bytes: int = option(64 * MIB, minimum=MIB, maximum=1024**4, doc="Room states.")
    names_bytes: int = option(32 * MIB, minimum=MIB, maximum=1024**4, doc="Names of users, rooms and types.")


@dataclass(frozen=True, slots=True)
class DatabasePool:
    readers: int = option(
        4,
        minimum=1,
        maximum=64,
        doc="Threads that read, each with a connection of its own. SQLite uses at most 2: its reads are short.",
    )
    prepare_statements: bool = option(
        True,
        doc="PostgreSQL: plan each query once per connection. Off behind a pooler that changes connections "
        "between transactions.",
    )
    power_loss_safe: bool = option(
        True,
        doc="SQLite: sync each commit to the disk. Off is faster, and may lose the last commits on power loss.",
    )


@dataclass(frozen=True, slots=True)
class Logging:
    level: Literal["debug", "info", "warning", "error"] = option(
        "info", doc="Least important events to write."
    )
    format: Literal["auto", "console", "json"] = option(
        "auto", doc="`auto`: for people on a terminal, JSON elsewhere."
    )


@dataclass(frozen=True, slots=True)
class Email:
    smtp_host: str = option(check=checks.check_not_empty, doc="The mail server.")
    sender: str = option(
        key="from",
        check=checks.check_mail_sender,
        doc="Whom mail comes from: `chat@example.org` or `Example <chat@example.org>`.",
    )
    smtp_port: int = option(587, minimum=1, maximum=65535, doc="Its port.")
    hide_accounts: bool = option(
        True,
        reloadable=True,
        doc="Answer alike whether or not an address has an account, and let a letter tell. Off: tell everybody who asks.",
    )
    username: str | None = option(None, doc="Account on the mail server.")
    password: str | None = option(None, secret=True, doc="Its password.")
    tls: bool = option(
        True,
        doc="Insist on encryption: from the first byte on port 465, else by STARTTLS. Off only for a mail server nearby.",
    )


@dataclass(frozen=True, slots=True)
class Turn:
    uris: tuple[str, ...] = option(
        (), reloadable=True, check=checks.check_turn_uri, doc="Relays that calls may use."
    )
    shared_secret: str | None = option(
        None,
        reloadable=True,
        secret=True,
        check=checks.check_not_empty,
        doc="The secret shared with the relay.",
    )
    lifetime_s: int = option(
        86_400, minimum=60, maximum=604_800, reloadable=True, doc="Life of the credentials given out."
    )


@dataclass(frozen=True, slots=True)
class Calls:
    livekit_service_urls: tuple[str, ...] = option(
        (),
        check=checks.check_page_url,
        doc="Authorisation services of the LiveKit servers that group calls use, the preferred one first.",
    )


@dataclass(frozen=True, slots=True)
class DelayedEvents:
    max_delay_s: int = option(
        86_400, minimum=0, maximum=31_536_000, doc="Longest delay; 0 switches them off."
    )
    max_scheduled: int = option(100, minimum=1, maximum=10_000, doc="Events that one user may have waiting.")
    grace_s: int = option(
        10,
        minimum=0,
        maximum=3600,
        doc="For so long after a start none is sent by itself: who renews theirs could not while the server was away.",
    )


@dataclass(frozen=True, slots=True)
class Contact:
    role: str = option(
        "m.role.admin",
        check=checks.check_identifier,
        doc="What for: `m.role.admin`, `m.role.security`, or a name of your own like `com.example.press`.",
    )
    matrix_id: str | None = option(
        None,
        check=checks.check_user_id,
        doc="A Matrix user; one on another server answers when this is down.",
    )
    email_address: str | None = option(None, check=checks.check_email_address, doc="An e-mail address.")


@dataclass(frozen=True, slots=True)
class Support:
    contacts: tuple[Contact, ...] = option(
        (), doc="Who answers for this server. Each needs a Matrix user or an e-mail address."
    )
    support_page: str | None = option(None, check=checks.check_page_url, doc="A page with help for users.")


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file. Derived values are properties at the end."""

    server_name: str = option(
        check=checks.check_server_name,
        in_sample=True,
        doc="The part after the colon in user names. It can never be changed.",
    )
    public_url: str | None = option(
        None,
        check=checks.check_http_url,
        default_text="`https://<server_name>`",
        in_sample=True,
        doc="Where clients reach this server.",
    )
    data_dir: Path = option(
        Path("data"),
        in_sample=True,
        doc="Folder of the SQLite file, media and signing key, unless said otherwise below.",
    )
    database: str = option(
        "sqlite",
        secret=True,
        check=checks.check_database,
        in_sample=True,
        doc="`sqlite`, or `postgresql://user:password@host/database`.",
    )
    redis: str | None = option(
        None,
        secret=True,
        check=checks.check_redis_url,
        doc="Not used yet: `redis://host:6379/0`, to join several processes one day.",
    )
    signing_key_file: Path | None = option(
        None,
        default_text="`signing.key` in `data_dir`",
        doc="The server's signing key, in Synapse's file format.",
    )
    default_room_version: str = option(
        "12",
        reloadable=True,
        check=checks.check_room_version,
        doc="Version of new rooms. Some older clients do not know 12 (`docs/clients.md`).",
    )
    forget_rooms_on_leave: bool = option(
        False, doc="Whoever leaves a room, or is put out of it, can no longer look at its past."
    )
    listeners: tuple[Listener, ...] = option(
        (Listener(8008),), in_sample=True, doc="Where to listen, and what is answered there."
    )
    registration: Registration = section(Registration, in_sample=True, doc="New accounts.")
    passwords: Passwords = section(Passwords, doc="What new passwords must be like.")
    sessions: Sessions = section(Sessions, doc="How long logins last.")
    oauth: Switch = section(
        Switch,
        doc="Logging in by OAuth 2.0 too, where `public_url` is set and has no path: apps that know it prefer it. A proxy "
        "must pass `/oauth2/` and `/account/` on, beside `/_matrix/` and `/.well-known/`.",
    )
    outbound: Outbound = section(Outbound, doc="For everything that the server itself fetches or calls.")
    federation: Federation = section(Federation, in_sample=True, doc="Other servers.")
    public_rooms: PublicRooms = section(PublicRooms, doc="The room directory.")
    user_directory: UserDirectory = section(UserDirectory, doc="The search for people.")
    rate_limits: RateLimits = section(RateLimits, in_sample=True, doc="Protection against too many requests.")
    presence: Switch = section(Switch, doc="Who is online.")
    url_previews: Switch = section(Switch, doc="Previews of links, fetched by the server.")
    media: Media = section(Media, in_sample=True, doc="Files and pictures.")
    caches: Caches = section(Caches, doc="Memory for things that never change, in bytes each.")
    database_pool: DatabasePool = section(DatabasePool, doc="Connections to the database.")
    logging: Logging = section(Logging, doc="The server's own diary.")
    appservices: tuple[Path, ...] = option(
        (),
        doc="Registration files of application services (bridges, bots). Their `url` is your choice, so it may be on "
        "this machine or a private network: `outbound.allow_private_ranges` does not concern it.",
    )
    email: Email | None = option(None, doc="How to send mail; `null` for none.")
    turn: Turn = section(Turn, doc="Relays for voice and video behind firewalls.")
    calls: Calls = section(Calls, doc="Media servers for group calls (Element Call).")
    delayed_events: DelayedEvents = section(DelayedEvents, doc="Events that clients send later (MSC4140).")
    support: Support = section(
        Support, doc="Whom to ask for help, as `/.well-known/matrix/support` tells it."
    )
    client_well_known: Mapping[str, Any] = free(
        check=checks.check_client_well_known,
        doc="What `/.well-known/matrix/client` says beside this server's address, for clients that look there for "
        "how they are to behave (`io.element.e2ee`, `m.identity_server`, `m.tile_server`). It wins over what the "
        "server says by itself, and `null` takes that out.",
    )

    @property
    def parsed_server_name(self) -> ServerName:
        """`server_name` as the protocol core takes it."""
        return parse_server_name(self.server_name)

    @property
    def base_url(self) -> str:
        """`public_url` or its default, without a slash at the end."""
        return (self.public_url or f"https://{self.server_name}").rstrip("/")

    @property
    def has_oauth(self) -> bool:
        """Whether apps may log in by OAuth 2.0: they go where it says, so a guessed address would lock people out.

        The pages are at the root of a host: below a path nothing of them would be found.
        """
        url = self.public_url
        return self.oauth.enabled and url is not None and urlsplit(url).path in ("", "/")

    @property
    def signing_key_path(self) -> Path:
        return self.signing_key_file or self.data_dir / "signing.key"

    @property
    def is_sqlite(self) -> bool:
        return self.database == "sqlite"

    @property
    def sqlite_path(self) -> Path:
        return self.data_dir / "chaos.sqlite3"

    @property
    def database_url(self) -> str:
        """`sqlite:///…` with the file's absolute path, or the PostgreSQL URL as configured."""
        return f"sqlite:///{self.sqlite_path.absolute()}" if self.is_sqlite else self.database
