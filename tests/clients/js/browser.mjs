// A browser for the pages of an account, as far as a program needs one: cookies, redirects, forms.

import { check, checkEqual } from "./check.mjs";

const FORM = /<form\b[^>]*method="post"[^>]*>(.*?)<\/form>/s;
const HIDDEN = /<input type="hidden" name="([^"]*)" value="([^"]*)">/g;
const REDIRECTS_MOST = 10;

const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'" };
const unescape = (text) => text.replace(/&(?:amp|lt|gt|quot|#x27);/g, (entity) => ENTITIES[entity]);

export class Browser {
    #cookies = new Map();

    /** Go to an address, and on to where it leads; `page` is then what is shown, or `url` where an app takes over. */
    async open(url) {
        await this.#go("GET", url);
    }

    /** Fill in the page's form and press its button. */
    async submit(fields) {
        const [, form] = this.page.match(FORM) ?? [];
        check(form !== undefined, `the page "${this.title}" has a form`);
        const hidden = [...form.matchAll(HIDDEN)].map(([, name, value]) => [name, unescape(value)]);
        await this.#go("POST", this.url, new URLSearchParams([...hidden, ...Object.entries(fields)]));
    }

    get title() {
        return unescape(this.page?.match(/<h1[^>]*>(.*?)<\/h1>/s)?.[1] ?? "");
    }

    async #go(method, url, body) {
        const { origin } = new URL(url);
        for (let count = 0; count < REDIRECTS_MOST; count++) {
            [this.url, this.page] = [url, undefined];
            if (new URL(url).origin !== origin) {
                return;
            }
            const cookie = [...this.#cookies].map((pair) => pair.join("=")).join("; ");
            const headers = { Origin: origin, ...(cookie && { Cookie: cookie }) };
            const answer = await fetch(url, { method, body, headers, redirect: "manual" });
            for (const line of answer.headers.getSetCookie()) {
                const [, name, value] = line.match(/^([^=]*)=([^;]*)/);
                this.#cookies.set(name, value);
            }
            if (answer.status < 300 || answer.status >= 400) {
                this.page = await answer.text();
                checkEqual(answer.status, 200, `${method} ${new URL(url).pathname} shows a page`);
                return;
            }
            [method, body, url] = ["GET", undefined, new URL(answer.headers.get("location"), url).href];
        }
        throw new Error(`led in a circle: ${url}`);
    }
}
