// Alice signs up on a page that an app leads her to, and lets it in; then others of her apps, in other ways.

import { randomBytes } from "node:crypto";

import { attempt, BACK, clientOf, introduce, letIn, toldBy } from "../app.mjs";
import { Browser } from "../browser.mjs";
import { check, checkEqual, checkRefused } from "../check.mjs";
import { resume, say, start } from "../person.mjs";

const PASSWORD = randomBytes(12).toString("base64url");

/** She has no account yet. */
async function signUp(app, browser, username) {
    const auth = attempt(app);
    const fill = () => browser.submit({ username, password: PASSWORD, again: PASSWORD });
    const { tokens } = await letIn(app, auth, browser, fill, { prompt: "create" });
    const client = await clientOf(app, auth, tokens);
    check(client.getUserId().startsWith(`@${username}:`), "alice has the account that she made on the page");
    checkEqual((await client.whoami()).device_id, auth.context.deviceId, "and her app the device that it asked for");
    return { auth, tokens };
}

/** A token ends after minutes, and the SDK gets the next one. */
async function refresh(app, auth, tokens) {
    const next = await auth.performRefreshTokenGrant(tokens.refresh_token);
    check(next.access_token !== tokens.access_token, "the app refreshes its tokens");
    let heard;
    const late = { access_token: next.access_token, refresh_token: next.refresh_token };
    const client = await clientOf(app, auth, late, { onTokenRefresh: (found) => (heard = found) });
    await checkRefused(resume(app.baseUrl, { token: tokens.access_token }).whoami(), "M_UNKNOWN_TOKEN", "the old ends");
    // As a client that comes back after a while: with a token that is over, and one to refresh it with.
    client.http.opts.accessToken = tokens.access_token;
    await start(client);
    check(heard?.accessToken, "the SDK refreshes by itself what is over");
    const { room_id: roomId } = await client.createRoom({ preset: "private_chat" });
    check(await say(client, roomId, "Hello"), "and alice goes on to talk");
    return client;
}

/** Another app, in the browser in which she is signed in. */
async function anotherApp(app, browser) {
    const auth = attempt(app);
    const { code, tokens } = await letIn(app, auth, browser, () => {}, { mode: "query" });
    const client = await clientOf(app, auth, tokens);
    const twice = auth.completeAuthorizationCodeGrant(code, BACK).catch((error) => error.error);
    checkEqual(await twice, "invalid_grant", "a code is good once");
    await checkRefused(client.whoami(), "M_UNKNOWN_TOKEN", "and who comes with it again ends the login that it made");
}

async function sayNo(app, browser) {
    await browser.open(await attempt(app).generateAuthorizationCodeGrantUrl("state", BACK));
    await browser.submit({ answer: "cancel" });
    checkEqual(toldBy(browser.url, "state").get("error"), "access_denied", "the app is told that she said no");
}

/** A device without a browser, and a browser in which she is not signed in yet. */
async function aDevice(app, username) {
    const browser = new Browser();
    const auth = attempt(app);
    const session = await auth.startDeviceAuthorizationGrant();
    await browser.open(session.verification_uri);
    await browser.submit({ username, password: PASSWORD });
    await browser.open(`${session.verification_uri}?user_code=${session.user_code.toLowerCase()}`);
    await browser.submit({ answer: "allow" });
    const client = await clientOf(app, auth, await auth.waitForDeviceAuthorizationGrant(session));
    await client.logout(true);
    await checkRefused(client.whoami(), "M_UNKNOWN_TOKEN", "a device that logs out is logged out");

    const refused = await auth.startDeviceAuthorizationGrant();
    await browser.open(refused.verification_uri_complete);
    await browser.submit({ answer: "cancel" });
    checkEqual((await auth.waitForDeviceAuthorizationGrant(refused)).error, "access_denied", "one that is not hers");
}

export async function tell(baseUrl) {
    const username = `alice-${randomBytes(4).toString("hex")}`;
    const app = await introduce(baseUrl);
    checkEqual((await introduce(baseUrl)).clientId, app.clientId, "an app that comes again is known");
    const browser = new Browser();
    const { auth, tokens } = await signUp(app, browser, username);
    const client = await refresh(app, auth, tokens);
    await anotherApp(app, browser);
    await sayNo(app, browser);
    await aDevice(app, username);
    const last = client.getRefreshToken();
    check(last, "alice is still logged in");
    await client.logout(true);
    const ended = await auth.performRefreshTokenGrant(last).catch((error) => error.error);
    checkEqual(ended, "invalid_grant", "with the login its refresh tokens end");
}
