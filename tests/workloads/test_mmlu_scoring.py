"""Log-likelihoods from a common beginning that is computed once, held against each prompt by itself."""

import random

import pytest

torch = pytest.importorskip("torch", reason="scoring needs torch")
transformers = pytest.importorskip("transformers", reason="scoring needs transformers")

from workloads import tiny_models  # noqa: E402

from hpcbench.workloads.mmlu.attention import UnfitError  # noqa: E402
from hpcbench.workloads.mmlu.scoring import Asked, Scorer, TooLargeError, common  # noqa: E402

CLOSE = 2e-5  # nats, in float32


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Make a model of a family once."""
    made = {}

    def loaded(family, **options):
        key = (family, *options.items())
        if key not in made:
            folder = tiny_models.write(tmp_path_factory.mktemp(family), family, **options)
            made[key] = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return made[key]

    return loaded


def questions(count=7, header=40, choices=1, seed=1):
    """Make prompts that begin alike; a choice has one token, or up to `choices`."""
    draw = random.Random(seed)

    def tokens(length):
        return tuple(draw.randrange(2, 250) for _ in range(length))

    start = tokens(header)
    return [
        Asked(
            (*start, 3 + number, *tokens(draw.randint(2, 30))),
            tuple(tokens(draw.randint(1, choices)) for _ in range(4)),
        )
        for number in range(count)
    ]


def reference(model, asked):
    """Compute what is defined: sums of log-probabilities of a choice's tokens, each row alone, without a cache."""
    found = []
    for choice in asked.choices:
        row = torch.tensor([[*asked.context, *choice]])
        with torch.inference_mode():
            logs = torch.log_softmax(model(row, use_cache=False).logits[0].double(), -1)
        start = len(asked.context) - 1
        found.append(sum(float(logs[start + place, token]) for place, token in enumerate(choice)))
    return found


def scored(scorer, asked, how="with_header", start=None):
    if how == "with_header":
        scorer.prefill(asked[0].context[: common(asked) if start is None else start])
    batches = list(getattr(scorer, how)(asked))
    places = [place for batch in batches for place in batch.places]
    assert sorted(places) == list(range(len(asked)))
    found = dict(zip(places, [scores for batch in batches for scores in batch.scores], strict=True))
    return [found[place] for place in range(len(asked))]


def check(found, model, asked):
    right = [reference(model, each) for each in asked]
    for one, other in zip(found, right, strict=True):
        assert one == pytest.approx(other, abs=CLOSE)
    return right


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
@pytest.mark.parametrize("choices", [1, 3])
def test_every_family_gives_the_same_from_a_common_beginning(load, family, choices):
    model, asked = load(family), questions(choices=choices)
    right = check(scored(Scorer(model, 3, print), asked), model, asked)
    assert max(abs(row[0] - row[1]) for row in right) > 0.1  # else anything would agree


@pytest.mark.parametrize("family", ["LlamaConfig", "GPT2Config", *tiny_models.UNFIT])
@pytest.mark.parametrize("choices", [1, 3])
def test_whole_prompts_in_padded_rows_give_the_same(load, family, choices):
    model, asked = load(family), questions(choices=choices)
    check(scored(Scorer(model, 4, print), asked, "whole"), model, asked)


@pytest.mark.parametrize("family", tiny_models.UNFIT)
def test_a_family_that_does_not_fit_differs_or_says_so(load, family):
    model, asked = load(family), questions()
    try:
        found = scored(Scorer(model, 3, print), asked)
    except UnfitError:
        return
    differences = [
        abs(a - b)
        for one, each in zip(found, asked, strict=True)
        for a, b in zip(one, reference(model, each), strict=True)
    ]
    assert max(differences) > 1e-3


def test_without_a_common_beginning_questions_share_nothing(load):
    model, asked = load("MistralConfig"), questions(header=0)
    assert common(asked) == 0
    check(scored(Scorer(model, 7, print), asked), model, asked)


def test_the_common_beginning_leaves_each_question_a_token():
    one = Asked((1, 2, 3), ((4,),))
    assert common([one, Asked((1, 2, 3, 4), ((4,),))]) == 2
    assert common([one, one]) == 2
    assert common([one, Asked((1, 5, 3), ((4,),))]) == 1
    assert common([one]) == 0
    assert common([]) == 0


