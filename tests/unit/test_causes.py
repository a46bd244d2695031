"""Why an application does not come up, read out of what Serve says of its deployments."""

import pytest

from actors.causes import cause_of

TRIED = (
    "The deployment failed to start 3 times in a row. This may be due to a problem with its constructor or initial "
    "health check failing. See controller logs for details. Error:\n"
)
REPLICA = (
    "\x1b[36mray::ServeReplica:mintage:LedgerShard-0.initialize_and_get_metadata()\x1b[39m (pid=31398, ip=127.0.0.1, "
    "repr=<ray.serve._private.replica.ServeReplica:mintage:LedgerShard-0 object at 0x7f4f282e6090>)\n"
)
RERAISED = """  File "/lib/ray/serve/_private/replica.py", line 3521, in initialize_and_get_metadata
    await self._replica_impl.initialize(deployment_config, rank, gang_context)
  File "/lib/ray/serve/_private/replica.py", line 1928, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
"""
BEGUN = """  File "/lib/ledger/store.py", line 12, in tables
    return tables[name]
           ~~~~~~^^^^^^
KeyError: 'entries'

The above exception was the direct cause of the following exception:

"""
ENDED = """  File "/lib/ray/serve/_private/replica.py", line 1867, in initialize
    await self._user_callable_wrapper.initialize_callable()
  File "/lib/actors/ledger_shard.py", line 40, in __init__
    raise LedgerCorrupt("the tables are damaged", where="/data/shard-000", fix="Restore it.") from error
ledger.errors.LedgerCorrupt: ledger_corrupt at /data/shard-000: the tables are damaged. Restore it.
"""
CORRUPT = ENDED.splitlines()[-1]


@pytest.mark.parametrize(
    "message", [TRIED + REPLICA + RERAISED + ENDED, TRIED + REPLICA + RERAISED + BEGUN + REPLICA + ENDED]
)
def test_the_cause_is_the_last_line_of_the_innermost_traceback(message: str) -> None:
    assert cause_of(message) == CORRUPT


def test_an_exception_without_a_text_and_one_of_many_lines_are_named() -> None:
    assert cause_of(TRIED + REPLICA + RERAISED + "  File ...\nAssertionError\n") == "AssertionError"
    validated = "vllm.Invalid: 1 error for ModelConfig\n  Value error, no such file\n    See its documentation\n"
    assert cause_of(TRIED + REPLICA + RERAISED + validated) == "vllm.Invalid: 1 error for ModelConfig"


def test_of_a_message_without_an_exception_the_last_line_is_shown() -> None:
    died = "The actor died before finishing this task.\n\tclass_name: ServeReplica\n\tpid: 7\nIts worker was killed.\n"
    assert cause_of(TRIED + died) == "Its worker was killed."
    assert cause_of("") == ""
