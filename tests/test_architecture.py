"""Imports point one way, and heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import only modules above it; `methods` stands for the registry alone.
LAYERS = [
    ["version", "errors", "once", "neighbours", "digests", "events", "machine"],
    [
        "grid",
        "displacement",
        "bands",
        "consistency",
        "methods.entry",
        "raster_guard",
        "sidecar",
        "uncertainty",
        "units",
        "noise",
        "spikes",
        "moments",
        "denoise",
        "watch",
    ],
    ["methods.builtin", "methods.plugins", "methods.weights", "methods.settings"],
    ["methods.base"],
    ["methods", "metrics", "picture", "mosaic"],
    ["options", "tiling", "coordinates", "gdal", "seams", "local_shift", "files"],
    ["warp", "runner", "cluster", "scratch", "tile_store", "device"],
    ["published"],
    ["run_folder"],
    ["raster"],
    ["preflight", "folders", "encoding"],
    ["describe", "findings", "publish", "contents"],
    ["geotiff"],
    [
        "methods.compiled",
        "methods.gpu_kernels",
        "methods.neighbourhood_triton",
        "methods.diffusion_triton",
        "methods.recorded",
        "methods.diffusion_settings",
        "methods.p2p_settings",
        "methods.cmsr_settings",
        "methods.training_settings",
        "methods.muon",
    ],
    [
        "methods.mmsr_settings",
        "methods.mmsr_batch",
        "pair",
        "methods.neighbourhood",
        "methods.pointwise",
        "methods.convolution_triton",
    ],
    ["methods.convolution"],
    [
        "methods.solve",
        "methods.mmsr_network",
        "methods.p2p_network",
        "methods.fdsr_network",
        "methods.dkn_network",
        "methods.deformation",
    ],
    ["methods.diffusion_solver", "methods.cmsr_network", "methods.mmsr_fit"],
    ["methods.judgement", "methods.supervised"],
    ["methods.classic", "methods.diffusion", "methods.filters", "methods.regression"],
    ["methods.mmsr", "methods.p2p", "methods.cmsr", "methods.foreign", "methods.pretrained"],
    ["writer", "tile_run", "provenance", "coregister", "tables", "figures", "trials"],
    ["quicklook", "evaluation", "stac", "ortho", "samples", "thermal"],
    ["dfc2019"],
    ["datasets"],
    ["views", "style", "protocols"],
    ["report_page", "scene"],
    ["plan"],
    ["memory", "fitness"],
    ["placement"],
    ["sampling", "report"],
    ["assess", "outputs"],
    ["tile_work", "notes"],
    ["estimates"],
    ["inspection"],
    ["pipeline", "pair_lists"],
    ["multiband"],
    ["batch", "pairs_folder", "accessor", "comparison", "training_data"],
    ["train"],
    ["__init__", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# A module may import such a library, at its top or inside functions.
HOMES = {
    "rasterio": {"gdal", "raster", "describe", "publish", "geotiff", "writer", "ortho"},
    "tifffile": {"dfc2019"},
    "torch": {
        "device",
        "denoise",
        "methods.solve",
        "methods.compiled",
        "methods.pointwise",
        "methods.neighbourhood",
        "methods.neighbourhood_triton",
        "methods.convolution",
        "methods.convolution_triton",
        "methods.recorded",
        "methods.mmsr_batch",
        "methods.mmsr_network",
        "methods.mmsr_fit",
        "methods.muon",
        "methods.p2p_network",
        "methods.cmsr_network",
        "methods.deformation",
        "methods.diffusion_solver",
        "methods.diffusion_triton",
        "methods.fdsr_network",
        "methods.dkn_network",
        "methods.supervised",
    },
    "safetensors": {"methods.weights"},
    "PIL": {"methods.classic"},
    "sklearn": {"methods.regression"},
    "triton": {
        "methods.gpu_kernels",
        "methods.neighbourhood_triton",
        "methods.convolution_triton",
        "methods.diffusion_triton",
    },
    "dask": {"runner", "cluster"},
    "distributed": {"cluster"},
    "click": set(),
    "matplotlib": {"figures"},
    "rich": set(),
    "xarray": {"accessor"},
    "rioxarray": {"accessor"},
}


def modules():
    for path in sorted((ROOT / "geosr").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "geosr").with_suffix("").parts)
        yield (name.removesuffix(".__init__") if name != "__init__" else name), path


def imports(path):
    """Every module imported anywhere in the file, be it in a function or for type checking only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = node.module in ("geosr", "geosr.methods")
            yield from (f"{node.module}.{a.name}" for a in node.names) if inside else (node.module,)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_one_way(name, path):
    assert name in LEVEL, f"geosr/{name} has no place in LAYERS"
    nodes = ast.walk(ast.parse(path.read_text()))
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level], "relative: not followed"
    for imported in imports(path):
        if imported.startswith("geosr"):
            inner = imported.removeprefix("geosr").removeprefix(".")
            while inner and inner not in LEVEL:
                inner = inner.rpartition(".")[0]
            below = LEVEL[inner] if inner else LEVEL["version"]
            lazily = (name, inner) in {("__init__", "accessor")}
            assert below < LEVEL[name] or lazily, f"geosr.{name} imports geosr.{inner}"
        library = imported.partition(".")[0]
        assert name in HOMES.get(library, {name}), f"geosr.{name} imports {library}"


def test_the_command_line_imports_no_heavy_library_and_the_library_not_the_command_line():
    for path in (ROOT / "cli").glob("*.py"):
        assert not {name.partition(".")[0] for name in imports(path)} & {"torch", "rasterio", "dask", "distributed"}
    for name, path in modules():
        used = [module for module in imports(path) if module.startswith("geosr_cli")]
        assert name == "__main__" or not used


@pytest.mark.parametrize(
    "code",
    [
        "import geosr",
        "import geosr.pipeline",
        "from geosr import methods; [methods.create(e.name) for e in methods.listing()[0] if not e.needs_weights]",
    ],
)
def test_torch_is_not_loaded_before_it_is_needed(code):
    check = f"{code}\nimport sys\nassert not {{'torch', 'distributed'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=600)
