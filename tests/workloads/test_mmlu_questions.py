"""Questions of MMLU out of folders of CSV files, in both layouts that there are."""

import pytest

from hpcbench.workloads.mmlu.questions import GROUPS, SUBJECTS, DataError, Question, names, read

HEAD = "question,choice0,choice1,choice2,choice3,answer\n"


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return str(folder)


def test_a_head_and_numbers(tmp_path):
    data = write(tmp_path, art_test=HEAD + "Who?,me,you,they,we,3\n", art_dev=HEAD + '"What, else?",a,b,c,d,0\n')
    [subject] = read(data, "art", shots=1)
    assert subject.asked == (Question("art", 0, "Who?", ("me", "you", "they", "we"), 3),)
    assert subject.shots[0].text == "What, else?"


def test_no_head_letters_and_a_folder_for_each_split(tmp_path):
    for split, text in (("test", "Who?,me,you,they,we,D\n\nWhere?,1,2,3,4,A\n"), ("dev", "What?,a,b,c,d,C\n")):
        (tmp_path / split).mkdir()
        write(tmp_path / split, **{f"art_{split}": text})
    [subject] = read(str(tmp_path), "art", shots=1)
    assert [(each.number, each.text, each.answer) for each in subject.asked] == [(0, "Who?", 3), (1, "Where?", 0)]
    assert subject.shots[0].answer == 2


def test_the_limit_takes_the_first_and_a_seed_draws(tmp_path):
    rows = "".join(f"Question {number}?,a,b,c,d,{number % 4}\n" for number in range(20))
    data = write(tmp_path, art_test=rows, art_dev=rows)
    first, same, other = (read(data, "art", shots=3, limit=5, seed=seed)[0] for seed in (0, 7, 8))
    assert [each.number for each in first.asked] == [0, 1, 2, 3, 4]
    assert [each.number for each in first.shots] == [0, 1, 2]
    assert same == read(data, "art", shots=3, limit=5, seed=7)[0] != other


def test_an_identity_does_not_hang_on_the_place_or_the_right_answer():
    one = Question("art", 0, "Who?", ("a", "b", "c", "d"), 0)
    assert one.id == Question("art", 5, "Who?", ("a", "b", "c", "d"), 2).id
    assert one.id != Question("art", 0, "Who?", ("a", "b", "d", "c"), 0).id
    assert len(one.id) == 16


def test_groups_and_all_name_what_is_there(tmp_path):
    row = "Who?,a,b,c,d,0\n"
    data = write(tmp_path, astronomy_test=row, anatomy_test=row, virology_test=row, of_my_own_test=row)
    assert names(data, "stem") == ["anatomy", "astronomy"]
    assert names(data, "other,stem,astronomy") == ["virology", "anatomy", "astronomy"]
    assert names(data, "all") == ["anatomy", "astronomy", "of_my_own", "virology"]
    assert names("cais/mmlu", "all") == list(SUBJECTS)
    assert len(SUBJECTS) == 57
    assert sum(map(len, GROUPS.values())) == 57


@pytest.mark.parametrize(
    ("subjects", "said"),
    [
        ("astronmy", "did you mean 'astronomy'?"),
        ("humanities", "there is no 'humanities'"),
        ("xyzzy", "there is anatomy, astronomy"),
        ("", "there is no ''"),
    ],
)
def test_a_subject_that_is_not_there(tmp_path, subjects, said):
    data = write(tmp_path, astronomy_test="Who?,a,b,c,d,0\n", anatomy_test="Who?,a,b,c,d,0\n")
    with pytest.raises(DataError) as caught:
        names(data, subjects)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("Who?,a,b,c,0\n", "art_test.csv:2: 5 columns, where a question has 6"),
        ("Who?,a,b,c,d,4\n", "art_test.csv:2: the answer '4' is none of 0 to 3 or A to D"),
        ("Who?,a,b,c,d,E\n", "art_test.csv:2: the answer 'E'"),
        ("Who?,a,b,c,d,0,0\n", "7 columns"),
        ('"two\nlines",a,b,c,d,x\n', "art_test.csv:3: the answer 'x'"),
        ('Who?,a,b,c,d,"0\n', "art_test.csv:"),
        ("", "art: there is no question to ask"),
    ],
)
def test_a_row_that_is_no_question(tmp_path, rows, said):
    data = write(tmp_path, art_test=HEAD + rows)
    with pytest.raises(DataError) as caught:
        read(data, "art", shots=0)
    assert said in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "art_test.csv").write_bytes(b"Who?,a,b,c,d,0\nWh\xff?,a,b,c,d,0\n")
    with pytest.raises(DataError, match=r"art_test\.csv:2: is not UTF-8 text"):
        read(str(tmp_path), "art", shots=0)


@pytest.mark.parametrize("dev", [None, "Who?,a,b,c,d,0\n"])
def test_too_few_examples(tmp_path, dev):
    data = write(tmp_path, art_test="Who?,a,b,c,d,0\n", **({"art_dev": dev} if dev else {}))
    with pytest.raises(DataError, match=f"its development set has {1 if dev else 0} questions, and --shots asks for 2"):
        read(data, "art", shots=2)
    assert len(read(data, "art", shots=0)[0].asked) == 1


def test_data_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="there is no folder /no/such/place"):
        read("/no/such/place", "all")
    with pytest.raises(DataError, match=r"holds no SUBJECT_test\.csv"):
        read(str(tmp_path), "all")
    with pytest.raises(DataError, match="name a folder of CSV files"):
        read("", "all")
