"""Questions of our own in MMLU's form, and a server that is asked them.

Whatever it is asked it holds B for the likeliest letter and finds no likelihood for D. What it offers is chosen by the
request's model, as words with `+` between:

| word | what happens |
|---|---|
| `completions` | ``/completions`` answers, with log-probabilities in OpenAI's legacy form; without it is 404 |
| `llama` | ``/completions`` answers, with them in the form of chat completions, as llama.cpp's server does |
| `five` | more than five log-probabilities are refused |
| `top` | ``/chat/completions`` tells log-probabilities; without they are ignored |
| `one` | they are told of the token that was sampled alone, as where ``top_logprobs`` is ignored |
| `refuses` | a chat with ``logprobs`` is refused (400) |
| `no-chat` | every chat is refused (400), as for a model without a template |
| `reasons` | the first token of a chat is none of the letters |
| `prose` | a chat's text is a sentence |
| `silent` | a chat's text is empty |
| `one-in-K` | every Kth question is answered with status 500 |
"""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIKELY = {" B": -0.25, "B": -2.0, " A": -1.5, " the": -3.0, "C": -4.0}
ASTRAY = {"<think>": -0.1, "We": -2.5}
SUBJECTS = {
    "animals": [
        ("How many legs has a spider?", "six", "eight", "ten", "twelve", "B"),
        ("Which of these can fly?", "a bat", "a cow", "a hedgehog", "a mole", "A"),
        ("What does a panda eat most?", "fish", "bamboo", "mice", "bread", "B"),
        ("Which of these lays eggs?", "a horse", "a cat", "a sheep", "a hen", "D"),
        ("Where do whales live?", "in trees", "in the sea", "in caves", "in the desert", "B"),
        ("Which is the tallest?", "a dog", "a goat", "a giraffe", "a fox", "C"),
    ],
    "weather": [
        ("What falls from clouds, and is frozen?", "wind", "snow", "fog", "thunder", "B"),
        ("What is measured with a barometer?", "pressure", "rain", "light", "sound", "A"),
        ("What follows lightning?", "frost", "thunder", "dew", "drought", "B"),
        ("Which of these is a cloud?", "delta", "gamma", "cirrus", "omega", "C"),
    ],
}


def write(folder) -> None:
    """Write the questions in the layout without a head; of each subject the first two are its examples, too."""
    folder.mkdir()
    for subject, questions in SUBJECTS.items():
        examples = [(f"{text} (again)", *rest) for text, *rest in questions[:2]]
        for split, rows in (("test", questions), ("dev", examples)):
            lines = [",".join(f'"{cell}"' for cell in row) for row in rows]
            (folder / f"{subject}_{split}.csv").write_text("\n".join(lines) + "\n")


@contextmanager
def serving():
    """Serve on a free port; `requests` holds the path and body of what was asked, `url` is its API's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.requests, server.lock = [], threading.Lock()
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append((self.path, body))
            count = len(self.server.requests)
        offers = body["model"].split("+")
        wanted = body.get("top_logprobs", body.get("logprobs"))
        every = next((int(each[7:]) for each in offers if re.fullmatch(r"one-in-\d+", each)), 0)
        if self.path == "/v1/completions" and not {"completions", "llama"} & set(offers):
            return self._whole(404, {"error": {"message": "there is no such path"}})
        if wanted and wanted > 5 and "five" in offers:
            return self._whole(400, {"error": {"message": f"logprobs: {wanted} is more than 5"}})
        if every and count % every == 0:
            return self._whole(500, {"error": {"message": "out of luck"}})
        if self.path == "/v1/completions":
            chat = {"content": [_told(LIKELY)]}
            legacy = {"tokens": [" B"], "token_logprobs": [-0.25], "top_logprobs": [LIKELY]}
            return self._say(body, " B", chat if "llama" in offers else legacy)
        if "no-chat" in offers or ("refuses" in offers and wanted):
            said = "there is no chat template" if "no-chat" in offers else "logprobs is not supported by this model"
            return self._whole(400, {"error": {"message": said}})
        likely = ASTRAY if "reasons" in offers else LIKELY
        text = "It is the second one, I think." if "prose" in offers else "" if "silent" in offers else "B"
        if wanted and "one" in offers:
            return self._say(body, text, {"content": [{**_told(likely), "top_logprobs": []}]})
        return self._say(body, text, {"content": [_told(likely)]} if wanted and "top" in offers else None)

    def _say(self, body, text, logprobs):
        chat, usage = "messages" in body, {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41}
        told = {"logprobs": logprobs, "finish_reason": "stop", "index": 0}
        if not body["stream"]:
            said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            return self._whole(200, {"choices": [{**told, **said}], "usage": usage})
        said = {"delta": {"content": text}} if chat else {"text": text}
        role = [{"choices": [{"delta": {"role": "assistant", "content": ""}, "logprobs": None}]}] if chat else []
        events = [*role, {"choices": [{**told, **said}]}, {"choices": [], "usage": usage}]
        lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return self._send(200, lines.encode(), "text/event-stream")

    def _whole(self, status, body):
        return self._send(status, json.dumps(body).encode(), "application/json")

    def _send(self, status, body, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _told(likely):
    """Write log-likelihoods of a token in the form of chat completions."""
    each = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in likely.items()]
    return {**each[0], "top_logprobs": each}
