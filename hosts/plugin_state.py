# SPDX-License-Identifier: Apache-2.0
"""Editing the plugin's state as VST3 hosts built on JUCE keep it: settings that are not parameters (prompt, seed, ...).

Such a host stores an XML element that holds the component's bytes in JUCE's own base-64 form (six bits a character, lowest bit
first, behind the number of bytes); the component's bytes hold the plugin's XML behind JUCE's magic number and its length.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping

ALPHABET = ".ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+"
COMPONENT = re.compile(rb"<IComponent>(\d+)\.([^<]*)</IComponent>")
LENGTH_BYTES = 4


def read_state(raw: bytes) -> dict[str, str]:
    """The attributes of the plugin's state: prompt, seed, steps, solver, latency, ..."""
    return dict(_plugin_element(_component_bytes(raw))[0].attrib)


def edit_state(raw: bytes, attributes: Mapping[str, str]) -> bytes:
    """The state with some attributes replaced."""
    component = _component_bytes(raw)
    element, start, stop = _plugin_element(component)
    for name, value in attributes.items():
        element.set(name, value)
    edited = _replace_text(component, start, stop, _xml(element))
    host = COMPONENT.sub(b"<IComponent>" + _to_base64(edited) + b"</IComponent>", raw)
    start = host.index(b"<?xml")
    return _replace_text(host, start, host.index(b"\x00", start), host[start : host.index(b"\x00", start)])


def _component_bytes(raw: bytes) -> bytes:
    match = COMPONENT.search(raw)
    if match is None:
        raise ValueError("this is not a VST3 state as JUCE hosts keep it")
    return _from_base64(int(match[1]), match[2].decode("ascii"))


def _plugin_element(component: bytes) -> tuple[ElementTree.Element, int, int]:
    start = component.index(b"<?xml")
    stop = component.index(b"\x00", start)
    return ElementTree.fromstring(component[start:stop].decode("utf-8")), start, stop


def _replace_text(data: bytes, start: int, stop: int, text: bytes) -> bytes:
    """Replace `data[start:stop]`, and the length that stands before it."""
    return data[: start - LENGTH_BYTES] + len(text).to_bytes(LENGTH_BYTES, "little") + text + data[stop:]


def _xml(element: ElementTree.Element) -> bytes:
    return b'<?xml version="1.0" encoding="UTF-8"?> ' + ElementTree.tostring(element, encoding="utf-8")


def _from_base64(size: int, text: str) -> bytes:
    value = 0
    for position, letter in enumerate(text):
        value |= ALPHABET.index(letter) << (6 * position)
    return (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little")


def _to_base64(data: bytes) -> bytes:
    value, letters = int.from_bytes(data, "little"), -(-len(data) * 8 // 6)
    text = "".join(ALPHABET[(value >> (6 * position)) & 63] for position in range(letters))
    return f"{len(data)}.{text}".encode("ascii")
