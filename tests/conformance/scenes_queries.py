"""Scenes of questions: keys, versions, profiles, directories, spaces, media, OpenID."""

from __future__ import annotations

from urllib.parse import quote

from homeserver.config.schema import PublicRooms
from tests.conformance.stage import ALICE, BOB, StageCase, path
from tests.federation.people import A, B, C
from tests.unit.media.pictures import picture

_NOTARY = "/_matrix/key/v2/query"


def keys(stage: StageCase) -> None:
    """Our own, and those of another as a notary."""
    for uri in ("/_matrix/key/v2/server", f"{_NOTARY}/{B}", f"{_NOTARY}/{B}?minimum_valid_until_ts=1"):
        stage.assertEqual(200, stage.open_call(stage.a, "GET", uri).status, uri)
    wanted = {B: {"ed25519:test": {"minimum_valid_until_ts": stage.net.now_ms}}, "nobody.example": {}}
    answer = stage.open_call(stage.a, "POST", _NOTARY, {"server_keys": wanted})
    stage.assertEqual([B], [one["server_name"] for one in answer.json["server_keys"]])
    stage.refused(stage.open_call(stage.a, "POST", _NOTARY, {}), 400, "M_BAD_JSON")
    stage.refused(stage.open_call(stage.a, "GET", f"{_NOTARY}/no%20name"), 400, "M_INVALID_PARAM")


def who_are_you(stage: StageCase) -> None:
    """The version, and the document that delegates."""
    stage.assertEqual(200, stage.open_call(stage.a, "GET", path("version")).status)
    stage.refused(stage.open_call(stage.a, "POST", path("version"), {}), 405, "M_UNRECOGNIZED")
    stage.refused(stage.open_call(stage.a, "GET", path("weather")), 404, "M_UNRECOGNIZED")
    delegated = stage.server(C, public_url="https://matrix.c.example")
    answer = stage.open_call(delegated, "GET", "/.well-known/matrix/server")
    stage.assertEqual({"m.server": "matrix.c.example:443"}, answer.json)
    stage.refused(stage.open_call(stage.a, "GET", "/.well-known/matrix/server"), 404, "M_NOT_FOUND")


def queries(stage: StageCase) -> None:
    """Profiles and aliases, of ours and of nobody."""
    stage.ok(stage.a, stage.alice, "PUT", f"/profile/{ALICE}/displayname", {"displayname": "Alice"})
    stage.ok(stage.a, stage.alice, "PUT", f"/profile/{ALICE}/avatar_url", {"avatar_url": "mxc://a/b"})
    stage.ok(stage.b, stage.bob, "GET", f"/profile/{ALICE}")
    profile = path("query", "profile") + f"?user_id={quote(ALICE)}"
    for field in ("displayname", "avatar_url"):
        stage.assertEqual({field}, set(stage.told("GET", f"{profile}&field={field}")))
    nobody = path("query", "profile") + f"?user_id={quote(f'@nobody:{A}')}"
    stage.denied(404, "M_NOT_FOUND", stage.ask("GET", nobody))
    stage.refused(stage.call(stage.b, stage.bob, "GET", f"/profile/@nobody:{A}"), 404, "M_NOT_FOUND")
    stage.create(stage.a, stage.alice, room_alias_name="here")
    stage.ok(stage.b, stage.bob, "GET", f"/directory/room/{quote(f'#here:{A}')}")
    none = path("query", "directory") + f"?room_alias={quote(f'#none:{A}')}"
    stage.denied(404, "M_NOT_FOUND", stage.ask("GET", none))
    stage.refused(
        stage.call(stage.b, stage.bob, "GET", f"/directory/room/{quote(f'#none:{A}')}"), 404, "M_NOT_FOUND"
    )
    stage.denied(404, "M_UNRECOGNIZED", stage.ask("GET", path("query", "weather")))


