// Alice's devices among themselves: SAS over to-device messages, new cross-signing keys, a dehydrated device.

import { check, checkEqual, waitUntil } from "../check.mjs";
import { register, say } from "../person.mjs";
import { appear, makeCrossSigning, meet, read, takeCrossSigning, verifyBySas, waitFor } from "../secret_person.mjs";
import { CryptoEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

async function verifySecond(first, second) {
    const received = new Promise((resolve) => first.once(CryptoEvent.VerificationRequestReceived, resolve));
    const asked = await second.getCrypto().requestOwnUserVerification();
    await verifyBySas(asked, await received, "two devices of alice");
    const isVerified = async () => {
        const status = await first.getCrypto().getDeviceVerificationStatus(first.getUserId(), second.getDeviceId());
        return status?.crossSigningVerified ?? false;
    };
    await waitFor(isVerified, "the first device has signed the second");
    await waitFor(() => second.getCrypto().isCrossSigningReady(), "which was given the secrets by the first");
}

/** Other keys in place of those that there are need the password. */
async function renewKeys(client, registered) {
    const identifier = { type: "m.id.user", user: registered.user_id };
    const masterKey = async () => {
        const query = { device_keys: { [registered.user_id]: [] } };
        const found = await client.http.authedRequest("POST", "/keys/query", undefined, query);
        return Object.keys(found.master_keys[registered.user_id].keys)[0];
    };
    const before = await masterKey();
    let refused;
    await client.getCrypto().bootstrapCrossSigning({
        setupNewCrossSigning: true,
        authUploadDeviceSigningKeys: async (upload) => {
            try {
                await upload(null);
            } catch (error) {
                refused = error;
                const auth = { type: "m.login.password", identifier, password: registered.password };
                await upload({ ...auth, session: error.data.session });
            }
        },
    });
    checkEqual(refused?.httpStatus, 401, "new keys without a password are refused");
    check((await masterKey()) !== before, "with it they are the keys");
    check(await client.getCrypto().isCrossSigningReady(), "and her client takes them for its own");
}

/** What is said while alice is nowhere reaches her next device, through the one that she left behind. */
async function dehydrate(baseUrl, registered, recovery, alice, bob, roomId) {
    const crypto = alice.getCrypto();
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: () => crypto.createRecoveryKeyFromPassphrase(),
    });
    check(await crypto.isDehydrationSupported(), "the server keeps dehydrated devices");
    await crypto.startDehydration();
    const devices = async () => [...(await bob.getCrypto().getUserDeviceInfo([alice.getUserId()], true)).values()];
    await waitFor(
        async () => (await devices()).some((known) => [...known.values()].some((device) => device.dehydrated)),
        "bob's client knows that alice has one",
    );
    await alice.logout(true);
    const missed = await say(bob, roomId, "While you were away");
    const back = await appear(baseUrl, registered, recovery);
    let roomKeys = 0;
    back.on(CryptoEvent.RehydrationProgress, (keys) => { roomKeys = keys; });
    await takeCrossSigning(back);
    await back.getCrypto().startDehydration();
    await waitUntil(() => roomKeys > 0, "her next device brings it to life and takes its keys");
    checkEqual(await read(back, roomId, missed, "which"), "While you were away", "as bob wrote it");
}

export async function tell(baseUrl) {
    const registered = await register(baseUrl, "alice");
    const recovery = {};
    const alice = await appear(baseUrl, registered, recovery);
    await makeCrossSigning(alice);
    const bob = await appear(baseUrl, await register(baseUrl, "bob"));
    const roomId = await meet(alice, bob);
    const second = await appear(baseUrl, registered);
    await verifySecond(alice, second);
    const gone = second.getDeviceId();
    await second.logout(true);
    // A client that is asking for keys while it makes new ones takes the answer with the old ones for the truth.
    const devices = async () => (await alice.getCrypto().getUserDeviceInfo([registered.user_id])).values();
    const knows = async () => ![...(await devices())].some((known) => known.has(gone));
    await waitFor(knows, "the first device knows that the second is logged out");
    await renewKeys(alice, registered);
    await dehydrate(baseUrl, registered, recovery, alice, bob, roomId);
}
