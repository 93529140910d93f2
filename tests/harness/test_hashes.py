"""Hashes of files: right, and remembered for large files that have not changed."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

import harness.hashes as hashes
from harness.hashes import FILE, ContentHashes

AN_HOUR_AGO = 1_000_000_000_000_000_000


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that counts as large and has not changed for long."""
    monkeypatch.setattr(hashes, "LARGE_BYTES", 10)
    path = tmp_path / "a.txt"
    path.write_bytes(b"some text of a file")
    os.utime(path, ns=(AN_HOUR_AGO, AN_HOUR_AGO))
    return path


def remember(path: Path, folder: Path) -> str:
    """Hash a file as one start of the program does."""
    known = ContentHashes(folder)
    digest = known.of(path)
    known.save()
    return digest


def refuse(path: Path) -> str:
    """Stand for a second reading."""
    raise AssertionError(f"{path} was read again")


def test_a_large_file_is_read_once(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start finds the hash under path, size and time."""
    first = remember(large, tmp_path / "corpora")
    monkeypatch.setattr(hashes, "_sha256", refuse)

    assert first == sha256(b"some text of a file").hexdigest()
    assert remember(large, tmp_path / "corpora") == first


@pytest.mark.parametrize("stamp", [AN_HOUR_AGO, AN_HOUR_AGO + 1])
def test_a_changed_file_is_read_again(large: Path, tmp_path: Path, stamp: int) -> None:
    """Another size at the same time, or the same size at another."""
    remember(large, tmp_path)
    changed = b"other text of a fil" + (b"e and more" if stamp == AN_HOUR_AGO else b"!")
    large.write_bytes(changed)
    os.utime(large, ns=(stamp, stamp))

    assert remember(large, tmp_path) == sha256(changed).hexdigest()


def test_a_file_that_just_changed_is_not_remembered(large: Path, tmp_path: Path) -> None:
    """A second change within the clock's step would leave no trace."""
    os.utime(large)

    remember(large, tmp_path / "corpora")

    assert not (tmp_path / "corpora" / FILE).exists()


def test_a_folder_that_cannot_be_written_to_costs_time_alone(large: Path, tmp_path: Path) -> None:
    """Here the folder is a file."""
    (tmp_path / "corpora").write_text("in the way")

    assert ContentHashes().of(large) == sha256(b"some text of a file").hexdigest()
    assert remember(large, tmp_path / "corpora") == ContentHashes().of(large)