def directory(stage: StageCase) -> None:
    """Published rooms, all, searched and page by page; and of a server that shows none."""
    for name in ("one", "two", "three"):
        room_id = stage.create(
            stage.a,
            stage.alice,
            preset="public_chat",
            name=name,
            topic="talk",
            room_alias_name=name,
            visibility="public",
        )
        body = {"join_rule": "public"}
        stage.ok(stage.a, stage.alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.join_rules", body)
        picture_of = {"url": "http://no.example/picture"}
        stage.ok(stage.a, stage.alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.avatar", picture_of)
    found = stage.ok(stage.b, stage.bob, "GET", "/publicRooms", None, {"server": A, "limit": 2})
    query = {"server": A, "limit": 2, "since": found["next_batch"]}
    stage.ok(stage.b, stage.bob, "GET", "/publicRooms", None, query)
    search = {"filter": {"generic_search_term": "two", "room_types": [None]}, "limit": 10}
    stage.ok(stage.b, stage.bob, "POST", "/publicRooms", search, {"server": A})
    uri = path("publicRooms")
    stage.assertEqual(2, len(stage.told("GET", f"{uri}?limit=2")["chunk"]))
    stage.assertEqual(3, stage.told("POST", uri, {"limit": 1})["total_room_count_estimate"])
    stage.server(C, public_rooms=PublicRooms(over_federation=False))
    stage.denied(403, "M_FORBIDDEN", stage.ask("GET", uri, of=C))
    stage.denied(403, "M_FORBIDDEN", stage.ask("POST", uri, {}, of=C))


def spaces(stage: StageCase) -> None:
    """A space of another server with rooms that differ in what they tell."""
    content = {"type": "m.space"}
    space = stage.create(stage.a, stage.alice, preset="public_chat", name="Space", creation_content=content)
    encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    rooms = [
        stage.create(stage.a, stage.alice, preset="public_chat", name="open", topic="talk"),
        stage.create(stage.a, stage.alice, preset="private_chat", name="shut", initial_state=[encryption]),
    ]
    allow = [{"type": "m.room_membership", "room_id": space}]
    rules = {"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": allow}}
    rooms.append(stage.create(stage.a, stage.alice, name="club", room_version="10", initial_state=[rules]))
    for room_id in rooms:
        child = f"/rooms/{quote(space)}/state/m.space.child/{quote(room_id)}"
        stage.ok(stage.a, stage.alice, "PUT", child, {"via": [A], "order": "a", "suggested": True})
    stage.assertEqual(200, stage.join(stage.b, stage.bob, space, A).status)
    stage.net.settle()
    for query in ("", "?suggested_only=true"):
        told = stage.told("GET", path("hierarchy", space) + query)
        stage.assertEqual(3, len(told["children"]) + len(told["inaccessible_children"]))
    v1 = f"/_matrix/client/v1/rooms/{quote(space)}/hierarchy"
    answer = stage.net.wait(stage.b.start("GET", v1, None, stage.bob, {"limit": 2}))
    stage.assertEqual(200, answer.status, answer.json)
    further = {"limit": 2, "from": answer.json["next_batch"]}
    stage.assertEqual(200, stage.net.wait(stage.b.start("GET", v1, None, stage.bob, further)).status)
    for room_id in rooms[:1]:
        summary = f"/_matrix/client/v1/room_summary/{quote(room_id)}"
        answer = stage.net.wait(stage.b.start("GET", summary, None, stage.bob, {"via": [A]}))
        stage.assertEqual(200, answer.status, answer.json)
    summary = f"/_matrix/client/v1/room_summary/{quote(rooms[1])}"
    answer = stage.net.wait(stage.b.start("GET", summary, None, stage.bob, {"via": [A]}))
    stage.refused(answer, 404, "M_NOT_FOUND")
    shut = f"/_matrix/client/v1/rooms/{quote(rooms[1])}/hierarchy"
    stage.refused(stage.net.wait(stage.b.start("GET", shut, None, stage.bob)), 403, "M_FORBIDDEN")
    answer = stage.net.wait(stage.b.start("GET", v1, None, stage.bob, {"from": "nowhere"}))
    stage.refused(answer, 400, "M_INVALID_PARAM")
    stage.denied(404, "M_NOT_FOUND", stage.ask("GET", path("hierarchy", rooms[1])))
    stage.denied(404, "M_NOT_FOUND", stage.ask("GET", path("hierarchy", f"!none:{A}")))


def media(stage: StageCase) -> None:
    """A picture, its thumbnail, what nobody uploaded yet, and what cannot be made."""
    headers = {"Content-Type": "image/png"}
    upload = stage.a.http.call(
        "POST", "/_matrix/media/v3/upload", picture(40, 40), stage.alice, headers=headers
    )
    media_uri = stage.net.wait(upload).json["content_uri"].removeprefix("mxc://")
    v1 = "/_matrix/client/v1/media"
    size = {"width": 20, "height": 20}
    for address, query in ((f"{v1}/download/{media_uri}", {}), (f"{v1}/thumbnail/{media_uri}", size)):
        answer = stage.net.wait(stage.b.start("GET", address, None, stage.bob, query))
        stage.assertEqual(200, answer.status, answer.json)
    made = stage.net.wait(stage.a.start("POST", "/_matrix/media/v1/create", None, stage.alice)).json
    pending = made["content_uri"].rpartition("/")[2]
    for name, sizes in (("download", ""), ("thumbnail", "&width=20&height=20")):
        uri = path("media", name, pending) + "?timeout_ms=0" + sizes
        stage.denied(504, "M_NOT_YET_UPLOADED", stage.ask("GET", uri))
        waiting = {"timeout_ms": 0, **(size if sizes else {})}
        answer = stage.net.wait(stage.b.start("GET", f"{v1}/{name}/{A}/{pending}", None, stage.bob, waiting))
        stage.refused(answer, 504, "M_NOT_YET_UPLOADED")
    sizes = "?width=0&height=x"
    stage.denied(400, "M_INVALID_PARAM", stage.ask("GET", path("media", "thumbnail", pending) + sizes))
    media_id = media_uri.rpartition("/")[2]
    sizes = "?width=20&height=20&method=crop&animated=true"
    for address in (path("media", "download", media_id), path("media", "thumbnail", media_id) + sizes):
        stage.assertEqual(200, stage.ask_raw("GET", address).status)


def identities(stage: StageCase) -> None:
    """A token of the OpenID API, and none."""
    made = stage.ok(stage.a, stage.alice, "POST", f"/user/{ALICE}/openid/request_token", {})
    uri = path("openid", "userinfo") + "?access_token="
    answer = stage.open_call(stage.a, "GET", uri + made["access_token"])
    stage.assertEqual({"sub": ALICE}, answer.json)
    stage.refused(stage.open_call(stage.a, "GET", uri + "none"), 401, "M_UNKNOWN_TOKEN")
    stage.refused(
        stage.call(stage.a, stage.alice, "POST", f"/user/{BOB}/openid/request_token", {}), 403, "M_FORBIDDEN"
    )
