"""Hostile files: nothing else is opened, run or connected to, memory stays bounded, text cannot reach terminals."""

from __future__ import annotations

import csv
import ctypes
import os
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
import rasters
from pairs import contents, geosr, make_pair, upscale

USAGE, INPUT, OUTPUT = 2, 3, 6


@pytest.fixture
def folder(tmp_path):
    make_pair(tmp_path)
    return tmp_path


@pytest.fixture
def listener():
    """An address on this machine, and the connections that were made to it."""
    server, connections = socket.create_server(("127.0.0.1", 0)), []

    def accept():
        while True:
            try:
                connections.append(server.accept()[0])
            except OSError:
                return
            connections[-1].close()

    thread = threading.Thread(target=accept)
    thread.start()
    yield f"127.0.0.1:{server.getsockname()[1]}", connections
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def python(code, *arguments, **environment):
    """A process of its own, from which hundreds of megabytes or a call of the shell would be seen."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    paths = os.pathsep.join([str(Path(__file__).parent), environment.pop("PYTHONPATH", "")])
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": paths} | environment,
    )


# --- files that point elsewhere ------------------------------------------------------------------------------

BAND = '<VRTDataset rasterXSize="24" rasterYSize="24"><VRTRasterBand dataType="Byte" band="1" {kind}</VRTRasterBand>'
VRTS = {
    "raw": 'subClass="VRTRawRasterBand"><SourceFilename relativetoVRT="0">{fifo}</SourceFilename>',
    "code": 'subClass="VRTDerivedRasterBand"><PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionType>f'
    "</PixelFunctionType><PixelFunctionCode><![CDATA[open({canary!r}, 'w')]]></PixelFunctionCode>",
    "network": "><SimpleSource><SourceFilename>/vsicurl/http://{address}/a.tif</SourceFilename></SimpleSource>",
    "itself": "><SimpleSource><SourceFilename>{path}</SourceFilename></SimpleSource>",
    "entities": "><Description>&b;</Description>",
}
DOCTYPE = '<!DOCTYPE x [<!ENTITY a "{}"><!ENTITY b "{}"><!ENTITY c SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("suffix", [".tif", ".vrt"])
@pytest.mark.parametrize("kind", VRTS)
def test_a_vrt_is_refused_and_nothing_that_it_names_is_touched(kind, suffix, folder, listener):
    address, connections = listener
    os.mkfifo(folder / "fifo")  # to open it would wait until the test's time is over
    path = folder / f"evil{suffix}"
    names = {"fifo": folder / "fifo", "canary": str(folder / "canary"), "address": address, "path": path}
    body = BAND.format(kind=VRTS[kind].format(**names)) + "</VRTDataset>"
    path.write_text((DOCTYPE.format("x" * 50, "&a;" * 50) if kind == "entities" else "") + body)
    before = contents(folder)
    for role in ("source", "guide"):
        outcome = upscale(folder, **{role: path.name})
        assert outcome.code == INPUT
        assert "XML (a VRT?), which may point at any other file" in outcome.err
    assert contents(folder) == before
    assert connections == []


@pytest.mark.parametrize(
    "form", ["http://{}/a.tif", "/vsicurl/http://{}/a.tif", "/vsizip/vsicurl/http://{}/a.zip/a.tif"]
)
def test_no_path_and_no_crs_connects_to_anything(form, folder, listener):
    address, connections = listener
    url = form.format(address)
    for role in ("--source", "--guide"):
        paths = {
            "--source": folder / "source.tif",
            "--guide": folder / "guide.tif",
            "-o": folder / "out.tif",
            role: url,
        }
        outcome = geosr("upscale", *(item for pair in paths.items() for item in pair))
        assert outcome.code == INPUT
        assert outcome.err.count("\n") == 1
    assert upscale(folder, "--assume-crs", url).code == USAGE
    assert connections == []


def test_a_fifo_is_not_waited_for(folder):
    os.mkfifo(folder / "fifo.tif")
    outcome = upscale(folder, source="fifo.tif")
    assert outcome.code == INPUT
    assert "fifo.tif: is not a regular file" in outcome.err


def test_settings_of_gdal_that_run_code_stop_the_command(folder):
    code = "from geosr_cli.main import main; import sys; sys.argv[0] = 'geosr'; main()"
    pair = ["upscale", "--source", folder / "source.tif", "--guide", folder / "guide.tif", "-o", folder / "out.tif"]
    for name, value in (("GDAL_VRT_ENABLE_PYTHON", "YES"), ("GDAL_DRIVER_PATH", str(folder))):
        done = python(code, *pair, "--method", "bicubic", **{name: value})
        assert done.returncode == USAGE
        assert done.stderr.startswith(f"Error: {name}")
    assert not (folder / "out.tif").exists()


WATCHED = """
import sys
watched = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn", "socket.connect",
           "socket.bind")
