// Two people with matrix-js-sdk: node program.mjs talk|burst|verify BASE_URL NOTES_FILE

import { createHash, randomBytes } from "node:crypto";

import { report } from "./platform.mjs";
import { check, checkEqual, checkRefused, loadNotes, newNotes, saveNotes, waitUntil } from "./check.mjs";
import { copiesOf, logIn, register, resume, say, start, timelineOf } from "./person.mjs";
import { NotificationCountType } from "matrix-js-sdk";

const HISTORY_LENGTH = 35;
const PAGE_SIZE = 10;
const BURST_SENDERS = 4;
const IMAGE_BYTES = 300_000;

async function meet(baseUrl, notes) {
    const clients = [];
    for (const name of ["alice", "bob"]) {
        const registered = await register(baseUrl, name);
        const former = await logIn(baseUrl, registered);
        const account = await logIn(baseUrl, registered);
        check(former.device_id !== account.device_id, `${name}'s logins are two devices`);
        const formerClient = resume(baseUrl, former);
        await formerClient.logout();
        await checkRefused(formerClient.whoami(), "M_UNKNOWN_TOKEN", `${name}'s first token ends with its logout`);
        await checkRefused(
            logIn(baseUrl, { ...registered, password: "wrong" }),
            "M_FORBIDDEN",
            `${name}'s account refuses a wrong password`,
        );
        notes[name] = account;
        const client = resume(baseUrl, account);
        checkEqual((await client.whoami()).device_id, account.device_id, `${name} is who logged in`);
        clients.push(client);
    }
    await clients[0].setDisplayName("Alice in JavaScript");
    for (const client of clients) {
        await start(client);
    }
    return clients;
}

async function makeRoom(alice, bob, notes) {
    const { room_id: roomId } = await alice.createRoom({
        name: "The SDK Room",
        topic: "Talk",
        preset: "private_chat",
    });
    notes.room_id = roomId;
    await checkRefused(bob.joinRoom(roomId), "M_FORBIDDEN", "bob cannot join a private room uninvited");
    await alice.invite(roomId, bob.getUserId());
    await waitUntil(() => bob.getRoom(roomId)?.getMyMembership() === "invite", "bob sees the invite");
    checkEqual(bob.getRoom(roomId).name, "The SDK Room", "with the room's name");
    await bob.joinRoom(roomId);
    await waitUntil(() => bob.getRoom(roomId).getMyMembership() === "join", "bob's sync has the joined room");
    const membership = () => alice.getRoom(roomId)?.getMember(bob.getUserId())?.membership;
    await waitUntil(() => membership() === "join", "alice sees bob join");
    const sender = () => bob.getRoom(roomId).getMember(alice.getUserId())?.name;
    await bob.getRoom(roomId).loadMembersIfNeeded();
    await waitUntil(() => sender() === "Alice in JavaScript", "bob sees alice's display name");
    return roomId;
}

async function converse(alice, bob, roomId, notes) {
    const hello = await say(alice, roomId, "Hello Bob");
    await waitUntil(() => copiesOf(bob, roomId, hello).length === 1, "bob sees alice's message");
    const [shown] = copiesOf(bob, roomId, hello);
    checkEqual([shown.getSender(), shown.getContent().body], [alice.getUserId(), "Hello Bob"], "as she sent it");

    const relation = { rel_type: "m.annotation", event_id: hello, key: "👋" };
    notes.reaction_key = relation.key;
    notes.reaction_id = (await bob.sendEvent(roomId, "m.reaction", { "m.relates_to": relation })).event_id;
    const annotations = () =>
        alice
            .getRoom(roomId)
            .relations.getChildEventsForEvent(hello, "m.annotation", "m.reaction")
            ?.getSortedAnnotationsByKey() ?? [];
    await waitUntil(() => annotations().length === 1, "alice sees bob's reaction");
    const [[key, events]] = annotations();
    checkEqual([key, [...events].map((event) => event.getSender())], ["👋", [bob.getUserId()]], "with its key");

    notes.edited_id = hello;
    notes.edited_body = "Hello dear Bob";
    await alice.sendMessage(roomId, {
        "msgtype": "m.text",
        "body": "* Hello dear Bob",
        "m.new_content": { msgtype: "m.text", body: notes.edited_body },
        "m.relates_to": { rel_type: "m.replace", event_id: hello },
    });
    await waitUntil(() => shown.getContent().body === notes.edited_body, "bob sees alice's edit in place");
    // The edit itself is none of the timeline's events in this SDK, only what it makes of the first.
    notes.messages[hello] = "Hello Bob";

    notes.redacted_id = await say(alice, roomId, "Forget this at once");
    await waitUntil(() => copiesOf(bob, roomId, notes.redacted_id).length === 1, "bob sees what alice will regret");
    await alice.redactEvent(roomId, notes.redacted_id, undefined, { reason: "regret" });
    await waitUntil(() => copiesOf(bob, roomId, notes.redacted_id)[0].isRedacted(), "bob sees it redacted");
    await checkAggregations(bob, notes);
}

