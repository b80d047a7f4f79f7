"""Where trips come from: files, patterns, URLs, TLC's months, or the generated sample."""

from __future__ import annotations

import functools
import http.server
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.errors import InputError
from search.present.progress import Display
from search.tasks.green_taxi import months, sample
from search.tasks.green_taxi.kind import GREEN_TAXI
from search.tasks.green_taxi.months import Source


class Server:
    """A local server of the files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                super().do_GET()

            def log_message(self, format: str, *args: object) -> None:
                del format, args

        handler: Any = functools.partial(Handler, directory=str(folder))
        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"

    def put(self, name: str, body: bytes) -> str:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_bytes(body)
        return f"{self.url}/{name}"


@pytest.fixture
def server(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    served = Server(tmp_path_factory.mktemp("served"))
    thread = threading.Thread(target=served.httpd.serve_forever, args=(0.01,))
    thread.start()
    yield served
    served.httpd.shutdown()
    thread.join()
    served.httpd.server_close()


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a month's file."""
    path = tmp_path_factory.mktemp("month") / "month.parquet"
    sample.made_month("2021-01").head(500).to_parquet(path)
    return path.read_bytes()


@pytest.fixture
def messages() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def source(tmp_path: Path, messages: io.StringIO) -> Source:
    """An empty data folder, and a TLC site that cannot be reached."""
    return Source(tmp_path, Display(messages), tlc_url=f"http://127.0.0.1:{unused_port()}")


@pytest.fixture
def served_source(tmp_path: Path, messages: io.StringIO, server: Server) -> Source:
    """An empty data folder, and the local server as TLC's site."""
    return Source(tmp_path, Display(messages), tlc_url=server.url)


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class TestResolve:
    def test_files_keep_their_order_and_a_pattern_is_sorted(
        self, tmp_path: Path, source: Source
    ) -> None:
        """A file is taken as it is named, also if its name looks like a pattern."""
        for name in ("b.parquet", "a.parquet", "z[1].csv"):
            (tmp_path / name).touch()
        named = [str(tmp_path / "z[1].csv"), str(tmp_path / "*.parquet")]
        found = months.resolve(named, source)
        assert [path.name for path in found] == ["z[1].csv", "a.parquet", "b.parquet"]

    def test_file_that_is_named_twice_is_refused(self, tmp_path: Path, source: Source) -> None:
        """Its trips would count twice."""
        (tmp_path / "a.parquet").touch()
        with pytest.raises(InputError, match="named twice"):
            months.resolve([str(tmp_path / "a.parquet"), f"{tmp_path}/*"], source)

    @pytest.mark.parametrize(
        ("named", "part"),
        [
            ("green:2021-13", "no such month"),
            ("green:2021-1", "no such month"),
            ("green:2012-01", "2013-08"),
            ("yellow:2021-01", "green"),
            ("none*.parquet", "no file matches"),
            ("s3://bucket/a.parquet", "s3"),
            ("http://", "names no file"),
            ("http://host/", "names no file"),
            ("http://[host/a.csv", "URL"),
        ],
    )
    def test_impossible_name_is_refused_before_any_download(
        self, source: Source, named: str, part: str
    ) -> None:
        """In one line."""
        with pytest.raises(InputError, match=part) as error:
            months.resolve([named], source)
        assert "\n" not in str(error.value)

    def test_url_is_downloaded_once_into_the_data_dir(
        self, tmp_path: Path, server: Server, source: Source, month: bytes
    ) -> None:
        url = server.put("a.parquet", month)
        first = months.resolve([url], source)
        assert months.resolve([url], source) == first
        assert list(tmp_path.iterdir()) == first
        assert first[0].read_bytes() == month
        assert server.requests == ["/a.parquet"]

    def test_two_addresses_with_equal_endings_are_two_files(
        self, server: Server, source: Source
    ) -> None:
        urls = [server.put("x/a.csv.gz", b"1"), server.put("y/a.csv.gz", b"2")]
        one, two = months.resolve(urls, source)
        assert (one.read_bytes(), two.read_bytes()) == (b"1", b"2")
        assert one.name.endswith(".csv.gz")

    def test_month_in_the_data_dir_is_not_downloaded(
        self, tmp_path: Path, server: Server, served_source: Source
    ) -> None:
        """A file there with TLC's name is used."""
        path = tmp_path / "green_tripdata_2021-01.parquet"
        path.touch()
        assert months.resolve(["green:2021-01"], served_source) == [path]
        assert server.requests == []

    def test_month_is_downloaded_from_tlc(
        self, tmp_path: Path, server: Server, served_source: Source, month: bytes
    ) -> None:
        server.put("green_tripdata_2021-01.parquet", month)
        (found,) = months.resolve(["green:2021-01"], served_source)
        assert found == tmp_path / "green_tripdata_2021-01.parquet"
        assert found.read_bytes() == month

    def test_web_page_in_place_of_a_month_is_not_kept(
        self, tmp_path: Path, server: Server, served_source: Source
    ) -> None:
        """A network's log-in page must not stay under the month's name."""
        server.put("green_tripdata_2021-01.parquet", b"<html>log in</html>")
        with pytest.raises(InputError, match="no parquet"):
            months.resolve(["green:2021-01"], served_source)
        assert list(tmp_path.iterdir()) == []


