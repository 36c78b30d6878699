// One user whose client encrypts, with matrix-js-sdk's Rust crypto.

import { check, waitUntil } from "./check.mjs";
import { copiesOf, logIn, resume, start } from "./person.mjs";
import { VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

const ENCRYPTION = { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } };
const LOOK_MS = 50;

/** A new login with keys of its own, synced. `recovery` is what the user remembers of secret storage. */
export async function appear(baseUrl, registered, recovery = {}) {
    const account = await logIn(baseUrl, registered);
    const cryptoCallbacks = {
        getSecretStorageKey: async ({ keys }) => (recovery.keyId in keys ? [recovery.keyId, recovery.key] : null),
        cacheSecretStorageKey: (keyId, _, key) => Object.assign(recovery, { keyId, key }),
    };
    const client = resume(baseUrl, account, { cryptoCallbacks });
    await client.initRustCrypto({ useIndexedDB: false });
    await start(client);
    return client;
}

/** Wait for something that a client has to be asked for. */
export async function waitFor(holds, what) {
    let seen = false;
    const look = setInterval(async () => { seen ||= await holds(); }, LOOK_MS);
    try {
        await waitUntil(() => seen, what);
    } finally {
        clearInterval(look);
    }
}

/** The body of a message as a client shows it once it has decrypted it. */
export async function read(client, roomId, eventId, who) {
    const clear = () => {
        const [event] = copiesOf(client, roomId, eventId);
        const settled = event !== undefined && !event.isBeingDecrypted() && !event.isDecryptionFailure();
        return settled && event.getType() === "m.room.message";
    };
    await waitUntil(clear, `${who} has decrypted the message`);
    const [event] = copiesOf(client, roomId, eventId);
    check(event.isEncrypted(), "which was encrypted");
    return event.getContent().body;
}

/** An encrypted room of two. */
export async function meet(alice, bob) {
    const { room_id: roomId } = await alice.createRoom({ preset: "private_chat", initial_state: [ENCRYPTION] });
    await alice.invite(roomId, bob.getUserId());
    await waitUntil(() => bob.getRoom(roomId)?.getMyMembership() === "invite", "bob is invited");
    await bob.joinRoom(roomId);
    const joined = (client) => client.getRoom(roomId)?.getMember(bob.getUserId())?.membership === "join";
    await waitUntil(() => joined(alice) && joined(bob), "both see bob in the room");
    return roomId;
}

/** Cross-signing keys, for which a password is needed only where there are others already. */
export async function makeCrossSigning(client) {
    const crypto = client.getCrypto();
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (upload) => upload(null) });
    check(await crypto.isCrossSigningReady(), `${client.getUserId()} has cross-signing keys`);
}

/** A device of a user who has cross-signing keys already takes them from secret storage, and signs itself. */
export async function takeCrossSigning(client) {
    const crypto = client.getCrypto();
    // The private keys are taken only where the public ones are known.
    check(await crypto.userHasCrossSigningKeys(client.getUserId(), true), "the public keys are known");
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (upload) => upload(null) });
}

/** Compare short strings: the one who asks, and the request as the other one got it. */
export async function verifyBySas(asked, received, what) {
    const shown = (verifier) => new Promise((resolve) => verifier.once(VerifierEvent.ShowSas, resolve));
    await received.accept();
    await waitUntil(() => asked.phase === VerificationPhase.Ready, `${what}: the request is accepted`);
    const first = await asked.startVerification("m.sas.v1");
    const firstShown = shown(first);
    const firstDone = first.verify();
    await waitUntil(() => received.verifier !== undefined, `${what}: the other side has begun`);
    const secondShown = shown(received.verifier);
    const secondDone = received.verifier.verify();
    const [one, other] = await Promise.all([firstShown, secondShown]);
    const words = (callbacks) => callbacks.sas.emoji.map(([symbol]) => symbol).join(" ");
    check(words(one) === words(other), `${what}: both are shown ${words(one)}`);
    await Promise.all([one.confirm(), other.confirm()]);
    await Promise.all([firstDone, secondDone]);
    check(true, `${what}: both have verified`);
}
