"""Every public name of Haiku has a row, and every name of ours in the table exists."""

import importlib
import pathlib

import pytest

from objnet.interop import haiku_names
from objnet.interop.haiku_names import HAIKU_NAMES

hk = pytest.importorskip("haiku")


@pytest.mark.parametrize("module", HAIKU_NAMES)
def test_every_public_name_has_a_row(module):
    found = importlib.import_module(module)
    names = {*getattr(found, "__all__", ()), *(n for n in dir(found) if not n.startswith("_"))}
    assert names - HAIKU_NAMES[module].keys() == set()
    assert HAIKU_NAMES[module].keys() - names - {"typing"} == set()  # an attribute once it was imported


def test_no_public_module_is_left_out():
    importlib.import_module("haiku.typing")
    for name in (*hk.__all__, "experimental", "typing"):
        if type(getattr(hk, name)) is type(hk):
            assert f"haiku.{name}" in HAIKU_NAMES


@pytest.mark.parametrize("name", sorted({row.name for rows in HAIKU_NAMES.values() for row in rows.values() if row.name}))
def test_every_name_of_ours_exists(name):
    head, *rest = name.split(".")
    thing = importlib.import_module(head)
    for i, part in enumerate(rest):
        if not hasattr(thing, part):
            if part in ("flax", "haiku"):
                pytest.importorskip(part)
            importlib.import_module(".".join([head, *rest[: i + 1]]))
        thing = getattr(thing, part)


def test_a_row_without_a_name_says_why():
    assert all(row.name or row.note for rows in HAIKU_NAMES.values() for row in rows.values())


def test_the_page_is_the_tables():
    page = pathlib.Path(haiku_names.__file__).with_suffix(".md")
    assert page.read_text() == haiku_names.page()