class TestLocate:
    def test_default_months_are_january_and_february_2021(self) -> None:
        """The first to train on, the second to validate on."""
        assert months.DEFAULT_TRAIN == ("green:2021-01",)
        assert months.DEFAULT_VALID == ("green:2021-02",)

    def test_default_months_are_downloaded(
        self, tmp_path: Path, server: Server, served_source: Source, month: bytes
    ) -> None:
        """And kept in the data folder."""
        for name in ("green_tripdata_2021-01.parquet", "green_tripdata_2021-02.parquet"):
            server.put(name, month)
        located = months.locate([], [], [], served_source)
        assert located.origin == "tlc"
        assert located.test is None
        assert located.train.path == str(tmp_path / "green_tripdata_2021-01.parquet")
        assert located.valid.path == str(tmp_path / "green_tripdata_2021-02.parquet")

    def test_sample_replaces_the_default_months_without_a_network(
        self, source: Source, messages: io.StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In both roles, with a clear warning."""
        monkeypatch.setenv("no_proxy", "*")
        located = months.locate([], [], [], source)
        assert located.origin == "sample"
        assert located.train.path == located.valid.path == "sample"
        assert len(located.train.minutes) > len(located.valid.minutes) > 10_000
        lines = messages.getvalue().splitlines()
        assert any("WARNING" in line and "MADE-UP" in line for line in lines)

    def test_named_months_are_never_replaced(self, served_source: Source) -> None:
        """The same months, if they are named, are an error if they cannot be had."""
        with pytest.raises(InputError, match="HTTP 404"):
            months.locate(months.DEFAULT_TRAIN, months.DEFAULT_VALID, [], served_source)

    def test_sample_does_not_replace_a_broken_file(self, tmp_path: Path, source: Source) -> None:
        """Somebody has put it into the data folder, so it is an error."""
        for name in ("green_tripdata_2021-01.parquet", "green_tripdata_2021-02.parquet"):
            (tmp_path / name).write_text("broken")
        with pytest.raises(InputError, match="cannot be read as parquet"):
            months.locate([], [], [], source)

    def test_sample_can_be_named_in_every_role(self, source: Source, messages: io.StringIO) -> None:
        """Each role gets a generated month of its own, without a message."""
        located = months.locate(["sample"], ["sample"], ["sample"], source)
        assert located.origin == "sample"
        assert located.test is not None
        assert located.test.minutes[:9].tolist() != located.valid.minutes[:9].tolist()
        assert messages.getvalue() == ""

    @pytest.mark.parametrize(
        ("train", "valid", "test", "origin"),
        [
            ("{file}", "{file}", None, "files"),
            ("{file}", "sample", None, "sample"),
            ("sample", "{file}", None, "sample"),
            ("{file}", "{file}", "sample", "sample"),
        ],
    )
    def test_one_generated_role_makes_the_origin_a_sample(
        self,
        tmp_path: Path,
        month: bytes,
        source: Source,
        train: str,
        valid: str,
        test: str | None,
        origin: str,
    ) -> None:
        """Generated trips are never called real."""
        path = tmp_path / "a.parquet"
        path.write_bytes(month)
        located = months.locate(
            train=[train.format(file=path)],
            valid=[valid.format(file=path)],
            test=[] if test is None else [test],
            source=source,
        )
        assert located.origin == origin

    def test_sample_and_files_in_one_role_are_refused(self, source: Source) -> None:
        with pytest.raises(InputError, match="goes alone"):
            months.locate(["sample", "a.parquet"], ["sample"], [], source)


@pytest.mark.parametrize(
    ("train", "valid", "missing"),
    [(("sample",), (), "--valid-data"), ((), ("sample",), "--train-data")],
)
def test_training_without_validation_data_is_refused(
    train: tuple[str, ...], valid: tuple[str, ...], missing: str
) -> None:
    """And validation data without training data: both are named or none."""
    with pytest.raises(InputError, match=f"without {missing}: give both, or neither"):
        GREEN_TAXI.check({"train_data": train, "valid_data": valid})
