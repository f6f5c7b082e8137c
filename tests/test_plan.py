import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from hpcbench import benchmark, site
from hpcbench.benchmark import Parameter
from hpcbench.errors import UsageError
from hpcbench.plan import Axis, Sweep, plan

PARAMETERS = {
    "threads": Parameter(type="int", default=1, min=1, help=""),
    "batch": Parameter(type="int", default=4, help=""),
    "rate": Parameter(type="float", default=0.5, help=""),
    "fast": Parameter(type="bool", default=False, help=""),
    "prompt_text": Parameter(type="str", default="", help=""),
}


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("threads", "1,2,4", (1, 2, 4)),
        ("threads", "1:8:*2", (1, 2, 4, 8)),
        ("threads", "1:10:*2", (1, 2, 4, 8)),
        ("threads", "1:9:2", (1, 3, 5, 7, 9)),
        ("threads", "1:3", (1, 2, 3)),
        ("threads", "1:2,8", (1, 2, 8)),
        ("batch", "3:-3:-3", (3, 0, -3)),
        ("rate", "0.1:0.5:0.1", (0.1, 0.2, 0.3, 0.4, 0.5)),
        ("rate", "1e-3:1:*10", (0.001, 0.01, 0.1, 1.0)),
        ("fast", "true,false", (True, False)),
        ("prompt_text", 'a,"b,c",""', ("a", "b,c", "")),
        ("prompt_text", '""', ("",)),
        ("prompt_text", "", ("",)),
        ("prompt_text", "1:8:*2", ("1:8:*2",)),
        ("prompt_text", " a, b", (" a", " b")),
    ],
)
def test_lists_and_ranges(name, text, values):
    assert Axis.parse(name, text, PARAMETERS[name]).values == values


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("threads", ""), ("threads", " "), ("threads", "0"), ("threads", "a"), ("threads", "1,,2"), ("threads", "1,1"),
        ("threads", "1:"), ("threads", ":"), ("threads", "1:2:3:4"), ("threads", "1:8:*1"), ("threads", "1:8:*"),
        ("threads", "0:8:*2"), ("threads", "1:8:0"), ("threads", "8:1"), ("threads", "1:1000000"), ("threads", "1:nan"),
        ("threads", "1:8:*1.5"), ("rate", "0:1:1e-9"), ("rate", "1:inf"), ("fast", "perhaps"),
        ("prompt_text", '"a'), ("prompt_text", "a,a"),
    ],
)  # fmt: skip
def test_what_is_not_a_list_of_values_is_refused(name, text):
    with pytest.raises(UsageError, match=f"^--{name.replace('_', '-')}: "):
        Axis.parse(name, text, PARAMETERS[name])


def sweeps():
    values = {
        "threads": st.integers(1, 99),
        "batch": st.integers(),
        "rate": st.floats(allow_nan=False, allow_infinity=False),
        "fast": st.booleans(),
        "prompt_text": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    }
    lists = {name: st.lists(each, min_size=1, max_size=4, unique=True) for name, each in values.items()}
    axes = st.fixed_dictionaries({}, optional=lists)
    return st.builds(lambda axes, repeat: Sweep.make(PARAMETERS, axes, repeat=repeat), axes, st.integers(1, 9))


@given(sweeps())
def test_the_text_form_of_a_sweep_reads_back_as_the_same_sweep(sweep):
    assert Sweep.parse(str(sweep), PARAMETERS) == sweep


def test_the_text_form_is_the_command_line():
    made = Sweep.make(
        PARAMETERS, {"threads": "1:4:*2", "batch": "4,8,16", "prompt_text": 'a b,"c,d"'},
        zips=["threads,batch"], exclude=["threads=4,prompt_text=a b"], repeat=3,
    )  # fmt: skip
    assert str(made) == (
        "--threads 1,2,4 --batch 4,8,16 --prompt-text 'a b,\"c,d\"' --zip threads,batch "
        "--exclude 'threads=4,prompt_text=a b' --repeat 3"
    )
    assert Sweep.parse(str(made), PARAMETERS) == made


