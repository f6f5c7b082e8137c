import pytest
import written
from said import parameters

from hpcbench.parse.content import read_bytes

NAME = "cerebras"
STAMP = "2025-11-03 10:15:20,417 INFO:   "


def table(records, name):
    return [record.values for record in records if record.table == name]


def read(data):
    return written.read(NAME, data)


# file, its training steps, the last one's values, scores, seconds and samples it says it processed, damaged lines
REAL = [
    ("sites/cerebras_llama2_7b_bs1024_cached_compile.log", 4,
     {"step": 200, "loss": 6.09834, "samples_per_second": 31.97, "mean_samples_per_second": 31.99,
      "time": 1760373605.444}, 0, 7303.586917439, 204800, 0),
    ("sites/cerebras_llama2_7b_bs128_fresh_compile.log", 4,
     {"step": 200, "loss": 6.4426, "samples_per_second": 33.24, "mean_samples_per_second": 32.44},
     0, 5389.258144948, 25600, 0),
    ("sites/cerebras_llama2_7b_bs32_cached_compile.log", 4, {"mean_samples_per_second": 28.51}, 0, 1216.494026363,
     6400, 0),
    ("sites/cerebras_llama2_7b_bs512.log", 4, {"mean_samples_per_second": 33.28}, 0, 4109.419267056, 102400, 0),
    ("sites/cerebras_vit_intermediate_ckpt.log", 20,
     {"step": 200, "samples_per_second": 3690.48, "mean_samples_per_second": 776.21}, 0, 5447.945427605, 570000, 0),
    ("sites/cerebras_esm2_progressbars.log", 4, {"step": 400, "loss": 5.03271}, 0, 4049.286902367, 819200, 0),
    ("sites/cerebras_gptj_timeremaining_gt.log", 4, {"step": 200, "mean_samples_per_second": 44.75}, 0, 1443.67300221,
     24000, 0),
    ("sites/cerebras_bert_eval_lines.log", 0, None, 7, 1017.47348681, 3720000, 0),
    ("sites/cerebras_gpt3_111m_eval_and_jobids.log", 0, None, 8, 820.575766695, 48000, 0),
    ("sites/cerebras_llama3_8b_fitsummary_and_eval.log", 5, {"step": 5, "loss": 12.59109}, 0, None, None, 1),
    ("training/cerebras/cerebras_bertlarge_b512_sarora_mytest.log", 10,
     {"step": 1000, "loss": 7.125, "samples_per_second": 1265.96, "mean_samples_per_second": 1199.57},
     0, 426.819169997, 512000, 0),
    ("training/cerebras/cerebras_gpt2_2024_README.md", 112,
     {"step": 11200, "loss": 3.32812, "samples_per_second": 493.04, "mean_samples_per_second": 494.08},
     0, None, None, 0),
    ("training/cerebras/cerebras_llama2_7b_2024_README.md", 16,
     {"step": 1600, "loss": 5.85938, "samples_per_second": 20.44, "mean_samples_per_second": 20.45},
     0, None, None, 0),
    ("training/cerebras/cerebras_sambanova_homework7_kharelb.md", 20,
     {"step": 1000, "loss": 7.14844, "samples_per_second": 6715.34, "mean_samples_per_second": 6727.92},
     0, 304.403202469, 2048000, 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "steps", "last", "scores", "seconds", "samples", "damaged"), REAL, ids=[each[0] for each in REAL]
)
def test_a_real_log_is_recognised_and_gives_every_step(corpus, file, steps, last, scores, seconds, samples, damaged):
    data = (corpus / file).read_bytes()
    assert read_bytes(data).formats[0] == NAME
    records, unread = read(data)
    found = table(records, "steps")
    assert (len(found), len(table(records, "evals")), unread) == (steps, scores, damaged)
    for key, value in (last or {}).items():
        assert found[-1][key] == value, key
    counters = {row["name"]: row["value"] for row in table(records, "counters")}
    assert (counters.get("processed_time"), counters.get("samples")) == (seconds, samples)
    assert "samples_per_second" not in counters  # the time processed is no time of training


def test_a_second_run_in_the_same_file_is_a_second_attempt(corpus):
    records, _ = read((corpus / "training/cerebras/cerebras_sambanova_homework7_kharelb.md").read_bytes())
    steps = table(records, "steps")
    assert [row["attempt"] for row in steps] == [1] * 10 + [2] * 10
    assert (steps[0]["loss"], steps[0]["samples_per_second"]) == (9.39062, 2983.97)


