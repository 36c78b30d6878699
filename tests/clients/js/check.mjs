// What a client program demands, and what it notes for its next phase (the same file format as notes.py).

import { readFileSync, renameSync, writeFileSync } from "node:fs";

import { report } from "./platform.mjs";

const WAIT_MS = 30_000;
const POLL_MS = 20;

/** Demand `holds`; every demand that is met is printed, so that a log shows how far the program came. */
export function check(holds, what) {
    if (!holds) {
        throw new Error(`not so: ${what}`);
    }
    report(`checked: ${what}`);
}

export function checkEqual(seen, wanted, what) {
    const [left, right] = [JSON.stringify(seen), JSON.stringify(wanted)];
    check(left === right, left === right ? what : `${what}: saw ${left}, wanted ${right}`);
}

/** Wait until the client's own model shows it. */
export async function waitUntil(holds, what) {
    const deadline = Date.now() + WAIT_MS;
    while (!holds()) {
        if (Date.now() > deadline) {
            throw new Error(`waited ${WAIT_MS / 1000} s in vain until: ${what}`);
        }
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    check(true, what);
}

/** Demand that the call is refused with this error code. */
export async function checkRefused(promise, errcode, what) {
    let seen = "no refusal";
    try {
        await promise;
    } catch (error) {
        seen = error.errcode ?? String(error);
    }
    checkEqual(seen, errcode, what);
}

export function newNotes() {
    return { messages: {}, in_flight: {} };
}

export function loadNotes(path) {
    return JSON.parse(readFileSync(path, "utf8"));
}

export function saveNotes(notes, path) {
    writeFileSync(`${path}.draft`, JSON.stringify(notes, null, 1));
    renameSync(`${path}.draft`, path);
}
