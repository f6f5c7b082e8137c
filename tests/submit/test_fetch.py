"""What comes back from a site: by real ssh from real jobs, and from archives that nobody honest made."""

import contextlib
import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import far
import pytest
import toy
from far import hpcbench, ran, remote, submit
from services.proxy import Proxy
from toy import until

from hpcbench.errors import RunError, SiteError
from hpcbench.submit.fetch import Answers, unpack, unpack_zip


@pytest.fixture
def place(tmp_path, sshd):
    yield far.write(tmp_path, sshd)
    toy.kill(toy.processes_under(tmp_path))


def tree(folder: Path) -> dict[str, bytes]:
    """Return path → content of all plain files below a folder; a link or a pipe stands as what it is."""
    found = {}
    for file in folder.rglob("*"):
        mode = file.lstat().st_mode
        if not stat.S_ISDIR(mode):
            found[str(file.relative_to(folder))] = file.read_bytes() if stat.S_ISREG(mode) else b"not plain"
    return found


# by real ssh


def test_only_what_is_new_or_changed_comes_the_second_time(place):
    submit("--act", "ok,exit 3", "--wait", cwd=place, check=4)
    hpcbench("fetch", "r", cwd=place, check=0)
    here, there = place / "logs" / "r", remote(place)
    assert "nothing new" in hpcbench("fetch", "r", cwd=place, check=0).stderr
    times = {file: file.stat().st_mtime_ns for file in here.rglob("*") if file.is_file()}
    (there / "001-actok" / "more.txt").write_text("more")
    with (there / "002-actexit_3" / "stdout.log").open("a") as log:
        log.write("a line more\n")
    got = hpcbench("fetch", "r", "--json", cwd=place, check=0).stdout
    assert '"files": ["001-actok/more.txt", "002-actexit_3/stdout.log"]' in got
    assert (here / "002-actexit_3" / "stdout.log").read_bytes() == (there / "002-actexit_3" / "stdout.log").read_bytes()
    changed = {file.name for file, time in times.items() if file.exists() and file.stat().st_mtime_ns != time}
    assert changed <= {"stdout.log", "lock.far"}
    # of the same size, and another content
    stamp = (there / "001-actok" / "more.txt").stat().st_mtime_ns
    (there / "001-actok" / "more.txt").write_text("MORE")
    os.utime(there / "001-actok" / "more.txt", ns=(stamp, stamp + 10**6))
    hpcbench("fetch", "r", cwd=place, check=0)
    assert (here / "001-actok" / "more.txt").read_text() == "MORE"


def test_a_growing_log_grows_here(place):
    submit("--act", "grow", cwd=place)
    watching = far.background("fetch", "r", "--watch", "--every", "1", cwd=place)
    log = place / "logs" / "r" / "001" / "stdout.log"

    def steps() -> int:
        return log.read_text().count('"record": "step"') if log.exists() else 0

    until(lambda: steps() > 3)
    first = steps()
    until(lambda: steps() > first)
    assert watching.poll() is None
    (remote(place) / "go").touch()
    _, said = watching.communicate(timeout=100)
    assert watching.returncode == 0, said
    assert log.read_bytes() == (remote(place) / "001" / "stdout.log").read_bytes()
    assert (place / "logs" / "r" / "001" / "exit.json").exists()


def test_what_is_not_a_plain_file_under_a_plain_name_is_left_and_named(place):
    submit("--act", "hostile", cwd=place)
    until((remote(place) / "001" / "exit.json").exists)
    here = place / "logs" / "r"
    own = {name: (here / name).read_bytes() for name in ("run.json", "001/case.json", "001/job.sh")}
    hpcbench("wait", "r", cwd=place, check=0)
    done = hpcbench("fetch", "r", cwd=place, check=0)
    assert {name: (here / name).read_bytes() for name in own} == own
    assert not [path for path, content in tree(here).items() if content == b"not plain"]
    assert sorted(path.name for path in (here / "001").iterdir()) == [
        "..more", "case.json", "exit.json", "job.sh", "measure.py", "scheduler.log", "started.json", "stderr.log",
        "stdout.log", "toy_program.py",
    ]  # fmt: skip
    assert "kept" in (here / "001" / "..more" / "kept").read_text()
    for name in ("link", "linked", "pipe", "socket"):
        assert f"left there: 001/{name} is not a plain file of a plain name\n" in done.stderr, done.stderr
    assert "left there: 001/two" in done.stderr
    assert "left there: 001/tab" in done.stderr
    assert all(line.startswith(("left there: ", "r: ")) for line in done.stderr.splitlines())


