# SPDX-License-Identifier: Apache-2.0
"""Documents that are made from tables are up to date, and no document points to what is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine_server.document import HEAD, parameter_table

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_of_parameters_is_documented():
    written = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    assert written == HEAD + parameter_table(), "run: python -m engine_server.document"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_a_document_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_into_a_document_lead_to_a_heading(document):
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if link[1] not in anchors((document.parent / link[0]) if link[0] else document)]
    assert not missing


def anchors(document):
    """Of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_files_that_a_document_names_are_there(document):
    names = re.findall(r"`([\w/]+\.py)`", document.read_text(encoding="utf-8"))
    folders = ("engine_server", "shared_protocol", "tests", "hosts", "demo", "examples", "training", "trt_engines")
    everywhere = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert not [name for name in names if name.rpartition("/")[2] not in everywhere]
