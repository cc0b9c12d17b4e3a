"""Which pairs a batch is made of: found by patterns, listed in a CSV file or STAC items, or taken from a data set."""

from __future__ import annotations

import csv
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from geosr.bands import Band
from geosr.datasets import DATASETS, check_root, dfc2014
from geosr.errors import InputError, UsageError
from geosr.raster_guard import files_of, is_folder, is_utf8, show
from geosr.samples import Sample
from geosr.stac import read_items

NAMES = (*DATASETS, "dfc2014")
"""Data sets that `pairs_of_dataset` knows."""


@dataclass(frozen=True)
class Job:
    """One pair and where its result goes.

    Attributes:
        name: of the pair, for people.
        source, guide: the two files; of a sample they are made when it is its turn.
        output: the GeoTIFF to write.
        stem: what stands for it in templates of names.
        uncertainty: another GeoTIFF to write, of its standard deviation.
        sample: the image of a data set that the two are made from.
    """

    name: str
    source: Path
    guide: Path
    output: Path
    stem: str
    uncertainty: Path | None = None
    sample: Sample | None = None

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All rasters to be written."""
        return (self.output,) if self.uncertainty is None else (self.output, self.uncertainty)


@dataclass(frozen=True)
class Misfit:
    """What was found and makes no pair, or a pair that must not be worked on.

    Attributes:
        name: the file, the line or the pair.
        why: a sentence.
        wanted: a result was asked for that there will not be; else it is left out and nothing is missing.
    """

    name: str
    why: str
    wanted: bool


@dataclass(frozen=True)
class PairList:
    """The pairs of a batch, and what does not match."""

    jobs: tuple[Job, ...]
    misfits: tuple[Misfit, ...] = ()


def check_template(template: str | None, option: str = "--output") -> str:
    """The template of output names that `option` gives, if it can be one.

    Raises:
        UsageError: there is none, it has a field other than {stem} and {scale}, or no name from it is a GeoTIFF's.
    """
    if template is None:
        raise UsageError("no outputs given; use --output, e.g. --output 'out/{stem}_x{scale}.tif'")
    if unknown := set(re.findall(r"\{[^{}]*\}", template)) - {"{stem}", "{scale}"}:
        raise UsageError(f"{option} {show(template)}: {', '.join(sorted(unknown))} is neither {{stem}} nor {{scale}}")
    if not template.lower().endswith((".tif", ".tiff", "}")):  # a stem may bring the ending with it
        raise UsageError(f"{option} {show(template)}: GeoTIFFs are written; give a name that ends in .tif")
    return template


def _fill(template: str, stem: str, scale: int) -> Path:
    return Path(template.replace("{scale}", str(scale)).replace("{stem}", stem))


def pairs_by_pattern(
    source: str, guide: str, template: str, scale: int, *, truth: bool = False, band: Band | None = None
) -> PairList:
    """Every file, or folder of rasters, that `source` matches, with the guide of the same stem; by their names.

    Args:
        source: a path with one `*`, which is the stem; it matches no folder's separator and no hidden file.
        guide: a path with {stem} in its place; without it, the one guide of all.
        template: of the outputs.
        scale: for the template, and of sources that are made.
        truth: the files are truths on the guides' pixels, and sources are made from them as for a data set.
        band: of a truth that has several.

    Raises:
        UsageError: a pattern is not of that form.
        InputError: nothing matches.
    """
    check_template(template)
    option = "--truth" if truth else "--source"
    if source.count("*") != 1:
        raise UsageError(f"{option} {show(source)}: wants one * (what it matches is the stem), as in 'dsm/*_DSM.tif'")
    if "{stem}" not in guide and not os.path.exists(guide):
        raise UsageError(
            f"--guide {show(guide)}: wants {{stem}}, as in 'rgb/{{stem}}_RGB.tif', or is the one guide of all sources"
        )
    sources = _matches(source)
    if not sources:
        raise InputError(f"no file matches {option} {show(source)}")
    jobs, misfits = [], []
    outputs = {os.path.realpath(_fill(template, stem, scale)): stem for stem in sources}
    for stem, path in sources.items():
        if (maker := outputs.get(os.path.realpath(path), stem)) != stem:
            misfits.append(Misfit(show(path), f"is the output of {show(maker)}", wanted=False))
            continue
        beside = Path(guide.replace("{stem}", stem))
        if os.path.exists(beside):
            job = Job(show(stem), path, beside, _fill(template, stem, scale), stem)
            part = "" if band is None else f"_b{band}"  # of another band is another source, by its name
            sample = Sample(stem, "", beside, path, band=band)
            jobs.append(_sample_job(sample, job, f"{stem}{part}", scale) if truth else job)
        else:
            misfits.append(Misfit(show(path), f"has no guide: {show(beside)} is not there", wanted=True))
    if guide.count("{stem}") == 1:
        guides = _matches(guide.replace("{stem}", "*")) if "*" not in guide else {}
        alone = (path for stem, path in guides.items() if stem not in sources)
        misfits += [Misfit(show(path), "is a guide without a source", wanted=False) for path in alone]
    return _checked(jobs, misfits)


def _matches(pattern: str) -> dict[str, Path]:
    """Files, and folders of rasters, by what the one `*` of the pattern stands for."""
    before, _, after = pattern.partition("*")
    found = sorted(glob.glob(f"{glob.escape(before)}*{glob.escape(after)}"))
    return {path[len(before) : len(path) - len(after)]: Path(path) for path in found if _is_raster(Path(path))}


def _is_raster(path: Path) -> bool:
    """A file, which may be one, or a folder that holds some."""
    if not is_folder(path):
        return os.path.isfile(path)
    with suppress(InputError):
        return bool(files_of(path))
    return False


def pairs_by_manifest(manifest: Path, template: str | None, scale: int) -> PairList:
    """The pairs that a CSV file lists.

    Args:
        manifest: with the columns `source`, `guide` and, if it is to name outputs, `output`, with commas or semicolons
            between; relative paths start at its folder.
        template: of the outputs that it does not name, by the stem of the source's name.
        scale: for the template.

    Raises:
        InputError: it cannot be read, lacks a column, or lists nothing.
        UsageError: an output has no name, see `check_template`.
    """
    jobs, misfits = [], []
    for line, source, guide, output in _listed(manifest):
        if not source or not guide:
            misfits.append(Misfit(f"{show(manifest.name)}, line {line}", "names no source or no guide", wanted=True))
            continue
        stem = Path(source).name if is_folder(manifest.parent / source) else Path(source).stem
        made = manifest.parent / output if output else _fill(check_template(template), stem, scale)
        jobs.append(Job(show(stem), manifest.parent / source, manifest.parent / guide, made, stem))
    if not jobs:
        raise InputError(f"{show(manifest)} lists no pair")
    return _checked(jobs, misfits)


def pairs_by_stac(
    items: Path, template: str, scale: int, source_asset: str | None = None, guide_asset: str | None = None
) -> PairList:
    """The pairs that STAC items name, each by two of its assets; see `stac.read_items`.

    Args:
        items: the JSON file; relative hrefs start at its folder.
        template: of the outputs; the stem is the item's id.
        scale: for the template.
        source_asset: key of the coarse raster; usual ones are tried when None.
        guide_asset: the same of the sharp image.

    Raises:
        InputError: it cannot be read, or no item names a pair.
        UsageError: an output has no name, see `check_template`.
    """
    check_template(template)
    jobs, misfits = [], []
    for entry in read_items(items, source_asset, guide_asset):
        name = show(entry.name)
        if entry.source is None or entry.guide is None:
            misfits.append(Misfit(name, entry.why or "", wanted=True))
        elif entry.name != Path(entry.name).name or entry.name == ".." or "\0" in entry.name or not is_utf8(entry.name):
            misfits.append(Misfit(name, "its id cannot be part of a file's name", wanted=True))
        else:
            jobs.append(Job(name, entry.source, entry.guide, _fill(template, entry.name, scale), entry.name))
    if not jobs:
        raise InputError(f"{show(items)} lists no pair" + "".join(f"; {each.name}: {each.why}" for each in misfits[:1]))
    return _checked(jobs, misfits)


def true_pairs(manifest: Path) -> list[Job]:
    """The pairs that a CSV file lists as `pairs_by_manifest` reads it, to learn from: their sources are the truth.

    They are called by the source's name behind its folder's, and have no output.

    Raises:
        InputError: it cannot be read, lacks a column, names no source or guide in a line, or lists nothing.
    """
    jobs = {}
    for line, source, guide, _ in _listed(manifest):
        if not source or not guide:
            raise InputError(f"{show(manifest)}, line {line}: names no source or no guide")
        name = "/".join(Path(source).parts[-2:])  # not the way there: the name is published with the weights
        jobs[source, guide] = Job(show(name), manifest.parent / source, manifest.parent / guide, Path(), "")
    if not jobs:
        raise InputError(f"{show(manifest)} lists no pair")
    return [*jobs.values()]


def true_pairs_of_dataset(name: str, root: Path) -> list[Job]:
    """A data set's images with a truth, to learn from.

    Raises:
        UsageError: there is no such data set, or it has no truth.
        InputError: the folder is not as the data set is laid out.
    """
    if name not in DATASETS:
        raise UsageError(f"--dataset {name} is not known or has no truth; there are: {', '.join(DATASETS)}")
    check_root(root)
    return [
        Job(show(f"{sample.group}/{sample.name}"), sample.truth, sample.guide, Path(), "", sample=sample)
        for sample in DATASETS[name](root)
    ]


def _listed(manifest: Path) -> Iterator[tuple[int, str, str, str]]:
    """Each row's line, source, guide and output; empty where it names none."""
    for line, row in _rows(manifest):
        cells = ((row.get(name) or "").strip() for name in ("source", "guide", "output"))
        source, guide, output = map(os.path.expanduser, cells)  # else a folder called ~ would be made
        if "\0" in source + guide + output:
            raise InputError(f"{show(manifest)}, line {line}: no file's name has a NUL in it")
        yield line, source, guide, output