def test_points_are_the_product_last_axis_fastest_and_zipped_axes_advance_together():
    made = Sweep.make(PARAMETERS, {"threads": "1,2", "batch": "4,8"})
    assert [tuple(point.values()) for point in made.points()] == [(1, 4), (1, 8), (2, 4), (2, 8)]
    zipped = Sweep.make(PARAMETERS, {"threads": "1,2", "rate": "0,1", "batch": "4,8"}, zips=["threads,batch"])
    assert [(point["threads"], point["batch"], point["rate"]) for point in zipped.points()] == [
        (1, 4, 0.0), (1, 4, 1.0), (2, 8, 0.0), (2, 8, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"zips": ["threads,batch"]}, "threads has 2, batch has 3"),
        ({"zips": ["threads"]}, "name two or more different axes"),
        ({"zips": ["threads,rate"]}, "'rate' is not an axis of this sweep"),
        ({"zips": ["threads,fast", "fast,threads"]}, "in two groups"),
        ({"exclude": ["thread=1"]}, "unknown parameter 'thread'; did you mean 'threads'?"),
        ({"exclude": ["threads"]}, "write name=value"),
        ({"exclude": ["threads=x"]}, "'x' is not a whole number"),
        ({"exclude": [""]}, "--exclude: "),
        ({"repeat": 0}, "--repeat: 0 is below 1"),
    ],
)
def test_zips_exclusions_and_repeats_are_checked(arguments, said):
    with pytest.raises(UsageError) as caught:
        Sweep.make(PARAMETERS, {"threads": "1,2", "batch": "4,8,16", "fast": "true,false"}, **arguments)
    assert said in str(caught.value)


@pytest.fixture
def bench(tmp_path):
    toy.write(tmp_path)
    return benchmark.load_file(tmp_path / "templates" / "toy" / "benchmark.yaml")


def planned(bench, axes, **arguments):
    return plan(bench, [site.load("local")], Sweep.make(bench.parameters, axes, **arguments))


def test_repeats_are_interleaved_so_that_drift_does_not_look_like_an_effect(bench):
    cases = planned(bench, {"threads": "1,2,4"}, repeat=2).cases
    assert [(case.parameters["threads"], case.repeat) for case in cases] == [
        (1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2),
    ]  # fmt: skip
    assert [case.name for case in cases][:2] == ["001-threads1", "002-threads2"]


def test_a_case_has_every_parameter_and_a_name_that_is_safe_as_a_folder(bench):
    hostile = ["../../etc", "a/b", "$(rm)", "x" * 300, "é", "-", ""]
    cases = planned(bench, {"act": hostile}).cases
    assert [case.parameters["act"] for case in cases] == hostile
    assert set(cases[0].parameters) == {"act", "threads", "seconds"}
    assert len({case.name for case in cases}) == len(cases)
    assert all(
        len(case.name) < 80 and set(case.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for case in cases
    )


def test_exclusions_leave_cases_out_and_must_hit_something(bench):
    cases = planned(bench, {"threads": "1,2", "act": "a,b"}, exclude=["threads=2,act=b"]).cases
    assert [(case.parameters["threads"], case.parameters["act"]) for case in cases] == [(1, "a"), (1, "b"), (2, "a")]
    with pytest.raises(UsageError, match="no case has threads=8"):
        planned(bench, {"threads": "1,2"}, exclude=["threads=8"])
    with pytest.raises(UsageError, match="leaves no case"):
        planned(bench, {"threads": "2"}, exclude=["threads=2"])


def test_a_sweep_of_too_many_cases_is_refused_before_it_is_laid_out(bench):
    with pytest.raises(UsageError, match="more than 100000 cases"):
        planned(bench, {"threads": "1:1000", "seconds": "1:1000"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--threads 1_0:1_2", "'1_0:1_2' is not a range of numbers"),  # as 1_0 is not a number either
        ("--threads \u0661:\u0663", "is not a range of numbers"),
        ("--threads \u0661", "is not a whole number"),
        ("--threads 1:3:0.5", "'1.5' is not a whole number"),
        ("--threads 1e999999999:1e999999999", "is not a finite range"),
        ("--rate 1:1e9999999:*1e999999", "is not a finite range"),
        ("--rate 1:2:1e-40", "more than 10000 values"),
        ("--rate nan:1", "is not a finite range"),
        ("--threads -8:-1:*2", "a factor above 1 goes from a number above 0 upwards"),
        ("--threads '1\n2'", "is more than one line"),
        ("--prompt-text 'a\nb'", "is more than one line"),
        ("--prompt-text '\n'", "is more than one line"),
        ("--prompt-text '\"a\"b'", "--prompt-text: "),
        ("--prompt-text caf\udce9", "holds a NUL or half a character"),
        ("--fast true,yes", "True stands twice"),
        ("--rate 1,1.0", "1.0 stands twice"),
        ("--threads 1 --threads 2", "--threads is given twice"),
        ("--repeat 1 --repeat 2", "--repeat is given twice"),
        ("--repeat \u0663", "is not a whole number"),
        ("--repeat -1", "is not a whole number"),
        ("--repeat " + "9" * 5000, "is not a whole number"),
        ("--threads '1", "No closing quotation"),
        ("--threads", "the option --threads needs a value"),
        ("threads 1", "expected an option, found 'threads'"),
        ("--thread 1", "unknown parameter 'thread'; did you mean 'threads'?"),
        ("--exclude threads=1,threads=2", "threads stands twice"),
        ("--exclude 'threads=1\nbatch=2'", "is more than one line"),
        ("--exclude ,", "write name=value"),
    ],
)
def test_a_hostile_command_line_is_one_sentence(text, said):
    with pytest.raises(UsageError) as caught:
        Sweep.parse(text, PARAMETERS)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_zips_and_exclusions_read_back_too(data):
    size = data.draw(st.integers(1, 4))
    integers = st.lists(st.integers(1, 99), min_size=size, max_size=size, unique=True)
    texts = st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, unique=True
    )
    axes = {"threads": data.draw(integers), "prompt_text": data.draw(texts), "batch": data.draw(integers)}
    made = Sweep.make(PARAMETERS, axes, zips=data.draw(st.sampled_from([(), ("batch,threads",)])))
    hits = data.draw(st.lists(st.sampled_from(list(made.points())), max_size=3))
    excluded = tuple(tuple(hit.items()) for hit in hits)
    asked = Sweep(made.axes, made.zips, excluded, 2)
    assert Sweep.parse(str(asked), PARAMETERS) == asked