def test_a_record_names_its_line(corpus):
    file = corpus / "training/cerebras/cerebras_gpt2_2024_README.md"
    lines = file.read_text().split("\n")
    for record in read(file.read_bytes())[0]:
        if record.table == "steps":
            assert f"Step={record.values['step']:.0f}," in lines[record.line - 1]


def test_the_phases_of_a_run_are_events_with_their_times(corpus):
    records, _ = read((corpus / "sites/cerebras_llama2_7b_bs128_fresh_compile.log").read_bytes())
    events = table(records, "events")
    assert [row["kind"] for row in events] == [
        "checkpoint_start", "checkpoint_end", "compile_start", "queue_start", "queue_end", "compile_end", "queue_start",
        "queue_end", "weights_start", "weights_end", "programming_start", "programming_end", "input_start", "input_end",
        "run_start", "checkpoint_start", "checkpoint_end", "completed",
    ]  # fmt: skip
    times = {row["kind"]: row["time"] for row in events}
    assert times["compile_end"] - times["compile_start"] == pytest.approx(3451.404)
    assert times["programming_end"] - times["programming_start"] == pytest.approx(235.938)
    assert times["checkpoint_end"] - times["checkpoint_start"] == pytest.approx(644.089)
    assert [row["step"] for row in events if row["kind"] == "checkpoint_start"] == [0, 200]
    assert table(records, "jobs") == [
        {"job": "wsjob-5nga78gwbdvznmjwqbfbhn", "name": "compile", "submitted": pytest.approx(1764986013.86)},
        {"job": "wsjob-3zs8qawg5pdbkseukjedlq", "name": "execute", "submitted": pytest.approx(1764989466.267)},
    ]


@pytest.mark.parametrize(("file", "said"), [
    ("sites/cerebras_llama2_7b_bs1024_cached_compile.log", ["(cached)"]),
    ("sites/cerebras_llama2_7b_bs128_fresh_compile.log", ["(not cached)"]),
    ("sites/cerebras_llama3_8b_fitsummary_and_eval.log", ["(cached)"]),
    ("training/cerebras/cerebras_sambanova_homework7_kharelb.md", ["(not cached)", "successful!"]),
])  # fmt: skip
def test_a_compile_says_whether_it_was_cached(corpus, file, said):
    records, _ = read((corpus / file).read_bytes())
    messages = [row["message"] for row in table(records, "events") if row["kind"] == "compile_end"]
    assert [message.endswith(end) for message, end in zip(messages, said, strict=True)] == [True] * len(said)


def test_a_job_that_waits_is_seen_to(corpus):
    records, _ = read((corpus / "sites/cerebras_queueing_2p4.log").read_bytes())
    assert [row["kind"] for row in table(records, "events")] == ["queue_start", "queueing"]
    assert table(records, "jobs")[0]["name"] == "compile"


def test_results_of_a_validation_have_the_step_of_its_progress(corpus):
    records, _ = read((corpus / "sites/cerebras_bert_eval_lines.log").read_bytes())
    evals = table(records, "evals")
    assert [row["metric"] for row in evals] == ["running_loss"] * 3 + [
        "loss", "accuracy_cls", "accuracy_masked_lm", "mlm_perplexity"
    ]  # fmt: skip
    assert {row["step"] for row in evals} == {1000}
    assert (evals[2]["batch"], evals[2]["mean_samples_per_second"]) == (220, 6665.64)
    assert (evals[3]["value"], evals[4]["value"]) == (6.981118208711798, 0.7051668763160706)


TRAIN = STAMP + "| Train Device=CSX, Step=50"


@pytest.mark.parametrize(("line", "columns"), [
    (TRAIN, {"step": 50}),
    (f"{TRAIN}, Loss=7.10211", {"step": 50, "loss": 7.10211}),
    (f"{TRAIN}, Rate=33.12 samples/sec", {"step": 50, "samples_per_second": 33.12}),
    (f"{TRAIN}, GlobalRate=0.314 samples/sec", {"step": 50, "mean_samples_per_second": 0.314}),
    (f"{TRAIN}, LoopTimeRemaining=0:01:00, TimeRemaining>0:01:00", {"step": 50}),
])  # fmt: skip
def test_every_field_after_the_step_may_be_missing(line, columns):
    records, unread = read(line + "\n")
    assert unread == 0
    assert {key: value for key, value in records[0].values.items() if key != "time"} == columns


