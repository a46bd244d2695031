"""The catalogue loader: what it reads, and what it says about a file that must be mended."""

import os
from pathlib import Path

import pytest

from engine import catalogue
from engine.catalogue import COLUMNS, PROBLEMS_MAX, Product, brief_facts, load
from engine.errors import ErrorBody, InvalidRequest

REPOSITORY = Path(__file__).resolve().parents[2]
OWN_CATALOGUE = REPOSITORY / "configs" / "catalogue.csv"
SHARED_CATALOGUE = Path(os.environ.get("MINTAGE_SHARED", REPOSITORY.parent / "shared")) / "data" / "catalogue.csv"

HEADER = "sku,article,colour,name,price,year\n"
GOOD_ROW = "A1,Mug,Blue,Mossgrave Blue Mug,16.50 EUR,2026\n"


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "shop.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path) -> ErrorBody:
    with pytest.raises(InvalidRequest) as caught:
        load(path)
    return caught.value.body


def test_a_row_becomes_a_product_with_its_filled_cells_and_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "A1,Mug, Blue ,Mossgrave Blue Mug,,2026\n")
    facts = {"sku": "A1", "article": "Mug", "colour": "Blue", "name": "Mossgrave Blue Mug", "year": "2026"}
    assert load(path) == [Product(sku="A1", facts=facts, row=2)]


def test_byte_order_mark_crlf_blank_lines_and_quoted_commas_are_read(tmp_path: Path) -> None:
    text = HEADER.strip() + "\r\n\r\n" + 'A1,Mug,Blue,"Mossgrave ""Dawn"", Blue Mug",16.50 EUR,2026\r\n\r\n'
    (product,) = load(written(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert product.facts["name"] == 'Mossgrave "Dawn", Blue Mug'
    assert product.row == 3


def test_a_header_alone_is_a_catalogue_without_products(tmp_path: Path) -> None:
    assert load(written(tmp_path, HEADER)) == []


def test_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    (product,) = load(written(tmp_path, "name,colour,sku,article\nBlue Mug,Blue,A1,Mug\n"))
    assert product.facts == {"name": "Blue Mug", "colour": "Blue", "sku": "A1", "article": "Mug"}


def test_a_product_may_have_no_colour_though_the_column_is_required(tmp_path: Path) -> None:
    (product,) = load(written(tmp_path, "sku,article,colour,name\nA1,Lip Gloss,,Clear Gloss\n"))
    assert "colour" not in product.facts


@pytest.mark.parametrize(
    ("row", "column", "what"),
    [
        (",Mug,Blue,Blue Mug,,", "sku", "sku is empty"),
        ("A1,,Blue,Blue Mug,,", "article", "article is empty"),
        ("A1,Mug,Blue,   ,,", "name", "name is empty"),
        ("A1,Mug,Bl\tue,Blue Mug,,", "colour", "control character U+0009 at character 3"),
        ("A1,Mug,Blue,Blue \u202e Mug,,", "name", "control character U+202E at character 6"),
        ("A1,Mug,Blue,Blue\u200b Mug,,", "name", "control character U+200B at character 5"),
        ("A1,Mug,Blue,Blue <|im_end|> Mug,,", "name", "chat markup in the cell"),
        ("A1,Mug,Blue," + "x" * 201 + ",,", "name", "201 characters where 200 are allowed"),
        ("A1,Mug,Blue,Blue Mug,49,", "price", 'price "49" is not an amount and an ISO 4217 currency'),
        ("A1,Mug,Blue,Blue Mug,49.00 ABC,", "price", 'price "49.00 ABC" is not an amount and an ISO 4217 currency'),
        ("A1,Mug,Blue,Blue Mug,€49.00,", "price", 'price "€49.00" is not an amount and an ISO 4217 currency'),
        ("A1,Mug,Blue,Blue Mug,,26", "year", 'year "26" is not four digits'),
        ("A1,Mug,Blue,Blue Mug,,２０２６", "year", 'year "２０２６" is not four digits'),
    ],
)
def test_a_bad_cell_is_named_by_file_row_and_column(tmp_path: Path, row: str, column: str, what: str) -> None:
    path = written(tmp_path, HEADER + GOOD_ROW.replace("A1", "A0") + row + "\n")
    body = refusal(path)
    assert (body.where, body.what) == (f"{path}, row 3, column {column}", what)
    assert body.fix


def test_a_name_of_exactly_the_length_allowed_is_read(tmp_path: Path) -> None:
    (product,) = load(written(tmp_path, HEADER + "A1,Mug,Blue," + "x" * 200 + ",,\n"))
    assert len(product.facts["name"]) == catalogue.CELL_CHARS_MAX


def test_a_sku_given_twice_names_the_first_row(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + GOOD_ROW + GOOD_ROW.replace("A1", "A2") + GOOD_ROW)
    body = refusal(path)
    assert body.where == f"{path}, row 4, column sku"
    assert body.what == 'sku "A1" was given before, in row 2'


@pytest.mark.parametrize("cells", ["A1,Mug,Blue", "A1,Mug,Blue,Blue Mug,,,more"])
def test_a_row_with_too_few_or_too_many_cells_is_refused(tmp_path: Path, cells: str) -> None:
    path = written(tmp_path, HEADER + cells + "\n")
    body = refusal(path)
    assert body.where == f"{path}, row 2"
    assert body.what == f"{cells.count(',') + 1} cells where the header names 6 columns"


def test_a_byte_that_is_not_utf8_is_named_by_offset_and_row(tmp_path: Path) -> None:
    good = (HEADER + GOOD_ROW).encode()
    path = written(tmp_path, good + "A2,Mug,Blue,Café Mug,,\n".encode("latin-1"))
    body = refusal(path)
    assert body.where == f"{path}, row 3"
    assert body.what == f"not UTF-8: byte 0xe9 at offset {len(good) + len('A2,Mug,Blue,Caf')} of the file"


def test_the_offset_of_a_bad_byte_counts_the_byte_order_mark(tmp_path: Path) -> None:
    body = refusal(written(tmp_path, b"\xef\xbb\xbfsku,\xff"))
    assert "offset 7 of the file" in body.what


def test_a_utf16_file_is_refused_as_not_utf8(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, (HEADER + GOOD_ROW).encode("utf-16"))).what.startswith("not UTF-8: byte 0xff")


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, content)
    body = refusal(path)
    assert (body.where, body.what) == (str(path), "the file is empty")


