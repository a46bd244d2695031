"""A shop's product list: a CSV file in, plain products out, or one error that names every cell to mend.

A user mends a file in an editor, not in a debugger: so the whole file is read before anything is refused, and each
problem names its row (the line of the file, the header being row 1, as spreadsheets count) and its column. Turned
down: guessing the encoding or the delimiter. A wrong guess turns into wrong copy; an error turns into a mended file.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from engine.admission import control_character, has_markup
from engine.errors import InvalidRequest
from gate.numbers import CURRENCY_CODES

COLUMNS = (
    "sku",
    "gender",
    "category",
    "subcategory",
    "article",
    "colour",
    "season",
    "year",
    "usage",
    "name",
    "material",
    "price",
    "size",
)
REQUIRED_COLUMNS = ("sku", "article", "colour", "name")
# A product may have no colour (a clear gloss), so that the column must be there and its cell may be empty.
REQUIRED_CELLS = ("sku", "article", "name")
# What files products away in a shop; a writer who is told it repeats it.
NOT_FOR_WRITERS = frozenset({"sku", "category", "subcategory", "year"})

CELL_CHARS_MAX = 200
LINE_BYTES_MAX = 64 * 1024
ROWS_MAX = 1_000_000
PROBLEMS_MAX = 20

# Three decimals at most: no currency of ISO 4217 that shops use has more.
_PRICE = re.compile(r"\d{1,12}(?:\.\d{1,3})? ([A-Z]{3})", re.ASCII)
_YEAR = re.compile(r"\d{4}", re.ASCII)
_BOM = b"\xef\xbb\xbf"


class Product(msgspec.Struct, frozen=True):
    """One row. `facts` holds the cells that are not empty, by column name; `row` is its line in the file."""

    sku: str
    facts: dict[str, str]
    row: int


class _Problem(NamedTuple):
    row: int  # 0: the file as a whole
    column: str  # empty: the row as a whole
    what: str
    fix: str

    def place(self) -> str:
        parts = (f"row {self.row}" if self.row else "", f"column {self.column}" if self.column else "")
        return ", ".join(filter(None, parts))


class _Stop(Exception):
    """Reading on would only report consequences of what is already reported, or the limit of problems is reached."""


class _Problems:
    """What is wrong with one file, in the order of its lines, up to PROBLEMS_MAX."""

    def __init__(self) -> None:
        self.found: list[_Problem] = []

    def add(self, row: int, column: str, what: str, fix: str) -> None:
        self.found.append(_Problem(row, column, what, fix))
        if len(self.found) == PROBLEMS_MAX:
            raise _Stop

    def raise_if_any(self, path: Path) -> None:
        if not self.found:
            return
        first, *others = self.found
        what, fix = first.what, first.fix
        if others:
            what += "".join(f"; {problem.place()}: {problem.what}" for problem in others)
            fix = f"Mend the {len(self.found)} places named and load the file again."
        if len(self.found) == PROBLEMS_MAX:
            what += f"; reading stopped after {PROBLEMS_MAX} problems"
        raise InvalidRequest(what, where=", ".join(filter(None, (str(path), first.place()))), fix=fix)


def load(path: Path) -> list[Product]:
    """Read a catalogue: UTF-8 CSV (with or without byte order mark, LF or CRLF) whose first row names the columns.

    Blanks around a cell are dropped; a cell of blanks is empty. Blank lines are passed over.

    Returns:
        The products in file order; a header without rows gives an empty list.
    Raises:
        InvalidRequest: the file cannot be read, or breaks a rule: the first problem is in `where`, `what` and `fix`,
            the others (up to PROBLEMS_MAX in all) follow in `what`. Nothing is loaded then.
    Cost: one pass, one line in memory at a time besides the result; about 15 us a row.
    """
    problems = _Problems()
    products: list[Product] = []
    try:
        with open(path, "rb") as file:
            products = _read(file, problems)
    except OSError as error:
        problems.add(0, "", f"cannot be read: {error.strerror}", "Give the path of a readable CSV file.")
    except _Stop:
        pass
    problems.raise_if_any(path)
    return products


def brief_facts(product: Product) -> dict[str, str]:
    """What a writer is told of a product: its facts without NOT_FOR_WRITERS, values as they are."""
    return {column: value for column, value in product.facts.items() if column not in NOT_FOR_WRITERS}


def _read(file: BinaryIO, problems: _Problems) -> list[Product]:
    records = _records(file, problems)
    header_row, header = next(records, (1, []))
    if not header:
        problems.add(0, "", "the file is empty", f"Begin it with a header row: {','.join(REQUIRED_COLUMNS)},...")
        return []
    header = [name.strip(" ") for name in header]
    _check_header(header_row, header, problems)
    products: list[Product] = []
    first_rows: dict[str, int] = {}
    for row, cells in records:
        product = _product(row, header, cells, problems)
        if product is None:
            continue
        if product.sku in first_rows:
            what = f'sku "{product.sku}" was given before, in row {first_rows[product.sku]}'
            problems.add(row, "sku", what, "Give every product a sku of its own.")
            continue
        first_rows[product.sku] = row
        products.append(product)
    return products


def _records(file: BinaryIO, problems: _Problems) -> Iterator[tuple[int, list[str]]]:
    """(row, cells) of every record that is not blank; a record over several lines counts as its first."""
    reader = csv.reader(_lines(file, problems), strict=True)
    while True:
        row = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fix = "Close every quote that opens a cell, and double the quotes inside it."
            problems.add(row, "", f"not a CSV row: {error}", fix)
            raise _Stop from error
        if cells:
            yield row, cells


def _lines(file: BinaryIO, problems: _Problems) -> Iterator[str]:
    """The decoded lines. One that is not UTF-8 is reported and goes on with replacement marks: the rows stay."""
    offset = 0
    for row in range(1, ROWS_MAX + 2):
        line = file.readline(LINE_BYTES_MAX + 1)
        if not line:
            return
        if len(line) > LINE_BYTES_MAX:
            problems.add(row, "", f"a line of over {LINE_BYTES_MAX} bytes", "End every row with a line break.")
            raise _Stop
        bom_bytes = len(_BOM) if row == 1 and line.startswith(_BOM) else 0
        yield _decoded(line[bom_bytes:], row, offset + bom_bytes, problems)
        offset += len(line)
    if file.read(1):
        problems.add(ROWS_MAX + 2, "", f"over {ROWS_MAX} products", "Cut the file into smaller ones.")
        raise _Stop


def _decoded(line: bytes, row: int, offset: int, problems: _Problems) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start
        what = f"not UTF-8: byte 0x{line[error.start]:02x} at offset {at} of the file"
        problems.add(row, "", what, 'Save the file as "CSV UTF-8" and load it again.')
        return line.decode("utf-8", errors="replace")


def _check_header(row: int, header: list[str], problems: _Problems) -> None:
    """Report what is wrong with the header, and stop there: rows cannot be read without it."""
    found_before = len(problems.found)
    if not set(header) & set(COLUMNS):
        what = f'no header row: "{_short(header[0])}" is not a column name'
        problems.add(row, "", what, f"Name the columns in the first row, from: {', '.join(COLUMNS)}.")
        raise _Stop
    for place, name in enumerate(header):
        if name not in COLUMNS:
            what = f'unknown column "{_short(name)}"'
            problems.add(row, _short(name), what, f"Remove or rename it; known are: {', '.join(COLUMNS)}.")
        elif name in header[:place]:
            problems.add(row, name, f'column "{name}" is named twice', "Keep one of the two.")
    for name in REQUIRED_COLUMNS:
        if name not in header:
            problems.add(row, name, f'column "{name}" is missing', "Add it to the header and to every row.")
    if len(problems.found) > found_before:
        raise _Stop


def _product(row: int, header: list[str], cells: list[str], problems: _Problems) -> Product | None:
    """The product of a record; None when its cells cannot be told apart or it has no sku (both reported)."""
    if len(cells) != len(header):
        what = f"{len(cells)} cells where the header names {len(header)} columns"
        problems.add(row, "", what, "Quote cells that hold a comma, and give every column a cell.")
        return None
    facts: dict[str, str] = {}
    for column, cell in zip(header, cells, strict=True):
        value = cell.strip()
        _check_cell(row, column, value, problems)
        if value:
            facts[column] = value
    return Product(facts["sku"], facts, row) if "sku" in facts else None


def _check_cell(row: int, column: str, value: str, problems: _Problems) -> None:
    if not value:
        if column in REQUIRED_CELLS:
            problems.add(row, column, f"{column} is empty", f"Give every product a {column}.")
    elif (control := control_character(value)) is not None:
        what = f"control character U+{ord(value[control]):04X} at character {control + 1}"
        problems.add(row, column, what, "Remove it; a cell is one line of plain text.")
    elif has_markup(value):
        problems.add(row, column, "chat markup in the cell", "Write it without '<|' and '|>'.")
    elif len(value) > CELL_CHARS_MAX:
        what = f"{len(value)} characters where {CELL_CHARS_MAX} are allowed"
        problems.add(row, column, what, "Shorten the cell.")
    elif column == "price" and not _is_price(value):
        what = f'price "{value}" is not an amount and an ISO 4217 currency'
        problems.add(row, column, what, 'Write it like "49.00 EUR".')
    elif column == "year" and not _YEAR.fullmatch(value):
        problems.add(row, column, f'year "{value}" is not four digits', 'Write it like "2026".')


def _is_price(value: str) -> bool:
    price = _PRICE.fullmatch(value)
    return price is not None and price[1] in CURRENCY_CODES


def _short(name: str) -> str:
    """A name that came from the file, safe to print."""
    return "".join("?" if control_character(char) is not None else char for char in name[:40])
