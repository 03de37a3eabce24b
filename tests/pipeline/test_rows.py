"""Rows of files and their locations, out of every format, good and broken."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignpipe.errors import DataError
from alignpipe.rows import Broken, format_of, read_rows

ROWS = [{"prompt": "Où ça ?", "n": 1}, {"prompt": '二つ\nlines, "quoted"', "n": 2}]


def read(path: Path) -> list[tuple[str, object]]:
    """All rows with their places, broken ones as their reason."""
    return [(place, row.reason if isinstance(row, Broken) else row) for place, row in read_rows(path, shown=path.name)]


def test_json_lines_with_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    lines = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert read(tmp_path / "a.jsonl") == [("a.jsonl:1", ROWS[0]), ("a.jsonl:3", ROWS[1])]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.ndjson", "a.json", "zipped_but_not_named_so.jsonl"])
def test_json_lines_under_other_names(tmp_path: Path, name: str) -> None:
    data = "\n".join(json.dumps(row) for row in ROWS).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if "z" in name else data)
    assert read(tmp_path / name) == [(f"{name}:1", ROWS[0]), (f"{name}:2", ROWS[1])]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_json_array_rows_have_the_line_they_begin_on(tmp_path: Path, name: str) -> None:
    data = json.dumps(ROWS, indent=1).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read(tmp_path / name) == [(f"{name}:2", ROWS[0]), (f"{name}:6", ROWS[1])]


def test_an_empty_json_array_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[ ]\n")
    assert read(tmp_path / "a.json") == []


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (
            '[{"a": 1},\n {"b": }]',
            "a.json:2",
            "is no JSON: Expecting value at character 8; the rest of the file is lost",
        ),
        ('[{"a": 1}\n {"b": 2}]', "a.json:1", "is followed by neither"),
        ('[{"a": 1}', "a.json:1", "is followed by neither"),
        ('[{"a": 1}] x', "a.json:1", "is the end of the array, but more follows"),
    ],
)
def test_a_broken_json_array_keeps_what_came_before(tmp_path: Path, text: str, place: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(text)
    found = read(tmp_path / "a.json")
    assert found[0] == ("a.json:1", {"a": 1})
    assert found[1][0] == place
    assert reason in str(found[1][1])
    assert len(found) == 2


def test_broken_json_lines_do_not_hide_the_good_ones(tmp_path: Path) -> None:
    deep = "[" * 100_000
    number = '{"a": ' + "1" * 5000 + "}"
    lines = [
        b'{"a": 1}',
        b'{"a": ',
        b"[1]",
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        deep.encode(),
        number.encode(),
        b'{"a": 2}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = read(tmp_path / "a.jsonl")
    assert [row for _, row in found if isinstance(row, dict)] == [{"a": 1}, {"a": 2}]
    assert found[1] == ("a.jsonl:2", "is no JSON: Expecting value at character 6")
    assert found[2] == ("a.jsonl:3", "is a list, not an object with columns")
    assert found[3] == ("a.jsonl:4", "has text that is no valid UTF-8")
    assert found[4] == ("a.jsonl:5", "has text that is no valid UTF-8")
    assert "is no JSON" in str(found[5][1])
    assert "is no JSON" in str(found[6][1])


@pytest.mark.parametrize(("name", "comma"), [("a.csv", ","), ("a.tsv", "\t")])
def test_csv_with_quotes_line_breaks_and_unicode(tmp_path: Path, name: str, comma: str) -> None:
    text = f'prompt{comma}n\nOù ça ?{comma}1\n\n"two\nlines, ""quoted"""{comma}2\nlast{comma}3\n'
    (tmp_path / name).write_text(text)
    assert read(tmp_path / name) == [
        (f"{name}:2", {"prompt": "Où ça ?", "n": "1"}),
        (f"{name}:4", {"prompt": 'two\nlines, "quoted"', "n": "2"}),
        (f"{name}:6", {"prompt": "last", "n": "3"}),
    ]


def test_a_csv_field_may_be_longer_than_the_csv_module_likes(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"prompt\n" + b"x" * 200_000 + b"\n"))
    ((_, row),) = read(tmp_path / "a.csv.gz")
    assert row == {"prompt": "x" * 200_000}


def test_csv_rows_with_the_wrong_number_of_fields_or_an_open_quote(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'a,b\n1\n1,2\n\xff,2\n1,"2\n')
    found = read(tmp_path / "a.csv")
    assert found[0] == ("a.csv:2", "has 1 fields where the header has 2")
    assert found[1] == ("a.csv:3", {"a": "1", "b": "2"})
    assert found[2] == ("a.csv:4", "has text that is no valid UTF-8")
    assert found[3][0] == "a.csv:5"
    assert "is no CSV" in str(found[3][1])


def test_a_csv_header_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"a"x,b\n1,2\n3,4\n')
    with pytest.raises(DataError, match=r"^a\.csv:1 is no CSV: .*; it must hold the names of the columns$"):
        read(tmp_path / "a.csv")


def test_a_csv_column_named_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataError, match=r"^a\.csv has two columns named 'a'"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz"])
def test_parquet(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "plain")
    data = (tmp_path / "plain").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read(tmp_path / name) == [(f"{name} row 1", ROWS[0]), (f"{name} row 2", ROWS[1])]


def test_what_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no parquet at all")
    with pytest.raises(DataError, match=r"^a\.parquet is no Parquet that can be read"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:30] + b"\0\0\0\0" + data[34:]])
def test_a_damaged_gzip_file(tmp_path: Path, damage: object) -> None:
    data = gzip.compress("".join(json.dumps({"a": n * 7919}) + "\n" for n in range(500)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(damage(data))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"^a\.jsonl\.gz is a damaged gzip file"):
        read(tmp_path / "a.jsonl.gz")


def test_what_is_in_a_file_is_told_by_its_ending() -> None:
    assert [format_of(Path(name)) for name in ("a.JSONL", "b.tsv.gz", "c.v2.parquet")] == ["jsonl", "tsv", "parquet"]
    with pytest.raises(DataError, match=r"what a\.txt holds is not known by its ending; use one of \.jsonl, \.ndjson"):
        format_of(Path("a.txt"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv.gz"])
@pytest.mark.parametrize(
    ("encoding", "mark"), [("UTF-16-le", "fffe"), ("UTF-16-be", "feff"), ("UTF-32-le", "fffe0000")]
)
def test_text_that_windows_tools_write_is_named(tmp_path: Path, name: str, encoding: str, mark: str) -> None:
    """As a whole, not as many broken rows of which data.malformed=skip would leave none."""
    data = bytes.fromhex(mark) + '{"prompt": "Hi"}\n'.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(DataError, match=rf"^{name} is {encoding[:6]} text; save it as UTF-8$"):
        read(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^cannot read a\.jsonl: No such file"):
        read(tmp_path / "a.jsonl")
