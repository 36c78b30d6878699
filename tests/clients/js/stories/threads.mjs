// Two threads beside the conversation in a room: each is listed, counted and read by itself.

import { check, checkEqual, waitUntil } from "../check.mjs";
import { appearOpenly, copiesOf, makeOpenRoom, say } from "../person.mjs";
import { Direction, NotificationCountType, ThreadFilterType } from "matrix-js-sdk";

/** A message in a thread, which the client opens first if it does not know it, as Element does. */
async function reply(client, roomId, rootId, body) {
    const room = client.getRoom(roomId);
    await waitUntil(() => room.findEventById(rootId) !== undefined, "the client knows where the thread begins");
    if (room.getThread(rootId) === null) {
        room.createThread(rootId, room.findEventById(rootId), [], false);
    }
    // While the SDK opens a thread, what it sends there may come back before it knows that it sent it.
    await waitUntil(() => room.getThread(rootId).initialEventsFetched, "the thread is open");
    const { event_id: eventId } = await client.sendMessage(roomId, rootId, { msgtype: "m.text", body });
    return eventId;
}

async function listThreads(client, roomId, filter) {
    const found = await client.createThreadListMessagesRequest(roomId, null, 10, Direction.Backward, filter);
    // The SDK turns the chunk round, as if it were a timeline.
    return found.chunk.map((event) => event.event_id).reverse();
}

export async function tell(baseUrl) {
    const [alice, bob] = [await appearOpenly(baseUrl, "alice"), await appearOpenly(baseUrl, "bob")];
    const roomId = await makeOpenRoom(alice, [bob], { name: "The Loom" });
    const room = bob.getRoom(roomId);
    const ofRoom = () => room.getRoomUnreadNotificationCount(NotificationCountType.Total);
    const ofThread = (rootId) => room.getThreadUnreadNotificationCount(rootId, NotificationCountType.Total);

    const warp = await say(alice, roomId, "Warp");
    const weft = await say(alice, roomId, "Weft");
    await waitUntil(() => ofRoom() === 2, "both messages count in bob's room");
    await reply(alice, roomId, warp, "over");
    const under = await reply(alice, roomId, warp, "under");
    await reply(alice, roomId, weft, "through");
    await waitUntil(() => ofThread(warp) === 2 && ofThread(weft) === 1, "each reply counts in its thread");
    checkEqual(ofRoom(), 2, "and not in the room");

    await waitUntil(() => room.getThread(warp)?.length === 2, "bob's client has both replies in the thread");
    const last = () => room.getThread(warp).findEventById(under);
    await waitUntil(() => last() !== undefined, "the last of them by its id");
    checkEqual(copiesOf(bob, roomId, under).length, 0, "which is not in the room's own timeline");
    await bob.sendReadReceipt(last());
    await waitUntil(() => ofThread(warp) === 0, "a receipt in a thread reads that thread");
    checkEqual([ofThread(weft), ofRoom()], [1, 2], "and neither the other one nor the room");
    await bob.sendReadReceipt(copiesOf(bob, roomId, weft)[0]);
    await waitUntil(() => ofRoom() === 0, "a receipt in the room reads the room");
    checkEqual(ofThread(weft), 1, "and not the thread that starts there");
    const readUpTo = () => alice.getRoom(roomId).getThread(warp)?.getReadReceiptForUserId(bob.getUserId())?.eventId;
    await waitUntil(() => readUpTo() === under, "alice sees how far bob read the thread");

    checkEqual(await listThreads(bob, roomId, ThreadFilterType.All), [weft, warp], "the room lists both threads");
    checkEqual(await listThreads(bob, roomId, ThreadFilterType.My), [], "of which none is bob's");
    await reply(bob, roomId, warp, "and over again");
    checkEqual(await listThreads(bob, roomId, ThreadFilterType.My), [warp], "until he takes part in one");
    checkEqual(await listThreads(bob, roomId, ThreadFilterType.All), [warp, weft], "which is now the latest");
    const root = await alice.fetchRoomEvent(roomId, warp);
    const summary = root.unsigned["m.relations"]["m.thread"];
    checkEqual([summary.count, summary.latest_event.content.body], [3, "and over again"], "as its root says");
    check(summary.current_user_participated, "in which alice, who began it, takes part");
}
