"""`mintage audit` as people run it: beside the owner, in tables and as JSON, with exit codes that say it all."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from settling import ALICE, BOB, CAROL, account, asset, id_of, money, ownership
from typer.testing import CliRunner
from whole_log import LOG, START_NS, Ledger

from actors.audit import audit_app
from actors.audit_open import parse_time_ns
from engine.errors import InvalidRequest
from ledger.adopt import edge_signer
from ledger.entry import Entry, Flag, Kind, encode, from_bytes, owner_of
from ledger.log import ADOPTED_DIR, shard_path
from ledger.note import Signer, add_cosignatures, open_checkpoint
from ledger.payload import Payload
from ledger.reader import Reader
from ledger.shard import Shard

ROOT = Path(__file__).parents[2]
PICTURE, SONG, PRINT, CROP = 50, 51, 52, 53
SUNG = b"la la la"
SOLD = 61
WITNESS = Signer("witness.example/w1", b"w" * 32)
COSIGNED_S = START_NS // 10**9 + 100
COMMANDS = (
    "balance",
    "owner",
    "owned",
    "paid",
    "changed",
    "lineage",
    "existed",
    "kept",
    "check-existed",
    "check-kept",
    "check-lineage",
)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A picture, sold from Alice to Bob in shard 0; a song of the shop's and a print in shard 1. Checkpoints of both
    shards were kept, `old-0` and `old-1`, before the sale, and `new-0`, cosigned, after it."""
    opened = Ledger(tmp_path_factory.mktemp("audited") / "ledger")
    opened.record(0, account(ALICE), account(BOB), asset(PICTURE, ALICE))
    sung = Entry(
        kind=Kind.ASSET,
        id=id_of(SONG),
        owner=owner_of("shop"),
        content_hash=hashlib.sha256(SUNG).digest(),
        num_bytes=len(SUNG),
    )
    opened.record(1, sung, payloads=[Payload(content=SUNG)])
    for number, shard in opened.shards.items():
        (opened.path / f"old-{number}").write_text(shard.checkpoint())
    opened.record(0, money(60, BOB, ALICE, 100, Flag.LINKED), ownership(SOLD, PICTURE, ALICE, BOB))
    opened.cover()
    opened.record(1, Entry(kind=Kind.DERIVATION, id=id_of(PRINT), owner=id_of(CAROL), parents=((0, 2), (1, 0))))
    note = opened.shards[0].checkpoint()
    cosignature = WITNESS.cosign(note.partition("\n\n")[0] + "\n", COSIGNED_S)
    (opened.path / "new-0").write_text(add_cosignatures(note, cosignature, [WITNESS.witness_key]))
    (opened.path / "policy").write_text(f"witness w {WITNESS.witness_key}\nquorum w\n")
    opened.close()
    yield opened


def audit(*args: object) -> Result:
    return CliRunner().invoke(audit_app, [str(arg) for arg in args])


def answered(*args: object) -> Any:
    """The JSON of a command that succeeds."""
    ran = audit(*args, "--json")
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


def refused(*args: object) -> Any:
    """The error of a command that fails with exit code 1, which is the same as text and as JSON."""
    ran, shown = audit(*args, "--json"), audit(*args)
    assert (ran.exit_code, shown.exit_code) == (1, 1), ran.output
    error = json.loads(ran.stdout)["error"]
    assert error["code"] in shown.stderr
    assert error["what"] and error["where"] and error["fix"]
    return error


def hex_of(number: int) -> str:
    return id_of(number).hex()


# ---- the questions


def test_the_commands_are_the_auditors_questions_and_their_checks() -> None:
    assert {command.name or command.callback.__name__ for command in audit_app.registered_commands} == set(COMMANDS)


def test_a_trial_balance_at_the_newest_checkpoint_is_signed_and_balanced(ledger: Ledger) -> None:
    told = answered("balance", ledger.path, "--shard", 0, "--accounts", 5)
    assert told["checkpoint"]["tree_size"] == 5
    assert (told["is_signed"], told["is_balanced"], told["num_accounts"]) == (True, True, 2)
    totals = {"debits_posted": 100, "credits_posted": 100, "debits_pending": 0, "credits_pending": 0}
    assert told["currencies"] == {"1": totals}
    assert [(id_, kept["debits_posted"], kept["credits_posted"]) for id_, kept in told["accounts"]] == [
        (hex_of(ALICE), 0, 100),
        (hex_of(BOB), 100, 0),
    ]


