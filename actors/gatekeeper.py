"""The gatekeeper actor: the gate behind a handle."""

from collections.abc import Mapping

import msgspec

from actors.hop import answering, encode
from gate.assess import Gate
from gate.policy import Policy
from gate.verdict import Case


class Gatekeeper:
    """Judges micro-batches of drafts."""

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        self.gate = Gate(policies)
        self.decoder = msgspec.msgpack.Decoder(list[Case])

    @answering
    async def assess(self, batch: bytes) -> bytes:
        """Encoded cases in, encoded verdicts out, in order."""
        return encode(self.gate.assess_batch(self.decoder.decode(batch)))
