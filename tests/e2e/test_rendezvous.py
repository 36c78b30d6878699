"""What a web app may send to a rendezvous of a server elsewhere, and read of its answers. spec: proposals/4108 ("CORS")"""

from __future__ import annotations

from tests.e2e.support import Browser, BrowserCase

UNSTABLE = "/_matrix/client/unstable"
TALK = """
(async (places) => {
    const headers = { "content-type": "text/plain" };
    const begun = await fetch(places + "/org.matrix.msc4108/rendezvous", { method: "POST", headers, body: "one" });
    const { url } = await begun.json();
    const first = begun.headers.get("etag");
    const waiting = await fetch(url, { headers: { "if-none-match": first } });
    const written = await fetch(url, { method: "PUT", headers: { ...headers, "if-match": first }, body: "two" });
    const second = written.headers.get("etag");
    const late = await fetch(url, { method: "PUT", headers: { ...headers, "if-match": first }, body: "three" });
    const heard = await fetch(url, { headers: { "if-none-match": first } });
    const said = [heard.headers.get("content-type"), await heard.text(), heard.headers.get("etag") === second];
    const ended = await fetch(url, { method: "DELETE" });
    const statuses = [begun, waiting, written, late, heard, ended].map((answer) => answer.status);
    return [statuses, said, [waiting, late].map((answer) => answer.headers.get("etag") !== null)];
})
"""
SHOWN = """
(async (places) => {
    const body = JSON.stringify({ data: "<h1>not ours</h1>" });
    const begun = await fetch(places + "/io.element.msc4388/rendezvous", { method: "POST", body });
    return (await begun.json()).id;
})
"""


class Rendezvous(BrowserCase):
    """An app of another origin: the same server by its other name."""

    def setUp(self) -> None:
        super().setUp()
        self.web = Browser(self.browser, self.folder / "driven")
        self.addCleanup(self.web.close)
        self.web.open(f"http://localhost:{self.port}/robots.txt")
        self.places = f"http://127.0.0.1:{self.port}{UNSTABLE}"

    def test_two_devices_talk(self) -> None:
        statuses, said, tags = self.web.run(f"{TALK}('{self.places}')")
        self.assertEqual([201, 304, 202, 412, 200, 204], statuses)
        self.assertEqual(["text/plain", "two", True], said)
        self.assertEqual([True, True], tags)

    def test_nothing_to_look_at(self) -> None:
        rendezvous_id = self.web.run(f"{SHOWN}('{self.places}')")
        self.web.open(f"{self.places}/io.element.msc4388/rendezvous/{rendezvous_id}")
        shown = self.web.run("document.body.innerText")
        self.assertIn("M_FORBIDDEN", shown)
        self.assertNotIn("not ours", shown)