@pytest.mark.parametrize(("at", "is_signed"), [("3", False), ("old-0", True)])
def test_a_trial_balance_at_an_earlier_tree_is_of_then(ledger: Ledger, at: str, is_signed: bool) -> None:
    named = ledger.path / at if is_signed else at
    told = answered("balance", ledger.path, "--shard", 0, "--at", named)
    assert (told["checkpoint"]["tree_size"], told["is_signed"]) == (3, is_signed)
    assert told["currencies"]["1"]["debits_posted"] == 0


def test_who_owned_an_asset_is_told_for_every_index(ledger: Ledger) -> None:
    now = answered("owner", ledger.path, hex_of(PICTURE))
    assert (now["owner"], now["index"], now["at"], now["shard"]) == (hex_of(BOB), 4, 4, 0)
    assert [each["owner"] for each in now["history"]] == [hex_of(ALICE), hex_of(BOB)]
    then = answered("owner", ledger.path, hex_of(PICTURE), "--at", 3)
    assert (then["owner"], len(then["history"])) == (hex_of(ALICE), 1)


def test_what_an_owner_has_is_told_by_tenant_and_by_owner_over_all_shards(ledger: Ledger) -> None:
    assert [each["asset"] for each in answered("owned", ledger.path, "--tenant", "shop")["assets"]] == [hex_of(SONG)]
    assert [each["since"] for each in answered("owned", ledger.path, "--owner", hex_of(BOB))["assets"]] == ["0/4"]
    assert answered("owned", ledger.path, "--owner", hex_of(ALICE))["assets"] == []
    then = answered("owned", ledger.path, "--owner", hex_of(ALICE), "--at", 3, "--shard", 0)
    assert [each["asset"] for each in then["assets"]] == [hex_of(PICTURE)]


def test_what_paid_for_a_transfer_is_told(ledger: Ledger) -> None:
    told = answered("paid", ledger.path, hex_of(SOLD))
    assert told["transfer"]["asset"] == hex_of(PICTURE)
    assert [(each["amount"], each["state"]) for each in told["others"]] == [(100, "happened")]
    shown = audit("paid", ledger.path, hex_of(SOLD))
    assert (shown.exit_code, "100" in shown.stdout, "happened" in shown.stdout) == (0, True, True)


def test_what_changed_between_two_checkpoints_is_told_with_its_proof(ledger: Ledger) -> None:
    told = answered("changed", ledger.path, ledger.path / "old-0", ledger.path / "new-0", "--shard", 0)
    assert told["num_entries"] == {"money": 1, "ownership": 1}
    assert told["money"] == {"1": {"transferred": 100, "held": 0, "released": 0}}
    assert [each["asset"] for each in told["owners"]] == [hex_of(PICTURE)]
    assert len(told["proof"]) > 0


def test_every_question_is_answered_as_text_too(ledger: Ledger) -> None:
    for args, said in (
        (("balance", ledger.path, "--shard", 0, "--accounts", 2), ("balanced", "True", hex_of(ALICE)[:8])),
        (("owner", ledger.path, hex_of(PICTURE)), (hex_of(BOB), "0/4")),
        (("owned", ledger.path, "--tenant", "shop"), ("1/0",)),
        (("changed", ledger.path, "3", "5", "--shard", 0), ("ownership", "transferred", "new owners")),
        (("lineage", ledger.path, hex_of(PRINT)), ("derivation", "1/1", "0/2")),
        (("existed", ledger.path, hex_of(SONG), "--before", "2100-01-01T00:00:00Z"), ("the log's own word",)),
        (("kept", ledger.path, "3", "--shard", 0), ("kept", "3 entries", "5 entries")),
    ):
        ran = audit(*args)
        assert ran.exit_code == 0, ran.output
        assert [each for each in said if each not in ran.stdout] == [], args


# ---- proofs that leave the ledger


def test_a_lineage_is_proved_to_who_has_only_the_file_and_the_keys(ledger: Ledger, tmp_path: Path) -> None:
    proof, keys = tmp_path / "lineage", ledger.path / "verifier.keys"
    told = answered("lineage", ledger.path, hex_of(PRINT), "--proof", proof)
    assert [node["place"] for node in told["nodes"]] == [[1, 1], [0, 2], [1, 0]]
    checked = answered("check-lineage", proof, "--key", keys)
    assert (checked["verified"], checked["nodes"], checked["others"]) == (True, told["nodes"], [])
    assert refused("check-lineage", proof, "--key", keys, "--down")["code"] == "receipt_invalid"
    proof.write_text(proof.read_text().replace("index 2", "index 1"))
    assert refused("check-lineage", proof, "--key", keys)["code"] == "receipt_invalid"


