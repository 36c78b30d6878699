// Looking for what was said, and for people, as Element's search does.

import { check, checkEqual } from "../check.mjs";
import { appearOpenly, makeOpenRoom, say } from "../person.mjs";

export async function tell(baseUrl) {
    const [alice, bob] = [await appearOpenly(baseUrl, "alice"), await appearOpenly(baseUrl, "bob")];
    const garden = await makeOpenRoom(alice, [bob], { name: "The Garden" });
    const secret = await makeOpenRoom(alice, [], { name: "The Shed" });
    const first = await say(alice, garden, "The tulips are in bloom");
    await say(bob, garden, "And the roses?");
    const last = await say(alice, garden, "Only tulips so far");
    await say(alice, secret, "Tulips for bob's birthday");

    const found = await bob.searchRoomEvents({ term: "tulips" });
    checkEqual(found.count, 2, "bob finds what was said where he is, and nothing of where he is not");
    const ids = found.results.map((result) => result.context.getEvent().getId());
    checkEqual(ids, [last, first], "the newest first");
    check(found.highlights.includes("tulips"), "with the word to mark");
    const around = found.results[1].context.getTimeline().map((event) => event.getContent().body);
    check(around.includes("And the roses?"), "and what was said around it");

    const wanted = { search_term: "tulips", order_by: "recent", filter: { rooms: [garden], limit: 1 } };
    const body = { search_categories: { room_events: wanted } };
    const page = (await bob.search({ body })).search_categories.room_events;
    checkEqual(page.results.map((result) => result.result.event_id), [last], "a page of one");
    const next = (await bob.search({ body, next_batch: page.next_batch })).search_categories.room_events;
    checkEqual(next.results.map((result) => result.result.event_id), [first], "and the next");

    await alice.redactEvent(garden, last);
    checkEqual((await bob.searchRoomEvents({ term: "tulips" })).count, 1, "what is taken back is not found");

    const people = await bob.searchUserDirectory({ term: alice.getUserId().slice(1).split(":")[0] });
    checkEqual(people.results.map((person) => person.user_id), [alice.getUserId()], "and alice is found by her name");
}
