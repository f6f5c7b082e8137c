"""The benchmark `llama`, run against a strict stand-in for the tools of a Cerebras cluster."""

import getpass
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import toy
import yaml

from hpcbench import benchmark, render, site
from hpcbench.errors import UsageError
from hpcbench.parse import parse
from hpcbench.plan import Sweep, plan

STAND_IN = Path(__file__).parent / "cerebras_stand_in"
LABEL = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
# batch → rate since the start in samples/s, seconds in all, loss of the last step: published for 200 steps
PUBLISHED = {
    256: (32.86, 8615.0, 5.87924),
    512: (33.27, 4151.0, 6.32152),
    1024: (33.04, 7394.0, 6.10848),
    2048: (34.09, 13866.0, 5.96367),
}
BATCHES = ",".join(map(str, PUBLISHED))


def bundles(run="r", **axes):
    bench = benchmark.load("llama")
    texts = {name: str(value) for name, value in axes.items()}
    return render.render(plan(bench, [site.load("local")], Sweep.make(bench.parameters, texts)), run)


def bundle(run="r", **axes):
    [only] = bundles(run, **axes)
    return only


class Once(yaml.SafeLoader):
    """YAML whose mappings name each key once, as the Model Zoo reads it."""

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key) for key, _ in node.value]
        assert len(names) == len(set(names)), f"a key stands twice: {names}"
        return super().construct_mapping(node, deep)


def params(made):
    return yaml.load(made.files["params.yaml"], Once)["trainer"]


