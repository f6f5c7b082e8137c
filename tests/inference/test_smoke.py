"""`hpcbench smoke` against real servers, one for each way in which an endpoint can be wrong."""

import contextlib
import datetime as dt
import ipaddress
import json
import ssl
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import toy
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from toy import hpcbench

from hpcbench.errors import ConfigError, UsageError

pytest.importorskip("openai", reason="the package openai is not installed")

from hpcbench.inference import smoke as smokes
from hpcbench.inference.smoke import SmokeError, smoke

CANARY = 't0ken/th"at-nobody-may-see'  # with letters that JSON and addresses write in another way
HELLO = {
    "choices": [{"message": {"role": "assistant", "content": "ready\x1b[31m\nnow"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3},
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(*self.server.pages.get(self.path, (404, {})))

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.asked.append(json.loads(self.rfile.read(length)))
        self.server.tokens.append(self.headers["Authorization"])
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == "hang":
            self.server.over.wait(60)
        elif answer != "cut":
            self.reply(*answer)

    def reply(self, status, body, headers=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def server(*answers, pages=None, tls=None):
    """Answer each chat request with the next of `answers`: status, body and headers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.answers, listening.pages = list(answers), pages or {}
        listening.asked, listening.tokens, listening.over = [], [], threading.Event()
        if tls:
            listening.socket = tls.wrap_socket(listening.socket, server_side=True)
        listening.url = f"http{'s' if tls else ''}://127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield listening
        listening.over.set()
        listening.shutdown()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_TOKEN", CANARY)
    (tmp_path / "sites").mkdir()
    return tmp_path


def site(place, base_url, rest="", token=", token: {env: MY_TOKEN}"):
    text = f"title: Mine\nendpoint: {{base_url: '{base_url}', model: tiny-2{token}{rest}}}\n"
    (place / "sites" / "mine.yaml").write_text(text)


def wrong():
    """Ask the site; returns which problem it has, what was seen and the mend."""
    with pytest.raises(SmokeError) as failed:
        smoke("mine")
    assert CANARY not in str(failed.value)
    assert "\n" not in str(failed.value)
    return failed.value.problem, failed.value.said, failed.value.mend


def test_an_endpoint_that_answers(place):
    with server((200, HELLO)) as there:
        site(place, f"{there.url}/v1")
        shown = hpcbench("smoke", "mine", cwd=place, check=0).stdout.splitlines()
        told = json.loads(hpcbench("smoke", "mine", "--json", cwd=place, check=0).stdout)
    assert [line.split()[0] for line in shown] == ["site", "model", "reply", "latency", "tokens"]
    assert shown[2] == "reply    ready [31m now"  # no control character of the server's reaches the terminal
    assert shown[4] == "tokens   12 input, 3 output"
    assert told.pop("latency") > 0
    assert told == {
        "schema": "hpcbench/smoke/1", "site": "mine", "problem": None, "asked": "tiny-2", "model": "tiny-2",
        "reply": "ready [31m now", "input_tokens": 12, "output_tokens": 3,
    }  # fmt: skip
    assert there.asked[0]["max_tokens"] == 64
    assert there.tokens[0] == f"Bearer {CANARY}"
    assert len(there.asked) == 2


@pytest.mark.parametrize(
    ("answer", "problem", "said", "mend"),
    [
        ((401, {"error": {"message": "bad key"}}), "token refused",
         "the token from the environment variable MY_TOKEN is not accepted: status 401: bad key", "get a new one"),
        ((403, {"detail": "not for you"}), "token refused",
         "the token from the environment variable MY_TOKEN may not do this: status 403: not for you", "ask for access"),
        ((404, {"error": {"message": "The model `tiny-2` does not exist"}}), "model unknown",
         "tiny-2 is refused: status 404: The model `tiny-2` does not exist", "change `endpoint.model`"),
        ((400, {"detail": "Server is pinned to 'x'; requested 'tiny-2'."}), "model unknown",
         "pinned to 'x'", "change `endpoint.model`"),
        ((404, b"<html><h1>Not Found</h1></html>"), "server", "/v1/chat/completions: status 404: Not Found",
         "is `endpoint.base_url` right? It often ends in /v1"),
        ((400, {"error": "no"}), "server", "status 400: no", ""),
        ((422, {"detail": [{"loc": ["body", "max_tokens"], "msg": "extra"}]}), "schema",
         '"max_tokens"', "its own documentation says which it takes"),
        ((429, {"error": {"message": "Tokens/minute limit exceeded"}}, {"Retry-After": "17"}), "quota",
         "a limit is reached: status 429: Tokens/minute limit exceeded", "try again in 17 s"),
        ((429, b""), "quota", "a limit is reached: status 429", "try again later"),
        ((503, {"error": {"message": "tiny-2 is not currently live on Metis."}}), "model cold",
         "tiny-2 is not ready: status 503: tiny-2 is not currently live on Metis.", "a model takes minutes to load"),
        ((504, b"upstream"), "timeout", "the gateway gave up waiting: status 504: upstream", "try again later"),
        ((500, {"message": "oops"}), "server", "status 500: oops", "its own log says more"),
        ((302, b"", {"Location": "/v1/chat/completions"}), "server", "status 404", ""),
        ((200, b"<html>Welcome</html>", {"Content-Type": "text/html"}), "content",
         "answers, but not as OpenAI's protocol says: <html>Welcome</html>", "is `endpoint.base_url` right?"),
        ((200, b'data: {"choices": []}\n\n'), "content", "not as OpenAI's protocol says", ""),
        ((200, {"choices": []}), "content", "not as OpenAI's protocol says", ""),
        ((200, {"choices": [{"message": {"content": ["?"]}}]}), "content", "not as OpenAI's protocol says", ""),
        ((200, {"choices": [{"message": {"content": "?"}}], "usage": 5}), "content", "not as OpenAI's", ""),
        ((200, b"[" * 100_000), "content", "not as OpenAI's protocol says", ""),
        ((200, b"\xff\xfe", {"Content-Encoding": "gzip"}), "connection", "Error -3 while decompressing", ""),
        ((200, {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}), "empty",
         "tiny-2 answers, and says nothing", "its 64 tokens went into reasoning: a benchmark must allow more"),
        ((200, {"choices": [{"message": {"content": " "}}]}), "empty", "says nothing", "try again"),
        ("cut", "connection", "Server disconnected", "is the server up, the port right?"),
    ],
)  # fmt: skip
def test_each_failure_is_told_from_the_others_with_its_mend(place, answer, problem, said, mend):
    with server(answer) as there:
        site(place, f"{there.url}/v1")
        found = wrong()
    assert found[0] == problem
    assert said in found[1]
    assert mend in found[2]
    assert len(there.asked) == 1  # nothing is tried again behind the user's back


def test_the_exit_status_and_json_of_a_failure(place):
    with server((503, b"busy"), (200, {"choices": [{"message": {"content": ""}}]})) as there:
        site(place, f"{there.url}/v1")
        done = hpcbench("smoke", "mine", "--json", cwd=place, check=3)
        assert json.loads(done.stdout) == {
            "schema": "hpcbench/smoke/1", "site": "mine", "problem": "model cold",
            "said": "tiny-2 is not ready: status 503: busy", "mend": "try again later: a model takes minutes to load",
        }  # fmt: skip
        assert done.stderr.startswith("hpcbench: tiny-2 is not ready: status 503: busy; try again later")
        assert hpcbench("smoke", "mine", cwd=place, check=1).stderr.count("\n") == 1


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize("status", [200, 400, 401, 503])
def test_a_token_that_a_server_repeats_is_not_shown(place, debug, status):
    error = {"error": {"message": f"no such token: {CANARY} {'.' * 150} {CANARY.upper()}"}}
    with server((status, error), pages={"/v1/models": (200, {"data": [{"id": CANARY}]})}) as there:
        site(place, f"{there.url}/v1")
        done = hpcbench(*debug, "smoke", "mine", cwd=place, check=1 if debug else 3)
    for form in (CANARY, json.dumps(CANARY)[1:-1], "nobody-may-see"):
        assert form.lower() not in (done.stdout + done.stderr).lower()
    assert "(secret)" in done.stderr


@pytest.mark.parametrize(
    "spelled",
    [
        CANARY.replace("/", "%2f").replace('"', "%22"), CANARY.replace("/", "%2F"), CANARY.replace("/", r"\/"),
        CANARY.replace("/", r"\u002f").replace('"', r"\u0022"), urllib.parse.quote(CANARY, safe=""),
    ],
)  # fmt: skip
def test_a_token_that_a_server_spells_in_its_own_way_is_not_shown(place, spelled):
    with server((503, f"bad {spelled}".encode()), (200, {"choices": [{"message": {"content": spelled}}]})) as there:
        site(place, f"{there.url}/v1")
        assert wrong()[1] == "tiny-2 is not ready: status 503: bad (secret)"
        assert smoke("mine").text == "(secret)"


def test_no_piece_of_a_token_is_left_where_a_long_page_is_cut(place):
    with server(*[(500, b"x" * (10_000 - cut) + CANARY.encode()) for cut in range(5, 25, 4)]) as there:
        site(place, f"{there.url}/v1")
        for _ in range(5):
            assert wrong()[1].endswith("x(secret)")


def test_a_token_is_read_before_anything_is_sent(place, monkeypatch):
    monkeypatch.delenv("MY_TOKEN")
    site(place, "http://127.0.0.1:1/v1")
    assert wrong() == ("token missing", "the environment variable MY_TOKEN is not set", "export MY_TOKEN=...")
    with server((401, {"detail": "log in"})) as there:
        site(place, f"{there.url}/v1", token="")
        said = f"{there.url}/v1 wants a token: status 401: log in"
        assert wrong() == ("token missing", said, "name one in `endpoint.token`")


def test_models_go_by_other_names(place):
    pages = {"/v1/models": (200, {"data": [{"id": "tiny-1"}, {"id": "other"}]})}
    with server((404, {"detail": "what?"}), pages=pages) as there:
        site(place, f"{there.url}/v1")
        assert wrong() == ("model unknown", "no tiny-2: there is other, tiny-1", "change `endpoint.model`")
        there.answers = [(200, HELLO)]
        site(place, f"{there.url}/v1", ", aliases: [tiny-0, tiny-1]")
        shown = hpcbench("smoke", "mine", cwd=place, check=0).stdout
    assert "model    tiny-1, which tiny-2 is called there\n" in shown
    assert [each["model"] for each in there.asked] == ["tiny-2", "tiny-1"]


@pytest.mark.parametrize("listed", [{"data": 5}, {"clusters": [1]}, ["what"], b"[" * 100_000, b"<html>"])
def test_an_odd_list_of_models_is_no_list(place, listed):
    with server((404, {"detail": "Not Found"}), pages={"/v1/models": (200, listed)}) as there:
        site(place, f"{there.url}/v1", ", aliases: [tiny-1]")
        assert wrong()[0] == "server"


def test_a_gateway_says_what_the_model_waits_for(place):
    state = {"queued": [{"Models": "tiny-2", "Model Status": "starting"}]}
    with server((503, {"error": {"message": "not ready"}}), pages={"/jobs": (200, state)}) as there:
        site(place, f"{there.url}/v1", f", status: '{there.url}/jobs'")
        assert wrong()[1] == "tiny-2 is not ready (starting): status 503: not ready"
        state["running"] = [{"Models": "tiny-2", "Model Status": "running"}]
        assert wrong()[:2] == ("server", "tiny-2 is loaded, but overloaded: status 503: not ready")


def test_a_model_that_wants_max_completion_tokens_gets_it_once(place):
    message = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    with server((400, {"error": {"message": message}}), (200, HELLO)) as there:
        site(place, f"{there.url}/v1")
        assert smoke("mine").text == "ready [31m now"
        assert [each.get("max_completion_tokens") for each in there.asked] == [None, 64]
        assert "max_tokens" not in there.asked[1]
        there.answers = [(400, {"error": {"message": message}})]
        assert wrong()[0] == "server"
    assert len(there.asked) == 4


def test_nobody_there(place, monkeypatch):
    closed = f"127.0.0.1:{toy.free_port()}"
    site(place, f"http://user:secret@{closed}/v1")
    said = f"no connection to http://{closed}/v1: Connection refused"
    assert wrong() == ("connection", said, "is the server up, the port right?")
    site(place, "http://no-such-host.invalid/v1")
    problem, said, mend = wrong()
    assert (problem, mend) == ("dns", "is its name right, and this machine online?")
    assert said.startswith("no-such-host.invalid has no address: ")
    monkeypatch.setenv("http_proxy", f"http://user:secret@{closed}")
    assert wrong()[:2] == ("connection", "no connection to the proxy 127.0.0.1: Connection refused")


def test_a_server_that_does_not_answer(place, monkeypatch):
    monkeypatch.setattr(smokes, "_TIMEOUT", 0.3)
    with server("hang") as there:
        site(place, f"{there.url}/v1")
        assert wrong()[:2] == ("timeout", f"no answer from {there.url}/v1 in 0.3 s")


def certificate(place, *names, days=1):
    """Make a certificate that signs itself; returns a server's side of TLS, and its file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.timezone.utc)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = place / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (place / "key.pem").write_bytes(private)
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, place / "key.pem")
    return context, file


HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def test_a_certificate_of_an_unknown_signer(place, monkeypatch):
    context, file = certificate(place, HERE)
    with server((200, HELLO), tls=context) as there:
        site(place, f"{there.url}/v1")
        assert wrong() == (
            "tls", f"{there.url}/v1: its certificate is not accepted: self-signed certificate",
            "set SSL_CERT_FILE to a file with the certificate of who signed it",
        )  # fmt: skip
        monkeypatch.setenv("SSL_CERT_FILE", str(file))  # the mend is one
        assert smoke("mine").output_tokens == 3


@pytest.mark.parametrize(
    ("names", "days", "said", "mend"),
    [
        ([x509.DNSName("elsewhere.example")], 1, "mismatch", "change `endpoint.base_url` to a name that the"),
        ([HERE], -1, "certificate has expired", "is this machine's clock right? Else it must be renewed"),
    ],
)
def test_a_certificate_of_another_host_or_time(place, monkeypatch, names, days, said, mend):
    context, file = certificate(place, *names, days=days)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with server((200, HELLO), tls=context) as there:
        site(place, f"{there.url}/v1")
        found = wrong()
    assert found[0] == "tls"
    assert said in found[1]
    assert mend in found[2]


def test_a_server_that_speaks_no_tls(place):
    with server((200, HELLO)) as there:
        site(place, f"{there.url}/v1".replace("http:", "https:"))
        assert wrong()[0::2] == ("tls", "is it http:// and not https://?")


def test_a_site_without_an_endpoint_and_an_address_that_is_none(place):
    (place / "sites" / "mine.yaml").write_text("title: Mine\n")
    with pytest.raises(UsageError, match="no endpoint: `hpcbench check mine` tells whether its jobs can run"):
        smoke("mine")
    for url in ("http://:80/v1", "http://[::1/v1", "http://host:port/v1", f"http://{'a' * 70}.example/v1",
                "http://256.1.1.1/v1"):  # fmt: skip
        site(place, url)
        with pytest.raises(ConfigError, match=r"mine\.yaml:2: endpoint\.base_url: it names no host"):
            smoke("mine")
    site(place, "http://host/v1?api-version=1")
    with pytest.raises(ConfigError, match=r"mine\.yaml:2: endpoint\.base_url: "):
        smoke("mine")


def test_without_its_package_it_says_what_to_install(place, monkeypatch):
    site(place, "http://127.0.0.1:1/v1")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UsageError, match=r"pip install 'hpcbench\[inference\]'$"):
        smoke("mine")