seen = []
sys.addaudithook(lambda name, arguments: seen.append((name, arguments)) if name in watched else None)
from geosr_cli.main import run
import torch, rasterio, pyproj
seen.clear()  # what libraries do as they are loaded
code = run(sys.argv[1:])
print(seen)
sys.exit(code)
"""


def test_a_run_starts_no_process_no_shell_and_no_connection(folder):
    shutil.move(folder / "source.tif", folder / "$(touch canary);`touch canary`.tif")
    odd = ["--source", folder / "$(touch canary);`touch canary`.tif", "--guide", folder / "guide.tif"]
    small = ["--set", "epochs=2", "--set", "channels=4", "--quiet"]
    done = python(WATCHED, "upscale", *odd, "-o", folder / "|touch canary.tif", *small)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert (folder / "|touch canary.tif").is_file()
    assert not [*folder.glob("**/canary")]


# --- rights ---------------------------------------------------------------------------------------------------


def as_others():
    """Root may read and write everywhere; without these two capabilities it may do what anybody may."""
    prctl = ctypes.CDLL(None).prctl
    for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; anybody else has none to drop


def run_as_others(folder, *arguments):
    command = [sys.executable, "-m", "geosr", *arguments]
    return subprocess.run(
        command, cwd=folder, preexec_fn=as_others, capture_output=True, text=True, timeout=120, check=False
    )


UPSCALE = ("upscale", "--source", "source.tif", "--guide", "guide.tif", "--method", "bicubic")


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.parametrize(
    ("closed", "mode", "code", "phrase"),
    [
        ("out", 0o500, OUTPUT, "cannot write in"),
        ("out", 0o000, OUTPUT, "cannot"),
        ("source.tif", 0o000, INPUT, "denied"),
    ],
)
def test_what_may_not_be_read_or_written(closed, mode, code, phrase, folder):
    (folder / "out").mkdir()
    (folder / closed).chmod(mode)
    done = run_as_others(folder, *UPSCALE, "-o", "out/a.tif")
    (folder / closed).chmod(0o700)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("Error: ")
    assert phrase in done.stderr
    assert done.stderr.count("\n") == 1
    assert [*(folder / "out").iterdir()] == []


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.parametrize(
    "command",
    [
        (*UPSCALE, "-o", "a.tif", "--report", "closed/a.json"),
        (*UPSCALE, "-o", "a.tif", "--uncertainty", "closed/a.tif"),
        ("batch", "--manifest", "pairs.csv", "-o", "{stem}_x4.tif", "--method", "bicubic", "--summary", "closed/a.csv"),
        ("train", "--pairs", "pairs.csv", "-o", "a.safetensors", "--log", "closed/a.csv"),
        ("compare", "source.tif", "guide.tif", "-o", "closed/a"),
    ],
    ids=lambda command: command[-2],
)
def test_a_folder_that_takes_no_files_is_found_out_before_the_work(command, folder):
    (folder / "pairs.csv").write_text("source,guide\nsource.tif,guide.tif\n")
    (folder / "closed").mkdir(mode=0o500)
    before = contents(folder)
    done = run_as_others(folder, *command)
    assert done.returncode == OUTPUT, done.stderr
    assert done.stderr == f"Error: cannot write in {folder / 'closed'}: Permission denied\n"
    assert contents(folder) == before


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.parametrize("how", ["--dry-run", "--scheduler=threads", "--scheduler=processes"])
def test_no_path_in_a_list_ends_the_batch(how, folder):
    (folder / "closed").mkdir()
    long = "x" * 300
    rows = {
        "closed output": ("source.tif", "guide.tif", "closed/a.tif"),
        "closed source": ("closed/source.tif", "guide.tif", "a.tif"),
        "closed guide": ("source.tif", "closed/guide.tif", "b.tif"),
        "long source": (f"y{long}.tif", "guide.tif", "c.tif"),
        "long guide": ("source.tif", f"{long}/guide.tif", "d.tif"),
        "long output": ("source.tif", "guide.tif", f"{long}.tif"),
        "long folder": ("source.tif", "guide.tif", f"{long}/e.tif"),
        "good": ("source.tif", "guide.tif", "good.tif"),
    }
    lines = [("source", "guide", "output"), *rows.values()]
    (folder / "pairs.csv").write_text("\n".join(map(",".join, lines)))
    (folder / "closed").chmod(0o000)
    options = ("--method", "bicubic", "--style", "--summary", "summary.csv", how)
    done = run_as_others(folder, "batch", "--manifest", "pairs.csv", *options)
    (folder / "closed").chmod(0o700)
    assert "Traceback" not in done.stderr
    made = csv.DictReader((folder / "summary.csv").read_text().splitlines())
    found = dict(zip(rows, made, strict=True))
    good = found.pop("good")["status"]
    if how == "--dry-run":  # looks at inputs only
        assert good == "to do"
        assert all(found[name]["status"] == "failed" for name in found if "source" in name or "guide" in name)
        return
    assert done.returncode == 5, done.stderr
    assert (good, (folder / "good.tif").is_file()) == ("done", True)
    for name, row in found.items():
        assert row["status"] == "failed"
        assert ("Permission denied" if "closed" in name else "File name too long") in row["why"], name
        assert " / " not in row["why"]  # one line


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_patterns_into_a_folder_without_rights_are_answered_in_one_line(folder):
    for name, mode in (("dsm", 0o755), ("closed", 0o400)):
        (folder / name).mkdir()
        shutil.copy(folder / "source.tif", folder / name / "a.tif")
        (folder / name).chmod(mode)
    said = {}
    for source, guide in (("closed/*.tif", "guide.tif"), ("dsm/*.tif", "closed/{stem}.tif"), ("dsm/*.tif", "closed/a")):
        done = run_as_others(folder, "batch", "--source", source, "--guide", guide, "-o", "{stem}_x4.tif")
        assert "Traceback" not in done.stderr
        said[done.returncode] = done.stderr
    (folder / "closed").chmod(0o700)
    assert said.keys() == {2, 3, 5}
    assert "no file matches --source closed/*.tif" in said[3]
    assert "closed/a.tif is not there" in said[5]
    assert "--guide closed/a" in said[2]


# --- headers that claim more than there is -------------------------------------------------------------------

MANY = 2_000_000_000


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    data = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def ascii_grid(cols, rows):
    return f"ncols {cols}\nnrows {rows}\nxllcorner 0\nyllcorner 0\ncellsize 1\n1 2 3\n".encode()


def envi(cols, rows, bands=1, interleave="bsq"):
    size = f"samples = {cols}\nlines = {rows}\nbands = {bands}\n"
    return f"ENVI\n{size}data type = 4\ninterleave = {interleave}\nbyte order = 0\n".encode()


def sparse(path, side, block):
    profile = {"driver": "GTiff", "count": 1, "dtype": "float32", "crs": rasters.UTM, "width": side, "height": side}
    tiles = {"tiled": True, "blockxsize": block, "blockysize": block, "SPARSE_OK": True, "BIGTIFF": "YES"}
    with rasterio.open(path, "w", transform=rasters.grid(5e5, 5e6, 4), **profile, **tiles):
        pass


def make_claims(folder):
    claims = {
        "both.asc": ascii_grid(MANY, MANY),
        "wide.asc": ascii_grid(MANY, 2),
        "high.asc": ascii_grid(3, MANY),
        "large.asc": ascii_grid(30000, 30000),
        "large.png": png(60000, 60000),
        "wide.png": png(2**31 - 1, 2),
    }
    for name, header in (("both", envi(MANY, MANY)), ("wide", envi(MANY, 2)), ("deep", envi(300, 20, 60000, "bip"))):
        claims |= {f"{name}.img": bytes(100), f"{name}.hdr": header}
    for name, data in claims.items():
        (folder / name).write_bytes(data)
    sparse(folder / "huge.tif", 10**6, 16384)
    sparse(folder / "block.tif", 16000, 16384)
    return [path for path in sorted(folder.iterdir()) if path.suffix != ".hdr"]


CLAIMS = """
import resource, sys, time
from geosr.errors import InputError
from geosr.describe import describe_guide, describe_source
import geosr.pipeline
def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = used()
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # for the machine's sake
for path in sys.argv[1:]:
    for describe in (describe_source, describe_guide):
        try:
            describe(path)
        except InputError as error:
            print(error)