def write(folder, made):
    """Put a bundle where its job runs."""
    folder.mkdir(parents=True)
    for name, content in made.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def wafer(tmp_path):
    """The environment of a user node: the stand-ins on PATH, and a cluster of their own."""
    path = os.pathsep.join([str(STAND_IN), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "CEREBRAS_STAND_IN": str(tmp_path / "cluster")}


def do(environment, *command, cwd, seconds="0.1", check=None):
    done = subprocess.run(
        command, cwd=cwd, env={**environment, "CEREBRAS_STAND_IN_SECONDS": seconds},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if check is not None:
        assert done.returncode == check, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def job(environment, folder, seconds="0.1"):
    """Run a rendered job to its end; returns its log and its exit record."""
    script = folder / render.JOB_SCRIPT
    do(environment, "bash", str(script), cwd=folder, seconds=seconds)
    return (folder / "stdout.log").read_text(), json.loads((folder / "exit.json").read_text())


def words(folder, made):
    """Give the words that a job calls cszoo with: one that only writes them down stands in its place."""
    tools = folder / "tools"
    tools.mkdir(parents=True)
    (tools / "cszoo").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    (tools / "cszoo").chmod(0o755)
    log, _ = job({**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}, write(folder / "case", made))
    return log.split("\0")[:-1]


def listed(environment, cwd, *options):
    """Give the table of `csctl get jobs` as rows by column."""
    head, *lines = do(environment, "csctl", "get", "jobs", *options, cwd=cwd, check=0).stdout.splitlines()
    starts = [(match[0], match.start()) for match in re.finditer(r"\S+", head)]
    ends = [start for _, start in starts[1:]] + [None]
    return [{name: line[start:end].strip() for (name, start), end in zip(starts, ends, strict=True)} for line in lines]


def test_the_params_of_a_sweep_differ_in_their_batch_only():
    read = [params(made) for made in bundles(batch=BATCHES)]
    assert [each["fit"]["train_dataloader"].pop("batch_size") for each in read] == list(PUBLISHED)
    assert all(each == read[0] for each in read)


# What `trainer` holds, with everything that may be left out.
KEYS = {
    "init": {"backend", "model_dir", "seed", "model", "optimizer", "schedulers", "precision", "loop", "checkpoint",
             "logging", "callbacks"},
    "init.backend": {"backend_type", "cluster_config", "compile_dir"},
    "init.backend.cluster_config": {"num_csx", "num_workers_per_csx", "job_time_sec"},
    "init.model": {"name", "vocab_size", "hidden_size", "position_embedding_type", "rotary_dim",
                   "share_embedding_weights", "max_position_embeddings", "embedding_dropout_rate", "num_hidden_layers",
                   "dropout_rate", "layer_norm_epsilon", "norm_type", "num_heads", "attention_type",
                   "attention_dropout_rate", "use_projection_bias_in_attention", "use_ffn_bias_in_attention",
                   "filter_size", "nonlinearity", "use_ffn_bias", "use_bias_in_output", "loss_scaling", "loss_weight"},
    "init.optimizer.AdamW": {"betas", "eps", "correct_bias", "weight_decay"},
    "init.precision": {"enabled", "fp16_type", "loss_scaling_factor", "max_gradient_norm"},
    "init.loop": {"max_steps", "eval_frequency", "eval_steps"},
    "init.checkpoint": {"steps", "save_initial_checkpoint"},
    "init.logging": {"log_steps"},
    "fit": {"train_dataloader", "val_dataloader"},
    "fit.train_dataloader": {"data_processor", "data_dir", "shuffle", "shuffle_seed", "batch_size", "num_workers",
                             "prefetch_factor", "persistent_workers"},
    "fit.val_dataloader": {"data_processor", "data_dir", "shuffle", "shuffle_seed", "batch_size", "num_workers",
                           "prefetch_factor", "persistent_workers"},
}  # fmt: skip
OPTIONAL = {"init.callbacks", "init.backend.compile_dir", "init.backend.cluster_config.num_workers_per_csx",
            "init.loop.eval_frequency", "init.loop.eval_steps", "fit.val_dataloader"}  # fmt: skip
EVERYTHING = {"micro_batch": 64, "workers": 2, "compile_dir": "fresh", "eval_steps": 5, "eval_every": 100}


def at(tree, path):
    for key in path.split("."):
        tree = tree[key]
    return tree


@pytest.mark.parametrize("path", KEYS)
def test_every_key_of_the_params_is_there_and_no_other(path):
    assert set(at(params(bundle(**EVERYTHING)), path)) == KEYS[path]
    if path in OPTIONAL:
        return
    left_out = {each.rpartition(".")[2] for each in OPTIONAL if each.rpartition(".")[0] == path}
    assert set(at(params(bundle()), path)) == KEYS[path] - left_out


def test_parameters_reach_their_keys():
    read = params(
        bundle(
            batch=512, steps=400, log_every=20, systems=2, seed=7, shuffle="yes", data="/x: #y", learning_rate=1e-5,
            final_learning_rate=1e-6, checkpoint_steps=100, save_initial_checkpoint="yes", eval_data="/v",
            job_time_sec=3600, **EVERYTHING,
        )
    )  # fmt: skip
    init, fit = read["init"], read["fit"]
    assert init["loop"] == {"max_steps": 400, "eval_frequency": 100, "eval_steps": 5}
    assert init["logging"] == {"log_steps": 20}
    assert init["checkpoint"] == {"steps": 100, "save_initial_checkpoint": True}
    assert init["backend"] == {
        "backend_type": "CSX", "compile_dir": "fresh",
        "cluster_config": {"num_csx": 2, "num_workers_per_csx": 2, "job_time_sec": 3600},
    }  # fmt: skip
    assert init["callbacks"] == [{"ScopedTrainFlags": {"csx.performance.micro_batch_size": 64}}]
    assert init["schedulers"] == [{"SequentialLR": {"schedulers": [
        {"LinearLR": {"initial_learning_rate": 0.0, "end_learning_rate": 1e-5, "total_iters": 2000}},
        {"CosineDecayLR": {"initial_learning_rate": 1e-5, "end_learning_rate": 1e-6, "total_iters": 474837}},
    ]}}]  # fmt: skip
    train = fit["train_dataloader"]
    assert (init["seed"], train["shuffle"], train["shuffle_seed"]) == (7, True, 7)
    assert (train["batch_size"], train["data_dir"], fit["val_dataloader"]["data_dir"]) == (512, "/x: #y", "/v")


def test_a_validation_without_an_interval_is_at_the_end():
    read = params(bundle(eval_steps=3, steps=100))
    assert read["init"]["loop"] == {"max_steps": 100, "eval_frequency": 100, "eval_steps": 3}
    assert read["fit"]["val_dataloader"]["data_dir"] == read["fit"]["train_dataloader"]["data_dir"]


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"log_every": 201}, "log_every must be at most steps"),
        ({"checkpoint_steps": 201}, "checkpoint_steps must be at most steps"),
        ({"batch": 1023, "systems": 2}, "batch must be a multiple of systems"),
        ({"batch": 512, "micro_batch": 100}, "micro_batch must divide"),
        ({"batch": 512, "systems": 2, "micro_batch": 512}, "micro_batch must divide"),
        ({"data": "here"}, "data must be an absolute path"),
        ({"eval_steps": 1, "eval_data": "here"}, "eval_data must be an absolute path"),
        ({"eval_data": "/v"}, "eval_steps is 0"),
        ({"eval_every": 10}, "eval_steps is 0"),
        ({"eval_every": 201, "eval_steps": 1}, "eval_every must be at most steps"),
    ],
)
def test_a_case_that_cannot_be_measured_is_refused(axes, said):
    with pytest.raises(UsageError, match=said):
        bundles(**axes)


