"""The papers' tables run on a folder of pairs, reduced, and say so."""

import re
import subprocess
import sys
from pathlib import Path

from pairs import write_samples

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_papers_prints_tables_and_draws(tmp_path):
    write_samples(tmp_path / "data", ["a"])
    options = ("--crop", "32", "--steps", "2", "--threads", "1", "--tables", "Table 1: depth, x4", "Table 2")
    command = [sys.executable, str(BENCHMARKS / "papers.py"), str(tmp_path / "data"), "-o", str(tmp_path / "out")]
    printed = subprocess.run([*command, *options], check=True, capture_output=True, text=True, timeout=900).stdout
    assert len(printed.splitlines()) == 4 + 4  # nothing is run twice
    text = (tmp_path / "out" / "papers.md").read_text()
    assert text.startswith("REDUCED: the middle 32 x 32 pixels of a pair, 2 of 1000 steps")
    assert "### Table 1: depth, x4, 1 pair" in text
    (error,) = re.findall(r"x4 a: bicubic default: ([\d.]+),", printed)
    assert f"| bicubic | {float(error):.4g} |" in text
    assert re.search(r"\| Model3: both, 11/11 \| [\d.]+ \| [\d.]+ \| 3.67 \|", text)
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert set(pictures) == {"Table_1_x4.png", "Table_2_x8.png", "features.png"}
    assert all(data.startswith(b"\x89PNG") for data in pictures.values())


def test_cmsr_prints_its_two_tables_and_that_they_are_reduced(tmp_path):
    write_samples(tmp_path, ["a", "b"], side=32)
    command = [sys.executable, str(BENCHMARKS / "cmsr.py"), str(tmp_path), "--only", "b", "--steps", "1"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout
    assert printed.startswith("REDUCED: x4, b; 1 of 800 steps a stage")
    assert len(re.findall(r"^\| (?:0|0\.\d|1) \| [\d.]+ \| [\d.]+ \|$", printed, re.MULTILINE)) == 8
    row = r"^\| moved \| 5.00 \| [\d.]+ \| 5.00 \| [\d.]+ \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \|$"
    moved = re.search(row, printed, re.MULTILINE)
    assert moved is not None
    assert all(4.5 < float(off) < 5.5 for off in moved.groups())