def test_one_value_is_an_axis_of_one_and_no_axis_is_one_case(bench):
    assert [case.name for case in planned(bench, {"threads": "2"}).cases] == ["001"]
    assert [case.name for case in planned(bench, {}).cases] == ["001"]
    assert planned(bench, {"threads": "1,2", "seconds": "1"}).axes == ("threads",)


def test_an_axis_of_python_values_is_checked_as_its_text_is():
    assert Axis.of("threads", [1, "2"], PARAMETERS["threads"]).values == (1, 2)
    for values in ([], [1, "1"], [1.5], [True], [None], ["a"]):
        with pytest.raises(UsageError, match="threads"):
            Axis.of("threads", values, PARAMETERS["threads"])
    for values in ([1], [True], [None], [b"a"]):
        with pytest.raises(UsageError, match="is not text; quote it"):
            Axis.of("prompt_text", values, PARAMETERS["prompt_text"])


def test_exclusions_compare_values_not_their_spelling(bench):
    cases = planned(bench, {"seconds": "0.5,1"}, exclude=["seconds=1.0"]).cases
    assert [case.parameters["seconds"] for case in cases] == [0.5]
    assert planned(bench, {"threads": "1,2"}, exclude=["act=ok,threads=2"]).cases[-1].parameters["threads"] == 1


def test_every_site_runs_each_case_before_the_next_begins(bench, tmp_path, monkeypatch):
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "other.yaml").write_text("title: Other\n")
    monkeypatch.chdir(tmp_path)
    sites = [site.load("local"), site.load("other")]
    cases = plan(bench, sites, Sweep.make(bench.parameters, {"threads": "1,2"}, repeat=2)).cases
    assert [case.name for case in cases] == [
        "001-local-threads1", "002-other-threads1", "003-local-threads2", "004-other-threads2",
        "005-local-threads1", "006-other-threads1", "007-local-threads2", "008-other-threads2",
    ]  # fmt: skip
    assert [case.repeat for case in cases] == [1, 1, 1, 1, 2, 2, 2, 2]


def test_no_site_or_the_same_one_twice_is_refused(bench):
    for sites in ([], [site.load("local"), site.load("local")]):
        with pytest.raises(UsageError, match="--site: name one site or several different ones"):
            plan(bench, sites, Sweep())


def test_as_many_values_as_an_axis_may_have_and_no_more():
    assert len(Axis.parse("threads", "1:10000", PARAMETERS["threads"]).values) == 10_000
    with pytest.raises(UsageError, match="more than 10000"):
        Axis.parse("threads", "1:10001", PARAMETERS["threads"])
    with pytest.raises(UsageError, match="more than 10000"):
        Axis.parse("threads", "1:6000,6001:12000", PARAMETERS["threads"])