@pytest.mark.parametrize(("line", "columns"), [
    (f"{TRAIN}, Loss=7.1", {"step": 50}),
    (f"{TRAIN}, Loss=7.10211, Rate=33.1", {"step": 50, "loss": 7.10211}),
    (f"{TRAIN}, Loss=7.10211, Rate=33.12 samples/sec, Global", {"step": 50, "loss": 7.10211,
                                                                "samples_per_second": 33.12}),
    (f"{TRAIN}, Loss=7.102112025-11-03 10:15:21,000 INFO:   Saving", {"step": 50}),
])  # fmt: skip
def test_of_a_line_that_was_cut_what_is_whole_is_read(line, columns):
    records, _ = read(line)
    assert {key: value for key, value in records[0].values.items() if key != "time"} == columns


@pytest.mark.parametrize("line", [
    TRAIN,
    f"{TRAIN}2025-11-03 10:15:20,417 INFO:   x\n",
    f"{TRAIN}.5, Loss=7.10211\n",
    f"{STAMP}| Train Device=CSX, St",
    f"{STAMP}Processed 25600 training sample(s) in 538",
])  # fmt: skip
def test_a_damaged_line_is_counted_and_gives_no_number(line):
    assert read(line) == ([], 1)


@pytest.mark.parametrize(("line", "kind"), [
    ("2025-11-03 10:15:20,417 ERROR:   Job wsjob-abc failed during initialization: no system", "appliance_error"),
    ("2025-11-03 10:15:20,417 ERROR:   Job wsjob-abc failed due to: out of disk", "appliance_error"),
    ("2025-11-03 10:15:20,417 ERROR:   Job wsjob-abc failed due to: canceled-by-csctl", "cancelled"),
    ("2025-11-03 10:15:20,417 ERROR:   Job wsjob-abc was cancelled due to the client", "cancelled"),
    ("cerebras.appliance.errors.ApplianceRuntimeJobTimeoutError: Job timed out", "appliance_error"),
    ("cerebras.appliance.errors.ApplianceCompilationError: no fit", "appliance_error"),
    ("cerebras.appliance.errors.ApplianceNanError: NaN in outputs", "appliance_error"),
    ("cerebras.appliance.errors.ClusterJobCancelledByCsctl", "cancelled"),
])  # fmt: skip
def test_a_failure_is_an_event(line, kind):
    records, _ = read(f"{TRAIN}\n{line}\n")
    assert [row["kind"] for row in table(records, "events")] == [kind]
    assert table(records, "events")[0]["message"].endswith(line.split()[-1])


@pytest.mark.parametrize("text", [
    "Training completed successfully!\n",
    "INFO: Saving checkpoint at step 5\nINFO: Evaluation completed successfully!\n",
    "The device programming is complete and the step took 5 samples/sec.\n",
    "        raise ClusterJobCancelledByCsctl(response.message)\n",
    "Appliances: see the manual\n",
])  # fmt: skip
def test_other_texts_are_not_taken(text):
    assert read_bytes(text.encode()).formats == []


JOBS = """(venv) $ csctl get jobs -a
SESSION       NAME         TYPE     PRIORITY  AGE   DURATION  PHASE      SYSTEMS     USER  LABELS           DASHBOARD
job-operator  wsjob-aaa1   compile  P2 (299)  88s   70s       SUCCEEDED              me    name=a           https://x
job-operator  wsjob-aaa2   execute  P2 (299)  3h5m  2h5m      FAILED     cer-cs3-02  me    name=a,user=me   https://x
job-operator  wsjob-aaa3   execute  P1 (100)  13d   5d3h      CANCELLED  cer-cs3-01  you                    https://x
job-operator  wsjob-aaa4   execute  P1 (100)  2m              QUEUED                 you   name=b
(venv) $
job-operator  wsjob-aaa5   execute  P1 (100)  2m              QUEUED                 you   name=b
"""


def test_the_jobs_of_a_cluster_are_read():
    assert read_bytes(JOBS.encode()).formats == ["cerebras-jobs"]
    records, unread = written.read("cerebras-jobs", JOBS)
    jobs = [(each.line, each.values) for each in records if each.table == "jobs"]
    assert jobs == [
        (3, {"job": "wsjob-aaa1", "state": "SUCCEEDED", "name": "compile", "labels": "name=a", "elapsed": 70}),
        (4, {"job": "wsjob-aaa2", "state": "FAILED", "name": "execute", "systems": "cer-cs3-02",
             "labels": "name=a,user=me", "elapsed": 7500}),
        (5, {"job": "wsjob-aaa3", "state": "CANCELLED", "name": "execute", "systems": "cer-cs3-01",
             "elapsed": 5 * 86400 + 3 * 3600}),
        (6, {"job": "wsjob-aaa4", "state": "QUEUED", "name": "execute", "labels": "name=b"}),
    ]  # fmt: skip
    assert [(each.line, each.values) for each in records if each.table == "events"] == [
        (4, {"kind": "failed", "message": "job wsjob-aaa2 (name=a,user=me): FAILED"}),
        (5, {"kind": "cancelled", "message": "job wsjob-aaa3 (execute): CANCELLED"}),
    ]
    assert unread == 0


