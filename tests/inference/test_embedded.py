"""An endpoint on this machine: real `transformers serve`, asked over a plain connection, and gone afterwards."""

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import toy

from hpcbench.errors import SiteError, UsageError
from hpcbench.inference import embedded

needs_transformers = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in embedded._NEEDED), reason="no transformers[serving] here"
)


def ask(base_url, **body):
    """Send a chat request; returns status and body."""
    where = urlsplit(base_url)
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 20, **body}
    with contextlib.closing(http.client.HTTPConnection(where.hostname, where.port, timeout=60)) as connection:
        connection.request(
            "POST", f"{where.path}/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        with connection.getresponse() as answer:
            return answer.status, answer.read()


def listens(base_url):
    where = urlsplit(base_url)
    with socket.socket() as client:
        return client.connect_ex((where.hostname, where.port)) == 0


def servers():
    return toy.processes_under(Path(os.environ["XDG_CACHE_HOME"]))


@needs_transformers
@pytest.mark.parametrize("continuous_batching", [False, True])
def test_it_answers_streaming_and_not_and_is_gone_afterwards(tmp_path, continuous_batching):
    log = tmp_path / "serve.log"
    with embedded.serving(continuous_batching=continuous_batching, log=log) as served:
        assert served.started_in > 0
        status, body = ask(served.base_url, model=served.model)
        assert status == 200
        answer = json.loads(body)
        assert answer["usage"]["completion_tokens"] == 20  # as many as asked for: its model never ends by itself
        status, body = ask(served.base_url, model=served.model, stream=True)
        events = [json.loads(line[5:]) for line in body.splitlines() if line.startswith(b"data:")]
        pieces = [event["choices"][0]["delta"].get("content") for event in events]
        assert len([piece for piece in pieces if piece]) == 20  # a chunk a token
        assert "".join(piece or "" for piece in pieces) == answer["choices"][0]["message"]["content"]
        assert servers()
    assert not listens(served.base_url)
    assert not servers()
    assert "Uvicorn running on http://127.0.0.1:" in log.read_text()


PARENT = """
import sys, time
from pathlib import Path
from hpcbench.inference import embedded

with embedded.serving(log=Path(sys.argv[1])) as served:
    print(served.base_url, flush=True)
    time.sleep(600)
"""


@needs_transformers
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_does_not_outlive_its_parent(tmp_path, how):
    argv = [sys.executable, "-c", PARENT, str(tmp_path / "serve.log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        base_url = parent.stdout.readline().strip()
        assert listens(base_url)
        os.kill(parent.pid, how)
    toy.until(lambda: not servers() and not listens(base_url))


@needs_transformers
def test_a_model_folder_is_served_under_its_name(tmp_path):
    program = (
        "import sys, pathlib; from hpcbench.inference import embedded; embedded.make_model(pathlib.Path(sys.argv[1]))"
    )
    for name in ("mine", "again"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=True, stderr=subprocess.DEVNULL)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("mine", "again")]
    assert weights[0] == weights[1]
    with embedded.serving(str(tmp_path / "mine"), log=tmp_path / "serve.log") as served:
        assert served.model == "mine"
        assert ask(served.base_url, model="other")[0] == 400
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".")]


@needs_transformers
def test_a_model_that_cannot_be_served_is_one_line(tmp_path):
    with (
        pytest.raises(UsageError, match=r"no config\.json in it"),
        embedded.serving(str(tmp_path), log=tmp_path / "serve.log"),
    ):
        pass
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "llama"}')
    with (
        pytest.raises(SiteError, match="ended with status 1: ValueError: Unrecognized processing class") as failed,
        embedded.serving(str(tmp_path / "broken"), log=tmp_path / "serve.log"),
    ):
        pass
    assert "\n" not in str(failed.value)


def test_missing_packages_are_named_with_the_command_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "_NEEDED", ("json", "no_such_package"))
    expected = r"^no_such_package not installed: pip install 'hpcbench\[serve\]'$"
    with pytest.raises(SiteError, match=expected), embedded.serving(log=tmp_path / "serve.log"):
        pass


class Lists(BaseHTTPRequestHandler):
    listed = b""

    def do_GET(self):
        assert self.path == "/v1/models"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.listed)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        (b'{"data": [{"id": "llama3.2:1b"}, {"id": "other"}]}', ["llama3.2:1b"]),
        (b'{"data": null}', []),  # Ollama without a model
        (b'{"data": [{"id": 1}]}', []),
        (b"[" * 100_000, []),
        (b"<html>", []),
    ],
)
def test_servers_that_run_already_are_found(monkeypatch, listed, first):
    with ThreadingHTTPServer(("127.0.0.1", 0), type("L", (Lists,), {"listed": listed})) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        ports = {"Ollama": server.server_port, "llama.cpp": toy.free_port()}
        monkeypatch.setattr(embedded, "_KNOWN", ports)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{toy.free_port()}")
        base_url = f"http://127.0.0.1:{server.server_port}/v1"
        assert list(embedded.running()) == [("Ollama", base_url, name) for name in first]
        server.shutdown()
