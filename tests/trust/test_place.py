import pytest

from appliance.trust.place import Place


@pytest.mark.parametrize(
    ("text", "url", "name"),
    [
        ("registry.example", "https://registry.example", "registry.example"),
        ("Registry.Example:443", "https://registry.example", "registry.example"),
        ("registry.example:5000", "https://registry.example:5000", "registry.example:5000"),
        ("https://registry.example/", "https://registry.example", "registry.example"),
        ("http://10.0.0.1", "http://10.0.0.1", "10.0.0.1"),
        ("http://10.0.0.1:443", "http://10.0.0.1:443", "10.0.0.1:443"),
        ("[2001:DB8::1]:5000", "https://[2001:db8::1]:5000", "[2001:db8::1]:5000"),
        ("bücher.example", "https://xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, url: str, name: str) -> None:
    place = Place.parse(text)
    assert (place.url, place.name) == (url, name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("registry.example/path", "says more than where the registry is"),
        ("registry.example?x=1", "says more than where the registry is"),
        ("ftp://registry.example", "is neither https nor http"),
        ("https://alice:secret@registry.example", "a password does not belong"),
        ("registry.example:99999", "is no address"),
        ("[::1", "is no address"),
        ("a b", "names no host"),
        ("", "names no host"),
        ("-x.example", "names no host"),
        ("\0", "names no host"),
    ],
)
def test_what_is_no_address_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        Place.parse(text)
    assert "secret" not in str(refused.value)