def test_a_large_file_is_left_and_named(place):
    submit("--act", "large", "--wait", cwd=place)
    (place / "logs" / "r" / "001" / "large.bin").unlink()  # `--wait` has brought it
    done = hpcbench("fetch", "r", "--max-size", "1", cwd=place, check=0)
    assert "left there: 001/large.bin has 3145728 bytes, more than 1048576" in done.stderr
    assert not (place / "logs" / "r" / "001" / "large.bin").exists()
    hpcbench("fetch", "r", cwd=place, check=0)
    assert (place / "logs" / "r" / "001" / "large.bin").stat().st_size == 3 << 20


def test_a_connection_cut_in_the_middle_leaves_whole_files_and_says_so(tmp_path, sshd):
    with Proxy(sshd.port) as proxy:
        far.write(tmp_path, sshd.behind(proxy.port))
        submit("--act", "ok", "--wait", cwd=tmp_path)
        there = remote(tmp_path) / "001"
        sent = {f"{number:02}.bin": os.urandom(200_000) for number in range(20)}
        for name, content in sent.items():
            (there / name).write_bytes(content)
        for passing in (20_000, 1_000_000, 2_500_000):
            proxy.cut_after(passing)
            done = hpcbench("fetch", "r", cwd=tmp_path, check=3)
            assert far.line(done) == "the connection to far broke"
            here = {file.name: file.read_bytes() for file in (tmp_path / "logs" / "r" / "001").glob("*.bin")}
            assert all(sent[name] == content for name, content in here.items())
            assert not list((tmp_path / "logs" / "r").rglob("*.part"))
        hpcbench("fetch", "r", cwd=tmp_path, check=0)
        here = {file.name: file.read_bytes() for file in (tmp_path / "logs" / "r" / "001").glob("*.bin")}
        assert here == sent


def test_clean_deletes_what_is_there_and_only_that(place):
    submit("--act", "ok", "--wait", cwd=place)
    submit_other = ("submit", "--site", "far", "--name", "other", "--act", "hang")
    hpcbench(*submit_other, cwd=place, check=0)
    assert "has not ended: cancel it first" in far.line(hpcbench("clean", "other", "--yes", cwd=place, check=2))
    before = tree(place / "logs" / "r" / "001")
    hpcbench("clean", "r", "--yes", cwd=place, check=0)
    assert sorted(path.name for path in (place / "remote").iterdir()) == ["other"]
    assert tree(place / "logs" / "r" / "001") == before
    assert far.states(place) == {"ok": "completed"}
    assert ran(place, "other")


# archives that nobody honest made

BUNDLES = {"001": ["case.json", "job.sh", "data/input.txt"], "002": ["case.json", "job.sh"]}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "logs" / "r"
    for case in BUNDLES:
        (folder / case).mkdir(parents=True)
        (folder / case / "case.json").write_text("ours")
    (folder / "run.json").write_text("ours")
    (folder / "groups").mkdir()
    return folder


def member(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "", **more) -> tuple:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def packed(*members: tuple) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out


def outside(run: Path) -> dict[str, bytes]:
    """Return what lies in the test's folder and is none of the run's cases."""
    return {path: content for path, content in tree(run.parents[1]).items() if not path.startswith("logs/r/00")}


