// The bot of these tests does not encrypt (matrix-js-sdk and matrix-nio do); the SDK only wants the names to be there.
"use strict";

module.exports = {
    DeviceId: class {},
    OlmMachine: class {},
    RoomId: class {},
    StoreType: { Sled: 0, Sqlite: 1 },
    UserId: class {},
    RequestType: {},
};
