"""Every method gives what it gave when `golden.json` was written."""

import json
from pathlib import Path

import golden
import numpy as np
import pytest

TABLE = json.loads(Path(golden.__file__).with_suffix(".json").read_text())

# Of the source's standard deviation. With SSE4, AVX2 and AVX-512 code of torch, oneDNN and numpy, 1 and 2 threads, with
# and without geosr's compiled kernels, values differed by 5e-5 at most.
TOLERANCE = 1e-3


def test_the_table_has_all_methods_and_presets():
    assert [*TABLE] == golden.CASES


@pytest.mark.parametrize("case", golden.CASES)
def test_a_method_gives_what_it_gave(case):
    found, spread = golden.result(case), golden.scene()[0].source.std()
    why = "if the change is meant: python tests/golden.py > tests/golden.json"
    np.testing.assert_allclose(found["values"], TABLE[case]["values"], rtol=0, atol=TOLERANCE * spread, err_msg=why)
    assert found["rmse"] == pytest.approx(TABLE[case]["rmse"], abs=TOLERANCE * spread), why
