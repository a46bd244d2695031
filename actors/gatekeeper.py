"""The gatekeeper actor: the gate behind a handle."""

import msgspec

from actors.hop import encode
from engine.config import Config
from gate.assess import Gate
from gate.policy import load_policies
from gate.verdict import Case


class Gatekeeper:
    """Judges micro-batches of drafts."""

    def __init__(self, config: Config) -> None:
        self.gate = Gate(load_policies(config.policies_path))
        self.decoder = msgspec.msgpack.Decoder(list[Case])

    async def assess(self, batch: bytes) -> bytes:
        """Encoded cases in, encoded verdicts out, in order."""
        return encode(self.gate.assess_batch(self.decoder.decode(batch)))
