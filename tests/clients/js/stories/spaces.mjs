// A space with rooms below it, one of them only for who is in the space; and a room that moves to another version.

import { check, checkEqual, checkRefused, waitUntil } from "../check.mjs";
import { appearOpenly, copiesOf, makeOpenRoom, say } from "../person.mjs";
import { RoomHierarchy } from "matrix-js-sdk/lib/room-hierarchy.js";

async function putBelow(client, spaceId, roomId, more = {}) {
    await client.sendStateEvent(spaceId, "m.space.child", { via: [client.getDomain()], ...more }, roomId);
}

/** A space of three levels, seen by somebody who is in none of its rooms. */
async function browse(alice, bob) {
    const make = (fields) => alice.createRoom({ preset: "public_chat", ...fields }).then((made) => made.room_id);
    const asSpace = { creation_content: { type: "m.space" } };
    const spaceId = await make({ name: "House", ...asSpace });
    const [floorId, hallId] = [await make({ name: "Floor", ...asSpace }), await make({ name: "Hall" })];
    const rule = { join_rule: "restricted", allow: [{ type: "m.room_membership", room_id: spaceId }] };
    const closetId = await make({
        name: "Closet",
        preset: "private_chat",
        initial_state: [{ type: "m.room.join_rules", state_key: "", content: rule }],
    });
    await putBelow(alice, spaceId, floorId, { order: "b" });
    await putBelow(alice, spaceId, hallId, { order: "a", suggested: true });
    await putBelow(alice, floorId, closetId);

    const names = async (...how) => (await bob.getRoomHierarchy(spaceId, ...how)).rooms.map((room) => room.name);
    checkEqual(await names(20, 1), ["House", "Hall", "Floor"], "bob sees the first level, in its order");
    checkEqual(await names(20, 1, true), ["House", "Hall"], "or what is suggested of it");
    await checkRefused(bob.joinRoom(closetId), "M_FORBIDDEN", "the closet is not for who comes from outside");
    await bob.joinRoom(spaceId);
    await waitUntil(() => bob.getRoom(spaceId)?.isSpaceRoom(), "bob's client knows the space for one");

    const hierarchy = new RoomHierarchy(bob.getRoom(spaceId), 2);
    while (hierarchy.canLoadMore) {
        await hierarchy.load();
    }
    const seen = hierarchy.rooms.map((room) => room.name).sort();
    checkEqual(seen, ["Closet", "Floor", "Hall", "House"], "page by page he sees all of it");
    check(hierarchy.isSuggested(spaceId, hallId), "with what is suggested");
    await bob.joinRoom(closetId);
    const inside = () => bob.getRoom(closetId)?.getMyMembership() === "join";
    await waitUntil(inside, "and from inside of the space the closet is open");
}

/** The members of a room follow it to a new one. */
async function move(alice, bob) {
    const oldId = await makeOpenRoom(alice, [bob], { name: "The Cabin", topic: "Wood", room_version: "10" });
    await say(alice, oldId, "We are moving");
    await checkRefused(bob.upgradeRoom(oldId, "11"), "M_FORBIDDEN", "bob may not move the room");
    await checkRefused(alice.upgradeRoom(oldId, "x"), "M_UNSUPPORTED_ROOM_VERSION", "and nobody to no version");
    const { replacement_room: newId } = await alice.upgradeRoom(oldId, "12");
    const tombstone = () => bob.getRoom(oldId).currentState.getStateEvents("m.room.tombstone", "");
    await waitUntil(() => tombstone() !== null, "bob sees where the room went");
    checkEqual(tombstone().getContent().replacement_room, newId, "which is where alice is");
    await checkRefused(say(bob, oldId, "Anybody?"), "M_FORBIDDEN", "nobody talks in the old one");
    await bob.joinRoom(newId, { viaServers: [bob.getDomain()] });
    await waitUntil(() => bob.getRoom(newId)?.getMyMembership() === "join", "bob follows");
    const room = bob.getRoom(newId);
    checkEqual([room.name, room.getVersion()], ["The Cabin", "12"], "to a room of that name and of the new version");
    checkEqual(room.findPredecessor()?.roomId, oldId, "which names the old one");
    const shown = bob.getVisibleRooms().map((one) => one.roomId);
    checkEqual([shown.includes(oldId), shown.includes(newId)], [false, true], "and is shown in its place");
    const hello = await say(bob, newId, "Nice");
    await waitUntil(() => copiesOf(alice, newId, hello).length === 1, "the conversation goes on there");
}

export async function tell(baseUrl) {
    const [alice, bob] = [await appearOpenly(baseUrl, "alice"), await appearOpenly(baseUrl, "bob")];
    await browse(alice, bob);
    await move(alice, bob);
}
