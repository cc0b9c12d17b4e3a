"""The table's four forms say the same."""

import csv
import io
import json

import pytest

from geosr.errors import OutputError, UsageError
from geosr.tables import Table, as_json, check_files, write_files

TABLE = Table(("name", "a|b", "n"), (("x|y", 1 / 3, 5), ("long name", None, 12345)))


def test_lines_align_text_left_and_numbers_right():
    assert TABLE.lines() == ["name          a|b      n", "x|y        0.3333      5", "long name          12345"]


def test_csv_is_in_full_and_markdown_escapes_bars():
    rows = [*csv.reader(io.StringIO(TABLE.csv()))]
    assert rows[0] == ["name", "a|b", "n"]
    assert float(rows[1][1]) == 1 / 3
    assert rows[2] == ["long name", "", "12345"]
    assert TABLE.markdown().splitlines()[0] == "| name | a\\|b | n |"
    assert TABLE.markdown().splitlines()[2] == "| x\\|y | 0.3333 | 5 |"


def test_a_row_is_one_line_whatever_is_in_its_cells():
    table = Table(("why", "n"), (("no room\non the disk\r\n", 1), ("", 2)))
    assert table.lines() == ["why                    n", "no room / on the disk  1", "                       2"]
    assert table.markdown().splitlines()[2:] == ["| no room / on the disk | 1 |", "|  | 2 |"]
    assert [*csv.reader(io.StringIO(table.csv()))][1] == ["no room\non the disk\r\n", "1"]


def test_json_has_no_nan():
    assert json.loads(as_json({"a": float("nan"), "b": (1.5, {"c": float("inf")})})) == {
        "a": None,
        "b": [1.5, {"c": None}],
    }


def test_files_are_checked_before_and_written(tmp_path):
    files = {"json": tmp_path / "a.json", "csv": None, "markdown": tmp_path / "a.md"}
    check_files(files)
    write_files(files, TABLE, {"x": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.md"]
    with pytest.raises(UsageError, match=r"ends in \.csv"):
        check_files({"csv": tmp_path / "a.json"})
    with pytest.raises(OutputError, match="does not exist"):
        check_files({"csv": tmp_path / "nowhere" / "a.csv"})
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_files({"csv": tmp_path / "folder.csv"})


def test_a_link_is_followed_and_kept(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.csv").symlink_to(tmp_path / "elsewhere" / "b.csv")
    write_files({"csv": tmp_path / "a.csv"}, TABLE, {})
    assert (tmp_path / "a.csv").is_symlink()
    assert (tmp_path / "elsewhere" / "b.csv").read_text() == TABLE.csv()
