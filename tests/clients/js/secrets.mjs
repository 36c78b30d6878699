// Two people who talk in secret, with matrix-js-sdk's Rust crypto: node secrets.mjs ALICE_URL BOB_URL (the same, or two
// servers that federate).

import { report } from "./platform.mjs";
import { check, checkEqual, waitUntil } from "./check.mjs";
import { register, say } from "./person.mjs";
import { appear, meet, read, waitFor } from "./secret_person.mjs";

async function converse(alice, bob, roomId) {
    const secret = await say(alice, roomId, "The key is under the mat");
    checkEqual(await read(bob, roomId, secret, "bob"), "The key is under the mat", "as alice wrote it");
    const raw = await alice.fetchRoomEvent(roomId, secret);
    checkEqual([raw.type, "body" in raw.content], ["m.room.encrypted", false], "and the server cannot read it");
    const reply = await say(bob, roomId, "I moved it");
    checkEqual(await read(alice, roomId, reply, "alice"), "I moved it", "as bob wrote it");
}

/** A device that comes later reads what is said from then on: the others must hear of it. */
async function withAnotherDevice(alice, baseUrl, registered, roomId) {
    const second = await appear(baseUrl, registered);
    await waitFor(async () => {
        const devices = await alice.getCrypto().getUserDeviceInfo([second.getUserId()]);
        return devices.get(second.getUserId())?.has(second.getDeviceId()) ?? false;
    }, "alice's client knows bob's new device");
    const secret = await say(alice, roomId, "For all of your devices");
    checkEqual(await read(second, roomId, secret, "bob's new device"), "For all of your devices", "as alice wrote it");
    return second;
}

/** One client knows that another's device is signed by its owner. */
async function seesSigned(client, owner, what) {
    await waitFor(async () => {
        const status = await client.getCrypto().getDeviceVerificationStatus(owner.getUserId(), owner.getDeviceId());
        return status?.signedByOwner ?? false;
    }, what);
}

/** Cross-signing keys, first without a password, and the trust that follows. */
async function trust(alice, bob) {
    const crypto = alice.getCrypto();
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (upload) => upload(null) });
    check(await crypto.isCrossSigningReady(), "alice has cross-signing keys");
    // A client may have asked for the keys a moment before they were signed, and then asks again.
    await seesSigned(alice, alice, "and has signed her device with them");
    await seesSigned(bob, alice, "bob's client sees alice's device signed by its owner");
    const status = await bob.getCrypto().getUserVerificationStatus(alice.getUserId());
    check(!status.isVerified(), "without taking her for verified");
}

async function main(aliceUrl, bobUrl) {
    const alice = await appear(aliceUrl, await register(aliceUrl, "alice"));
    const registered = await register(bobUrl, "bob");
    const bob = await appear(bobUrl, registered);
    const roomId = await meet(alice, bob);
    await converse(alice, bob, roomId);
    const second = await withAnotherDevice(alice, bobUrl, registered, roomId);
    await trust(alice, bob);
    await second.logout(true);
    const afterwards = await say(alice, roomId, "Only where you are still logged in");
    checkEqual(await read(bob, roomId, afterwards, "bob"), "Only where you are still logged in", "as alice wrote it");
}

const [aliceUrl, bobUrl] = process.argv.slice(2);
try {
    await main(aliceUrl, bobUrl ?? aliceUrl);
    report("done");
    process.exit(0);
} catch (error) {
    console.error(error);
    process.exit(1);
}
