// A bot and an application service of matrix-bot-sdk: node program.mjs REGISTRATION_FILE BASE_URL

import { readFileSync } from "node:fs";

import { check, waitUntil } from "../js/check.mjs";
import { report } from "../js/platform.mjs";
import {
    Appservice,
    AutojoinRoomsMixin,
    LogService,
    MatrixAuth,
    MatrixClient,
    MemoryStorageProvider,
} from "matrix-bot-sdk";

const V3 = "/_matrix/client/v3";
const PASSWORD = "correct horse battery";

const [, , registrationFile, baseUrl] = process.argv;
const settings = JSON.parse(readFileSync(registrationFile, "utf8"));

async function refusal(promise) {
    try {
        await promise;
    } catch (error) {
        return error.body?.errcode ?? String(error);
    }
    return "no refusal";
}

/** An account and a client of it, through the SDK's own registration. */
async function register(name) {
    const client = await new MatrixAuth(baseUrl).passwordRegister(name, PASSWORD);
    return new MatrixClient(baseUrl, client.accessToken, new MemoryStorageProvider());
}

/** A bot that joins where it is invited, and answers. */
async function startBot() {
    const bot = await register("helper");
    AutojoinRoomsMixin.setupOnClient(bot);
    const botId = await bot.getUserId();
    bot.on("room.message", async (roomId, event) => {
        if (event.sender !== botId && event.content?.body === "!ping") {
            await bot.replyNotice(roomId, event, "pong");
        }
    });
    await bot.start();
    return bot;
}

async function storyOfTheBot(alice) {
    const bot = await startBot();
    const botId = await bot.getUserId();
    const seen = [];
    alice.on("room.event", (roomId, event) => seen.push({ roomId, event }));
    await alice.start();

    const roomId = await alice.createRoom({ preset: "private_chat", name: "workshop", invite: [botId] });
    const joined = () =>
        seen.some(({ event }) => event.type === "m.room.member" && event.state_key === botId &&
            event.content.membership === "join");
    await waitUntil(joined, "the bot joins where it is invited");
    await alice.sendText(roomId, "!ping");
    const answer = () => seen.find(({ event }) => event.sender === botId && event.type === "m.room.message")?.event;
    await waitUntil(() => answer() !== undefined, "the bot answers");
    check(answer().content.msgtype === "m.notice" && answer().content.body.includes("pong"), "with a notice");
    check(answer().content["m.relates_to"]["m.in_reply_to"].event_id.startsWith("$"), "as a reply");

    await bot.setDisplayName("Helper");
    check((await alice.getUserProfile(botId)).displayname === "Helper", "the bot has a name");
    await bot.setAccountData("com.example.settings", { volume: 11 });
    check((await bot.getAccountData("com.example.settings")).volume === 11, "and remembers its settings");
    const members = await bot.getJoinedRoomMembers(roomId);
    check(members.length === 2, "it sees who is there");
    const uri = await bot.uploadContent(Buffer.from("a report"), "text/plain", "report.txt");
    const content = await alice.downloadContent(uri);
    check(content.data.toString() === "a report", "a file of the bot's can be read");
    await bot.redactEvent(roomId, answer().event_id, "tidy");
    check(await refusal(bot.kickUser(await alice.getUserId(), roomId)) === "M_FORBIDDEN", "it has no power");
    await bot.leaveRoom(roomId);
    bot.stop();
    return roomId;
}

async function storyOfTheAppservice(alice) {
    const appservice = new Appservice({
        port: settings.port,
        bindAddress: "127.0.0.1",
        homeserverName: settings.server_name,
        homeserverUrl: baseUrl,
        registration: settings.bridge,
        storage: new MemoryStorageProvider(),
    });
    const heard = [];
    appservice.on("room.message", (roomId, event) => heard.push(event));
    const asked = [];
    appservice.on("query.user", (userId, create) => {
        asked.push(userId);
        create({ display_name: "Made when asked" });
    });
    await appservice.begin();
    await appservice.botIntent.ensureRegistered();
    // This SDK answers no pings, and the server says just that.
    const path = `/_matrix/client/v1/appservice/${settings.bridge.id}/ping`;
    const answer = await refusal(appservice.botClient.doRequest("POST", path, null, {}));
    check(answer === "M_BAD_STATUS", "the server tells how its ping was answered");

    const ghost = appservice.getIntentForSuffix("ghost");
    await ghost.ensureRegistered();
    await ghost.underlyingClient.setDisplayName("A ghost");
    const roomId = await ghost.underlyingClient.createRoom({ preset: "public_chat" });
    await alice.joinRoom(roomId);
    await alice.sendText(roomId, "who is there?");
    await waitUntil(() => heard.some((event) => event.content.body === "who is there?"), "it hears alice");
    const eventId = await ghost.sendText(roomId, "me");
    const event = await alice.getEvent(roomId, eventId);
    check(event.sender === ghost.userId && event.content.body === "me", "a ghost answers");

    const profile = await alice.getUserProfile(appservice.getUserIdForSuffix("asked"));
    check(profile.displayname === "Made when asked" && asked.length === 1, "a ghost is made when it is asked for");
    const outside = appservice.getIntentForUserId(`@stranger:${settings.server_name}`);
    check(await refusal(outside.underlyingClient.getWhoAmI()) === "M_FORBIDDEN", "it is nobody but its own users");
    appservice.stop();
}

async function main() {
    // Refusals that are asked for here would look like errors.
    LogService.setLogger({ info() {}, warn() {}, debug() {}, trace() {}, error() {} });
    const alice = await register("alice");
    await storyOfTheBot(alice);
    await storyOfTheAppservice(alice);
    alice.stop();
}

main().then(
    () => process.exit(0),
    (error) => {
        report(error.stack ?? String(error));
        report(JSON.stringify(error.body ?? null));
        process.exit(1);
    },
);
