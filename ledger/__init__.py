"""The ledger: what was made, from what, for whom, in a form anyone can verify. Knows nothing of the rest of Mintage."""