def test_a_file_that_is_not_there_is_refused_with_its_path(tmp_path: Path) -> None:
    body = refusal(tmp_path / "none.csv")
    assert body.where == str(tmp_path / "none.csv")
    assert "No such file" in body.what


def test_a_file_without_header_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD_ROW)
    body = refusal(path)
    assert (body.where, body.what) == (f"{path}, row 1", 'no header row: "A1" is not a column name')


def test_unknown_missing_and_repeated_columns_are_each_named(tmp_path: Path) -> None:
    path = written(tmp_path, "sku,color,name,name,article\n" + GOOD_ROW)
    body = refusal(path)
    assert body.where == f"{path}, row 1, column color"
    assert body.what == (
        'unknown column "color"; row 1, column name: column "name" is named twice; '
        'row 1, column colour: column "colour" is missing'
    )


def test_all_problems_are_reported_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [",Mug,Blue,Blue Mug,,", "A2,Mug,Blue,Blue Mug,free,", "A3,Mug"]
    path = written(tmp_path, HEADER + "\n".join(rows) + "\n")
    body = refusal(path)
    assert body.where == f"{path}, row 2, column sku"
    first, *others = body.what.split("; ")
    assert first == "sku is empty"
    assert [other.split(":")[0] for other in others] == ["row 3, column price", "row 4"]
    assert body.fix == "Mend the 3 places named and load the file again."


def test_reading_stops_at_the_limit_of_problems_and_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + ",Mug,Blue,Blue Mug,,\n" * (PROBLEMS_MAX + 5))
    body = refusal(path)
    assert body.what.count("sku is empty") == PROBLEMS_MAX
    assert body.what.endswith(f"reading stopped after {PROBLEMS_MAX} problems")


def test_a_quote_that_is_never_closed_is_refused_at_the_row_that_opens_it(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + GOOD_ROW + 'A2,Mug,Blue,"Blue Mug,,\n' + "A3,Mug,Blue,Blue Mug,,\n" * 3)
    body = refusal(path)
    assert body.where == f"{path}, row 3"
    assert body.what.startswith("not a CSV row")


def test_a_line_break_inside_a_cell_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + 'A2,Mug,Blue,"Blue\nMug",,\n')
    body = refusal(path)
    assert body.where == f"{path}, row 2, column name"
    assert body.what == "control character U+000A at character 5"


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "x" * (2 * catalogue.LINE_BYTES_MAX))
    body = refusal(path)
    assert body.where == f"{path}, row 2"
    assert body.what == f"a line of over {catalogue.LINE_BYTES_MAX} bytes"


def test_a_file_with_more_rows_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "ROWS_MAX", 2)
    rows = [GOOD_ROW.replace("A1", f"A{n}") for n in range(3)]
    assert len(load(written(tmp_path, HEADER + "".join(rows[:2])))) == 2
    assert refusal(written(tmp_path, HEADER + "".join(rows))).what == "over 2 products"


def test_the_writer_is_not_told_what_only_files_the_product() -> None:
    facts = {column: f"a {column}" for column in COLUMNS}
    told = brief_facts(Product(sku="A1", facts=facts, row=2))
    assert set(facts) - set(told) == {"sku", "category", "subcategory", "year"}
    assert all(told[column] == facts[column] for column in told)


def test_our_own_catalogue_loads_and_its_names_agree_with_its_facts() -> None:
    products = load(OWN_CATALOGUE)
    assert len(products) == 72
    assert len({product.facts["name"] for product in products}) == 72
    for product in products:
        name = product.facts["name"].lower()
        assert product.facts["article"].lower() in name, product
        assert product.facts["price"].endswith(" EUR"), product
        stated = [column for column in ("colour", "material") if product.facts.get(column, "").lower() in name]
        assert stated, product


def test_ten_thousand_real_products_load() -> None:
    if not SHARED_CATALOGUE.exists():
        pytest.skip(f"the shared product data is not at {SHARED_CATALOGUE}")
    products = load(SHARED_CATALOGUE)
    assert len(products) == 10_000
    assert products[0].row == 2
    assert all(product.facts["name"] and product.facts["article"] for product in products)
