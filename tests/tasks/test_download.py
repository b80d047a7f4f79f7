"""Files are downloaded once, whole or not at all, and kept."""

from __future__ import annotations

import http.server
import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from search.errors import InputError
from search.present.progress import Display
from search.tasks.download import OutOfReach, file_name, kept

Answers = dict[str, tuple[int, bytes, int]]  # by path: status, body, the length that it claims


class Server:
    """A local server that answers what a test has put there, and never answers /hang."""

    def __init__(self) -> None:
        self.answers: Answers = {}
        self.requests: list[str] = []
        self.closing = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                name = self.path.partition("?")[0]
                if name.startswith("/hang"):
                    outer.closing.wait()
                    return
                status, body, length = outer.answers.get(name, (404, b"", 0))
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                del format, args

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"

    def put(self, name: str, body: bytes, *, status: int = 200, length: int | None = None) -> str:
        self.answers[f"/{name}"] = (status, body, len(body) if length is None else length)
        return f"{self.url}/{name}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    served = Server()
    thread = threading.Thread(target=served.httpd.serve_forever, args=(0.01,))
    thread.start()
    yield served
    served.closing.set()
    served.httpd.shutdown()
    thread.join()
    served.httpd.server_close()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a parquet file."""
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    pd.DataFrame({"x": range(500)}).to_parquet(path)
    return path.read_bytes()


@pytest.fixture
def messages() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def display(messages: io.StringIO) -> Display:
    return Display(messages)


def downloaded(url: str, folder: Path, display: Display) -> Path:
    return kept(url, folder / file_name(url), display)


def is_empty(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class TestFileName:
    def test_addresses_with_equal_endings_have_different_names(self) -> None:
        """One address never gives the file of another. The name keeps its suffixes."""
        names = [file_name(f"https://host/{folder}/a.csv.gz") for folder in "xy"]
        assert len(set(names)) == 2
        assert all(name.startswith("a-") and name.endswith(".csv.gz") for name in names)

    def test_same_address_has_always_the_same_name(self) -> None:
        """A later search finds the file."""
        assert file_name("https://host/a.parquet") == "a-97e47a2c.parquet"

    @pytest.mark.parametrize(
        ("url", "part"),
        [
            ("s3://bucket/a.parquet", "cannot read s3://"),
            ("file:///a.parquet", "cannot read file://"),
            ("http://", "names no file"),
            ("http://host/", "names no file"),
            ("http://host/..", "names no file"),
            ("http://host/a%2F..%2Fb c", "names no file"),
            ("http://[host/a.csv", "not a URL"),
        ],
    )
    def test_url_without_a_file_is_refused(self, url: str, part: str) -> None:
        with pytest.raises(InputError, match=part) as error:
            file_name(url)
        assert "\n" not in str(error.value)

    def test_error_has_no_credentials(self) -> None:
        with pytest.raises(InputError) as error:
            file_name("s3://me:secret@bucket/a.parquet?sig=secret")
        assert "secret" not in str(error.value)


class TestDownload:
    def test_file_is_downloaded_once_and_kept(
        self,
        tmp_path: Path,
        server: Server,
        table: bytes,
        display: Display,
        messages: io.StringIO,
    ) -> None:
        """A second search finds the file; the first one is shown where it comes from."""
        url = server.put("a.parquet", table)
        first = downloaded(url, tmp_path / "data", display)
        second = downloaded(url, tmp_path / "data", display)
        assert first == second
        assert first.read_bytes() == table
        assert list((tmp_path / "data").iterdir()) == [first]
        assert server.requests == ["/a.parquet"]
        (line,) = messages.getvalue().splitlines()
        assert url in line

    def test_existing_file_is_not_downloaded(self, tmp_path: Path, display: Display) -> None:
        path = tmp_path / "a.csv"
        path.touch()
        assert kept("http://127.0.0.1:1/a.csv", path, display) == path

    @pytest.mark.parametrize(
        ("status", "length", "part"),
        [(404, None, "HTTP 404"), (500, None, "HTTP 500"), (200, 10**6, "of 1000000 bytes came")],
    )
    def test_failed_download_is_one_line_and_leaves_nothing(
        self,
        tmp_path: Path,
        server: Server,
        table: bytes,
        display: Display,
        status: int,
        length: int | None,
        part: str,
    ) -> None:
        """The line has the address. A file that was cut short is not kept."""
        url = server.put("a.parquet", table, status=status, length=length)
        with pytest.raises(OutOfReach, match=part) as error:
            downloaded(url, tmp_path / "data", display)
        assert url in str(error.value)
        assert "\n" not in str(error.value)
        assert is_empty(tmp_path / "data")

    def test_web_page_in_place_of_a_parquet_file_is_not_kept(
        self, tmp_path: Path, server: Server, display: Display
    ) -> None:
        """A network's log-in page must not stay under the file's name."""
        url = server.put("a.parquet", b"<html>log in</html>")
        with pytest.raises(OutOfReach, match="no parquet"):
            downloaded(url, tmp_path, display)
        assert is_empty(tmp_path)

    def test_server_that_does_not_answer_is_given_up(
        self, tmp_path: Path, server: Server, display: Display
    ) -> None:
        """The message has the time-out."""
        with pytest.raises(OutOfReach, match=r"no answer within 0\.2 s"):
            kept(f"{server.url}/hang.csv", tmp_path / "hang.csv", display, timeout_s=0.2)
        assert is_empty(tmp_path)

    def test_error_and_messages_have_no_credentials(
        self, tmp_path: Path, display: Display, messages: io.StringIO
    ) -> None:
        """Neither the password nor the signature: messages go to logs."""
        url = f"http://user:secret@127.0.0.1:{unused_port()}/a.csv?sig=secret"
        with pytest.raises(OutOfReach) as error:
            downloaded(url, tmp_path, display)
        assert "secret" not in f"{error.value}{messages.getvalue()}"

    @pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
    def test_interrupted_download_leaves_nothing(
        self,
        tmp_path: Path,
        server: Server,
        table: bytes,
        display: Display,
        monkeypatch: pytest.MonkeyPatch,
        stop: type[BaseException],
    ) -> None:
        """Ctrl-C during a download removes the part that came."""
        url = server.put("a.parquet", table)
        seen: list[list[str]] = []

        def interrupted(*_: object) -> None:
            seen.append([path.name for path in tmp_path.iterdir()])
            raise stop

        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(stop):
            downloaded(url, tmp_path, display)
        assert [name.endswith(".part") for name in seen[0]] == [True]
        assert is_empty(tmp_path)

    def test_parallel_downloads_of_one_file_do_not_collide(
        self, tmp_path: Path, server: Server, table: bytes, display: Display
    ) -> None:
        """Searches that start together all find a whole file."""
        url = server.put("a.parquet", table)
        found: list[Path] = []
        threads = [
            threading.Thread(target=lambda: found.append(downloaded(url, tmp_path, display)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert found[0].read_bytes() == table
        assert list(tmp_path.iterdir()) == [found[0]]

    def test_error_about_the_folder_names_its_option(
        self, tmp_path: Path, server: Server, table: bytes, display: Display
    ) -> None:
        """An error of the disk is not one of the network."""
        (tmp_path / "data").write_text("a file")
        url = server.put("a.parquet", table)
        with pytest.raises(InputError, match="--data-dir") as error:
            downloaded(url, tmp_path / "data", display)
        assert not isinstance(error.value, OutOfReach)
