# SPDX-License-Identifier: Apache-2.0
"""The whole sampler against the reference's golden vectors (tests/golden/sampler); also `python -m tests.golden DIR`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.__main__ import main
from tests.golden.vectors import CHECKS, check_file

FOLDER = Path(__file__).parents[1] / "golden" / "sampler"
FILES = sorted(FOLDER.glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_case_of_a_vector_file_passes(path):
    outcomes = list(check_file(path))
    failed = [f"{outcome.case}: {outcome.error:.2e} > {outcome.limit:g}" for outcome in outcomes if not outcome.passed]
    assert outcomes
    assert not failed


def test_every_kind_of_vector_is_there():
    assert {path.stem.partition("_T")[0] for path in FILES} == set(CHECKS)


def test_the_command_counts_what_passed_and_what_failed(tmp_path, capsys):
    whole = (FOLDER / "x0_from_vel.npz").read_bytes()
    (tmp_path / "x0_from_vel.npz").write_bytes(whole)
    assert main(tmp_path) == 0
    assert capsys.readouterr().out.endswith("4 passed, 0 failed\n")


def test_the_command_fails_on_a_wrong_vector(tmp_path, capsys):
    import numpy as np

    data = dict(np.load(FOLDER / "x0_from_vel.npz"))
    data["out"][1] += 1e-3
    np.savez(tmp_path / "x0_from_vel.npz", **data)
    assert main(tmp_path) == 1
    assert capsys.readouterr().out.endswith("3 passed, 1 failed\n")
