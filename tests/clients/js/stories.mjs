// One story of people with matrix-js-sdk: node stories.mjs STORY BASE_URL. Each file in stories/ exports `tell(baseUrl)`.

import { report } from "./platform.mjs";

const [story, baseUrl] = process.argv.slice(2);
try {
    const { tell } = await import(`./stories/${story}.mjs`);
    await tell(baseUrl);
    report("done");
    process.exit(0);
} catch (error) {
    console.error(error);
    process.exit(1);
}
