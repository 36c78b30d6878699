// Alice signs in on new devices by QR codes, shown by the old or the new one; her secrets come along, and are renewed.

import { randomBytes } from "node:crypto";

import { attempt, clientOf, introduce, letIn } from "../app.mjs";
import { Browser } from "../browser.mjs";
import { check, checkEqual } from "../check.mjs";
import { quietLogger, start } from "../person.mjs";
import { makeCrossSigning, waitFor } from "../secret_person.mjs";
import { QrCodeData } from "@matrix-org/matrix-sdk-crypto-wasm";
import { createClient } from "matrix-js-sdk";
import {
    isSignInWithQRAvailable,
    linkNewDeviceByGeneratingQR,
    MSC4108RendezvousSession,
    MSC4108SecureChannel,
    MSC4108SignInWithQR,
    signInByGeneratingQR,
} from "matrix-js-sdk/lib/rendezvous/index.js";

const fail = (reason) => { throw new Error(`the rendezvous failed: ${reason}`); };

/** A client with keys of its own, synced; with the secrets that it was given it signs them at once. */
async function encrypting(client, secrets) {
    await client.initRustCrypto({ useIndexedDB: false });
    if (secrets) {
        await client.getCrypto().importSecretsBundle(secrets);
    }
    await start(client);
    return client;
}

/** The side that shows the code; `client` is that of an existing device. */
function show(app, client) {
    const { signal } = new AbortController();
    if (client) {
        return linkNewDeviceByGeneratingQR(client, fail, signal);
    }
    return signInByGeneratingQR(createClient({ baseUrl: app.baseUrl, logger: quietLogger() }), fail, signal);
}

/** The side that has scanned the code. */
function scan(code, client) {
    const data = QrCodeData.fromBytes(code);
    const session = new MSC4108RendezvousSession({ url: data.rendezvousUrl, onFailure: fail });
    return new MSC4108SignInWithQR(new MSC4108SecureChannel(session, data.publicKey, fail), true, client, fail);
}

/** From the code to the new device's client; `answer` does what alice does in her browser. */
async function signIn(app, existing, newcomer, answer, what) {
    await Promise.all([existing.negotiateProtocols(), newcomer.negotiateProtocols()]);
    checkEqual(existing.checkCode, newcomer.checkCode, `${what}: both devices show the same check code`);
    const auth = attempt(app);
    const { clientId, metadata } = app;
    const { deviceId } = auth.context;
    const [{ verificationUri }] = await Promise.all([
        existing.deviceAuthorizationGrant(),
        newcomer.deviceAuthorizationGrant({ metadata, clientId, deviceId }),
    ]);
    await answer(verificationUri);
    const arrive = async () => {
        const tokens = await newcomer.completeLoginOnNewDevice({ clientId });
        const client = await clientOf(app, auth, tokens);
        const { secrets } = await newcomer.shareSecrets();
        return await encrypting(client, secrets);
    };
    const [client] = await Promise.all([arrive(), existing.shareSecrets()]);
    checkEqual((await client.whoami()).device_id, deviceId, `${what}: the new device is signed in`);
    return client;
}

/** Other cross-signing keys in place of those that there are: alice allows it on the page that her app is told of. */
async function renewKeys(client, browser) {
    let told;
    await client.getCrypto().bootstrapCrossSigning({
        setupNewCrossSigning: true,
        authUploadDeviceSigningKeys: async (upload) => {
            told = await upload(null).catch((error) => error.data);
            check(told.flows.some((flow) => flow.stages.join() === "m.oauth"), "for new keys the app leads to a page");
            await browser.open(told.params["m.oauth"].url);
            await browser.submit({ answer: "reset" });
            await upload({ session: told.session });
        },
    });
    check(told && (await client.getCrypto().isCrossSigningReady()), "and once she has allowed it, they are hers");
}

export async function tell(baseUrl) {
    const username = `alice-${randomBytes(4).toString("hex")}`;
    const password = randomBytes(12).toString("base64url");
    const app = await introduce(baseUrl);
    const browser = new Browser();
    const auth = attempt(app);
    const fill = () => browser.submit({ username, password, again: password });
    const { tokens } = await letIn(app, auth, browser, fill, { prompt: "create" });
    const alice = await encrypting(await clientOf(app, auth, tokens));
    await makeCrossSigning(alice);

    check(await isSignInWithQRAvailable(alice), "her app offers to sign in by QR code");
    const allow = async (where, url, ...before) => {
        await where.open(url);
        for (const fields of [...before, { answer: "allow" }]) {
            await where.submit(fields);
        }
    };

    const [shown, waiting] = await Promise.all([show(app, alice), show(app)]);
    const inHers = (url) => allow(browser, url);
    const inAnother = (url) => allow(new Browser(), url, { username, password });
    const clients = await Promise.all([
        signIn(app, shown, scan(shown.code), inHers, "the old device shows the code"),
        signIn(app, scan(waiting.code, alice), waiting, inAnother, "the new device shows it"),
    ]);
    for (const client of clients) {
        const status = () => alice.getCrypto().getDeviceVerificationStatus(alice.getUserId(), client.getDeviceId());
        await waitFor(async () => (await status())?.crossSigningVerified, "the first device sees it as verified");
        check(await client.getCrypto().isCrossSigningReady(), "which has the keys to verify others");
    }
    await renewKeys(clients[1], browser);
}
