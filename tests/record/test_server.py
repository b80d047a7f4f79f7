"""The tracking server: its credentials, its proxy, and the error if it cannot be used."""

from __future__ import annotations

import os

import pytest

from search.record.server import bypass_proxy_on_loopback, credentials_apart, unusable


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for each in (name, name.upper()):
            monkeypatch.setenv(each, "")  # so that it is restored at the end
            monkeypatch.delenv(each)


def test_http_credentials_are_passed_as_variables() -> None:
    """The client gets a URI without a password, which its errors may name."""
    uri, variables = credentials_apart("https://bob:p%40w%3A@host:5000/x")
    assert uri == "https://host:5000/x"
    assert variables == {"MLFLOW_TRACKING_USERNAME": "bob", "MLFLOW_TRACKING_PASSWORD": "p@w:"}


@pytest.mark.parametrize("uri", ["http://host:5000", "sqlite:///a.db", "postgresql://b:p@h/d"])
def test_other_uris_do_not_change(uri: str) -> None:
    """A URI without credentials sets no variable; a database's driver reads its own URI."""
    assert credentials_apart(uri) == (uri, {})


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, "docs/tracking-server.md"),
        (None, "is --tracking-uri right?"),
        (500, "is --tracking-uri right?"),
    ],
)
def test_error_says_what_to_do(status: int | None, hint: str) -> None:
    """The hint depends on the HTTP status; the URI is shown without the password."""
    message = str(unusable("http://bob:S3CRET@host:5000", "no", status))
    assert message.startswith("tracking server http://host:5000 cannot be used: no; ")
    assert hint in message


class TestProxy:
    @pytest.fixture(autouse=True)
    def _proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://bob:S3CRET@proxy:3128")

    @pytest.mark.parametrize("status", [None, 502])
    def test_error_names_the_proxy(self, status: int | None) -> None:
        """The proxy may be why there is no answer; its password is not shown."""
        message = str(unusable("http://host:5000", "no", status))
        assert "through the proxy http://proxy:3128" in message
        assert "add host to no_proxy" in message
        assert "S3CRET" not in message

    @pytest.mark.parametrize("status", [401, 403])
    def test_refusal_by_the_server_does_not_name_the_proxy(self, status: int) -> None:
        """The server has answered, so the proxy is not the reason."""
        assert "proxy" not in str(unusable("http://host:5000", "no", status))

    def test_error_of_a_bypassed_server_does_not_name_the_proxy(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server in `no_proxy` is asked directly."""
        monkeypatch.setenv("no_proxy", "host")
        assert "is it running" in str(unusable("http://host:5000", "no"))

    @pytest.mark.parametrize(
        ("host", "names"),
        [
            ("localhost", ["localhost"]),
            ("127.0.0.1", ["127.0.0.1"]),
            ("[::1]", ["::1", "[::1]"]),  # requests reads the first form, urllib the second
        ],
    )
    def test_server_on_this_machine_is_asked_directly(
        self, host: str, names: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The user's own exceptions stay."""
        monkeypatch.setenv("no_proxy", "intranet")
        bypass_proxy_on_loopback(f"http://{host}:5000")
        assert os.environ["no_proxy"].split(",") == ["intranet", *names]
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"]

    @pytest.mark.parametrize("uri", ["http://host:5000", "sqlite:///a.db", "http://[::1"])
    def test_other_servers_are_asked_through_the_proxy(self, uri: str) -> None:
        """Only servers on this machine are exceptions."""
        bypass_proxy_on_loopback(uri)
        assert "no_proxy" not in os.environ
        assert "NO_PROXY" not in os.environ

    def test_exception_for_all_hosts_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`*` means all hosts only if it stands alone."""
        monkeypatch.setenv("no_proxy", "*")
        bypass_proxy_on_loopback("http://localhost:5000")
        assert os.environ["no_proxy"] == "*"