NAMES = [
    "/etc/hpcbench-pwned", "../pwned", "001/../../pwned", "001/../002/case.json", "./../r/001/x", "run.json",
    "journal.jsonl", "lock", "pwned", "003/x", "other/stdout.log", "001/two\nlines", "001/\x1b[31m", "001/..", "001",
    "groups/../run.json", "groups/g1.sh", ".incoming/x", "//etc/x", "001//../../x", "cancel/001",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_is_not_taken(run, name):
    before = tree(run.parents[1])
    fetched = unpack(packed(member(name), member("./001/good", b"good")), run, BUNDLES)
    assert fetched.files == ["001/good"]
    assert tree(run.parents[1]) == before | {"logs/r/001/good": b"good"}
    assert not Path("/etc/hpcbench-pwned").exists()
    assert all(letter.isprintable() for left in fetched.left for letter in left)
    assert fetched.left or name.startswith("groups/g1")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_not_taken(run, kind):
    link = "/etc/passwd" if kind == tarfile.SYMTYPE else "001/case.json"
    before = tree(run)
    archive = packed(member("001/odd", b"", kind, link), member("001/odd/below"), member("001/good", b"good"))
    fetched = unpack(archive, run, BUNDLES)
    assert fetched.left == {"001/odd": "is no plain file"}
    assert tree(run) == before | {"001/odd/below": b"x", "001/good": b"good"}


def test_a_link_that_is_here_is_not_followed(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("ours")
    (run / "001" / "way").symlink_to(tmp_path / "elsewhere")
    (run / "001" / "file").symlink_to(tmp_path / "elsewhere" / "file")
    (run / "001" / "folder").mkdir()
    fetched = unpack(packed(member("001/way/file"), member("001/file"), member("001/folder")), run, BUNDLES)
    assert (fetched.files, set(fetched.left.values())) == ([], {"is something else here"})
    assert (tmp_path / "elsewhere" / "file").read_text() == "ours"


def test_a_file_where_a_folder_should_be_harms_nothing(run):
    archive = packed(member("001/a"), member("001/a/b"), member("001/good", b"good"))
    with contextlib.suppress(SiteError):
        unpack(archive, run, BUNDLES)
    assert (run / "001" / "a").read_bytes() == b"x"


def test_what_was_sent_stays_as_it_is(run):
    before = tree(run)
    archive = packed(*(member(name, b"theirs") for name in ("001/case.json", "./001/job.sh", "001/data/other.txt")))
    fetched = unpack(archive, run, BUNDLES)
    assert (fetched.files, tree(run)) == ([], before)


def test_the_last_of_two_members_of_one_name_counts(run):
    fetched = unpack(packed(member("001/log", b"first"), member("001/log", b"second")), run, BUNDLES)
    assert (run / "001" / "log").read_bytes() == b"second"
    assert set(fetched.files) == {"001/log"}


def test_a_file_over_the_limit_is_left(run):
    fetched = unpack(packed(member("001/big", bytes(2000)), member("001/small", bytes(1000))), run, BUNDLES, 1000)
    assert (fetched.files, fetched.left) == (["001/small"], {"001/big": "has 2000 bytes, more than 1000"})


def test_a_size_that_the_archive_does_not_hold_fills_no_disk(run):
    head = member("001/huge", b"", size=900 << 20)[0].tobuf(tarfile.PAX_FORMAT)
    archive = io.BytesIO(gzip.compress(head + b"only this"))
    with pytest.raises(SiteError, match="did not arrive whole"):
        unpack(archive, run, BUNDLES)
    assert list((run / "001").iterdir()) == [run / "001" / "case.json"]


@pytest.mark.parametrize("left", [0, 1, 10, 200, 3000, -300])
def test_a_truncated_archive_leaves_whole_files_and_says_so(run, left):
    files = {f"001/{number}": os.urandom(2000) for number in range(5)}
    whole = packed(*(member(name, content) for name, content in files.items())).getvalue()
    before = tree(run)
    with pytest.raises(SiteError, match="did not arrive whole"):
        unpack(io.BytesIO(whole[:left]), run, BUNDLES)
    got = tree(run)
    assert before.items() <= got.items()
    assert (got.items() - before.items()) <= files.items()


@pytest.mark.parametrize("at", range(0, 4000, 97))
def test_a_damaged_archive_leaves_no_damaged_file(run, at):
    files = {f"001/{number}": os.urandom(700) for number in range(5)}
    whole = bytearray(packed(*(member(name, content) for name, content in files.items())).getvalue())
    whole[at % len(whole)] ^= 0x55
    with contextlib.suppress(SiteError):
        unpack(io.BytesIO(bytes(whole)), run, BUNDLES)
    assert not list(run.rglob("*.part"))
    assert not outside(run).keys() - {"logs/r/run.json"}


def test_what_follows_an_archive_is_passed_over_or_told(run):
    archive = io.BytesIO(packed(member("001/good", b"good")).getvalue() + b"and then more")
    with contextlib.suppress(SiteError):
        unpack(archive, run, BUNDLES)
    assert (run / "001" / "good").read_bytes() == b"good"


def test_no_archive_at_all_is_one_line(run):
    for answer in (b"", b"bash: tar: command not found\n", b"\x1f\x8b", os.urandom(3000)):
        with pytest.raises(SiteError, match="did not arrive whole") as error:
            unpack(io.BytesIO(answer), run, BUNDLES)
        assert str(error.value).isprintable()


def test_odd_times_and_headers_are_borne(run):
    headers = [{"mtime": "1e999"}, {"mtime": "nan"}, {"mtime": "-1"}, {"mtime": "x"}, {"comment": "x" * 9999}]
    members = []
    for number, header in enumerate(headers):
        info, content = member(f"001/{number}")
        info.pax_headers = header
        members.append((info, content))
    with contextlib.suppress(SiteError):
        unpack(packed(*members), run, BUNDLES)
    assert not list(run.rglob("*.part"))


def test_text_of_a_site_is_read_in_any_pieces_and_never_believed():
    said = b"Welcome!\r\nhb\tfolder\t/x\nhb\ttext\tquery\t0\t5\na\nb\nc\nnoise\nhb\tdone\nhb\tfiles\nrest"
    for size in range(1, len(said) + 1):
        answers = Answers("far")
        for start in range(0, len(said), size):
            answers.feed(said[start : start + size])
        assert answers.lines == [["folder", "/x"], ["done"]]
        assert answers.texts == {"query": (0, "a\nb\nc")}
        assert answers.archive is not None
        with answers.archive:
            answers.archive.seek(0)
            assert answers.archive.read() == b"rest"
    with pytest.raises(SiteError, match="something else than answers"):
        Answers("far").feed(b"hb\ttext\tquery\tx\ty\n")
    with pytest.raises(SiteError, match="something else than answers"):
        Answers("far").feed(b"x" * (3 << 20))


# results of a notebook or of Modal


def zipped(file: Path, *members: tuple[str, bytes], mode: int = 0o100644, **more) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return file


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_zip_that_leads_elsewhere_is_not_taken(run, tmp_path, name):
    archive = zipped(tmp_path / "results.zip", (name, b"x"), ("001/good", b"good"))
    before = tree(tmp_path)
    fetched = unpack_zip(archive, run, BUNDLES)
    assert fetched.files == ["001/good"]
    assert tree(tmp_path) == before | {"logs/r/001/good": b"good"}


def test_a_link_in_a_zip_is_not_taken(run, tmp_path):
    archive = zipped(tmp_path / "results.zip", ("001/link", b"/etc/passwd"), mode=0o120777)
    assert unpack_zip(archive, run, BUNDLES).left == {"001/link": "is no plain file"}
    assert not (run / "001" / "link").exists()


def test_a_zip_that_swells_is_left(run, tmp_path):
    archive = zipped(tmp_path / "results.zip", ("001/bomb", bytes(50 << 20)), ("001/good", b"good"))
    assert archive.stat().st_size < 1 << 20
    fetched = unpack_zip(archive, run, BUNDLES, 1 << 20)
    assert (fetched.files, list(fetched.left)) == (["001/good"], ["001/bomb"])


def test_a_zip_that_lies_about_a_size_fills_no_disk(run, tmp_path):
    archive = zipped(tmp_path / "results.zip", ("001/bomb", bytes(5 << 20)))
    content = archive.read_bytes()
    lying = content.replace((5 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != content
    archive.write_bytes(lying)
    with pytest.raises(RunError, match="is no whole zip file"):
        unpack_zip(archive, run, BUNDLES)
    assert list((run / "001").iterdir()) == [run / "001" / "case.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"", "is no whole zip file: File is not a zip file"),
        (b"PK\3\4 and nothing", "is no whole zip file: File is not a zip file"),
        ("another run", "holds no case of this run"),
        ("cut", "is no whole zip file"),
    ],
)
def test_what_is_no_zip_of_this_run_is_one_line(tmp_path, content, said):
    far.write(tmp_path)
    (tmp_path / "sites" / "far.yaml").write_text("title: A notebook\nscheduler: notebook\nbenchmark: toy\n")
    submit("--act", "ok", cwd=tmp_path)
    file = tmp_path / "results.zip"
    if content == "another run":
        zipped(file, ("009-other/stdout.log", b"x"))
    elif content == "cut":
        file.write_bytes(zipped(file, ("001/stdout.log", os.urandom(9000))).read_bytes()[:4000])
    elif content is not None:
        file.write_bytes(content)
    before = tree(tmp_path / "logs")
    done = hpcbench("fetch", "r", "--from", "results.zip", cwd=tmp_path, check=2)
    assert said in far.line(done)
    assert "results.zip" in far.line(done)
    assert tree(tmp_path / "logs") == before


def test_clean_first_brings_back_what_was_not_fetched(place):
    submit("--act", "ok", cwd=place)
    toy.until(lambda: far.states(place) == {"ok": "completed"})
    assert not (place / "logs" / "r" / "001" / "stdout.log").exists()
    hpcbench("clean", "r", "--yes", cwd=place, check=0)
    assert "finished" in (place / "logs" / "r" / "001" / "stdout.log").read_text()
    assert not (place / "remote" / "r").exists()
    hpcbench("clean", "r", "--yes", cwd=place, check=0)
    hpcbench("fetch", "r", cwd=place, check=0)


def test_an_archive_whose_checksum_is_wrong_is_said_to_be_damaged(tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("./001/a.log")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    damaged = bytearray(packed.getvalue())
    damaged[-6] ^= 1  # in the checksum that gzip ends with
    (tmp_path / "001").mkdir()
    with pytest.raises(SiteError, match="did not arrive whole: CRC check failed"):
        unpack(io.BytesIO(bytes(damaged)), tmp_path, {"001": []})
