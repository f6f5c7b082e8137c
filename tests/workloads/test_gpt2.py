"""The program gpt2.py, run as jobs run it: a process of its own, judged by what it prints."""

import ast
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="gpt2.py needs torch")

PROGRAM = Path(__file__).parents[2] / "hpcbench" / "workloads" / "gpt2.py"
SHORT = (
    "--size",
    "nano",
    "--batch",
    "2",
    "--sequence-length",
    "32",
    "--sample-tokens",
    "8",
    "--threads",
    "1",
    "--warmup-steps",
    "0",
)


def start(*arguments):
    """Run the program; later options override the short defaults."""
    return subprocess.run(
        [sys.executable, PROGRAM, *SHORT, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def records(*arguments):
    done = start(*arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def select(rows, record, **columns):
    return [row for row in rows if row["record"] == record and columns.items() <= row.items()]


def kinds(rows):
    """Return the rows as words: the record, or for events and counters which one."""
    return [row.get("kind") or row.get("name") or row["record"] for row in rows]


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("gpt2_program", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def run():
    return records("--steps", 12, "--warmup-steps", 2, "--validate-every", 5, "--validation-batches", 3)


def test_records_come_in_order_and_end_with_finished(run):
    steps = ["step"] * 5
    body = ["eval", *steps, "eval", *steps, "eval", "step", "step", "eval"]
    head, tail = ["environment", "parameters", "flops_per_token"], ["sample", "max_memory", "finished"]
    assert kinds(run) == [*head, *body, *tail]
    assert run[-1]["message"] == "completed"
    times = [row["time"] for row in run if "time" in row]
    assert times == sorted(times)


def test_a_step_has_every_column_in_si_units(run):
    rows = select(run, "step")
    assert [row["step"] for row in rows] == list(range(12))
    assert [row["warmup"] for row in rows] == [True] * 2 + [False] * 10
    for row in rows:
        assert set(row) == {
            *("record", "step", "time", "loss", "lr", "grad_norm"),
            *("step_time", "tokens", "tokens_per_second", "warmup"),
        }
        assert row["tokens"] == 2 * 32
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["step_time"])
        assert 0 < row["step_time"] < row["time"]
        assert row["grad_norm"] > 0


def test_validation_comes_at_the_start_every_k_steps_and_at_the_end(run):
    rows = select(run, "eval", task="validation", metric="loss")
    assert [row["step"] for row in rows] == [0, 5, 10, 12]
    assert {row["count"] for row in rows} == {3 * 2 * 32}
    assert rows[0]["value"] == pytest.approx(math.log(256), abs=0.3)  # untrained: every byte is as likely


def test_the_loss_falls(run):
    rows = select(run, "eval")
    assert rows[-1]["value"] < rows[0]["value"] - 0.3


def test_the_environment_says_what_the_run_stands_on(run):
    facts = json.loads(run[0]["message"])
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == 1
    assert facts["data"]["vocabulary"] == 256
    assert 100_000 < facts["data"]["bytes"] <= 8_000_000
    assert len(facts["data"]["sha256"]) == 64
    assert facts["options"]["layers"] == 3


def test_two_threads_compute_what_one_computes(run):
    again = records(
        "--steps", 12, "--warmup-steps", 2, "--validate-every", 5, "--validation-batches", 3, "--threads", 2
    )
    assert json.loads(again[0]["message"])["threads"] == 2
    for record, column in (("step", "loss"), ("eval", "value")):
        one, two = ([row[column] for row in select(rows, record)] for rows in (run, again))
        assert two == pytest.approx(one, abs=1e-5)
    assert select(again, "event", kind="sample")[0]["message"] == select(run, "event", kind="sample")[0]["message"]


def test_a_text_of_any_bytes_is_read(tmp_path):
    text = tmp_path / "naïve.txt"
    text.write_bytes(b"\xff\xfe caf\xe9 \x00\r\n" * 200)
    rows = records("--steps", 2, "--data", text, "--validate-every", 0, "--sample-tokens", 0, "--dtype", "bfloat16")
    assert kinds(rows)[3:] == ["step", "step", "max_memory", "finished"]
    facts = json.loads(rows[0]["message"])
    data = facts["data"]
    assert (data["files"], data["bytes"], data["tokens"], data["vocabulary"]) == (1, 2200, 2200, 256)
    assert facts["dtype"] == "bfloat16"


def test_a_loss_that_is_no_number_is_null_and_said_once():
    rows = records("--steps", 4, "--learning-rate", "1e38")
    losses = [row["loss"] for row in select(rows, "step")]
    assert losses[0] is not None
    assert losses[-2:] == [None, None]
    (event,) = select(rows, "event", kind="nan_loss")
    assert event["step"] == losses.index(None)
    assert kinds(rows)[-1] == "finished"


def test_a_tokenizer_folder_is_used(tmp_path):
    pytest.importorskip("transformers")
    from tokenizers.pre_tokenizers import ByteLevel

    words = [*sorted(ByteLevel.alphabet()), "th", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\n")
    text = tmp_path / "text.txt"
    text.write_text("the thin thing\n" * 100)
    rows = records("--steps", 1, "--data", text, "--tokenizer", tmp_path)
    data = json.loads(rows[0]["message"])["data"]
    assert (data["vocabulary"], data["bytes"], data["tokens"]) == (258, 1500, 1200)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threads", "0"], "--threads: expected a whole number of at least 1, found '0'"),
        (["--steps", "ten"], "--steps: expected a whole number of at least 1, found 'ten'"),
        (["--heads", "5"], "--heads 5 does not divide the 48 channels"),
        (["--steps", "3", "--warmup-steps", "3"], "--steps 3: no step would be left after --warmup-steps 3"),
        (["--size", "huge"], "choose from"),
        (["--compile", "yes"], "choose from"),
        (["--learning-rate", "nan"], "--learning-rate nan: expected a finite number above 0"),
        (["--dev", "cpu"], "unrecognized arguments: --dev"),
        (["--data", "no/such/file.txt"], "--data no/such/file.txt: No such file or directory"),
        (["--data", __file__, "--sequence-length", "100000"], "--sequence-length 100000 needs 100001"),
        (["--tokenizer", "no/such/folder"], "--tokenizer no/such/folder: expected a folder with"),
        (["--device", "cpu", "--matmul", "tf32"], "--matmul tf32 is for cuda, and this run is on cpu"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, said):
    done = start(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert said in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_absent_is_refused():
    done = start("--device", "cuda")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_memory_that_runs_out_is_heard():
    # 2**62 bytes of weights: more than any address space, whatever the machine
    done = start("--channels", 2**29, "--heads", 1, "--layers", 1)
    assert done.returncode not in (0, 2)
    assert "can't allocate memory" in done.stderr


def test_nothing_of_hpcbench_is_imported():
    imported = set()
    for node in ast.walk(ast.parse(PROGRAM.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"torch", "transformers"}


def test_the_largest_size_is_gpt2_small(program):
    with torch.device("meta"):
        model = program.GPT2(*program.SIZES["124M"], vocabulary=50257, context=1024)
    assert sum(weight.numel() for weight in model.parameters()) == 124_439_808
    assert program.flops_per_token(model, 1024) == 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 1024


def test_it_computes_what_transformers_computes(program):
    transformers = pytest.importorskip("transformers")
    model = program.build(program.read_options(["--size", "nano"]), 256, torch.device("cpu"))
    for weight in model.parameters():  # away from ones and zeros, where a swapped bias would not show
        weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    layers, heads, channels = program.SIZES["nano"]
    peer = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=256, n_layer=layers, n_head=heads, n_embd=channels)
    ).eval()
    names = {"tokens": "wte.weight", "positions": "wpe.weight", "norm": "ln_f", "blocks": "h"}
    names |= {"norm_1": "ln_1", "qkv": "attn.c_attn", "attention_out": "attn.c_proj"}
    names |= {"norm_2": "ln_2", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj"}
    weights = {}
    for name, weight in model.state_dict().items():
        theirs = ".".join(names.get(part, part) for part in name.split("."))
        linear = weight.dim() == 2 and "blocks" in name
        weights[f"transformer.{theirs}"] = weight.T if linear else weight  # theirs multiplies from the other side
    missing = peer.load_state_dict(weights, strict=False).missing_keys
    assert set(missing) <= {"lm_head.weight"}  # tied
    tokens = torch.randint(256, (2, 33), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = peer(tokens, labels=tokens)
        torch.testing.assert_close(model(tokens), expected.logits[:, -1])
        torch.testing.assert_close(model(tokens[:, :-1], tokens[:, 1:]), expected.loss)
