"""Once warmed up, a process compiles nothing more, whatever is asked of its shards."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

USE = """
import importlib, pkgutil, sys
sys.path.insert(0, "tests")
from pathlib import Path
import ledger
from numba.core.dispatcher import Dispatcher
from settling import account, ending, id_of, money, ownership
from shards import append_assets, asset, bare, columns, open_shard, payloads_of
from ledger.entry import Entry, Flag, Kind
from ledger.index import Sizes
from ledger.runs import Family
from ledger.warm import warm_up

def compiled():
    modules = [importlib.import_module(f"ledger.{found.name}") for found in pkgutil.iter_modules(ledger.__path__)]
    found = [item for module in modules for item in vars(module).items()]
    kernels = {name: kernel for name, kernel in found if isinstance(kernel, Dispatcher)}
    return {(name, str(signature)) for name, kernel in kernels.items() for signature in kernel.signatures}

warm_up()
before = compiled()
path, now_ns = Path(sys.argv[1]), [10**18]
sizes = Sizes(block_entries=32, batch_entries_max=16, segment_items=8, fan_in=3)
for life in range(2):
    with open_shard(path, lambda: now_ns[0], sizes=sizes) as shard:
        shard.cover(7, 5)
        first = 1000 * life + 100
        for number in range(first, first + 100, 10):
            append_assets(shard, range(number, number + 10))
            parents = (0, shard.tree_size - 1), (7, 2)
            shard.sequence(columns(bare(number + 500, parents=parents), bare(number), bare(number)))
        shard.integrate()
        own = id_of(1)
        shard.append(columns(account(1), account(2, Flag.DEBITS_WITHIN_CREDITS)))
        shard.append(columns(
            money(first + 300, 1, 2, 9, Flag.LINKED), ownership(first + 301, first, 1, 2),
            money(first + 302, 1, 2, 9, Flag.PENDING, num_bytes=1), money(first + 303, 2, 1, 5, Flag.PENDING),
            ending(first + 304, first + 303, Flag.POST), ownership(first + 305, first + 1, 1, 2, Flag.PENDING),
            ending(first + 306, first + 305, Flag.VOID, Kind.OWNERSHIP), money(first + 303, 2, 1, 5, Flag.PENDING),
            ending(first + 307, first + 303, Flag.VOID),
            Entry(kind=Kind.ERASURE, id=id_of(first + 308), subject=id_of(first)),
        ))
        now_ns[0] += 10**10
        assert len(shard.expire().results) == 1
        shard.book.balance(id_of(1)), shard.book.snapshot(shard.tree_size)
        assert shard.find(id_of(first + 1)) is not None and shard.reader().find(Family.OWNER, id_of(1)).found
        shard.reader().children(0, 3), shard.receipt(5), shard.content(1), shard.checkpoint(), shard.consistency(3, 9)
print(sorted(name for name, _ in compiled() - before))
"""


def test_after_warming_up_nothing_is_compiled_for_what_a_shard_is_asked(tmp_path: Path) -> None:
    command = [sys.executable, "-c", USE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n", "these were compiled for a caller"
