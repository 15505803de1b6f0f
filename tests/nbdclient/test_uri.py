import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.nbdclient.uri import NbdUri, UriError, parse


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("nbd://localhost", NbdUri(host="localhost")),
        ("nbd://localhost/disk", NbdUri("disk", host="localhost")),
        ("nbd://127.0.0.1:1234/a%20b", NbdUri("a b", host="127.0.0.1", port=1234)),
        ("nbd://[::1]:1234/x", NbdUri("x", host="::1", port=1234)),
        ("nbd://[fe80::1%25eth0]/x%ff", NbdUri("x\udcff", host="fe80::1%eth0")),
        ("nbd://loc%61lhost/x", NbdUri("x", host="localhost")),
        ("nbd+unix:///disk?socket=/run/s", NbdUri("disk", path="/run/s")),
        ("nbd+unix://?socket=rel", NbdUri("", path="rel")),
        ("nbd+unix:///x?socket=/%ff", NbdUri("x", path="/\udcff")),
        ("nbd+unix:///a/b?socket=/s%3f", NbdUri("a/b", path="/s?")),
        ("nbd+unix:///a+b?socket=/c++/s", NbdUri("a+b", path="/c++/s")),
    ],
)
def test_uris_say_where_an_export_is(text, uri):
    assert parse(text) == uri
    assert parse(str(uri)) == uri


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://x/", "is not an NBD URI"),
        ("disk.raw", "is not an NBD URI"),
        ("", "is not an NBD URI"),
        ("nbd://", "needs a host"),
        ("nbd:///name", "needs a host"),
        ("nbd://host:port/", "is not an NBD URI"),
        ("nbd://[::1", "is not an NBD URI"),
        ("nbd://h/x?socket=/s", "takes no parameters"),
        ("nbd://user@h/x", "parts that NBD URIs have not"),
        ("nbds://h/x", "TLS is not supported"),
        ("nbd+unix:///x", "needs [?]socket="),
        ("nbd+unix:///x?socket=", "needs [?]socket="),
        ("nbd+unix://host/x?socket=/s", "takes no host"),
        ("nbd+unix:///x?socket=/s&y=1", "'y' is not supported"),
    ],
)
def test_what_is_no_uri_is_refused_with_a_reason(text, message):
    with pytest.raises(UriError, match=message):
        parse(text)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.text("a/ ?#%&=é", min_size=1, max_size=9),
)
def test_a_unix_uri_is_read_back(name, path):
    uri = NbdUri(name, path=path)
    assert parse(str(uri)) == uri


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.integers(0, 65535))
def test_a_tcp_uri_is_read_back(name, port):
    uri = NbdUri(name, host="fe80::1", port=port)
    assert parse(str(uri)) == uri
