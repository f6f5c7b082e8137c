"""The lines that begin a job script, held against what the sites' own documentation asks for."""

import re

import pytest
import toy

from hpcbench import benchmark, directives, site
from hpcbench.errors import ConfigError, UsageError
from hpcbench.plan import Sweep, plan
from hpcbench.render import render
from hpcbench.submit import submit

VARIABLES = {
    "PSC_USER": "me", "PSC_ACCOUNT": "abc123p", "ALCF_USER": "me", "ALCF_PROJECT": "proj",
}  # fmt: skip


@pytest.fixture(autouse=True)
def variables(monkeypatch, tmp_path):
    for name in ("PSC_PARTITION", "PSC_GPU_TYPE", "SOPHIA_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    toy.write(tmp_path)
    (tmp_path / "sites").mkdir()


def script(name: str, what: str = "gpt2", **axes: str) -> str:
    """Render the job script of the first case of a sweep at a site."""
    loaded = benchmark.load(what)
    cases = plan(loaded, [site.load(name)], Sweep.make(loaded.parameters, axes))
    return render(cases, "run")[0].files["job.sh"].decode()


def begin(text: str) -> list[str]:
    """Return the lines before the first command."""
    lines = text.splitlines()
    return lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]


def own(tmp_path, text: str) -> None:
    """Write a site called `mine`."""
    (tmp_path / "sites" / "mine.yaml").write_text(f"title: Mine\n{text}")


def test_a_number_of_gpus_that_the_queue_does_not_give_is_found_before_anything_is_sent():
    loaded = benchmark.load("gpt2")
    asking = site.with_job(site.load("sophia"), {"gpus": "3"})
    cases = plan(loaded, [asking], Sweep.make(loaded.parameters, {}))
    with pytest.raises(UsageError, match="asks for 3 GPUs and site sophia gives a job 1, 2, 4, 8"):
        render(cases, "run")


def test_all_cores_are_those_of_the_machine_unless_a_scheduler_deals_them_out(tmp_path):
    text = toy.BENCHMARK.replace('cores: "{{ threads }}"', "cores: all")
    (tmp_path / "templates" / "toy" / "benchmark.yaml").write_text(text)
    own(tmp_path, "cores: 1\n")
    loaded = benchmark.load("toy")
    case = plan(loaded, [site.load("mine")], Sweep.make(loaded.parameters, {})).cases[0]
    assert directives.resources_of(loaded, case, site.load("mine")).cores == 1
    assert directives.resources_of(loaded, case, site.load("local")).cores == len(site.load("local").available_cores)
    assert directives.resources_of(loaded, case, site.load("slurm")).cores == site.load("slurm").job.cores


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("psc", {"time": "99:00:00"}, "^--job: job.time: 99:00:00 is over the site's limit"),
        ("local", {"partition": "RM"}, "^--job partition: nothing at site local would heed it"),
        ("psc", {"memory": "much"}, "^--job memory: "),
    ],
)
def test_what_is_said_anew_is_checked_as_the_site_file_is(name, settings, message):
    with pytest.raises(UsageError, match=message):
        site.with_job(site.load(name), settings)


def test_another_queue_has_other_numbers_of_gpus():
    asking = site.with_job(site.load("sophia"), {"queue": "by-node", "select": "nodes", "nodes": "2", "gpus": "16"})
    loaded = benchmark.load("gpt2")
    render(plan(loaded, [asking], Sweep.make(loaded.parameters, {})), "run")


def test_what_a_benchmark_says_its_cases_need_is_not_said_anew():
    with pytest.raises(UsageError, match="--job cores: benchmark gpt2 says itself"):
        submit("local", "gpt2", job={"cores": "2"})


def test_bridges_2_gets_slurm_directives_in_its_form():
    assert begin(script("psc", batch="4,8", threads="5")) == [
        "#!/bin/bash",
        "#SBATCH --job-name=hb-run-001-batch4",
        "#SBATCH --output=scheduler.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --account=abc123p",
        "#SBATCH --partition=GPU-shared",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --cpus-per-task=5",
        "#SBATCH --gpus=v100-32:1",
        "#SBATCH --time=01:00:00",
    ]


def test_sophia_gets_pbs_directives_in_its_form_and_no_comment_among_them():
    text = script("sophia", batch="4,8", threads="5")
    lines = begin(text)
    assert lines[0] == "#!/bin/bash -l"
    assert [line for line in lines[1:] if not line.startswith("#PBS -")] == []
    assert {
        "#PBS -N hb-run-001-batch4",
        "#PBS -A proj",
        "#PBS -q by-gpu",
        "#PBS -l select=1",
        "#PBS -l walltime=01:00:00",
        "#PBS -l filesystems=home:eagle",
        "#PBS -j oe",
    } <= set(lines)
    assert "%j" not in text
    assert not re.search(r"^#PBS.*#", text, re.MULTILINE)
    assert "module use /soft/modulefiles\nmodule load conda\nconda activate base\n" in text


def test_sophias_select_counts_gpus_by_gpu_and_nodes_by_node(tmp_path):
    base = "scheduler: pbs\njob: {queue: by-node, select: %s, nodes: 2, gpus: 4, time: '01:00:00'}\n"
    own(tmp_path, base % "nodes")
    assert "#PBS -l select=2:ncpus=1:ngpus=2" in begin(script("mine"))
    own(tmp_path, (base % "nodes").replace("gpus: 4", "gpus: 3"))
    with pytest.raises(UsageError, match="3 GPUs cannot be shared evenly by 2 nodes of mine"):
        script("mine")
    own(tmp_path, base % "gpus")
    assert "#PBS -l select=4" in begin(script("mine"))