print(used() - before)
"""


def test_headers_that_claim_more_than_the_file_has_cost_no_memory(tmp_path):
    files = make_claims(tmp_path)
    done = python(CLAIMS, *files)
    assert done.returncode == 0, done.stderr
    *refused, megabytes = done.stdout.splitlines()
    assert len(refused) == 2 * len(files)
    for path in files:
        assert sum(str(path) in line for line in refused) >= 2
    assert int(megabytes) < 100


FUZZ = """
import resource, sys
from pathlib import Path
import numpy as np
from geosr.errors import GeosrError
from geosr.describe import describe_guide, describe_source
from geosr.raster import read_source
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
outcomes = [0, 0]
for name in sys.argv[1:]:
    good, path = Path(name).read_bytes(), Path(name).with_stem("fuzzed")
    rng = np.random.default_rng(len(good))
    for trial in range(30):
        data = bytearray(good)
        for at in rng.integers(0, min(len(data), 600 if trial % 2 else len(data)), 4):
            data[at] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data))] if trial % 3 == 0 else data)
        for describe in (describe_source, describe_guide):
            try:
                described = describe(path)
                if describe is describe_source:
                    read_source(described)
                outcomes[0] += 1
            except GeosrError as error:
                outcomes[1] += 1
                assert len(str(error).splitlines()) <= 3