// spec: client-server-api#aggregations-of-child-events, client-server-api#redactions
async function checkAggregations(reader, notes) {
    const edited = await reader.fetchRoomEvent(notes.room_id, notes.edited_id);
    const bundled = edited.unsigned["m.relations"]["m.replace"];
    checkEqual(bundled.content["m.new_content"].body, notes.edited_body, "the edit is bundled with the message");
    const found = await reader.relations(notes.room_id, notes.edited_id, "m.annotation", "m.reaction");
    checkEqual(found.events.map((event) => event.getId()), [notes.reaction_id], "the reaction is among its relations");
    const redacted = await reader.fetchRoomEvent(notes.room_id, notes.redacted_id);
    checkEqual(redacted.content, {}, "the redacted message has no content");
    check(redacted.unsigned.redacted_because, "and says by what it was redacted");
}

async function exchangeFile(alice, bob, roomId, notes) {
    const content = Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), randomBytes(IMAGE_BYTES)]);
    const uploaded = await alice.uploadContent(content, { name: "picture.png", type: "image/png" });
    notes.media_uri = uploaded.content_uri;
    notes.media_sha256 = createHash("sha256").update(content).digest("hex");
    const message = { msgtype: "m.image", body: "picture.png", url: notes.media_uri };
    const { event_id: image } = await alice.sendMessage(roomId, message);
    notes.messages[image] = "picture.png";
    await waitUntil(() => copiesOf(bob, roomId, image).length === 1, "bob sees the picture's message");
    checkEqual(copiesOf(bob, roomId, image)[0].getContent().url, notes.media_uri, "with the media's address");
    await checkMedia(bob, notes);
}

async function checkMedia(reader, notes) {
    const url = reader.mxcUrlToHttp(notes.media_uri, undefined, undefined, undefined, false, true, true);
    check(url.includes("/_matrix/client/v1/media/download/"), "the SDK asks the authenticated endpoint");
    checkEqual((await fetch(url)).status, 401, "nobody downloads without a login");
    const answer = await fetch(url, { headers: { Authorization: `Bearer ${reader.getAccessToken()}` } });
    const digest = createHash("sha256").update(Buffer.from(await answer.arrayBuffer())).digest("hex");
    checkEqual([answer.status, digest], [200, notes.media_sha256], "the picture downloads bit for bit");
    checkEqual(answer.headers.get("content-type"), "image/png", "with its content type");
}

async function pageBack(baseUrl, alice, roomId, notes) {
    for (let number = 0; number < HISTORY_LENGTH; number++) {
        notes.messages[await say(alice, roomId, `line ${number}`)] = `line ${number}`;
    }
    const reader = resume(baseUrl, await logIn(baseUrl, notes.bob));
    await checkHistory(reader, notes);
    reader.stopClient();
    await reader.logout();
}

/** The whole room, oldest first: a short first sync, and pages back to the beginning. */
async function checkHistory(reader, notes) {
    await start(reader, 5);
    const room = reader.getRoom(notes.room_id);
    check(timelineOf(reader, notes.room_id).length <= 5, "the first sync is short");
    while (room.oldState.paginationToken !== null) {
        await reader.scrollback(room, PAGE_SIZE);
    }
    const events = timelineOf(reader, notes.room_id);
    const counts = new Map();
    for (const event of events) {
        counts.set(event.getId(), (counts.get(event.getId()) ?? 0) + 1);
    }
    check([...counts.values()].every((count) => count === 1), `none of the ${events.length} events comes twice`);
    checkEqual(events[0].getType(), "m.room.create", "the oldest is the room's creation");
    const missing = Object.keys(notes.messages).filter((eventId) => !counts.has(eventId));
    checkEqual(missing, [], `all ${Object.keys(notes.messages).length} acknowledged messages are there`);
    const talked = Object.keys(notes.messages).filter((eventId) => !notes.messages[eventId].startsWith("burst"));
    const order = events.map((event) => event.getId()).filter((eventId) => talked.includes(eventId));
    checkEqual(order, talked, "in the order in which they were acknowledged");
    const wrong = events
        .filter((event) => event.getId() in notes.messages)
        .filter((event) => event.getOriginalContent().body !== notes.messages[event.getId()]);
    checkEqual(wrong.map((event) => event.getId()), [], "with the bodies that were sent");
    const edited = events.find((event) => event.getId() === notes.edited_id);
    checkEqual(edited.getContent().body, notes.edited_body, "and the edit in its place");
    return events;
}