def test_data_of_the_site_stays_as_it_is_written():
    assert benchmark.load("llama").parameters["data"].type == "str"  # `path` would be made one of this machine
    assert params(bundle())["fit"]["train_dataloader"]["data_dir"] == "/software/datasets/llama_data_32K/test/"


def test_the_command_is_cszoo_fit_with_a_model_dir_of_the_cases_own(tmp_path):
    made = bundle("sweep")
    assert words(tmp_path, made) == [
        "fit", "params.yaml", "--job_labels", f"name=hb-sweep-{made.case.name}", "--model_dir", "model_dir",
    ]  # fmt: skip
    assert b"export CEREBRAS_RELEASE='2.6.0'" in made.files[render.JOB_SCRIPT]
    assert params(made)["init"]["model_dir"] == "model_dir"  # relative: a folder that is new, in the case's own


@pytest.mark.parametrize(
    "run", ["r", "a+b", "-", ".", "_._", "x" * 200, "é", "a b;c=d", "A" * 53 + "-" * 9, "$(id)", "name=x", "'"]
)
def test_a_label_is_one_whatever_the_run_is_called(tmp_path, run):
    made = bundles(run, batch="1,2")[-1]
    key, _, value = words(tmp_path, made)[3].partition("=")
    assert (key, bool(LABEL.fullmatch(value))) == ("name", True)
    assert value.endswith(made.case.name)


@pytest.fixture
def sweep(tmp_path, wafer):
    """Four batches, run one after another."""
    folder = tmp_path / "logs" / "sweep"
    for made in bundles("sweep", batch=BATCHES):
        log, ended = job(wafer, write(folder / made.case.name, made))
        assert ended["status"] == 0, log
    return folder


def test_a_sweep_gives_the_published_rates_and_the_mark_of_its_end(sweep, wafer):
    found = parse(sweep)
    assert found.sources["unread"].sum() == 0
    owners = found.owners()
    batches = found.cases.set_index("case")["batch"]
    assert sorted(batches) == sorted(PUBLISHED)
    for source, steps in found.steps.groupby("source"):
        batch = batches[owners[source][1]]
        assert steps["step"].tolist() == [50, 100, 150, 200]
        last = steps.iloc[-1]
        counters = found.counters[found.counters["source"] == source].set_index("name")["value"]
        said = (last["mean_samples_per_second"], counters["processed_time"], last["loss"])
        assert said == PUBLISHED[batch]
        assert counters["samples"] == batch * 200
    end = benchmark.load("llama").end
    for folder in sweep.iterdir():
        log = (folder / end.file).read_text()
        assert end.text in log.splitlines()[-2]
        assert (folder / "stderr.log").read_text() == ""  # all of it in one file, in order
    assert [row["PHASE"] for row in listed(wafer, sweep, "-a")] == ["SUCCEEDED"] * 8
    assert listed(wafer, sweep) == []


