"""Benchmarks that draw or parse run on synthetic pairs, reduced; those of the papers say that they are."""

import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pairs import write_samples

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(script, *options):
    """What a script printed."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, options)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout


def test_papers_prints_tables_and_draws(tmp_path):
    write_samples(tmp_path / "data", ["a"])
    options = ("--crop", "32", "--steps", "2", "--threads", "1", "--tables", "Table 1: depth, x4", "Table 2")
    models = ("--models", "bicubic", "diffusion", "MMSR", "Model")  # not the default, whose steps stay what they are
    printed = benchmark("papers.py", tmp_path / "data", "-o", tmp_path / "out", *options, *models)
    assert len(printed.splitlines()) == 3 + 5  # nothing is run twice; Table 2 needs bicubic as well
    text = (tmp_path / "out" / "papers.md").read_text()
    assert text.startswith("REDUCED: the middle 32 x 32 pixels of a pair, 2 of 1000 steps")
    assert "### Table 1: depth, x4, 1 pair" in text
    errors = dict(re.findall(r"x4 depth a: (\w+) default: ([\d.]+),", printed))
    bicubic, diffusion = (float(errors[name]) for name in ("bicubic", "diffusion"))
    assert f"| bicubic | {bicubic:.4g} | {bicubic:.4g} | 1 |" in text
    (ratio,) = re.findall(rf"\| diffusion \| {diffusion:.4g} \| [\d.]+ \| ([\d.]+) \|", text)
    assert abs(float(ratio) - diffusion / bicubic) < 0.01
    assert re.search(r"\| Model3: both, 11/11 \| [\d.]+ \| [\d.]+ \| [\d.]+ \| 3.67 \|", text)
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


@pytest.fixture
def gpu_commands(monkeypatch):
    """The script as a module; its commands only say something and end with a code."""
    for folder in (BENCHMARKS, BENCHMARKS.parent / "examples"):
        monkeypatch.syspath_prepend(folder)
    module = importlib.import_module("gpu_commands")
    monkeypatch.setattr(module.Checks, "command", lambda self, name, options: [sys.executable, "-S", "-c", *options])
    return module


@pytest.fixture
def checks(gpu_commands, tmp_path):
    return gpu_commands.Checks(tmp_path / "dsm.tif", tmp_path / "ortho.tif", None, tmp_path, os.environ)


def test_the_gpus_commands_are_this_repositorys_and_need_no_installation(gpu_commands, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    look = "import geosr, geosr_cli; print(geosr.__file__, geosr_cli.__file__)"
    with gpu_commands.importable() as environment:
        command = [sys.executable, "-S", "-c", look]  # without site-packages, where an installed one would be
        done = subprocess.run(command, env=dict(environment), cwd="/", check=True, capture_output=True, text=True)
    geosr, cli = map(Path, done.stdout.split())
    assert geosr == BENCHMARKS.parent / "geosr" / "__init__.py"
    assert cli.parts[-2:] == ("geosr_cli", "__init__.py")


def test_a_gpu_command_that_fails_is_kept_and_nothing_earlier_passes_for_its_output(gpu_commands, checks, monkeypatch):
    for name in ("first.tif", "second.tif", "second.json"):
        (checks.folder / name).write_text("of an earlier run")
    assert checks.run("second", ["print('a note'); raise SystemExit(4)"], same_as="first") is None
    assert checks.failures == ["second: exit code 0 and a report", "second: the bytes of first"]
    monkeypatch.setattr(gpu_commands, "LIMIT", 0.2)
    start = time.monotonic()
    assert checks.run("slow", ["import time; time.sleep(60)"]) is None
    assert checks.failures[2:] == ["slow: exit code 0 and a report"]
    assert time.monotonic() - start < 30


def test_a_gpu_command_that_ends_before_it_is_killed_resumes_nothing(checks):
    checks.killed("killed", ["pass"], batch=4, workers=1, same_as="together")
    assert "killed: in work when more than 4 tiles were done" in checks.failures
    assert "killed: whole batches are resumed, and there are 0 tiles" in checks.failures


def test_a_card_whose_memory_cannot_be_held_is_a_failure(gpu_commands, checks, monkeypatch):
    monkeypatch.setattr(gpu_commands, "HOLD", "raise SystemExit(1)")
    gpu_commands.check_little_memory(checks, 3.0, ["pass"])
    assert checks.failures[1:] == ["little-memory: a second process holds the card's memory"]


def test_the_curve_of_error_against_seconds_is_drawn_from_what_middlebury_prints(tmp_path):
    write_samples(tmp_path / "data", ["a", "b"])
    settings = ("epochs=6", "channels=4", "belief=full")  # judged, a fit that comes to nothing ends before a look
    changes = (part for setting in settings for part in ("--set", setting))
    small = ("--data", tmp_path / "data", "--threads", "1", "--trace", "2", *changes)
    logs = {}
    for label, *preset in (("paper", "--preset", "paper-depth"), ("default",)):
        logs[label] = benchmark("middlebury.py", *small, *preset)
        (tmp_path / label).write_text(logs[label])
    given = [f"{label}={tmp_path / label}" for label in logs]
    printed = benchmark("curve.py", *given, "-o", tmp_path / "curve.png").splitlines()
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [line.split(" | ")[:2] for line in printed[2:]] == [
        ["| a", "paper"], ["| a", "default"], ["| b", "paper"], ["| b", "default"]
    ]  # fmt: skip
    for line in printed[2:]:
        image, label, seconds, raw, exact = line.strip("| ").split(" | ")[:5]
        assert f"{raw} | {exact} | {seconds} |" in logs[label]
        assert len(re.findall(rf"^{image} \d: ", logs[label], re.MULTILINE)) == 3
    paper = printed[2].strip("| ").split(" | ")
    looks = re.findall(r"^a \d: .* projected (\S+) (\S+) s$", logs["paper"], re.MULTILINE)
    looks.append((paper[4], paper[2]))  # the answer
    assert paper[6] == next(seconds for rmse, seconds in looks if float(rmse) <= float(paper[4]))
