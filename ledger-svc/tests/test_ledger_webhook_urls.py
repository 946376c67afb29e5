"""Where webhooks may be sent, and where never."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from ledger_svc.domain.destinations import Allowed, RefusedDestination, is_public, url_state
from ledger_svc.domain.errors import InvalidRequest

ALLOWED = Allowed()


@pytest.mark.parametrize(
    ("url", "in_its_one_form"),
    [
        ("https://example.com", "https://example.com/"),
        ("https://Example.COM/Hook?a=b%20c", "https://example.com/Hook?a=b%20c"),
        ("HTTPS://example.com:443/x", "https://example.com/x"),
        ("https://example.com.:8443/", "https://example.com:8443/"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://example.com//double//slash", "https://example.com//double//slash"),
        ("https://1.example.com/", "https://1.example.com/"),
        ("https://example.com:1024/", "https://example.com:1024/"),
    ],
)
def test_a_url_that_may_be_is_kept_in_one_form(url: str, in_its_one_form: str) -> None:
    found = ALLOWED.check_url(url)
    assert found.url == in_its_one_form
    assert ALLOWED.check_url(found.url) == found


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "empty"),
        ("http://example.com/", "https://"),
        ("ftp://example.com/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("javascript:alert(1)", "https://"),
        ("example.com", "https://"),
        ("//example.com/", "https://"),
        ("https://", "host name"),
        ("https:///path", "host name"),
        ("https://user@example.com/", "user name"),
        ("https://user:secret@example.com/", "user name"),
        ("https://example.com@127.0.0.1/", "user name"),
        ("https://example.com/#fragment", "fragment"),
        ("https://example.com/#@127.0.0.1/", "fragment"),
        ("https://example.com:80/", "port 80"),
        ("https://example.com:22/", "port 22"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:65536/", "not a URL"),
        ("https://example.com:x/", "not a URL"),
        ("https://127.0.0.1/", "not an IP address"),
        ("https://8.8.8.8/", "not an IP address"),
        ("https://2130706433/", "not an IP address"),
        ("https://0x7f000001/", "not an IP address"),
        ("https://0x7f.1/", "not an IP address"),
        ("https://0177.0.0.1/", "not an IP address"),
        ("https://127.1/", "not an IP address"),
        ("https://127.0.0.1./", "not an IP address"),
        ("https://127.0.0.0x1/", "not an IP address"),
        ("https://127.0.0.0x/", "not an IP address"),
        ("https://[::1]/", "not an IP address"),
        ("https://[::ffff:127.0.0.1]/", "not an IP address"),
        ("https://[fe80::1%25eth0]/", "not an IP address"),
        ("https://[::1/", "not a URL"),
        ("https://b\u00fccher.example/", "Punycode"),
        ("https://\uff11\uff12\uff17.0.0.1/", "Punycode"),
        ("https://127\u30020\u30020\u30021/", "Punycode"),
        ("https://example.com\\@127.0.0.1/", "characters"),
        ("https://example.com/a b", "characters"),
        ("https://example.com/\r\nHost: internal", "control"),
        ("https://example.com/\t", "control"),
        ("https://example.com/\x00", "control"),
        ("https://exa%6dple.com/", "host name"),
        ("https://-example.com/", "host name"),
        ("https://example..com/", "host name"),
        ("https://.example.com/", "host name"),
        ("https://" + "a" * 64 + ".com/", "host name"),
        ("https://" + "a." * 130 + "com/", "host name"),
        ("https://example.com/" + "a" * 2_000, "characters"),
        (" https://example.com/", "characters"),
    ],
)
def test_a_url_that_may_not_be_is_refused_and_says_why(url: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        ALLOWED.check_url(url)
    assert refused.value.metadata["param"] == "url"


def test_the_ports_are_the_operators() -> None:
    assert Allowed(min_port=80).check_url("https://example.com:80/").port == 80
    with pytest.raises(InvalidRequest, match=r"must be 443$"):
        Allowed(min_port=65_536).check_url("https://example.com:8443/")


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
        *("168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192"),
        *("192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
        *("224.0.0.1", "224.0.1.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1"),
        *("fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "ff0e::1", "100::1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8", "2001::1", "2001:db8::1", "2001:20::1"),
        *("2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "4000::1", "2a00::5efe:10.0.0.1"),
        "2600::0200:5efe:8.8.8.8",
    ],
)
def test_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(RefusedDestination, match="not public"):
        ALLOWED.check_addresses(["8.8.8.8", address])


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_an_address_that_is_public(address: str) -> None:
    assert ALLOWED.check_addresses([address]) == [address]


def test_what_is_no_address_is_refused_and_none_is_too() -> None:
    for addresses in ([], ["localhost"], ["127.1"]):
        with pytest.raises(RefusedDestination):
            ALLOWED.check_addresses(addresses)


def test_networks_of_the_operators_choice_are_allowed_and_nothing_beside_them() -> None:
    allowed = Allowed(private=(ip_network("10.1.0.0/16"), ip_network("::1/128")))
    assert allowed.check_addresses(["10.1.2.3", "::1"]) == ["10.1.2.3", "::1"]
    for address in ("10.2.0.1", "127.0.0.1", "::ffff:10.1.2.3", "::2"):
        with pytest.raises(RefusedDestination):
            allowed.check_addresses([address])


def test_the_trail_has_no_path_in_which_a_secret_may_be() -> None:
    one, other = url_state("https://example.com:8443/T0/secret?x=1"), url_state("https://example.com:8443/T0/other")
    assert one["url_origin"] == other["url_origin"] == "https://example.com:8443"
    assert one["url_sha256"] != other["url_sha256"]
    assert "secret" not in str(one)
