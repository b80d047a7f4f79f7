"""What finding and downloading trips promises."""

from __future__ import annotations

import http.server
import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from search import months, sample
from search.errors import InputError
from search.progress import Teller

Answers = dict[str, tuple[int, bytes, int]]  # by path: status, body, the length it claims


class Server:
    """A local file server that answers what a test put there, and hangs on /hang."""

    def __init__(self) -> None:
        self.answers: Answers = {}
        self.asked: list[str] = []
        self.closing = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
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
def month(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("month") / "month.parquet"
    sample.made_month("2021-01").head(500).to_parquet(path)
    return path.read_bytes()


class Listener(Teller):
    """Keeps what is said, line by line."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(io.StringIO())
        self._said = said

    def say(self, line: str) -> None:
        self._said.append(line)


@pytest.fixture
def said() -> list[str]:
    return []


def nothing_in(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


# Files and patterns


def test_files_stay_in_the_order_named_and_a_pattern_is_sorted(
    tmp_path: Path, said: list[str]
) -> None:
    """A file is taken as named, also when its name looks like a pattern."""
    for name in ("b.parquet", "a.parquet", "z[1].csv"):
        (tmp_path / name).touch()
    named = [str(tmp_path / "z[1].csv"), str(tmp_path / "*.parquet")]
    found = months.resolve(named, tmp_path, Listener(said))
    assert [path.name for path in found] == ["z[1].csv", "a.parquet", "b.parquet"]


def test_a_file_named_twice_is_refused(tmp_path: Path, said: list[str]) -> None:
    """Its trips would count twice without anyone noticing."""
    (tmp_path / "a.parquet").touch()
    with pytest.raises(InputError, match="named twice"):
        months.resolve([str(tmp_path / "a.parquet"), f"{tmp_path}/*"], tmp_path, Listener(said))


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
def test_what_cannot_be_meant_is_refused_before_any_download(
    tmp_path: Path, said: list[str], named: str, part: str
) -> None:
    """An impossible month, an empty pattern or a foreign address is one line."""
    with pytest.raises(InputError, match=part) as error:
        months.resolve([named], tmp_path, Listener(said))
    assert "\n" not in str(error.value)


# Downloads


def test_a_url_is_downloaded_once_and_kept(
    tmp_path: Path, server: Server, month: bytes, said: list[str]
) -> None:
    """The second search finds the file; it is told where the first one comes from."""
    url = server.put("a.parquet", month)
    first = months.resolve([url], tmp_path / "data", Listener(said))
    second = months.resolve([url], tmp_path / "data", Listener(said))
    assert first == second
    assert first[0].read_bytes() == month
    assert list((tmp_path / "data").iterdir()) == first
    assert server.asked == ["/a.parquet"]
    assert len(said) == 1
    assert url in said[0]


def test_two_addresses_that_end_alike_are_two_files(
    tmp_path: Path, server: Server, said: list[str]
) -> None:
    """One address never answers with another one's trips, and packed CSV keeps its suffix."""
    urls = [server.put("x/a.csv.gz", b"1"), server.put("y/a.csv.gz", b"2")]
    one, two = months.resolve(urls, tmp_path, Listener(said))
    assert (one.read_bytes(), two.read_bytes()) == (b"1", b"2")
    assert one.name.endswith(".csv.gz")


def test_a_month_in_the_data_dir_is_not_downloaded(
    tmp_path: Path, server: Server, said: list[str]
) -> None:
    """What lies there under TLC's name is used."""
    path = tmp_path / "green_tripdata_2021-01.parquet"
    path.touch()
    found = months.resolve(["green:2021-01"], tmp_path, Listener(said), tlc_url=server.url)
    assert found == [path]
    assert server.asked == []


@pytest.mark.parametrize(
    ("status", "length", "part"),
    [(404, None, "HTTP 404"), (500, None, "HTTP 500"), (200, 10**6, "of 1000000 bytes came")],
)
def test_a_failed_download_names_the_address_and_leaves_nothing(
    tmp_path: Path,
    server: Server,
    month: bytes,
    said: list[str],
    status: int,
    length: int | None,
    part: str,
) -> None:
    """Refused, broken or cut short: one line, and no part of a file."""
    url = server.put("a.parquet", month, status=status, length=length)
    with pytest.raises(InputError, match=part) as error:
        months.resolve([url], tmp_path / "data", Listener(said))
    assert url in str(error.value)
    assert "\n" not in str(error.value)
    assert nothing_in(tmp_path / "data")


def test_a_page_in_place_of_a_month_is_not_kept(
    tmp_path: Path, server: Server, said: list[str]
) -> None:
    """A network's log-in page must not stay under the month's name."""
    server.put("green_tripdata_2021-01.parquet", b"<html>log in</html>")
    with pytest.raises(InputError, match="no parquet"):
        months.resolve(["green:2021-01"], tmp_path, Listener(said), tlc_url=server.url)
    assert nothing_in(tmp_path)


def test_a_server_that_does_not_answer_is_given_up(
    tmp_path: Path, server: Server, said: list[str]
) -> None:
    """The time-out ends the wait and is named."""
    with pytest.raises(InputError, match=r"no answer within 0\.2 s"):
        months.resolve([f"{server.url}/hang.csv"], tmp_path, Listener(said), timeout_s=0.2)
    assert nothing_in(tmp_path)


def test_a_password_and_a_signature_are_not_shown(tmp_path: Path, said: list[str]) -> None:
    """Messages go to logs; what opens a door does not."""
    url = f"http://user:secret@127.0.0.1:{unused_port()}/a.csv?sig=secret"
    with pytest.raises(InputError) as error:
        months.resolve([url], tmp_path, Listener(said))
    assert "secret" not in f"{error.value}{said}"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_download_leaves_nothing(
    tmp_path: Path,
    server: Server,
    month: bytes,
    monkeypatch: pytest.MonkeyPatch,
    stop: type[BaseException],
) -> None:
    """Ctrl-C in the middle removes the part that came."""
    url = server.put("a.parquet", month)
    seen: list[list[str]] = []

    def interrupted(*_: object) -> None:
        seen.append([path.name for path in tmp_path.iterdir()])
        raise stop

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(stop):
        months.resolve([url], tmp_path, Teller(io.StringIO()))
    assert [name.endswith(".part") for name in seen[0]] == [True]
    assert nothing_in(tmp_path)


def test_downloads_of_one_month_at_once_do_not_meet(
    tmp_path: Path, server: Server, month: bytes, said: list[str]
) -> None:
    """Several searches that start together all find a whole file."""
    url = server.put("a.parquet", month)
    found: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda: found.extend(months.resolve([url], tmp_path, Listener(said)))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert found[0].read_bytes() == month
    assert list(tmp_path.iterdir()) == [found[0]]


def test_a_data_dir_that_cannot_be_written_is_named(
    tmp_path: Path, server: Server, month: bytes, said: list[str]
) -> None:
    """The disk is not the network: the line says --data-dir."""
    (tmp_path / "data").write_text("a file")
    url = server.put("a.parquet", month)
    with pytest.raises(InputError, match="--data-dir"):
        months.resolve([url], tmp_path / "data", Listener(said))


# Roles


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_the_default_is_tlcs_two_months(
    tmp_path: Path, server: Server, month: bytes, said: list[str]
) -> None:
    """Nothing named: 2021-01 to train on, 2021-02 to validate on, kept in the data dir."""
    for name in ("green_tripdata_2021-01.parquet", "green_tripdata_2021-02.parquet"):
        server.put(name, month)
    located = months.locate([], [], [], tmp_path, Listener(said), tlc_url=server.url)
    assert located.origin == "tlc"
    assert located.test is None
    assert located.train.path == str(tmp_path / "green_tripdata_2021-01.parquet")
    assert located.valid.path == str(tmp_path / "green_tripdata_2021-02.parquet")


def test_the_default_without_a_network_is_the_sample_and_says_so(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both roles become the sample, with a warning that nobody can miss."""
    monkeypatch.setenv("no_proxy", "*")
    url = f"http://127.0.0.1:{unused_port()}"
    located = months.locate([], [], [], tmp_path, Listener(said), tlc_url=url)
    assert located.origin == "sample"
    assert located.train.path == located.valid.path == "sample"
    assert len(located.train.minutes) > len(located.valid.minutes) > 10_000
    assert any("WARNING" in line and "MADE-UP" in line for line in said)


def test_a_month_that_is_named_is_never_replaced(
    tmp_path: Path, server: Server, said: list[str]
) -> None:
    """The same months, named, are an error when they cannot be had."""
    with pytest.raises(InputError, match="HTTP 404"):
        months.locate(
            months.DEFAULT_TRAIN,
            months.DEFAULT_VALID,
            [],
            tmp_path,
            Listener(said),
            tlc_url=server.url,
        )


def test_a_broken_file_in_the_data_dir_is_not_replaced_by_the_sample(
    tmp_path: Path, said: list[str]
) -> None:
    """What is there was put there by someone: it is an error."""
    for name in ("green_tripdata_2021-01.parquet", "green_tripdata_2021-02.parquet"):
        (tmp_path / name).write_text("broken")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        months.locate([], [], [], tmp_path, Listener(said))


def test_the_sample_can_be_named_for_every_role(tmp_path: Path, said: list[str]) -> None:
    """Each role gets its own made month, and nothing is said."""
    located = months.locate(["sample"], ["sample"], ["sample"], tmp_path, Listener(said))
    assert located.origin == "sample"
    assert located.test is not None
    assert located.test.minutes[:9].tolist() != located.valid.minutes[:9].tolist()
    assert said == []


def test_files_are_files_and_one_made_role_makes_it_a_sample(
    tmp_path: Path, month: bytes, said: list[str]
) -> None:
    """The origin never calls made trips real."""
    path = tmp_path / "a.parquet"
    path.write_bytes(month)
    files = months.locate([str(path)], [str(path)], [], tmp_path, Listener(said))
    mixed = months.locate([str(path)], ["sample"], [], tmp_path, Listener(said))
    assert (files.origin, mixed.origin) == ("files", "sample")


@pytest.mark.parametrize(("train", "valid"), [(["sample"], []), ([], ["sample"])])
def test_one_role_without_the_other_is_refused(
    tmp_path: Path, said: list[str], train: list[str], valid: list[str]
) -> None:
    """Training and validation data come together or not at all."""
    with pytest.raises(InputError, match="give both or neither"):
        months.locate(train, valid, [], tmp_path, Listener(said))


def test_the_sample_does_not_mix_with_files(tmp_path: Path, said: list[str]) -> None:
    """Made and real trips in one role would be neither."""
    with pytest.raises(InputError, match="goes alone"):
        months.locate(["sample", "a.parquet"], ["sample"], [], tmp_path, Listener(said))