def test_descendants_are_found_in_the_other_shard(ledger: Ledger, tmp_path: Path) -> None:
    told = answered("lineage", ledger.path, hex_of(PICTURE), "--down", "--proof", tmp_path / "down")
    assert [node["place"] for node in told["nodes"]] == [[0, 2], [1, 1]]
    checked = answered("check-lineage", tmp_path / "down", "--down", "--key", ledger.path / "verifier.keys")
    assert checked["others"] == [[1, 0]]


def test_that_nothing_was_removed_is_proved_to_who_kept_an_old_checkpoint(ledger: Ledger, tmp_path: Path) -> None:
    proof, old, keys = tmp_path / "kept", ledger.path / "old-0", ledger.path / "verifier.keys"
    told = answered("kept", ledger.path, old, "--shard", 0, "--proof", proof)
    assert (told["kept"], told["old_signed"], told["new_signed"]) == (True, True, True)
    checked = answered("check-kept", proof, old, "--key", keys)
    assert (checked["old"]["tree_size"], checked["new"]["tree_size"]) == (3, 5)
    assert refused("check-kept", proof, ledger.path / "old-1", "--key", keys)["code"] == "log_mismatch"
    assert refused("kept", ledger.path, 3, 5, "--shard", 0, "--proof", proof)["where"] == "NEW"


def test_existence_is_proved_by_witnesses_to_who_believes_them(ledger: Ledger, tmp_path: Path) -> None:
    receipt, keys, policy = tmp_path / "receipt", ledger.path / "verifier.keys", ledger.path / "policy"
    asked = ("existed", ledger.path, hex_of(PICTURE), "--under", ledger.path / "new-0", "--policy", policy)
    told = answered(*asked, "--before", COSIGNED_S + 1, "--proof", receipt)
    assert (told["witnessed_s"], told["at"]) == (COSIGNED_S, "0/2")
    checked = ("check-existed", receipt, "--key", keys, "--policy", policy)
    assert answered(*checked, "--before", COSIGNED_S + 1)["existed"] is True
    assert "witnesses say" in refused(*checked, "--before", COSIGNED_S)["what"]
    assert "missing: witness.example/w1" in refused("existed", ledger.path, hex_of(PICTURE), "--policy", policy, "--before", COSIGNED_S)["what"]  # fmt: skip # noqa: E501


def test_that_a_file_existed_is_proved_by_the_receipt_of_its_entry(ledger: Ledger, tmp_path: Path) -> None:
    receipt, song = tmp_path / "receipt", tmp_path / "song"
    song.write_bytes(SUNG)
    answered("existed", ledger.path, hex_of(SONG), "--before", "2100-01-01T00:00:00Z", "--proof", receipt)
    checked = ("check-existed", receipt, "--key", ledger.path / "verifier.keys", "--before", "2100-01-01T00:00:00Z")
    assert answered(*checked, "--content", song)["content"] == str(song)
    assert "content" not in answered(*checked)
    song.write_bytes(SUNG + b"!")
    assert "the content is not the one that was recorded" in refused(*checked, "--content", song)["what"]
    assert refused(*checked, "--content", tmp_path / "no song")["where"] == str(tmp_path / "no song")


def test_whom_to_believe_is_said_once(ledger: Ledger, tmp_path: Path) -> None:
    proof, keys, policy = tmp_path / "lineage", ledger.path / "verifier.keys", tmp_path / "policy"
    answered("lineage", ledger.path, hex_of(PICTURE), "--proof", proof)
    policy.write_text(f"log {keys.read_text().splitlines()[0]}\nquorum none\n")
    assert refused("check-lineage", proof)["where"] == "--key"
    assert answered("check-lineage", proof, "--policy", policy) == answered("check-lineage", proof, "--key", keys)
    assert refused("check-lineage", proof, "--policy", policy, "--key", keys)["where"] == str(policy)
    only_witnesses = ("check-lineage", proof, "--policy", ledger.path / "policy")
    assert refused(*only_witnesses)["where"] == "--key"


