"""The quality gate: nothing false is released. Knows nothing of Ray, vLLM or the ledger."""
