"""The same parameters give the same prompts everywhere; what is wrong with a file of prompts is said in one line."""

import contextlib
import json
import re
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcbench.errors import ConfigError, HpcbenchError, UsageError
from hpcbench.inference.prompts import Prompt, make
from hpcbench.inference.score import contains

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Normandy",
            "paragraphs": [
                {
                    "context": "Rollo founded Normandy in 911.",
                    "qas": [
                        {"question": "Who?", "answers": [{"text": "Rollo"}, {"text": "Rollo"}], "is_impossible": False},
                        {"question": "When?", "answers": [{"text": "911"}, {"text": "in 911"}]},
                        {"question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


def repeated(prompts):
    """Count the prompts that are not the first of their kind."""
    return len(prompts) - len({prompt.id for prompt in prompts})


def own(folder, name, *lines):
    """Write a file of prompts and read it as the benchmark `chat` does."""
    file = folder / name
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return make("chat", {"prompts": str(file), "input_tokens": 100, "seed": 1}, 2)


def squad(folder, count, **parameters):
    (folder / "squad.json").write_text(json.dumps(SQUAD))
    return make("squad", {"data": str(folder / "squad.json"), "split": "validation", "seed": 1} | parameters, count)


def test_squad_asks_what_its_context_answers(tmp_path):
    asked = {prompt.messages[0]: prompt.answers for prompt in squad(tmp_path, 2)}
    assert asked == {
        ("user", "Context: Rollo founded Normandy in 911.\n\nQuestion: Who?\n\nAnswer:"): ("Rollo",),
        ("user", "Context: Rollo founded Normandy in 911.\n\nQuestion: When?\n\nAnswer:"): ("911", "in 911"),
    }


def test_where_the_data_ends_it_is_used_again_in_the_same_order(tmp_path):
    prompts = squad(tmp_path, 5)
    assert prompts[:2] == prompts[2:4]
    assert prompts[4] == prompts[0]
    assert repeated(prompts) == 3
    assert repeated(prompts[:2]) == 0


def test_real_squad(corpus):
    file = corpus.parent / "datasets" / "squad_v2.0_dev_first5articles.json"
    if not file.is_file():
        pytest.skip(f"no real questions: {file} is absent")
    prompts = make("squad", {"data": str(file), "seed": 1}, 705)  # 1407, of which 702 are impossible
    assert repeated(prompts) == 0
    assert prompts[:10] == make("squad", {"data": str(file), "seed": 1}, 10)
    assert prompts[:10] != make("squad", {"data": str(file), "seed": 2}, 10)
    assert all(any(answer in prompt.messages[0][1] for answer in prompt.answers) for prompt in prompts)


def hub(monkeypatch, load_dataset):
    """Stand in for `datasets`: rows as dictionaries, an `OSError` where there is no network."""
    calls = []
    quiet = SimpleNamespace(disable_progress_bars=lambda: calls.append("quiet"))
    package = SimpleNamespace(
        load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetsError=RuntimeError), **vars(quiet)
    )
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", quiet)
    return calls


def test_a_name_on_the_hub(tmp_path, monkeypatch):
    def load_dataset(name, split):
        assert (name, split) == ("rajpurkar/squad", "validation")
        rows = [("Who?", ["Rollo", "Rollo"]), ("When?", ["911", "in 911"]), ("Why?", [])]
        context = SQUAD["data"][0]["paragraphs"][0]["context"]
        return [{"context": context, "question": question, "answers": {"text": texts}} for question, texts in rows]

    calls = hub(monkeypatch, load_dataset)
    assert squad(tmp_path, 2, data="rajpurkar/squad") == squad(tmp_path, 2)
    assert calls == ["quiet", "quiet"]


def test_a_hub_that_does_not_answer(tmp_path, monkeypatch):
    def load_dataset(name, split):
        raise ConnectionError(f"Couldn't reach '{name}'\non the Hub")

    hub(monkeypatch, load_dataset)
    with pytest.raises(UsageError, match=r"^data: rajpurkar/squad \(validation\) .*: Couldn't reach .* on the Hub; "):
        squad(tmp_path, 2, data="rajpurkar/squad")


def test_a_data_set_that_is_not_squad(tmp_path, monkeypatch):
    hub(monkeypatch, lambda name, split: [{"text": "once"}])
    with pytest.raises(ConfigError, match=r"^owner/stories: the key 'context' is missing$"):
        squad(tmp_path, 2, data="owner/stories")


def test_without_the_package_the_error_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=re.escape("pip install 'hpcbench[datasets]'")):
        squad(tmp_path, 2, data="rajpurkar/squad")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", ":1: not valid JSON: Expecting property name"),
        ('{"data":\n [}', ":2: not valid JSON: "),
        ("[" * 100_000, ":1: not valid JSON: nested too deeply"),
        ("9" * 10_000, ":1: not valid JSON: a number of too many digits"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', ": the key 'data.0.paragraphs.0.context' is missing"),
        (
            '{"data": [{"paragraphs": [{"context": 1, "qas": []}]}]}',
            ": data.0.paragraphs.0.context: should be a valid ",
        ),
        ('{"data": []}', ": holds no question with an answer"),
    ],
)
def test_a_damaged_squad_file(tmp_path, text, said):
    file = tmp_path / "damaged.json"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        make("squad", {"data": str(file), "seed": 1}, 1)
    assert str(error.value).startswith(f"{file}{said}")


@pytest.mark.parametrize("name", ["", "squad/none.json", "./none/here", "nowhere", "."])
def test_data_that_is_neither_a_file_nor_a_name_of_the_hub(name):
    with pytest.raises(HpcbenchError, match=r"^(data: name a file|.*: there is no such file|.*cannot be read)"):
        make("squad", {"data": name, "seed": 1}, 1)


def test_own_prompts_are_asked_in_the_order_of_their_file(tmp_path):
    assert own(tmp_path, "prompts.txt", "Why is the sky blue?", "", "  Tell a tale.  ") == [
        Prompt((("user", "Why is the sky blue?"),)),
        Prompt((("user", "Tell a tale."),)),
    ]
    first = {"prompt": "Two and two?", "answers": ["4", "four"], "max_tokens": 8, "category": "arithmetic"}
    second = {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Grüß Gott"}]}
    assert own(tmp_path, "prompts.jsonl", json.dumps(first), "", json.dumps(second, ensure_ascii=False)) == [
        Prompt((("user", "Two and two?"),), ("4", "four"), 8),
        Prompt((("system", "Be short."), ("user", "Grüß Gott"))),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Why?", "not valid JSON: Expecting value"),
        ("[]", "should be a valid dictionary"),
        ("{}", "expected either 'prompt' or 'messages'"),
        ('{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}', "expected either"),
        ('{"prompt": ""}', "prompt: String should have at least 1 character"),
        ('{"prompt": "\\ud800"}', "prompt: should be a valid string"),
        ('{"prompt": "a", "answer": ["4"]}', "unknown key 'answer'; did you mean 'answers'?"),
        ('{"prompt": "a", "answers": "4"}', "answers: should be a valid list"),
        ('{"prompt": "a", "max_tokens": 0}', "max_tokens: should be greater than or equal to 1"),
        ('{"messages": [{"role": "poet", "content": "a"}]}', "messages.0.role: should be 'system', "),
        ('{"messages": [{"role": "user"}]}', "the key 'messages.0.content' is missing"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, said):
    with pytest.raises(ConfigError) as error:
        own(tmp_path, "prompts.jsonl", '{"prompt": "a"}', line)
    assert str(error.value).startswith(f"{tmp_path / 'prompts.jsonl'}:2: {said}")
    assert "\n" not in str(error.value)


def test_a_file_without_prompts(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no prompt$"):
        own(tmp_path, "empty.txt", "", " ")
    with pytest.raises(ConfigError, match=r"read from a \.jsonl"):
        own(tmp_path, "prompts.json", "[]")
    with pytest.raises(ConfigError, match="there is no such file"):
        make("chat", {"prompts": str(tmp_path / "none.txt")}, 1)
    (tmp_path / "latin.txt").write_bytes(b"one\nna\xefve\n")
    with pytest.raises(ConfigError, match=r"latin\.txt:2: is not UTF-8 text$"):
        make("chat", {"prompts": str(tmp_path / "latin.txt")}, 1)


@given(st.one_of(st.binary(), st.recursive(st.none() | st.text() | st.integers(), lambda each: st.lists(each)
    | st.dictionaries(st.sampled_from(["data", "prompt", "messages", "role", "content"]), each))
    .map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_whatever_a_file_holds_no_traceback_comes_of_it(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "hostile.jsonl"
    file.write_bytes(data)
    for kind, key in (("chat", "prompts"), ("squad", "data")):
        with contextlib.suppress(ConfigError):
            assert len(make(kind, {key: str(file), "seed": 1}, 3)) == 3


@pytest.mark.parametrize("kind", ["chat", "long_context"])
@pytest.mark.parametrize("tokens", [64, 97, 1000])
def test_synthetic_prompts_have_the_length_asked_for(kind, tokens):
    prompts = make(kind, {"seed": 1, "input_tokens": tokens}, 50)
    lengths = {len(re.findall(r"\w+|[^\w\s]", prompt.messages[0][1])) for prompt in prompts}
    assert lengths <= {tokens, tokens - 1}
    assert repeated(prompts) == 0
    assert max(Counter(prompt.messages[0][1][:40] for prompt in prompts).values()) == 1  # no prefix to share
    with pytest.raises(UsageError, match=r"^input_tokens: 8 is too few for such a prompt, which takes "):
        make(kind, {"seed": 1, "input_tokens": 8}, 1)


def test_a_longer_prompt_does_not_begin_as_a_shorter_one():
    short, long = (make("chat", {"seed": 1, "input_tokens": tokens}, 1)[0].messages[0][1] for tokens in (100, 200))
    assert short[:20] != long[:20]


def test_long_context_hides_its_answer_at_every_depth():
    depths = []
    for prompt in make("long_context", {"seed": 1, "input_tokens": 1200}, 400):
        ((_, text),) = prompt.messages
        (number,) = prompt.answers
        hidden = re.search(rf"The code of the (\w+) box is {number}\.", text)
        assert text.endswith(f"\n\nWhat is the code of the {hidden[1]} box? Answer with the number alone.")
        assert text.count("box") == 2
        assert contains(f"It is {number}.", prompt.answers) == 1.0
        depths.append(hidden.start() / text.index("\n\n"))
    quarters = Counter(int(depth * 4) for depth in depths)
    assert quarters.keys() == {0, 1, 2, 3}
    assert min(quarters.values()) >= 80
    assert min(depths) == 0.0
    assert max(depths) > 0.98


def test_with_a_line_of_its_own_no_prompt_begins_like_another(tmp_path):
    plain = squad(tmp_path, 4)
    varied = squad(tmp_path, 4, vary_prefix=True)
    again = squad(tmp_path, 4, vary_prefix=True, round=1)
    assert varied == squad(tmp_path, 4, vary_prefix=True)
    assert repeated(plain) == 2
    assert repeated([*varied, *again]) == 0
    assert [prompt.question for prompt in varied] == [prompt.question for prompt in again] == [p.id for p in plain]
    assert len({prompt.messages[0][1][:8] for prompt in [*varied, *again]}) == 8
    assert varied[0].messages[0][1].endswith(f"request.\n\n{plain[0].messages[0][1]}")
    assert varied[0].answers == plain[0].answers


@pytest.mark.parametrize("kind", ["squad", "chat", "long_context", "own"])
def test_each_repeat_has_lines_of_its_own_before_the_same_questions(tmp_path, kind):
    def made(**more):
        if kind == "squad":
            return squad(tmp_path, 3, **more)
        parameters = {"seed": 1, "input_tokens": 100} | ({"prompts": str(file)} if kind == "own" else {})
        return make("chat" if kind == "own" else kind, parameters | more, 3)

    file = tmp_path / "prompts.jsonl"
    system = {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]}
    lines = [{"prompt": "Two and two?", "answers": ["4"], "max_tokens": 8}, {**system, "max_tokens": 9}]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    plain, rounds = made(), [made(vary_prefix=True, round=number) for number in (1, 2, "2/1")]
    assert repeated([prompt for each in rounds for prompt in each]) == 0
    for varied in rounds:
        assert [prompt.question for prompt in varied] == [prompt.id for prompt in plain]
        for prompt, asked in zip(varied, plain, strict=True):
            assert prompt.messages[0][1].endswith(f"\n\n{asked.messages[0][1]}")
            assert prompt.messages[0][0] == asked.messages[0][0]
            assert prompt.messages[1:] == asked.messages[1:]
            assert (prompt.answers, prompt.max_tokens) == (asked.answers, asked.max_tokens)
    if kind == "own":
        assert [prompt.max_tokens for prompt in rounds[0]] == [8, 9, 8]
    assert made(round=1) == made(round=2) == plain  # without such lines a repeat asks the same


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"),
    [
        ("chat", {"input_tokens": 100}, "90acb27674c68af0"),
        ("long_context", {"input_tokens": 100}, "733bb95efd05377c"),
        ("long_context", {"input_tokens": 100, "vary_prefix": True, "round": 3}, "a701b5efede6c303"),
    ],
)
def test_prompts_are_the_same_on_every_machine(kind, parameters, expected):
    """If this fails, results measured before and after are not of the same prompts."""
    assert make(kind, {"seed": 7, **parameters}, 1)[0].id == expected


def test_an_unknown_kind():
    with pytest.raises(UsageError, match="did you mean 'squad'"):
        make("squat", {"seed": 1}, 1)