def test_a_header_is_computed_once_and_not_kept_from_the_subject_before(load):
    model = load("LlamaConfig")
    scorer, first, second = Scorer(model, 0, print), questions(seed=1), questions(seed=2)
    for _ in range(2):
        scorer.prefill(first[0].context[:40])
    assert scorer.computed == 40
    check(scored(scorer, first), model, first)
    check(scored(scorer, second), model, second)


def test_a_batch_holds_as_many_questions_as_are_asked_for_and_the_shortest_come_first(load):
    asked = questions(count=7)
    scorer = Scorer(load("LlamaConfig"), 3, print)
    scorer.prefill(asked[0].context[:40])
    batches = list(scorer.with_header(asked))
    assert [len(batch.places) for batch in batches] == [3, 3, 1]
    lengths = [tokens for batch in batches for tokens in batch.tokens]
    assert lengths == sorted(lengths)
    assert all(batch.seconds > 0 for batch in batches)


@pytest.mark.parametrize("how", ["with_header", "whole"])
@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_a_batch_is_halved_and_nothing_is_lost(load, monkeypatch, how, error):
    model, asked, told = load("LlamaConfig"), questions(count=8), []
    scorer = Scorer(model, 8, told.append)
    if how == "with_header":
        scorer.prefill(asked[0].context[:40])
    right = model.forward
    calls = []

    def forward(*arguments, **options):
        calls.append(1)
        if len(calls) <= 2:
            raise error
        return right(*arguments, **options)

    monkeypatch.setattr(model, "forward", forward)
    found = scored(scorer, asked, how, 40)
    monkeypatch.undo()
    assert told == ["4 questions", "2 questions"]
    check(found, model, asked)


def test_out_of_memory_a_batch_of_its_own_choice_is_halved_by_its_tokens(load, monkeypatch):
    model, asked, told = load("LlamaConfig"), questions(count=8), []
    scorer, right = Scorer(model, 0, told.append), model.forward
    most = 150

    def forward(*arguments, **options):
        if options["input_ids"].numel() > most:
            raise MemoryError
        return right(*arguments, **options)

    monkeypatch.setattr(model, "forward", forward)
    found = scored(scorer, asked, "whole")
    batches = [sum(batch.tokens) for batch in scorer.whole(asked)]
    monkeypatch.undo()
    assert told
    assert all(each.endswith(" tokens") for each in told)
    assert len(batches) < len(asked)
    check(found, model, asked)


def test_memory_that_does_not_hold_the_header_ends_it(load, monkeypatch):
    model = load("LlamaConfig")
    monkeypatch.setattr(model, "forward", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(TooLargeError, match="the 40 tokens before the questions"):
        Scorer(model, 0, print).prefill(questions()[0].context[:40])


def test_by_itself_a_batch_holds_many_questions_and_what_is_computed_is_counted(load):
    model, asked = load("LlamaConfig"), questions(count=8)
    scorer = Scorer(model, 0, print)
    scored(scorer, asked)
    own = sum(len(each.context) - 40 for each in asked)
    assert scorer.computed == 40 + own
    assert len(list(scorer.with_header(asked))) == 1


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_length_are_not_believed(load, monkeypatch, kind):
    model = load("LlamaConfig")
    monkeypatch.setattr(model.config, "rope_parameters", {"rope_type": kind, "rope_theta": 1e4})
    with pytest.raises(UnfitError, match=f"depend on the length of what is computed .{kind}."):
        Scorer(model, 0, print).prefill((1, 2, 3))


def test_memory_that_does_not_hold_one_question_ends_it(load, monkeypatch):
    model, asked = load("LlamaConfig"), questions(count=1)
    monkeypatch.setattr(model, "forward", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(TooLargeError, match="one question of"):
        list(Scorer(model, 0, print).whole(asked))


def test_another_error_is_not_taken_for_it(load, monkeypatch):
    model = load("LlamaConfig")

    def forward(*_, **__):
        raise RuntimeError("the shapes do not fit")

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(RuntimeError, match="shapes"):
        list(Scorer(model, 0, print).whole(questions()))
