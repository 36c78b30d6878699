"""What is told twice: with CHAOS as the resident server of the room and Synapse as the other, and the other way round."""

from __future__ import annotations

from tests.interop.stories.devices import Devices
from tests.interop.stories.encrypted import Encrypted
from tests.interop.stories.ephemeral import Ephemeral
from tests.interop.stories.outages import Outages, Partitions
from tests.interop.stories.places import Places
from tests.interop.stories.rooms import Rooms

ALL = (Rooms, Ephemeral, Devices, Encrypted, Places, Outages, Partitions)