def test_every_phase_of_a_run_is_read(sweep):
    events = parse(sweep).events
    logs = events[events["source"].str.endswith("stdout.log")]
    assert logs["source"].nunique() == len(PUBLISHED)
    for _, rows in logs.groupby("source"):
        assert set(rows["kind"]) >= {
            "compile_start", "compile_end", "queue_start", "queue_end", "weights_start", "weights_end",
            "programming_start", "programming_end", "input_start", "input_end", "run_start", "completed",
        }  # fmt: skip
        assert not {"checkpoint_start", "checkpoint_end"} & set(rows["kind"])  # none is asked for


def test_all_that_may_be_asked_for_is_taken_by_the_client(tmp_path, wafer):
    made = bundle(checkpoint_steps=100, save_initial_checkpoint="yes", shuffle="yes", systems=2, **EVERYTHING)
    log, ended = job(wafer, write(tmp_path / "case", made))
    assert ended["status"] == 0, log
    assert [file.name for file in sorted((tmp_path / "case" / "model_dir").iterdir())] == [
        "checkpoint_0.mdl", "checkpoint_100.mdl", "checkpoint_200.mdl",
    ]  # fmt: skip
    assert log.count("Saving checkpoint at step") == 3


# The stand-in itself: what it refuses, as the real one does.


@pytest.fixture
def case(tmp_path):
    return write(tmp_path / "case", bundle())


@pytest.mark.parametrize(
    "flag", ["--max_steps", "--compile_dir", "--job_time_sec", "--num_workers_per_csx", "--mode", "--params", "--x"]
)
def test_a_flag_that_fit_does_not_have_is_refused_by_name(case, wafer, flag):
    done = do(wafer, "cszoo", "fit", "params.yaml", flag, "1", cwd=case, check=2)
    assert f"unrecognized arguments: {flag} 1" in done.stderr
    assert listed(wafer, case, "-a") == []


def test_flags_are_not_shortened(case, wafer):
    do(wafer, "cszoo", "fit", "params.yaml", "--model", "x", cwd=case, check=2)
    do(wafer, "cszoo", "CSX", "params.yaml", cwd=case, check=2)


@pytest.mark.parametrize("text", ["name=a+b", "name=", "name", "=x", "name=a=b", "name=-a", "name=" + "x" * 64, "é=x"])
def test_a_label_that_is_none_is_refused(case, wafer, text):
    done = do(wafer, "cszoo", "fit", "params.yaml", "--job_labels", text, cwd=case, check=1)
    assert "is an invalid label" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    seed: 1\n", "    seed: 1\n    seed: 2\n", "duplicate key 'seed'"),
        ("    seed: 1\n", "", "trainer.init.seed: field required"),
        ("    seed: 1\n", "    seed: 1\n    sede: 1\n", "trainer.init.sede: extra inputs"),
        ("      max_steps: 200\n", "      max_steps: many\n", "trainer.init.loop.max_steps: 'many' is no int"),
        ("max_steps: 200", "max_steps: 0", "max_steps: 0 is not above 0"),
        ("      shuffle: false\n", "      shuffle: 0\n", "shuffle: 0 is no bool"),
        ("CosineDecayLR", "CosineLR", "is not LinearLR, CosineDecayLR"),
        ("trainer:", "trainer: [", "ParserError"),
    ],
)
def test_params_that_are_wrong_are_refused(case, wafer, old, new, said):
    text = (case / "params.yaml").read_text()
    assert old in text
    (case / "params.yaml").write_text(text.replace(old, new))
    assert said in do(wafer, "cszoo", "fit", "params.yaml", cwd=case, check=1).stderr


def test_a_model_dir_that_was_used_is_gone_on_with_and_nothing_is_trained(tmp_path, wafer):
    folder = write(tmp_path / "case", bundle(checkpoint_steps=200))
    fit = ("cszoo", "fit", "params.yaml", "--model_dir", "model_dir")
    assert "Step=200" in do(wafer, *fit, cwd=folder, check=0).stderr
    again = do(wafer, *fit, cwd=folder, check=0).stderr
    assert "checkpoint_200.mdl" in again
    assert "Train Device" not in again
    assert "Training completed successfully!" not in again


