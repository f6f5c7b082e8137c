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
