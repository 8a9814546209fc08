# SPDX-License-Identifier: Apache-2.0
"""The codec with what fuzzers found and with neighbours of the golden vectors, and C++ beside it: `tests/fuzz`."""

from __future__ import annotations

import os
import subprocess
import tracemalloc
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_protocol.codec import decode
from shared_protocol.errors import DemonError
from tests.fuzz.agreement import disagreement, faults
from tests.fuzz.cases import RATES, Case, corpus_files, read_case, vector_cases, verdict, write_case
from tests.fuzz.invariants import check
from tests.fuzz.mutation import mutate, seeds

ROOT = Path(__file__).parents[2]
REPLAY = Path(os.environ.get("DEMON_FUZZ_REPLAY", ROOT / "build" / "tests" / "fuzz" / "demon_fuzz_replay"))
NEIGHBOURS = 3000
deterministic = settings(derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def neighbours(count):
    random = Random(1)
    for _ in range(count):
        case = random.choice(seeds())
        for _ in range(random.randrange(1, 3)):
            case = mutate(case, random)
        yield case


@settings(deterministic, max_examples=2000)
@given(st.sampled_from(seeds()), st.integers(0, 2**32), st.integers(1, 3))
def test_a_neighbour_of_a_golden_message_is_refused_by_name_or_keeps_its_meaning(case, seed, steps):
    random = Random(seed)  # one of hypothesis' own would be slow
    for _ in range(steps):
        case = mutate(case, random)
    check(case)


@settings(deterministic, max_examples=500)
@given(st.binary(max_size=300), st.sampled_from(RATES), st.integers(0, 255))
def test_bytes_of_any_kind_are_refused_by_name_or_keep_their_meaning(header, rate, lane_count):
    check(Case(rate, lane_count, [header]))


def test_the_kept_corpus_breaks_nothing():
    files = corpus_files()
    assert files
    for path in files:
        check(read_case(path.read_bytes()))


@settings(deterministic, max_examples=300)
@given(st.binary(max_size=100))
def test_any_bytes_are_a_case_and_a_case_is_written_as_it_is_read(data):
    case = read_case(data)
    assert read_case(write_case(case)) == case


@pytest.mark.parametrize(
    "header",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x82\xa4type\xa7welcome\xa5lanes\xdd\x7f\xff\xff\xff",
        b"\x82\xa4type\xa5error\xa7message\xdb\xff\xff\xff\xff",
        b"\x82\xa4type\xa4drop\xa1x" + b"\x91" * 65_000,
        b"\x82\xa4type\xa4drop\xa1x" + b"\xdc\x10\x00" * 21_000,
        b"\x82\xa4type\xa5shout\xa1x\xdd\x00\xff\xff\xff" + bytes(2**24 - 1),
    ],
    ids=["list", "map", "list of text", "text", "nested", "nested and long", "16 MiB"],
)
def test_a_header_that_announces_much_costs_little(header):
    tracemalloc.start()
    try:
        with pytest.raises(DemonError, match="E_MALFORMED"):
            decode([header], rate=8000, lane_count=0)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def cpp():
    """The verdicts of C++ on the files of a folder."""
    if not REPLAY.is_file():
        pytest.skip(f"{REPLAY} is not built: make plugin")

    def run(folder: Path) -> dict[Path, str]:
        run = subprocess.run([REPLAY, "--verdicts", folder], capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr
        lines = (line.partition(" ") for line in run.stdout.splitlines())
        return {Path(name): said for name, _, said in lines}

    return run


@pytest.mark.parametrize("source", ["corpus", "vectors", "neighbours"])
def test_both_languages_take_and_refuse_the_same(cpp, source, tmp_path):
    if source == "corpus":
        cases = [read_case(path.read_bytes()) for path in corpus_files()]
    else:
        cases = [case for _, _, case in vector_cases()] if source == "vectors" else list(neighbours(NEIGHBOURS))
    for number, case in enumerate(cases):
        (tmp_path / f"{number:05}").write_bytes(write_case(case))
    verdicts = cpp(tmp_path)
    assert len(verdicts) == len(cases)
    said = [
        disagreement(read_case(path.read_bytes()), verdict(read_case(path.read_bytes())), v)
        for path, v in verdicts.items()
    ]
    assert [text for text in said if text] == []


def test_codes_may_differ_only_between_faults_of_one_message():
    ping = next(case for name, _, case in vector_cases() if name == "ping")
    twice = Case(48000, 0, [b"\x83\xa4type\xa4ping\xa5epoch\xa1x\xa6wanted\xcf" + b"\xff" * 8])
    once = Case(48000, 0, [b"\x83\xa4type\xa4ping\xa5epoch\xa1x\xa6wanted\x00"])
    assert faults(ping) == set()
    assert faults(once) == {"E_MALFORMED"}
    assert faults(twice) == {"E_MALFORMED", "E_FIELD"}
    assert disagreement(twice, "E_FIELD", "E_MALFORMED") == ""
    assert disagreement(twice, "E_FIELD", "ping 00000000") != ""
    assert disagreement(once, "E_FIELD", "E_MALFORMED") != ""