print(*outcomes)
"""


def test_damaged_files_are_read_or_refused(tmp_path):
    """Of every format but netCDF, on which GDAL 3.10's driver itself can crash: docs/reliability.md says so."""
    values = (np.random.default_rng(0).random((40, 30)) * 200).astype("uint8")
    for name, driver, dtype in (
        ("a.tif", "GTiff", "float32"),
        ("b.png", "PNG", "uint8"),
        ("c.jpg", "JPEG", "uint8"),
        ("d.jp2", "JP2OpenJPEG", "uint8"),
        ("e.img", "HFA", "int16"),
        ("g.asc", "AAIGrid", "int32"),
    ):
        rasters.write(tmp_path / name, values.astype(dtype), rasters.grid(5e5, 5e6, 4), driver=driver)
    files = [path for path in sorted(tmp_path.iterdir()) if path.suffix not in (".xml", ".prj")]
    done = python(FUZZ, *files)
    assert done.returncode == 0, done.stderr
    read, refused = map(int, done.stdout.split())
    assert read + refused == 2 * 30 * len(files)
    assert min(read, refused) > 20


# --- what lies beside ----------------------------------------------------------------------------------------


def test_overviews_beside_a_raster_change_nothing(folder):
    assert upscale(folder, output="plain.tif").code == 0
    for name in ("source.tif", "guide.tif"):
        (folder / f"{name}.ovr").write_bytes((folder / "plain.tif").read_bytes())
    assert upscale(folder, output="beside.tif").code == 0
    assert (folder / "beside.tif").read_bytes() == (folder / "plain.tif").read_bytes()


@pytest.mark.parametrize("suffix", [".ovr", ".msk"])
def test_rubbish_beside_a_raster_is_named_or_has_no_say(suffix, folder):
    assert upscale(folder, output="plain.tif").code == 0
    for name in ("source.tif", "guide.tif"):
        (folder / (name + suffix)).write_bytes(b"II*\0" + bytes(range(1, 255)))
    outcome = upscale(folder, output="beside.tif")
    if outcome.code == 0:
        assert (folder / "beside.tif").read_bytes() == (folder / "plain.tif").read_bytes()
    else:
        assert (outcome.code, outcome.err.count("\n")) == (INPUT, 1)


# --- text ----------------------------------------------------------------------------------------------------

NASTY = "\x1b]0;owned\x07\x1b[2J<script>alert(1)</script>"