def test_resources_in_neutral_words_become_directives(tmp_path):
    job = "job: {nodes: 2, cores: 8, gpus: 4, memory: 64G, time: '02:00:00'}\n"
    own(tmp_path, "scheduler: slurm\n" + job)
    lines = begin(script("mine", "toy"))
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus=4", "#SBATCH --mem=64G", "#SBATCH --time=02:00:00"} <= set(lines)
    assert "#SBATCH --cpus-per-task=1" in lines  # what the benchmark says is more exact
    own(tmp_path, "scheduler: pbs\n" + job)
    assert "#PBS -l select=2:ncpus=1:ngpus=2:mem=64gb" in begin(script("mine", "toy"))


def test_a_benchmark_can_ask_for_more_than_the_site_gives(tmp_path):
    own(tmp_path, "scheduler: slurm\njob: {gpus: 1, time: '01:00:00'}\n")
    (tmp_path / "templates" / "toy" / "benchmark.yaml").write_text(
        toy.BENCHMARK.replace(
            'cores: "{{ threads }}"',
            'cores: "{{ threads }}", gpus: "{{ threads * 2 }}", nodes: 3, memory: 8G, time: "00:{{ 10 + threads }}:00"',
        )
    )
    lines = begin(script("mine", "toy", threads="4"))
    assert {
        "#SBATCH --nodes=3", "#SBATCH --cpus-per-task=4", "#SBATCH --gpus=8", "#SBATCH --mem=8G",
        "#SBATCH --time=00:14:00",
    } <= set(lines)  # fmt: skip


@pytest.mark.parametrize(
    ("scheduler", "directive", "option"),
    [
        ("slurm", "--job-name=x", "--job-name"),
        ("slurm", "-J x", "-J"),
        ("slurm", "--acc=x", "--account"),
        ("slurm", "--array=0-9", "--array"),
        ("slurm", "--output=/dev/null", "--output"),
        ("pbs", "-N x", "-N"),
        ("pbs", "-l walltime=1:00:00", "walltime"),
        ("pbs", "-l place=scatter,select=4", "select"),
        ("pbs", "-v TOKEN=1", "-v"),
    ],
)
def test_what_hpcbench_sets_cannot_be_set_by_a_directive(tmp_path, scheduler, directive, option):
    own(tmp_path, f"scheduler: {scheduler}\njob:\n  nodes: 1\n  directives:\n    - {directive}\n")
    with pytest.raises(ConfigError, match=rf"mine\.yaml:6: job\.directives: hpcbench sets {option} itself"):
        script("mine", "toy")


@pytest.mark.parametrize(
    ("scheduler", "line"),
    [("slurm", "--mail-type=END"), ("slurm", "--constraint=ib"), ("pbs", "-l place=scatter"), ("pbs", "-m e")],
)
def test_other_directives_can_be_added(tmp_path, scheduler, line):
    own(tmp_path, f"scheduler: {scheduler}\njob: {{directives: ['{line}']}}\n")
    assert begin(script("mine", "toy"))[-1] == f"#{'SBATCH' if scheduler == 'slurm' else 'PBS'} {line}"


@pytest.mark.parametrize("value", ["a b", "a\\nb", "a#b", "$(x)", "-x", "a'b", "", "x" * 200])
def test_a_value_that_is_not_one_word_cannot_be_a_directive(tmp_path, value):
    own(tmp_path, f'scheduler: slurm\njob: {{account: "{value}"}}\n')
    with pytest.raises(ConfigError, match=r"mine\.yaml:3: job\.account"):
        script("mine", "toy")


def test_a_job_over_the_sites_time_limit_is_refused_before_anything(tmp_path):
    own(tmp_path, "scheduler: slurm\njob: {time: '03:00:00'}\nlimits: {time: '02:00:00'}\n")
    with pytest.raises(ConfigError, match=r"job\.time: 03:00:00 is over the site's limit, 02:00:00"):
        script("mine", "toy")
    own(tmp_path, "scheduler: slurm\nlimits: {time: '02:00:00'}\n")
    (tmp_path / "templates" / "toy" / "benchmark.yaml").write_text(
        toy.BENCHMARK.replace("resources: {", "resources: {time: '03:00:00', ")
    )
    with pytest.raises(UsageError, match=r"case 001 asks for 03:00:00 and site mine allows 02:00:00"):
        script("mine", "toy")


@pytest.mark.parametrize(("limit", "own_limit"), [("01:00:00", 3570), ("00:02:00", 108), ("00:00:10", 9)])
def test_under_a_scheduler_a_job_script_ends_its_program_before_the_scheduler_would(tmp_path, limit, own_limit):
    own(tmp_path, f"scheduler: slurm\njob: {{time: '{limit}'}}\n")
    assert f"  hb_left={own_limit} hb_last=" in script("mine", "toy")
    assert directives.own_limit(limit, site.load("local")) == site.seconds(limit)


def test_every_site_with_jobs_renders_them(tmp_path):
    names = [name for name, found in site.load_all().items() if not (found.endpoint and found.here)]
    assert {"local", "slurm", "pbs", "psc", "sophia", "cerebras", "colab", "modal"} <= set(names)
    for name in names:
        what = "llama" if name == "cerebras" else "gpt2"
        assert script(name, what).startswith("#!/")