def test_a_proof_is_of_the_checkpoint_that_it_was_made_for_whatever_comes_meanwhile(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner stores a new checkpoint after the command has read the newest one."""
    proof, old, keys = tmp_path / "kept", ledger.path / "old-0", ledger.path / "verifier.keys"
    with Reader.open(shard_path(ledger.path, 0)) as reader:
        newest = reader.checkpoint()
    notes = iter([old.read_text()] * 2)  # where the shard is opened, and where the checkpoint is asked for
    monkeypatch.setattr(Reader, "checkpoint", lambda self: next(notes, newest))
    told = answered("kept", ledger.path, old, "--shard", 0, "--proof", proof)
    assert told["new"]["tree_size"] == 3
    assert answered("check-kept", proof, old, "--key", keys)["new"]["tree_size"] == 3


def test_without_witnesses_existence_is_said_to_be_the_logs_word(ledger: Ledger) -> None:
    told = answered("existed", ledger.path, hex_of(PICTURE), "--before", START_NS // 10**9 + 1)
    assert told["witnessed_s"] is None
    error = refused("existed", ledger.path, hex_of(PICTURE), "--before", START_NS // 10**9)
    assert "the log says" in error["what"]


# ---- bad input


@pytest.mark.parametrize(
    ("args", "where"),
    [
        (("balance", "LEDGER"), "--shard"),
        (("balance", "LEDGER", "--shard", "7"), "--shard"),
        (("balance", "LEDGER", "--shard", "0", "--at", "nowhere"), "--at"),
        (("balance", "LEDGER", "--shard", "0", "--at", "99"), "ledger"),
        (("owner", "LEDGER", "abc"), "ASSET"),
        (("owner", "LEDGER", "ff" * 16), "ff" * 16),
        (("owner", "LEDGER", hex_of(PICTURE), "--at", "77"), "index"),
        (("owned", "LEDGER"), "--tenant, --owner"),
        (("owned", "LEDGER", "--tenant", "a", "--owner", "ff" * 16), "--tenant, --owner"),
        (("owned", "LEDGER", "--tenant", "shop", "--at", "0"), "--shard"),
        (("paid", "LEDGER", hex_of(PICTURE)), hex_of(PICTURE)),
        (("changed", "LEDGER", "5", "3", "--shard", "0"), "checkpoints"),
        (("existed", "LEDGER", hex_of(SONG), "--before", "yesterday"), "--before"),
        (("existed", "LEDGER", hex_of(SONG), "--before", "2026-01-01T00:00:00"), "--before"),
        (("lineage", "LEDGER", "no id"), "ENTRY"),
        (("owner", "LEDGER", hex_of(PICTURE), "--shard", "1"), hex_of(PICTURE)),
        (("owner", "LEDGER", hex_of(PICTURE), "--shard", "7"), "--shard"),
        (("owned", "LEDGER", "--tenant", "nobody", "--shard", "0", "--at", "99"), "index"),
        (("kept", "LEDGER", "x" * 5_000, "--shard", "0"), "OLD"),
        (("kept", "LEDGER", ".", "--shard", "0"), "OLD"),
        (("kept", "LEDGER", "9" * 19, "--shard", "0"), "ledger"),
    ],
)
def test_bad_input_is_one_error_that_says_where(ledger: Ledger, args: tuple[str, ...], where: str) -> None:
    named = [str(ledger.path) if arg == "LEDGER" else arg for arg in args]
    assert refused(*named)["where"] == where


def test_a_directory_without_a_ledger_and_a_key_file_that_cannot_be_used_are_named(
    ledger: Ledger, tmp_path: Path
) -> None:
    assert refused("owner", tmp_path, hex_of(PICTURE))["where"] == str(tmp_path)
    missing, unlike = tmp_path / "keys", tmp_path / "unlike"
    assert refused("balance", ledger.path, "--shard", 0, "--key", missing)["where"] == str(missing)
    unlike.write_text(f"{WITNESS.key}\nno key\n")
    assert refused("balance", ledger.path, "--shard", 0, "--key", unlike)["where"] == f"{unlike}, line 2"
    error = refused("kept", ledger.path, ledger.path / "old-0", "--shard", 0, "--proof", tmp_path / "no" / "where")
    assert error["where"] == str(tmp_path / "no" / "where")


def test_a_checkpoint_that_a_stranger_has_signed_is_not_believed(ledger: Ledger, tmp_path: Path) -> None:
    forged = tmp_path / "checkpoint"
    text = (ledger.path / "old-0").read_text().partition("\n\n")[0] + "\n"
    forged.write_text(Signer(f"{LOG}/shard-0", b"x" * 32).sign(text))
    assert refused("balance", ledger.path, "--shard", 0, "--at", forged)["code"] == "receipt_invalid"


def test_an_id_in_two_shards_is_answered_for_the_one_that_is_named(tmp_path: Path) -> None:
    opened = Ledger(tmp_path / "ledger")
    for number in opened.shards:
        opened.record(number, asset(PICTURE, ALICE), ownership(SOLD, PICTURE, ALICE, BOB))
    opened.close()
    for command, number, options in (
        ("owner", PICTURE, ()),
        ("paid", SOLD, ()),
        ("lineage", PICTURE, ()),
        ("existed", PICTURE, ("--before", START_NS)),
    ):
        asked = (command, opened.path, hex_of(number), *options)
        assert "shards 0, 1 have entries" in refused(*asked)["what"]
        told = [json.dumps(answered(*asked, "--shard", shard)) for shard in (0, 1)]
        assert told[0] != told[1]


def test_a_copy_beside_the_shards_is_not_asked_and_one_in_a_shards_place_is_refused(
    ledger: Ledger, tmp_path: Path
) -> None:
    own = tmp_path / "ledger"
    shutil.copytree(ledger.path, own)
    shutil.copytree(shard_path(own, 0), own / "shard-000.old")
    expected = answered("owner", ledger.path, hex_of(PICTURE))
    assert answered("owner", own, hex_of(PICTURE)) == expected
    shutil.rmtree(shard_path(own, 0))
    shutil.copytree(shard_path(own, 1), shard_path(own, 0))
    error = refused("owner", own, hex_of(PICTURE))
    assert (error["code"], error["where"]) == ("log_mismatch", str(shard_path(own, 0)))


def test_an_older_copy_of_a_shard_is_said_to_lack_the_parent(ledger: Ledger, tmp_path: Path) -> None:
    own = tmp_path / "ledger"
    shutil.copytree(ledger.path, own)
    shutil.rmtree(shard_path(own, 0))
    Ledger(tmp_path / "younger", 1).close()
    shutil.copytree(shard_path(tmp_path / "younger", 0), shard_path(own, 0))
    error = refused("lineage", own, hex_of(PRINT))
    assert (error["code"], error["where"]) == ("not_found", "0/2")


def test_an_adopted_shard_is_asked_like_the_others(ledger: Ledger, tmp_path: Path) -> None:
    own, edge = tmp_path / "ledger", tmp_path / "edge"
    shutil.copytree(ledger.path, own)
    signer = edge_signer(edge, LOG, 7)
    with Shard.open(shard_path(edge, 7), 7, signer, lambda: START_NS, entropy=lambda size: b"e" * size) as shard:
        shard.cover(0, 3)
        crop = Entry(kind=Kind.DERIVATION, id=id_of(CROP), owner=id_of(CAROL), parents=((0, 2),))
        assert not shard.append(from_bytes(encode(crop))).results.any()
    shutil.copytree(shard_path(edge, 7), shard_path(own / ADOPTED_DIR, 7))
    assert [node["place"] for node in answered("lineage", own, hex_of(CROP))["nodes"]] == [[7, 0], [0, 2]]
    assert answered("owned", own, "--owner", hex_of(CAROL))["assets"][-1]["since"] == "7/0"
    asked = ("kept", own, 0, "--shard", 7)
    assert refused(*asked)["code"] == "receipt_invalid", "its key is not among the ledger's own"
    assert answered(*asked, "--key", edge / "verifier.keys")["new"]["tree_size"] == 1


def test_the_exit_codes_are_in_the_help() -> None:
    shown = audit("--help").stdout
    assert [code for code in ("0: answered", "1: it is not", "2: no such command") if code not in shown] == []


def test_an_unknown_option_is_exit_code_2(ledger: Ledger) -> None:
    assert audit("balance", ledger.path, "--sharp", 0).exit_code == 2


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [("0", 0), ("12", 12 * 10**9), ("1970-01-01T00:00:01Z", 10**9), ("1970-01-01T01:00:00.000002+01:00", 2_000)],
)
def test_a_time_is_read_exactly(text: str, time_ns: int) -> None:
    assert parse_time_ns(text, "--before") == time_ns


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="time zone"):
        parse_time_ns("2026-01-01", "--before")


# ---- beside the owner


def test_an_auditor_in_another_process_asks_while_the_owner_has_the_ledger(tmp_path: Path) -> None:
    opened = Ledger(tmp_path / "ledger", 1)
    opened.record(0, account(ALICE), account(BOB), asset(PICTURE, ALICE))
    program = "from actors.audit import audit_app; audit_app()"
    asked = [sys.executable, "-c", program, "balance", str(opened.path), "--json"]
    first = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    opened.record(0, money(60, BOB, ALICE, 7))
    second = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    checkpoint = open_checkpoint(opened.shards[0].checkpoint(), opened.policy.log_keys)
    opened.close()
    posted = [json.loads(ran.stdout)["currencies"]["1"]["debits_posted"] for ran in (first, second)]
    assert posted == [0, 7]
    assert json.loads(second.stdout)["checkpoint"]["root"] == checkpoint.root.hex()
