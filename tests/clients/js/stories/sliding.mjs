// Bob's client follows by sliding sync, and encrypts; alice's by classic sync.

import { check, checkEqual, waitUntil } from "../check.mjs";
import { copiesOf, logIn, makeOpenRoom, register, resume, say, start } from "../person.mjs";
import { appear, meet, read } from "../secret_person.mjs";
import { NotificationCountType } from "matrix-js-sdk";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";

const POLL_MS = 5_000;
const STATE = [
    ["m.room.create", ""],
    ["m.room.name", ""],
    ["m.room.encryption", ""],
    ["m.room.join_rules", ""],
    ["m.room.power_levels", ""],
    ["m.room.member", "$ME"],
    ["m.room.member", "$LAZY"],
];

/** A login that sees `shown` rooms at first. */
async function slide(baseUrl, registered, shown) {
    const client = resume(baseUrl, await logIn(baseUrl, registered));
    await client.initRustCrypto({ useIndexedDB: false });
    const list = { ranges: [[0, shown - 1]], timeline_limit: 1, required_state: STATE };
    const subscription = { timeline_limit: 20, required_state: [["*", "*"]] };
    const slidingSync = new SlidingSync(baseUrl, new Map([["all", list]]), subscription, client, POLL_MS);
    await start(client, 20, { slidingSync });
    return { client, slidingSync };
}

export async function tell(baseUrl) {
    const alice = await appear(baseUrl, await register(baseUrl, "alice"));
    const registered = await register(baseUrl, "bob");
    const first = await appear(baseUrl, registered);
    for (const name of ["One", "Two", "Three"]) {
        const roomId = await makeOpenRoom(alice, [first], { name });
        await say(alice, roomId, `This is ${name}`);
        await say(alice, roomId, `And ${name} again`);
    }
    await first.logout(true);

    const { client: bob, slidingSync } = await slide(baseUrl, registered, 2);
    const names = () => bob.getRooms().map((room) => room.name).sort();
    await waitUntil(() => names().length === 2, "bob's client is told of the rooms that it shows");
    checkEqual(names(), ["Three", "Two"], "which are the latest");
    await waitUntil(() => slidingSync.getListData("all").joinedCount === 3, "and how many there are");
    const two = bob.getRooms().find((room) => room.name === "Two");
    checkEqual(two.getLiveTimeline().getEvents().at(-1).getContent().body, "And Two again", "with the last message");
    slidingSync.setListRanges("all", [[0, 9]]);
    await waitUntil(() => names().length === 3, "it scrolls, and is told of the other one");

    const one = bob.getRooms().find((room) => room.name === "One");
    slidingSync.modifyRoomSubscriptions(new Set([one.roomId]));
    const bodies = () => one.getLiveTimeline().getEvents().map((event) => event.getContent().body);
    await waitUntil(() => bodies().includes("This is One"), "it opens a room, and is told more of it");
    const unread = () => one.getUnreadNotificationCount(NotificationCountType.Total);
    await waitUntil(() => unread() === 2, "with the number of unread messages");
    const news = await say(alice, one.roomId, "News");
    await waitUntil(() => copiesOf(bob, one.roomId, news).length === 1, "what is said then comes at once");
    await waitUntil(() => unread() === 3, "and counts");
    await bob.sendReadReceipt(copiesOf(bob, one.roomId, news)[0]);
    await waitUntil(() => unread() === 0, "until it is read");
    const reads = () => alice.getRoom(one.roomId).hasUserReadEvent(bob.getUserId(), news);
    await waitUntil(() => reads(), "which alice sees");
    await alice.sendTyping(one.roomId, true, 20_000);
    await waitUntil(() => one.getMember(alice.getUserId())?.typing === true, "bob sees alice type");
    await bob.setAccountData("im.example.note", { text: "kept" });
    await waitUntil(() => bob.getAccountData("im.example.note")?.getContent().text === "kept", "and his own notes");

    const secretId = await meet(alice, bob);
    const secret = await say(alice, secretId, "Slide");
    checkEqual(await read(bob, secretId, secret, "bob"), "Slide", "as alice wrote it: keys came by sliding sync");
    const answer = await say(bob, secretId, "Slid");
    checkEqual(await read(alice, secretId, answer, "alice"), "Slid", "as bob wrote it");
    await bob.leave(secretId);
    await waitUntil(() => bob.getRoom(secretId)?.getMyMembership() !== "join", "bob's client sees him leave");
    check(slidingSync.getListData("all").joinedCount >= 3, "and the list goes on");
}
