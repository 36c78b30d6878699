// Alice writes with bob, and her next device reads what was said before it came: with the key to her secrets alone.

import { check, checkEqual, waitUntil } from "../check.mjs";
import { copiesOf, register, say } from "../person.mjs";
import { appear, makeCrossSigning, meet, read, takeCrossSigning, verifyBySas, waitFor } from "../secret_person.mjs";
import { CryptoEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

/** Secret storage with the cross-signing keys in it, and a backup whose key is there too. */
async function prepare(alice) {
    const crypto = alice.getCrypto();
    await makeCrossSigning(alice);
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: () => crypto.createRecoveryKeyFromPassphrase(),
        setupNewKeyBackup: true,
    });
    check(await crypto.isSecretStorageReady(), "alice's secrets are in her account data");
    for (const name of ["m.cross_signing.master", "m.cross_signing.self_signing", "m.megolm_backup.v1"]) {
        check("encrypted" in (await alice.getAccountDataFromServer(name)), `${name} is there, encrypted`);
    }
    const version = await crypto.getActiveSessionBackupVersion();
    check(version !== null, "her client keeps a backup of keys");
    checkEqual((await alice.http.authedRequest("GET", "/room_keys/version")).version, version, "which the server has");
    return version;
}

async function count(client) {
    return (await client.http.authedRequest("GET", "/room_keys/version")).count;
}

/** Her second device, before and after it has her secrets. */
async function restore(baseUrl, registered, recovery, roomId, said) {
    const second = await appear(baseUrl, registered, recovery);
    const crypto = second.getCrypto();
    const [eventId] = Object.keys(said);
    const failed = () => copiesOf(second, roomId, eventId)[0]?.isDecryptionFailure() ?? false;
    await waitUntil(failed, "the second device has not the keys to what was said");
    await takeCrossSigning(second);
    await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
    await crypto.checkKeyBackupAndEnable();
    const restored = await crypto.restoreKeyBackup();
    checkEqual([restored.imported, restored.total], [await count(second), await count(second)], "it takes all keys");
    for (const [id, body] of Object.entries(said)) {
        checkEqual(await read(second, roomId, id, "the second device"), body, "as it was written");
    }
    return second;
}

/** Alice and bob compare emoji in their room. */
async function trustEachOther(alice, bob, roomId) {
    const received = new Promise((resolve) => bob.once(CryptoEvent.VerificationRequestReceived, resolve));
    const asked = await alice.getCrypto().requestVerificationDM(bob.getUserId(), roomId);
    await verifyBySas(asked, await received, "alice and bob");
    for (const [client, other] of [[alice, bob], [bob, alice]]) {
        const trusted = async () =>
            (await client.getCrypto().getUserVerificationStatus(other.getUserId())).isVerified();
        await waitFor(trusted, `${client.getUserId()} takes ${other.getUserId()} for verified`);
    }
}

export async function tell(baseUrl) {
    const registered = await register(baseUrl, "alice");
    const recovery = {};
    const alice = await appear(baseUrl, registered, recovery);
    const version = await prepare(alice);
    const bob = await appear(baseUrl, await register(baseUrl, "bob"));
    await makeCrossSigning(bob);
    const roomId = await meet(alice, bob);
    const said = {};
    said[await say(alice, roomId, "Remember this")] = "Remember this";
    const reply = await say(bob, roomId, "I shall");
    checkEqual(await read(alice, roomId, reply, "alice"), "I shall", "as bob wrote it");
    said[reply] = "I shall";
    await waitFor(async () => (await count(alice)) >= 2, "the backup has the keys of both");

    const second = await restore(baseUrl, registered, recovery, roomId, said);
    checkEqual(await second.getCrypto().getActiveSessionBackupVersion(), version, "both keep the same backup");
    const known = async () => {
        const devices = await bob.getCrypto().getUserDeviceInfo([alice.getUserId()]);
        return devices.get(alice.getUserId())?.has(second.getDeviceId()) ?? false;
    };
    await waitFor(known, "bob's client knows alice's second device");
    const later = await say(bob, roomId, "For the three of us");
    for (const [client, who] of [[alice, "alice"], [second, "her second device"]]) {
        checkEqual(await read(client, roomId, later, who), "For the three of us", "as bob wrote it");
    }
    await trustEachOther(alice, bob, roomId);

    await alice.getCrypto().deleteKeyBackupVersion(version);
    checkEqual(await alice.getCrypto().checkKeyBackupAndEnable(), null, "the backup is gone when she says so");
}