def test_the_jobs_of_an_older_cluster_are_read():
    text = "NAME        AGE    PHASE      SYSTEMS      USER  LABELS\nwsjob-aaa1  88s    RUNNING    cer-cs2-01   me\n"
    records, unread = written.read("cerebras-jobs", text)
    assert table(records, "jobs") == [{"job": "wsjob-aaa1", "state": "RUNNING", "systems": "cer-cs2-01"}]
    assert unread == 0


@pytest.mark.parametrize("line", [
    "wsjob-aaa1  19m RUNNING  cer-cs2-02 me name=b\n",  # not below its header
    "wsjob-aaa1  88s    RUNNING    cer-cs2-01,cer-cs2-02   me\n",
    "wsjob-aaa1  88s    running    cer-cs2-01   me\n",
    "wsjob-      88s    RUNNING    cer-cs2-01   me\n",
    "wsjob-aaa1  88s    RUNN",
    "wsjob-aaa1  88s    RUNNING    cer-cs2-0",
])  # fmt: skip
def test_a_damaged_job_is_counted(line):
    text = "NAME        AGE    PHASE      SYSTEMS      USER  LABELS\n"
    assert written.read("cerebras-jobs", text + line) == ([], 1)


@pytest.mark.parametrize("text", ["THE PHASE OF A MOON\n", "NAME  AGE  PHASE  USER\npod-1 3m   Bound  me\n"])
def test_other_tables_are_not_jobs(text):
    assert read_bytes(text.encode()).formats == []


TRAINED = "".join(
    f"{STAMP}| Train Device=CSX, Step={step}, Loss=7.10211, Rate=33.12 samples/sec, GlobalRate=33.05 samples/sec\n"
    for step in (50, 100)
)
RESUMED = TRAINED.replace("=50,", "=250,").replace("=100,", "=300,")
SAVED = f"{STAMP}Saving checkpoint at step 100\n{STAMP}Saved checkpoint m/checkpoint_100.mdl\n"
PROCESSED = f"{STAMP}Processed 3200 training sample(s) in 97.5 seconds.\n"


@pytest.mark.parametrize(("file", "expected"), [
    ("training/cerebras/cerebras_gpt2_2024_README.md", {"batch": 112, "devices": 1}),
    ("training/cerebras/cerebras_llama2_7b_2024_README.md", {"batch": 99, "devices": 1}),
    # it says the batch of one of its two runs
    ("training/cerebras/cerebras_sambanova_homework7_kharelb.md", {"devices": 1}),
    # it says its batch, and processed as many samples
    ("training/cerebras/cerebras_bertlarge_b512_sarora_mytest.log", {"batch": 512, "devices": 1}),
    ("sites/cerebras_llama2_7b_bs1024_cached_compile.log", {"batch": 1024, "devices": 1}),
    ("sites/cerebras_llama2_7b_bs32_cached_compile.log", {"batch": 32}),
    ("sites/cerebras_vit_intermediate_ckpt.log", {"batch": 2850, "devices": 1}),
    ("sites/cerebras_bert_eval_lines.log", {}),
])  # fmt: skip
def test_what_a_real_run_says_of_itself_is_its_parameters(corpus, file, expected):
    assert parameters((corpus / file).read_bytes()) == expected


@pytest.mark.parametrize(("log", "batch"), [
    (TRAINED + SAVED + PROCESSED, 32),
    (TRAINED + PROCESSED, None),  # it may have gone on after its last line
    (TRAINED + SAVED.replace("100", "120") + PROCESSED, None),
    (RESUMED + SAVED.replace("100", "300") + PROCESSED.replace("3200", "3000"), None),
    (TRAINED + SAVED + PROCESSED.replace("3200", "3250"), None),
    (TRAINED + SAVED + f"{STAMP}| Eval Device=CSX, GlobalStep=100, Batch=5, Loss=7.10211\n" + PROCESSED, None),
    (TRAINED + SAVED + PROCESSED + TRAINED + SAVED + PROCESSED.replace("3200", "6400"), None),  # two batches
])  # fmt: skip
def test_the_batch_is_counted_only_where_every_step_is_known(log, batch):
    assert parameters(log) == ({} if batch is None else {"batch": batch})