def test_text_of_a_file_reaches_neither_the_terminal_nor_the_report_as_it_is(folder):
    crs = rasterio.CRS.from_wkt(rasterio.CRS.from_string(rasters.UTM).to_wkt().replace("UTM zone 32N", "U\x1b[31mTM"))
    for name in ("source.tif", "guide.tif"):
        with rasterio.open(folder / name, "r+") as dataset:
            dataset.update_tags(NOTE=NASTY)
            dataset.update_tags(1, NOTE=NASTY)
            dataset.descriptions = (NASTY,) * dataset.count
            dataset.units = (NASTY,) * dataset.count
            dataset.crs = crs
    pair = (folder / "source.tif", folder / "guide.tif")
    looked = geosr("info", *pair, "--method", "bicubic")
    made = upscale(folder, "--report", folder / "run.json", "-v")
    logged = upscale(folder, "--log-json", output="logged.tif")
    assert (looked.code, made.code, logged.code) == (0, 0, 0), looked.err + made.err + logged.err
    for text in (looked.out, looked.err, made.err, logged.err, (folder / "run.json").read_text()):
        assert "\x1b" not in text
        assert "\x07" not in text


def test_words_of_gdal_that_are_no_text_print_no_traceback(folder):
    path = rasters.write(folder / "a.jp2", np.ones((24, 24), "uint8"), rasters.grid(5e5, 5e6, 4), driver="JP2OpenJPEG")
    data = path.read_bytes()
    box, text = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03"), b"<gml:F"
    assert box in data
    assert text in data
    path.write_bytes(data.replace(box, bytes(16)).replace(text, b"<g\xa0l:F"))  # no GeoJP2: GML counts, and is quoted
    done = subprocess.run(
        [sys.executable, "-m", "geosr", "info", path, folder / "guide.tif", "--method", "bicubic"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, INPUT)
    assert "Traceback" not in done.stderr


# --- pairs that are none -------------------------------------------------------------------------------------


def linked(folder):
    (folder / "link.tif").symlink_to("source.tif")
    return "link.tif"


def hard_linked(folder):
    os.link(folder / "source.tif", folder / "hard.tif")
    return "hard.tif"


@pytest.mark.parametrize("guide", [lambda folder: "source.tif", linked, hard_linked], ids=["same", "link", "hard"])
def test_a_source_is_no_guide_of_itself(guide, folder):
    outcome = upscale(folder, guide=guide(folder))
    assert outcome.code == INPUT
    assert "no finer than the source" in outcome.err


def test_alpha_alone_is_no_raster(folder):
    rasters.write(folder / "source.tif", np.full((24, 24), 255, "uint8"), rasters.grid(5e5, 5e6, 4))
    with rasterio.open(folder / "source.tif", "r+") as dataset:
        dataset.colorinterp = [rasterio.enums.ColorInterp.alpha]
    outcome = upscale(folder)
    assert outcome.code == INPUT
    assert "alpha band only" in outcome.err


@pytest.mark.parametrize("step", [float("nan"), float("inf"), 0.0, 1e-300])
def test_pixels_without_a_size_are_refused(step, folder):
    rasters.write(folder / "source.tif", np.ones((24, 24), "float32"), rasters.Affine(step, 0, 5e5, 0, -4, 5e6))
    outcome = upscale(folder)
    assert outcome.code == INPUT
    assert outcome.err.count("\n") == 1


def test_a_guide_where_its_projection_has_no_answer_is_refused(folder):
    globe = rasters.grid(-180, 90, 7.5)
    rasters.write(folder / "source.tif", np.arange(576.0).reshape(24, 24), globe, "EPSG:4326")
    for place in ((5e5, 5e6), (9e8, 9e8), (1e300, 1e300)):
        rasters.write(folder / "guide.tif", np.ones((96, 96), "uint8"), rasters.grid(*place, 1), rasters.UTM)
        outcome = upscale(folder)
        assert outcome.code == INPUT
        assert outcome.err.startswith("Error: ")
        assert outcome.err.count("\n") <= 3


# --- nothing is left behind ----------------------------------------------------------------------------------


def test_runs_leave_no_thread_no_open_file_and_no_scratch(folder, monkeypatch):
    process, scratch = psutil.Process(), folder / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)

    def go():
        assert upscale(folder, "--overwrite", "--tile", 48, "--workers", 2).code == 0
        assert upscale(folder, "--overwrite", source="missing.tif").code == INPUT
        assert upscale(folder, "--overwrite", "--dtype", "uint8", "--source-nodata", -1, source="guide.tif").code != 0
        return process.num_fds(), [*folder.rglob("*")]

    go()  # what libraries keep, they keep from the first
    threads = threading.active_count()
    assert go() == go()
    assert threading.active_count() <= threads
