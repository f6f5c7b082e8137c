"""`hpcbench check` against real servers: an endpoint, a cluster behind ssh, this machine."""

import json
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import toy
from toy import hpcbench

CANARY = "token-that-nobody-may-see"
GATEWAY = {
    "/v1/models": {"data": [{"id": "tiny-2"}, {"id": "other"}]},
    "/list-endpoints": {"clusters": {"metis": {"frameworks": {"api": {"models": ["tiny-2"]}}}}},
    "/jobs": {
        "running": [{"Models": "other", "Model Status": "running"}],
        "queued": [{"Models": "a, tiny-2", "Model Status": "starting"}],
    },
    "/hot": {"running": [{"Models": "tiny-2", "Model Status": "running"}], "queued": []},
    "/odd": ["what", {"is": None}],
    "/none": {"data": []},
}


class Gateway(BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers.get("Authorization") == f"Bearer {CANARY}"
        self.send_response(200 if known and self.path in GATEWAY else 404 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(GATEWAY.get(self.path, {})).encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def gateway():
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def place(tmp_path):
    toy.write(tmp_path)
    (tmp_path / "sites").mkdir()
    return tmp_path


def checked(place, text, expected=0, **environment) -> dict[str, tuple[str, str, str]]:
    """Check a site of that text: what was tried → verdict, what was said, the mend."""
    (place / "sites" / "mine.yaml").write_text(f"title: Mine\n{text}\n")
    done = hpcbench("check", "mine", "--json", cwd=place, check=expected, **environment)
    assert CANARY not in done.stdout + done.stderr
    return {each["what"]: (each["verdict"], each["said"], each["mend"]) for each in json.loads(done.stdout)["checks"]}


def endpoint(gateway, rest="", model="tiny-2"):
    return f"endpoint: {{base_url: {gateway}/v1, model: {model}, token: {{env: MY_TOKEN}}{rest}}}"


def test_an_endpoint_that_is_ready(place, gateway):
    found = checked(place, endpoint(gateway, f", status: {gateway}/hot"), MY_TOKEN=CANARY)
    assert found == {
        "token": ("ok", "from the environment variable MY_TOKEN", None),
        "endpoint": ("ok", f"{gateway}/v1/models", None),
        "model": ("ok", "tiny-2; also there: other", None),
        "model state": ("ok", "running", None),
    }


def test_a_model_that_is_not_loaded_yet_is_said(place, gateway):
    found = checked(place, endpoint(gateway, f", status: {gateway}/jobs"), MY_TOKEN=CANARY)
    assert found["model state"] == ("unknown", "starting", "its first request waits until it is loaded")


def test_a_model_goes_by_an_older_name_and_stands_in_a_gateways_own_list(place, gateway):
    rest = f", aliases: [tiny-2], models: {gateway}/list-endpoints"
    found = checked(place, endpoint(gateway, rest, "tiny-3"), MY_TOKEN=CANARY)
    assert found["model"] == ("ok", "tiny-2, which tiny-3 is called there", None)


@pytest.mark.parametrize("path", ["/odd", "/none"])
def test_an_odd_list_of_models_is_no_crash(place, gateway, path):
    found = checked(place, endpoint(gateway, f", models: {gateway}{path}"), MY_TOKEN=CANARY)
    assert found["model"][0] == "unknown"


def test_what_is_wrong_with_an_endpoint_is_told_with_its_mend(place, gateway):
    found = checked(place, endpoint(gateway, model="huge"), expected=3, MY_TOKEN=CANARY)
    assert found["model"] == ("bad", "no huge: there is other, tiny-2", "change `endpoint.model`")
    found = checked(place, endpoint(gateway), expected=3, MY_TOKEN="")
    assert found == {"token": ("bad", "the environment variable MY_TOKEN is not set", "export MY_TOKEN=...")}
    found = checked(place, endpoint(gateway), expected=3, MY_TOKEN="an-old-one")
    assert found["endpoint"][0::2] == ("bad", "the token is not accepted: get a new one")
    closed = f"http://127.0.0.1:{toy.free_port()}"
    found = checked(place, endpoint(closed), expected=3, MY_TOKEN=CANARY)
    assert "Connection refused" in found["endpoint"][1]


def test_a_token_comes_from_a_command(place, gateway):
    text = endpoint(gateway).replace("{env: MY_TOKEN}", f"{{command: [printf, {CANARY}]}}")
    (place / "sites" / "mine.yaml").write_text(f"title: Mine\n{text}\n")
    shown = hpcbench("check", "mine", cwd=place, check=0).stdout
    assert shown.splitlines()[1].startswith("ok       endpoint")  # the token was taken
    (place / "said").write_text(f"a warning\n{CANARY}\n")
    text = endpoint(gateway).replace("{env: MY_TOKEN}", "{command: [cat, said]}")
    found = checked(place, text, expected=3)
    assert "is not a token alone" in found["token"][1]
    text = endpoint(gateway).replace("{env: MY_TOKEN}", "{command: ['false']}")
    found = checked(place, text, expected=3)
    assert found["token"] == ("bad", "false ended with status 1 and printed no token", "log in with false")


def cluster(sshd, place, rest=""):
    return (
        f"reach: {{ssh: 127.0.0.1, port: {sshd.port}, user: {sshd.user}, identity: {sshd.key}, "
        f"known_hosts: {sshd.known_hosts}}}\nscheduler: slurm\nfolder: {place}/far/away\n{rest}"
    )


def test_a_cluster_behind_ssh(place, sshd):
    found = checked(place, cluster(sshd, place, "job: {partition: GPU, time: '01:00:00'}"))
    assert {what: verdict for what, (verdict, _, _) in found.items()} == dict.fromkeys(
        ["reach", "folder", "python", "scheduler", "time", "job", "limits"], "ok"
    )
    assert found["time"][1] == "jobs may ask for 2-00:00:00"
    assert "MaxArraySize" in found["limits"][1]
    assert not (place / "far").exists()  # nothing is left behind


def test_what_is_wrong_with_a_cluster_is_told_with_its_mend(place, sshd, slurm):
    found = checked(place, cluster(sshd, place, "job: {partition: GPU, time: '72:00:00'}"), expected=3)
    assert found["time"] == (
        "bad", "jobs may ask for 2-00:00:00, the site file asks for 72:00:00", "change `job.time`",
    )  # fmt: skip
    jobs = slurm.jobs()
    found = checked(place, cluster(sshd, place, "job: {partition: GPU, gpus: 999}"), expected=3)
    assert found["job"][0::2] == ("bad", "change `job` in the site file")
    assert "Requested node configuration is not available" in found["job"][1]
    assert slurm.jobs() == jobs
    text = cluster(sshd, place, "job: {select: gpus}").replace("scheduler: slurm", "scheduler: pbs")
    assert checked(place, text, expected=3)["reach"][0] == "ok"  # benchmarks may say how many GPUs
    found = checked(place, cluster(sshd, place, "job: {partition: NONE}"), expected=3)
    assert found["partition"] == ("bad", "there is no NONE", "change `job.partition` or `job.queue`")
    text = cluster(sshd, place).replace(f"{place}/far/away", "/proc/nothing/here")
    assert "cannot write in /proc" in checked(place, text, expected=3)["folder"][1]
    text = cluster(sshd, place).replace(f"{place}/far/away", "$NO_SUCH_PLACE/here")
    assert "$NO_SUCH_PLACE is not set there" in checked(place, text, expected=3)["folder"][1]
    found = checked(place, cluster(sshd, place).replace("scheduler: slurm", "scheduler: pbs"), expected=3)
    assert found["scheduler"][0::2] == ("bad", "is it the login node?")
    text = cluster(sshd, place).replace(f"port: {sshd.port}", f"port: {toy.free_port()}")
    assert checked(place, text, expected=3)["reach"][0] == "bad"


def test_an_account_that_does_not_exist_is_named_beside_those_that_do(place, sshd_accounting):
    found = checked(place, cluster(sshd_accounting, place, "job: {account: nobodys}"), expected=3)
    assert found["account"][0] == "bad"
    assert found["account"][1].startswith("no nobodys: there is ")


def test_this_machine_and_notebooks(place):
    assert checked(place, "")["python"][0] == "ok"
    assert checked(place, "python: /no/such/python", expected=3)["python"][2] == "change `python` in the site file"
    assert checked(place, "scheduler: modal", PATH="/nowhere")["tool"][0] == "unknown"


def test_a_site_that_wants_a_passcode_says_how_to_log_in(place):
    text = "reach: {ssh: 127.0.0.1, login: passcode}\nfolder: $HOME/x\n"
    with tempfile.TemporaryDirectory(prefix="hb") as short:  # a socket's path must be
        found = checked(place, text, expected=3, XDG_RUNTIME_DIR=short)
    assert found["login"] == ("bad", "not logged in to mine: hpcbench login mine", None)