async function watchEachOther(alice, bob, roomId, notes) {
    const isTyping = () => bob.getRoom(roomId).getMember(alice.getUserId()).typing;
    await alice.sendTyping(roomId, true, 20_000);
    await waitUntil(() => isTyping(), "bob sees alice type");
    await alice.sendTyping(roomId, false, 0);
    await waitUntil(() => !isTyping(), "bob sees alice stop");

    const last = await say(alice, roomId, "Did you read this?");
    notes.messages[last] = "Did you read this?";
    await waitUntil(() => copiesOf(bob, roomId, last).length === 1, "bob sees the question");
    const unread = () => bob.getRoom(roomId).getUnreadNotificationCount(NotificationCountType.Total);
    await waitUntil(() => unread() > 0, "bob has unread messages");
    notes.receipt_id = last;
    await bob.sendReadReceipt(copiesOf(bob, roomId, last)[0]);
    const reads = () => alice.getRoom(roomId).hasUserReadEvent(bob.getUserId(), last);
    await waitUntil(() => reads(), "alice sees bob's receipt");
    await waitUntil(() => unread() === 0, "bob has none unread any more");

    // Without her sync loop, whose every request would say again that she is online.
    alice.stopClient();
    const status = "gone fishing";
    await alice.setPresence({ presence: "unavailable", status_msg: status });
    const seen = () => bob.getUser(alice.getUserId());
    await waitUntil(() => seen()?.presenceStatusMsg === status, "bob's sync has alice's presence");
    await waitUntil(() => seen().presence === "unavailable", "with what she set it to");
    const asked = await bob.getPresence(alice.getUserId());
    checkEqual([asked.presence, asked.status_msg], ["unavailable", status], "bob can ask for it as well");
}

async function talk(baseUrl, path) {
    const notes = newNotes();
    const [alice, bob] = await meet(baseUrl, notes);
    const roomId = await makeRoom(alice, bob, notes);
    await converse(alice, bob, roomId, notes);
    await exchangeFile(alice, bob, roomId, notes);
    await pageBack(baseUrl, alice, roomId, notes);
    await watchEachOther(alice, bob, roomId, notes);
    saveNotes(notes, path);
}

/** Several senders without pause, until the server is gone; each acknowledgement is printed for the test. */
async function burst(baseUrl, path) {
    const notes = loadNotes(path);
    const alice = resume(baseUrl, notes.alice);
    async function sendOn(sender) {
        for (let number = 1; ; number++) {
            const [txnId, body] = [`burst-${sender}-${number}`, `burst ${sender} ${number}`];
            notes.in_flight[txnId] = body;
            const eventId = await say(alice, notes.room_id, body, txnId);
            delete notes.in_flight[txnId];
            notes.messages[eventId] = body;
            report(`acknowledged ${txnId}`);
        }
    }
    const endings = await Promise.allSettled(Array.from({ length: BURST_SENDERS }, (_, sender) => sendOn(sender)));
    for (const ending of endings) {
        checkEqual(ending.reason?.name, "ConnectionError", "the burst ends by losing the server");
    }
    saveNotes(notes, path);
}

async function verify(baseUrl, path) {
    const notes = loadNotes(path);
    const alice = resume(baseUrl, notes.alice);
    const bob = resume(baseUrl, notes.bob);
    // A client that got no answer sends again with the same transaction id, and must not double its message.
    for (const [txnId, body] of Object.entries(notes.in_flight)) {
        const eventId = await say(alice, notes.room_id, body, txnId);
        checkEqual(await say(alice, notes.room_id, body, txnId), eventId, `${txnId}, sent again, is one event`);
        notes.messages[eventId] = body;
    }
    const bodies = (await checkHistory(bob, notes)).map((event) => String(event.getOriginalContent().body));
    for (let sender = 0; sender < BURST_SENDERS; sender++) {
        const ofSender = (body) => body.startsWith(`burst ${sender} `);
        const sent = Object.values(notes.messages).filter(ofSender);
        checkEqual(bodies.filter(ofSender), sent, `all ${sent.length} of burst ${sender} are there once, in order`);
    }
    await checkAggregations(bob, notes);
    await checkMedia(bob, notes);
    // With so many events that the one of bob's receipt is among them: the SDK asks for no others.
    await start(alice, 500);
    const room = alice.getRoom(notes.room_id);
    await room.loadMembersIfNeeded();
    check(room.hasUserReadEvent(bob.getUserId(), notes.receipt_id), "bob's receipt is still there");
    checkEqual(room.name, "The SDK Room", "and the room's name");
    checkEqual(room.getMember(bob.getUserId())?.membership, "join", "and its members");
    const last = await say(alice, notes.room_id, "Still here");
    await waitUntil(() => copiesOf(bob, notes.room_id, last).length === 1, "and the conversation goes on");
}

const [phase, baseUrl, path] = process.argv.slice(2);
try {
    await { talk, burst, verify }[phase](baseUrl, path);
    // Sync loops are still waiting for their answers.
    process.exit(0);
} catch (error) {
    console.error(error);
    process.exit(1);
}
