// Imported before the SDK: what it takes for granted, and the silence that a readable log needs.

// Node 22 has it, Node 20 (which Debian and others still ship) does not.
Promise.withResolvers ??= function withResolvers() {
    let resolve, reject;
    const promise = new this((onResolve, onReject) => {
        [resolve, reject] = [onResolve, onReject];
    });
    return { promise, resolve, reject };
};

/** Print for the test; `console.log` itself is where the SDK's loggers chatter. */
export const report = console.log.bind(console);

console.log = console.debug = console.info = console.trace = () => {};
