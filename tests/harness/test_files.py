"""A file appears whole or not at all, whatever ends the process that writes it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import SpecError
from harness.files import read_given_json, read_json, whole_file, write_json

ROOT = Path(__file__).parents[2]


def test_json_is_written_and_read(tmp_path: Path) -> None:
    """What was written comes back, and no other file stays."""
    write_json(tmp_path / "x.json", {"a": [1, 0.1, None]})

    assert read_json(tmp_path / "x.json") == {"a": [1, 0.1, None]}
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    """Absence is an answer, not an error."""
    assert read_json(tmp_path / "x.json") is None


def test_damage_is_told_by_whose_the_file_is(tmp_path: Path) -> None:
    """Ours is made anew; a user's is never to be deleted, and its fault is said."""
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    with pytest.raises(SpecError, match=r"x\.json: damaged: .*; delete it, and the next run"):
        read_json(tmp_path / "x.json")
    for raw, says in (
        (b'\xef\xbb\xbf{"a": 1}', "is no JSON: Unexpected UTF-8 BOM"),
        (b'{"a": ', "is no JSON: Expecting value: line 1"),
        (b'{"\xff": 1}', "is no JSON: 'utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "is no JSON: maximum recursion depth"),
    ):
        (tmp_path / "x.json").write_bytes(raw)
        with pytest.raises(SpecError, match=rf"^the\.key: .*x\.json {says}") as caught:
            read_given_json(tmp_path / "x.json", "the.key")
        assert "delete" not in str(caught.value)

    assert read_given_json(tmp_path / "none.json", "the.key") is None
    with pytest.raises(SpecError, match=r"^the\.key: .* cannot be read: Is a directory"):
        read_given_json(tmp_path, "the.key")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_refused_and_the_old_file_stays(tmp_path: Path, bad: float) -> None:
    """JSON has no NaN; the file is as it was."""
    write_json(tmp_path / "x.json", {"old": 1})

    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"new": bad})

    assert read_json(tmp_path / "x.json") == {"old": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_an_exception_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """Half of the new content is not seen by anyone, and is removed."""
    (tmp_path / "x").write_bytes(b"old")

    def fail() -> None:
        with whole_file(tmp_path / "x") as file:
            file.write(b"half of the n")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        fail()

    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """A reader at any moment finds one of the two."""
    (tmp_path / "x").write_bytes(b"old")

    with whole_file(tmp_path / "x") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "x").read_bytes() == b"old"

    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks may report that they are full only when asked to keep the data."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space left"), whole_file(tmp_path / "x") as file:
        file.write(b"new")

    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of the content, rename, fsync of the folder: the order that survives a power cut."""
    events = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        events.append("folder" if target == str(tmp_path) else "content")
        sync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)

    write_json(tmp_path / "x.json", 1)

    assert events == ["content", "rename", "folder"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    """SIGKILL between two writes: the old content is whole, and writing again works."""
    write_json(tmp_path / "x.json", "old")
    program = (
        "import os, signal, sys; from pathlib import Path; from harness.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "x.json"], cwd=ROOT)

    assert done.returncode == -signal.SIGKILL
    assert read_json(tmp_path / "x.json") == "old"
    write_json(tmp_path / "x.json", "new")
    assert read_json(tmp_path / "x.json") == "new"


def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    """Each writes a file of its own process; in one process the last to finish wins, whole."""
    program = (
        "import sys; from pathlib import Path; from harness.files import write_json\n"
        "for _ in range(50): write_json(Path(sys.argv[1]), [int(sys.argv[2])] * 5000)"
    )
    path = tmp_path / "x.json"
    write_json(path, [0] * 5000)
    writers = [
        subprocess.Popen([sys.executable, "-c", program, path, str(n)], cwd=ROOT) for n in (1, 2)
    ]
    while any(writer.poll() is None for writer in writers):
        content = read_json(path)
        assert len(content) == 5000
        assert len(set(content)) == 1

    assert [writer.returncode for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ["x.json"]
