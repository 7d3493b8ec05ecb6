"""A folder appears whole or not at all, wherever it lies: behind a link, or on a mount point, which nothing can replace."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.folders import appearing

ROOT = Path(__file__).parents[2]


def work(folder: Path) -> None:
    with appearing(folder) as beside:
        for part in ("images", "annotations"):
            (beside / part).mkdir()
            (beside / part / "file").write_text(part)


def is_whole(folder: Path) -> bool:
    files = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    return files == {"images/file": "images", "annotations/file": "annotations"} and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_appears_in_the_place_of_nothing_or_of_an_empty_one(tmp_path: Path, is_there: bool) -> None:
    if is_there:
        (tmp_path / "set").mkdir()
    work(tmp_path / "set")
    assert is_whole(tmp_path / "set") and os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("is_there", [False, True])
def test_behind_a_link_the_folder_that_it_names_is_filled_on_its_own_disk(tmp_path: Path, is_there: bool) -> None:
    (tmp_path / "disk").mkdir()
    if is_there:
        (tmp_path / "disk/set").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk/set")
    with appearing(link) as beside:
        assert beside.parent == tmp_path / "disk"
    work(link)
    assert link.is_symlink() and is_whole(tmp_path / "disk/set") and os.listdir(tmp_path / "disk") == ["set"]


@pytest.mark.parametrize("mount", ["-t tmpfs none", "--bind other"])
def test_an_empty_mount_point_is_filled(tmp_path: Path, mount: str) -> None:
    """In a name space of its own, where the system lets a user mount; a bind of the same file system is no os.path.ismount."""
    (tmp_path / "set").mkdir()
    (tmp_path / "other").mkdir()
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.data.test_folders import is_whole, work
work(Path("set").absolute())
print(is_whole(Path("set")))
"""
    mounting = ["unshare", "-rm", "sh", "-c", f"mount {mount} set && exec \"$0\" \"$@\""]
    try:
        subprocess.run([*mounting, "true"], cwd=tmp_path, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets no user mount")
    done = subprocess.run([*mounting, sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
    assert sorted(os.listdir(tmp_path)) == ["other", "set"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(ZeroDivisionError), appearing(tmp_path / "set") as beside:
        (beside / "file").write_text("half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["set"] and not os.listdir(tmp_path / "set")
