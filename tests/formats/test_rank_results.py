import pytest
import written

from hpcbench.formats import get
from hpcbench.parse.content import read_bytes

NAME = "rank-results"


def test_real_results_are_recognised(corpus):
    folder = corpus / "training/rank_json/kortemaki_2rank"
    files = sorted(folder.glob("rank*.json"))
    assert len(files) == 20
    for file in files:
        content = read_bytes(file.read_bytes())
        assert (content.formats, content.unread) == ([NAME], 0)
    assert NAME not in read_bytes((folder / "config.json").read_bytes()).formats


def test_rank_and_epoch_are_those_of_the_name(corpus):
    file = corpus / "training/rank_json/kortemaki_2rank/rank1_results_epoch1.json"
    records, unread = get(NAME).document(file.read_bytes(), str(file))
    assert unread == 0
    assert [(each.table, each.line) for each in records] == [("epochs", 1)]
    assert records[0].values == {
        "rank": 1, "epoch": 1, "duration": 24.840542316436768, "tokens_per_second": 82697.63364045913,
        "validation_loss": 5.928079545497894, "bleu": 1.2964413526760543,
    }  # fmt: skip


def test_without_the_name_they_are_not_known():
    records, _ = written.read(NAME, get(NAME).example)
    assert records[0].values == {
        "duration": 27.08, "tokens_per_second": 82900.5, "validation_loss": 5.93, "bleu": 1.3
    }  # fmt: skip


def test_a_row_names_the_line_of_its_first_key():
    data = b'{\n\n  "training_time": 2.5,\n  "tokens_per_sec": NaN, "bleu": "high"}'
    records, unread = written.read(NAME, data)
    assert [(each.line, each.values) for each in records] == [(3, {"duration": 2.5})]
    assert unread == 0


@pytest.mark.parametrize("data", [
    b'{"training_time": 2.5, "tokens_per_sec": 8290',
    b'{"training_time": true, "tokens_per_sec": "fast"}',
    b'{"training_time": ' + b"[" * 200_000 + b'"tokens_per_sec"',
])  # fmt: skip
def test_a_damaged_file_gives_no_number(data):
    assert written.read(NAME, data) == ([], 1)


def test_other_documents_with_these_words_are_not_taken():
    assert read_bytes(b'[{"training_time": 2.5, "tokens_per_sec": 8290}]').formats == []