def test_a_compile_that_was_done_before_is_found(tmp_path, wafer):
    logs = [
        job(wafer, write(tmp_path / name, bundle(**axes)))[0]
        for name, axes in [("a", {}), ("b", {}), ("c", {"batch": 512}), ("d", {"compile_dir": "fresh"})]
    ]
    assert ["Found existing cached compile" in log for log in logs] == [False, True, False, False]


def started(environment, folder):
    """Start a job that takes long, in a session of its own; returns its process."""
    return subprocess.Popen(
        ["bash", str(folder / render.JOB_SCRIPT)], cwd=folder, start_new_session=True,
        env={**environment, "CEREBRAS_STAND_IN_SECONDS": "120"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_run_that_is_cancelled_ends_with_the_words_of_a_cancelled_one(case, wafer):
    process = started(wafer, case)
    toy.until(lambda: any(row["PHASE"] == "RUNNING" for row in listed(wafer, case)))
    [row] = listed(wafer, case)
    mine = f"name=hb-r-{bundle().case.name}"
    assert (row["TYPE"], row["LABELS"], row["USER"]) == ("compile", mine, getpass.getuser())
    patched = do(wafer, "csctl", "label", "job", row["NAME"], "who=me", cwd=case, check=0)
    assert patched.stdout == f"job/{row['NAME']} was patched\n"
    assert listed(wafer, case)[0]["LABELS"] == f"{mine},who=me"
    cancelled = do(wafer, "csctl", "cancel", "job", row["NAME"], cwd=case, check=0)
    assert cancelled.stdout == "Job canceled successfully\n"
    assert process.wait(60) == 1
    log = (case / "stdout.log").read_text()
    assert f"ERROR:   Job {row['NAME']} failed due to: " in log
    assert "Processed 0 training sample(s)" in log
    assert log.splitlines()[-1].startswith("cerebras.appliance.errors.ClusterJobCancelledByCsctl: ")
    assert [each["PHASE"] for each in listed(wafer, case, "-a")] == ["CANCELLED"]
    assert "cancelled" in set(parse(case).events["kind"])
    assert do(wafer, "csctl", "cancel", "job", row["NAME"], cwd=case, check=1).stdout == ""


def test_a_second_run_waits_for_the_first_and_a_dead_ones_jobs_are_freed(tmp_path, wafer):
    first, second = (write(tmp_path / name, bundle(batch=batch)) for name, batch in (("a", 256), ("b", 512)))
    holder = started(wafer, first)
    toy.until(lambda: any(row["PHASE"] == "RUNNING" for row in listed(wafer, tmp_path)))
    with (second / "log").open("w") as log:
        waiter = subprocess.Popen(["cszoo", "fit", "params.yaml"], cwd=second, env=wafer, stderr=log)
    toy.until(lambda: "current job status: Queueing" in (second / "log").read_text())
    assert [row["PHASE"] for row in listed(wafer, tmp_path)] == ["RUNNING", "QUEUED"]
    os.killpg(holder.pid, signal.SIGTERM)  # the job script stops its program, which says nothing to the cluster
    holder.wait(60)
    assert waiter.wait(60) == 0
    assert [row["PHASE"] for row in listed(wafer, tmp_path, "-a")] == ["CANCELLED", "SUCCEEDED", "SUCCEEDED"]


def test_a_run_over_its_time_limit_is_ended(tmp_path, wafer):
    log, ended = job(wafer, write(tmp_path / "case", bundle(batch=256, job_time_sec=600)))
    assert ended["status"] == 1
    assert "Step=50" in log
    assert "Step=100" not in log
    assert "cerebras.appliance.errors.ApplianceRuntimeJobTimeoutError: " in log.splitlines()[-1]
    assert "Training completed successfully!" not in log
    assert [row["PHASE"] for row in listed(wafer, tmp_path, "-a")] == ["SUCCEEDED", "FAILED"]


@pytest.mark.parametrize("command", [["get"], ["get", "nodes"], ["cancel", "job", "wsjob-none"], ["label", "job", "x"]])
def test_csctl_refuses_what_it_does_not_know(tmp_path, wafer, command):
    assert do(wafer, "csctl", *command, cwd=tmp_path, check=1).stderr.startswith("Error: ")
