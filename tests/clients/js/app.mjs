// An app that logs people in by OAuth 2.0 with what matrix-js-sdk has for it.

import { randomBytes } from "node:crypto";

import { check, checkEqual } from "./check.mjs";
import { quietLogger, resume } from "./person.mjs";
import { createClient, OAuth2 } from "matrix-js-sdk";

export const BACK = "https://app.example/back";
const ABOUT = {
    application_type: "web",
    client_name: "A Story",
    client_uri: "https://app.example/",
    redirect_uris: [BACK],
};

/** Introduce an app to the server: what all its logins have in common. */
export async function introduce(baseUrl) {
    const metadata = await createClient({ baseUrl, logger: quietLogger() }).getAuthMetadata();
    checkEqual(metadata.issuer, `${baseUrl}/`, "the server is its own authorization server");
    const clientId = await OAuth2.registerClient(metadata, ABOUT, quietLogger());
    return { baseUrl, metadata, clientId };
}

/** A login that is about to begin. */
export function attempt(app) {
    return new OAuth2(app.metadata, { clientId: app.clientId }, quietLogger());
}

/** What the page says to the app, in the way that it asked for. */
export function toldBy(url, state) {
    check(url.startsWith(BACK), "the browser is led back to the app");
    const parts = new URL(url);
    const told = new URLSearchParams(parts.hash ? parts.hash.slice(1) : parts.search);
    checkEqual(told.get("state"), state, "with the state that the app gave it");
    return told;
}

/** Let the app in: the tokens. `pass` does on the pages what a person does, up to the question. */
export async function letIn(app, auth, browser, pass, { mode = "fragment", prompt } = {}) {
    const state = randomBytes(8).toString("hex");
    await browser.open(await auth.generateAuthorizationCodeGrantUrl(state, BACK, mode, prompt));
    await pass(browser);
    await browser.submit({ answer: "allow" });
    const code = toldBy(browser.url, state).get("code");
    return { code, tokens: await auth.completeAuthorizationCodeGrant(code, BACK) };
}

/** The client of a login; the SDK refreshes its tokens, and `onTokenRefresh` hears of it. */
export async function clientOf(app, auth, tokens, extra = {}) {
    const { baseUrl, clientId: oauthClientId } = app;
    const account = { token: tokens.access_token, device_id: auth.context.deviceId };
    const { user_id } = await resume(baseUrl, account).whoami();
    const refreshing = { oauthClientId, refreshToken: tokens.refresh_token, onTokenRefresh: () => {} };
    return resume(baseUrl, { ...account, user_id }, { ...refreshing, ...extra });
}
