"""The texts are those of the real qemu-storage-daemon 7.2."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.base.errors import QmpError
from qmpfleece.cli import keyval


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", {}),
        ("null-co", {"driver": "null-co"}),
        ("null-co,", {"driver": "null-co"}),
        ("driver=null-co,node-name=a", {"driver": "null-co", "node-name": "a"}),
        ("raw,node-name=a,,b,file=x", {"driver": "raw", "node-name": "a,b", "file": "x"}),
        ("raw,file.driver=file,file.cache.direct=on",
         {"driver": "raw", "file": {"driver": "file", "cache": {"direct": "on"}}}),
        ("nbd,bitmaps.1=b,bitmaps.0=a", {"driver": "nbd", "bitmaps": ["a", "b"]}),
        ("x,a.0.n=1,a.1.n=2", {"driver": "x", "a": [{"n": "1"}, {"n": "2"}]}),
        ("x,a=1,a=2", {"driver": "x", "a": "2"}),
        ("x,filename==a=b", {"driver": "x", "filename": "=a=b"}),
        ("x,filename=", {"driver": "x", "filename": ""}),
        ("x,filename=a\nb", {"driver": "x", "filename": "a\nb"}),
        ("x,__org.foo_bar=4", {"driver": "x", "__org.foo_bar": "4"}),
    ],
)  # fmt: skip
def test_pairs_become_a_tree(text, tree):
    assert keyval.parse(text, "driver") == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=x", "Invalid parameter ''"),
        ("raw,.file=x", "Invalid parameter '.file'"),
        ("raw,file.=x", "Invalid parameter 'file.'"),
        ("raw,a..b=x", "Invalid parameter 'a..b'"),
        ("raw,fi$le=x", "Invalid parameter 'fi$le'"),
        ("raw,a b=x", "Invalid parameter 'a b'"),
        ("raw,5=x", "Invalid parameter '5'"),
        ("null-co,,", "Invalid parameter ''"),
        ("null-co,,x=5", "Invalid parameter ''"),
        (",a=b", "Invalid parameter ''"),
        ("null-co,-a=b", "Invalid parameter '-a'"),
        ("null-co,_a=b", "Invalid parameter '_a'"),
        ("null-co,__orgfoobar=4", "Invalid parameter '__orgfoobar'"),
        ("null-co,a,b", "Expected '=' after parameter 'a'"),
        ("null-co,node-name", "Expected '=' after parameter 'node-name'"),
        ("help", "Help is not available for this option"),
        ("?", "Help is not available for this option"),
        ("null-co,help", "Help is not available for this option"),
        ("raw,file.driver=f,file=x", "Parameters 'file.*' used inconsistently"),
        ("raw,file=x,file.driver=f", "Parameters 'file.*' used inconsistently"),
        ("raw,file.0=x,file.a=f", "Parameters 'file.*' used inconsistently"),
        ("raw,a.b=1,a.b.c.d=2", "Parameters 'a.b.*' used inconsistently"),
        ("raw,a.b.c=1,a.b=2", "Parameters 'a.b.*' used inconsistently"),
        ("driver=a,driver.x=3", "Parameters 'driver.*' used inconsistently"),
        ("nbd,bitmaps.1=x", "Parameter 'bitmaps.0' missing"),
        ("raw,file.0=a,file.2=x", "Parameter 'file.1' missing"),
        (f"raw,{'x' * 128}=b", f"Parameter '{'x' * 128}' is too long"),
        (f"raw,a.b.{'x' * 128}=b", f"Parameter fragment '{'x' * 128}' is too long"),
    ],
)
def test_malformed_text_gets_qemus_words(text, message):
    with pytest.raises(QmpError) as caught:
        keyval.parse(text, "driver")
    assert caught.value.desc == message


def test_a_value_without_key_needs_an_implied_one():
    with pytest.raises(QmpError, match="Expected '=' after parameter 'unix'"):
        keyval.parse("unix")


LEAVES = st.text(min_size=0, max_size=8)
KEYS = st.from_regex(r"[a-z][a-z0-9-]{0,5}", fullmatch=True)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda below: (
            st.dictionaries(KEYS, below, min_size=1, max_size=3)
            | st.lists(below, min_size=1, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def spell(tree, prefix=""):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, str):
            yield f"{prefix}{key}={value.replace(',', ',,')}"
        else:
            yield from spell(value, f"{prefix}{key}.")


@given(TREES)
def test_every_tree_that_is_spelled_out_is_read_back(tree):
    assert keyval.parse(",".join(spell(tree))) == tree


@given(st.text(alphabet="ab0.,=_-? ", max_size=20))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(QmpError):
        assert isinstance(keyval.parse(text, "driver"), dict)


def test_keys_of_too_many_levels_are_refused():
    assert keyval.parse("a." * 100 + "a=1")
    for levels in (101, 5000):
        with pytest.raises(QmpError, match="JSON nesting depth limit exceeded"):
            keyval.parse("a." * levels + "a=1")
