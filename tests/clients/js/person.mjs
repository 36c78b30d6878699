// One user with a matrix-js-sdk client.

import { randomBytes } from "node:crypto";

import { check, checkEqual, checkRefused, waitUntil } from "./check.mjs";
import { ClientEvent, createClient, SyncState } from "matrix-js-sdk";

export function quietLogger() {
    const quiet = () => {};
    const logger = { trace: quiet, debug: quiet, info: quiet, warn: quiet, error: console.error };
    logger.getChild = () => logger;
    return logger;
}

/** A client for a login that exists already; `extra` are further options of the SDK. */
export function resume(baseUrl, account, extra = {}) {
    return createClient({
        ...extra,
        baseUrl,
        userId: account.user_id,
        accessToken: account.token,
        deviceId: account.device_id,
        timelineSupport: true,
        logger: quietLogger(),
    });
}

/** Begin to sync, as Element does, and wait for the first one. */
export async function start(client, initialSyncLimit = 20, extra = {}) {
    let prepared = false;
    client.on(ClientEvent.Sync, (state) => {
        prepared ||= state === SyncState.Prepared;
    });
    await client.startClient({ initialSyncLimit, lazyLoadMembers: true, threadSupport: true, ...extra });
    await waitUntil(() => prepared, `${client.getUserId()} has synced`);
}

/** Register through user-interactive authentication: ask, be told the stages, do the one without content. */
export async function register(baseUrl, name) {
    const username = `${name}-${randomBytes(4).toString("hex")}`;
    const password = randomBytes(12).toString("base64url");
    const client = createClient({ baseUrl, logger: quietLogger() });
    let session;
    try {
        await client.registerRequest({ username, password });
    } catch (error) {
        checkEqual(error.httpStatus, 401, `${name}'s registration asks for authentication`);
        const hasDummy = error.data.flows.some((flow) => flow.stages.join() === "m.login.dummy");
        check(hasDummy, "with a flow of the dummy stage alone");
        session = error.data.session;
    }
    check(session, "with a session");
    const auth = { type: "m.login.dummy", session };
    const registered = await client.registerRequest({ username, password, auth });
    check(registered.user_id.startsWith(`@${username}:`), `${name} is registered by the chosen name`);
    await checkRefused(
        client.registerRequest({ username, password, auth: { type: "m.login.dummy" } }),
        "M_USER_IN_USE",
        `nobody else can take ${name}'s name`,
    );
    return { user_id: registered.user_id, password };
}

/** Log in with the password and return the account with its new device. */
export async function logIn(baseUrl, account) {
    const client = createClient({ baseUrl, logger: quietLogger() });
    const answer = await client.loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: account.user_id },
        password: account.password,
        initial_device_display_name: "js-sdk program",
    });
    checkEqual(answer.user_id, account.user_id, "the login is of the registered user");
    return { ...account, token: answer.access_token, device_id: answer.device_id };
}

/** The events of the room's live timeline, as the client shows them. */
export function timelineOf(client, roomId) {
    return client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? [];
}

/** Every copy of the event in the client's timeline. */
export function copiesOf(client, roomId, eventId) {
    return timelineOf(client, roomId).filter((event) => event.getId() === eventId);
}

export async function say(client, roomId, body, txnId) {
    const { event_id: eventId } = await client.sendMessage(roomId, { msgtype: "m.text", body }, txnId);
    return eventId;
}

/** Somebody new, on one device that does not encrypt, synced. */
export async function appearOpenly(baseUrl, name) {
    const client = resume(baseUrl, await logIn(baseUrl, await register(baseUrl, name)));
    await start(client);
    return client;
}

/** A public room that the others join, known to the clients of all. */
export async function makeOpenRoom(owner, others, fields) {
    const { room_id: roomId } = await owner.createRoom({ preset: "public_chat", ...fields });
    for (const other of others) {
        await other.joinRoom(roomId);
        await waitUntil(
            () => [owner, other].every((client) => client.getRoom(roomId)?.getMyMembership() === "join"),
            `${other.getUserId()} has joined ${fields.name}`,
        );
    }
    return roomId;
}
