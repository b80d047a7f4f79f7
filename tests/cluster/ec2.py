"""A fake AWS: moto answers its API, and its machines are virtual hosts.

An EC2 instance is a host at its private address, an RDS database is a host with PostgreSQL, and a
terminated machine is powered off. Images, security groups and policies are only recorded: nothing
is installed from an image, no packet is blocked, no request is denied. A test can check
:attr:`Cloud.calls` against the policies.
"""

from __future__ import annotations

import io
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from benchmarks.hosts import PATH, Host, Hosts

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

REGION = "us-west-2"
ACCOUNT = "123456789012"  # the only one in moto
VPC = "172.31.0.0/16"  # the default one of every region
DATABASES = "172.31.255.{}"  # in no subnet of the VPC, so that no instance gets such an address

SIGNED_BY = re.compile(r"Credential=([^/]+)/[^/]+/[^/]+/([^/]+)/aws4_request")
OBJECT_RIGHTS = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "POST": "PutObject"}
BUCKET_RIGHTS = {"GET": "ListBucket", "HEAD": "ListBucket", "PUT": "CreateBucket"}

# What RDS does. The certificate is self-signed, which `sslmode=require` accepts.
POSTGRES = r"""
set -eu
bin=$(dirname "$(readlink -f "$(command -v initdb || ls /usr/lib/postgresql/*/bin/initdb)")")
as_nobody() { setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups "$@"; }
install -d -o nobody /tmp/postgres && cd /tmp/postgres
(umask 077; printf %s "$PASSWORD" > password)
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=stand-in -keyout key -out crt
chown nobody password key crt
as_nobody "$bin/initdb" -D data -U "$OWNER" --pwfile=password --auth=scram-sha-256 --no-sync
printf '%s\n' 'local all all trust' 'hostssl all all all scram-sha-256' > data/pg_hba.conf
cat >> data/postgresql.conf <<'END'
listen_addresses = '*'
unix_socket_directories = '/tmp/postgres'
fsync = off
ssl = on
ssl_cert_file = '/tmp/postgres/crt'
ssl_key_file = '/tmp/postgres/key'
END
as_nobody "$bin/pg_ctl" -D data -l log -w start
as_nobody "$bin/createdb" -h /tmp/postgres -U "$OWNER" "$DATABASE"
"""


def unusable() -> str | None:
    """Return why this machine cannot run the fake AWS; None if it can."""
    modules = ("moto", "boto3", "flask_cors", "psycopg")
    if missing := [name for name in modules if find_spec(name) is None]:
        return f"the fake AWS needs {', '.join(missing)}"
    debians = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    if not (shutil.which("initdb", path=PATH) or any(debians)):
        return "the fake AWS needs initdb (postgresql)"
    return None


@dataclass(frozen=True)
class Call:
    """One request to AWS: its access key, and the right that it needs."""

    key: str
    right: str  # such as ec2:RunInstances
    resource: str  # of S3 only; other services name it in different ways


@dataclass(frozen=True)
class Database:
    """A database, and how its owner connects to it."""

    host: Host
    name: str  # its host name in AWS
    password: str
    uri: str  # with the address, because only instances can resolve the name


class Cloud:
    """The running fake AWS, at this machine's address in the hosts' network."""

    def __init__(self, network: Hosts) -> None:
        """``network``: for its machines; its addresses must be those of :data:`VPC`."""
        assert str(network.network) == VPC, "moto gives instances addresses of the default VPC"
        self.instances: dict[str, Host] = {}  # running ones, by id
        self.databases: dict[str, Database] = {}
        self.calls: list[Call] = []
        self._network = network
        self._machines = threading.Lock()

    def __enter__(self) -> Cloud:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                pass

        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            host=self._network.gateway,
            port=0,
            app=self._answer,
            threaded=True,
            request_handler=Quiet,
        )
        self.url = f"http://{self._network.gateway}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        reset = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset, timeout=10).close()
        self._server.shutdown()
        self._server.server_close()

    def environment(self, key: str) -> dict[str, str]:
        """Return the variables of a client with this access key."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": "any",
        }

    def client(self, service: str) -> Any:
        """Return boto3's client of a service, for the test itself."""
        import boto3  # type: ignore[import-untyped]

        credentials = {"aws_access_key_id": "TEST", "aws_secret_access_key": "any"}
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, **credentials)

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Let moto answer; start and end the machines before the answer is sent."""
        call, form = _read(environ)
        answer = list(self._moto(environ, start_response))
        self.calls.append(call)
        with self._machines:
            if call.right in ("ec2:RunInstances", "ec2:TerminateInstances"):
                self._update_instances()
            elif call.right in ("rds:CreateDBInstance", "rds:DeleteDBInstance"):
                self._update_databases(form)
        return answer

    def _update_instances(self) -> None:
        from moto.ec2.models import ec2_backends

        ec2 = ec2_backends[ACCOUNT][REGION]
        running = {instance.id: instance for instance in ec2.all_running_instances()}
        for ended in self.instances.keys() - running.keys():
            self.instances.pop(ended).power_off()
        for new in running.keys() - self.instances.keys():
            key = ec2.key_pairs[running[new].key_name].public_key
            host = self._network.add(new, running[new].private_ip, authorized=[key])
            names = [f"{each.host.address} {each.name}" for each in self.databases.values()]
            host.run(["sh", "-c", 'printf "%s\\n" "$@" >> /etc/hosts', "sh", *names])
            self.instances[new] = host

    def _update_databases(self, form: Mapping[str, str]) -> None:
        from moto.rds.models import rds_backends

        running = rds_backends[ACCOUNT][REGION].databases
        for ended in self.databases.keys() - set(running):
            self.databases.pop(ended).host.power_off()
        for new in set(running) - self.databases.keys():
            self.databases[new] = self._make_database(running[new].address, form)

    def _make_database(self, name: str, form: Mapping[str, str]) -> Database:
        owner, password = form["MasterUsername"], form["MasterUserPassword"]
        database = form["DBName"]
        address = DATABASES.format(10 + len(self.databases))
        host = self._network.add(f"db-{form['DBInstanceIdentifier']}", address)
        environment = {"OWNER": owner, "PASSWORD": password, "DATABASE": database}
        result = host.run(POSTGRES, 60, environment)
        assert result.returncode == 0, result.stderr
        uri = f"postgresql://{owner}:{password}@{address}/{database}?sslmode=require"
        return Database(host, name, password, uri)


def _read(environ: WSGIEnvironment) -> tuple[Call, dict[str, str]]:
    """Return the call and the form of a request; moto can read its body again."""
    found = SIGNED_BY.search(environ.get("HTTP_AUTHORIZATION", ""))
    key, service = found.groups() if found else ("", "")
    if service == "s3":
        bucket, _, name = environ["PATH_INFO"].strip("/").partition("/")
        rights = OBJECT_RIGHTS if name else BUCKET_RIGHTS
        right = rights.get(environ["REQUEST_METHOD"], "Delete")
        return Call(key, f"s3:{right}", f"arn:aws:s3:::{bucket}" + (f"/{name}" if name else "")), {}
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    form = dict(parse_qsl(body.decode()))
    return Call(key, f"{service}:{form.get('Action', '')}", ""), form