def _rows(manifest: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Each row with its line's number."""
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            between = next((sign for sign in ",;\t" if sign in first), ",")  # spreadsheets write any of them
            reader = csv.DictReader(file, delimiter=between, skipinitialspace=True)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            if missing := {"source", "guide"} - {*(reader.fieldnames or ())}:
                raise InputError(
                    f"{show(manifest)}: its first line must name the columns source, guide and, if wanted, output; "
                    f"missing: {', '.join(sorted(missing))}"
                )
            yield from ((reader.line_num, row) for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{show(manifest)}: cannot be read as CSV: {error}") from error


def pairs_of_dataset(name: str, root: Path, template: str, scale: int) -> PairList:
    """A data set's pairs; see `geosr.datasets` for the layouts.

    Samples with a truth get their source made from it, `NAME_x4_source.tif` (and `..._guide.tif`, `..._truth.tif`) in a
    folder `inputs` beside the output.

    Args:
        name: one of `NAMES`.
        root: its folder.
        template: of the outputs; the stem is the image's name, behind its group where there are several.
        scale: also of the sources that are made.

    Raises:
        InputError: the folder is not as the data set is laid out.
    """
    check_template(template)
    check_root(root)
    if name == "dfc2014":
        return _checked(
            [Job(show(stem), *pair, _fill(template, stem, scale), stem) for stem, pair in dfc2014(root).items()], []
        )
    samples = DATASETS[name](root)
    grouped = len({sample.group for sample in samples}) > 1
    jobs = []
    for sample in samples:
        stem = f"{sample.group}_{sample.name}" if grouped else sample.name
        job = Job(show(stem), sample.truth, sample.guide, _fill(template, stem, scale), stem)
        jobs.append(_sample_job(sample, job, stem, scale))
    return _checked(jobs, [])


def _sample_job(sample: Sample, job: Job, stem: str, scale: int) -> Job:
    """The pair with files that are to be made, in a folder beside the output."""
    folder = job.output.parent / "inputs"
    source, guide = (folder / f"{stem}_x{scale}_{part}.tif" for part in ("source", "guide"))
    return replace(job, source=source, guide=guide, sample=sample)


def _checked(jobs: Iterable[Job], misfits: Iterable[Misfit]) -> PairList:
    """Without what is listed twice, and without pairs whose output is another's output or input."""
    once = {_files(job): job for job in reversed([*jobs])}
    twice = [Misfit(job.name, "is listed more than once", wanted=False) for job in jobs if once[_files(job)] is not job]
    unique = [*reversed(once.values())]
    outputs = Counter(path for job in unique for path in {*map(os.path.realpath, job.outputs)})
    inputs = {os.path.realpath(path) for job in unique for path in (job.source, job.guide)}
    good, bad = [], []
    for job in unique:
        names = {path: os.path.realpath(path) for path in job.outputs}
        if shared := [path for path, real in names.items() if outputs[real] > 1]:
            pairs = outputs[names[shared[0]]]
            bad.append(Misfit(job.name, f"{pairs} pairs have the output {show(shared[0])}", wanted=True))
        elif taken := [path for path, real in names.items() if inputs & {real, os.path.dirname(real)}]:
            bad.append(
                Misfit(job.name, f"its output {show(taken[0])} is an input of the batch, or in one", wanted=True)
            )
        else:
            good.append(job)
    return PairList(tuple(good), (*misfits, *twice, *bad))


def with_uncertainty(found: PairList, template: str, scale: int) -> PairList:
    """The same pairs, each with a raster of its standard deviation to be written beside, named by a template.

    Raises:
        UsageError: see `check_template`.
    """
    check_template(template, "--uncertainty")
    jobs = [replace(job, uncertainty=_fill(template, job.stem, scale)) for job in found.jobs]
    return _checked(jobs, found.misfits)


def _files(job: Job) -> tuple[str, ...]:
    return tuple(os.path.realpath(path) for path in (job.source, job.guide, job.output))
