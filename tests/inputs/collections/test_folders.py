"""Which files of folders, globs and tars are taken: suffixes, hidden files, links; what a source says about the others."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from support.collections_of_pictures import picture

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.collection import Collection

HIDDEN = ["._0.png", ".hidden.png", ".cache/1.png", "__MACOSX/._0.png", "__MACOSX/2.png", "a/__MACOSX/3.png"]


def names(source: Path | str, root: Path) -> list[str]:
    items = Collection(source)
    found = [Path(item.path).relative_to(root).as_posix() for item in items]
    assert items.count() == len(found)
    return found


def test_hidden_files_are_not_taken(tmp_path: Path) -> None:
    for name in (*HIDDEN, "0.png", "a/4.png"):
        picture(tmp_path / "p", name, 0)
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(tmp_path / "p", ".")
    for source in (tmp_path / "p", f"{tmp_path}/p/**/*.png", f"{tmp_path}/p/**", f"{tmp_path}/p/*"):
        assert names(source, tmp_path / "p") == ["0.png", "a/4.png"]
        assert not Collection(source).passed_over.counts
    assert sorted(names(tmp_path / "s.tar", tmp_path / "s.tar")) == ["0.png", "a/4.png"]
    assert names(tmp_path / "p" / ".hidden.png", tmp_path / "p") == [".hidden.png"]  # named by the user
    assert names(f"{tmp_path}/p/__MACOSX/*.png", tmp_path / "p") == ["__MACOSX/2.png"]


def test_a_sample_of_a_tar_by_macos(tmp_path: Path) -> None:
    """`._0.png` lies between the members of the sample."""
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, content in (("._0.txt", b"\0"), ("0.txt", b"\xef\xbb\xbfa cat"), ("._0.png", b"\0"), ("0.png", b"P")):
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (item,) = Collection(tmp_path / "s.tar")
    assert item.caption is not None


SUFFIXES = "jpg JPEG jpe jfif jif pjpeg mpo png apng webp gif bmp dib tif tiff jp2 j2k jpx jpf j2c ppm pgm pbm pnm avif"


@pytest.mark.parametrize("suffix", [*SUFFIXES.split(), "heic", "heif", "hif", "jxl"])
def test_suffixes_of_pictures(tmp_path: Path, suffix: str) -> None:
    picture(tmp_path, f"x.{suffix}", 0)
    assert names(tmp_path, tmp_path) == names(f"{tmp_path}/*", tmp_path) == [f"x.{suffix}"]
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(tmp_path / f"x.{suffix}", f"x.{suffix}")
    assert len(list(Collection(tmp_path / "s.tar"))) == 1


def test_a_source_says_what_it_does_not_take(tmp_path: Path) -> None:
    root = tmp_path / "p"
    for name in ("0.png", "1.JPG", "a.psd", "b/c.PSD", "d.svg", "README", "x.\x1b[31m"):
        picture(root, name, 0)
    for caption in ("0.txt", "0.json", "1.txt"):
        (root / caption).write_text("{}")
    (root / "lonely.txt").write_text("no picture of that name")
    expected = {".psd": 2, ".svg": 1, "without a suffix": 1, ".\ufffd[31m": 1, ".txt": 1}
    items = Collection(root)
    assert items.count() == 2 and items.passed_over.counts == expected
    assert len(list(items)) == 2 and items.passed_over.counts == expected
    assert str(items.passed_over).startswith("passed over 6 files: 2 .psd, ")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(root, "p")
    items = Collection(tmp_path / "s.tar")
    assert items.count() == 2 and items.passed_over.counts == expected
    items = Collection(f"{root}/*")
    assert items.count() == 2 and items.passed_over.counts[".psd"] == 2
    for name in ("0.png", "1.JPG"):
        (root / name).unlink()
    with pytest.raises(InputError, match=r"got none; passed over 9 files: .*2 \.psd"):
        Collection(root).count()


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Links to folders inside and outside, back, to itself and to nothing."""
    root = tmp_path / "p"
    for name in ("p/0.png", "p/z/1.png", "outside/2.png", "outside/below/3.png"):
        picture(tmp_path, name, 0)
    (tmp_path / "outside" / "self").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "home").symlink_to(root)
    links = {
        "a-into": "z",
        "back": ".",
        "z/up": "..",
        "above": "..",
        "self": "self",
        "gone": "nowhere",
        "pic.png": "0.png",
    }
    for name, target in {**links, "o1": "../outside", "o2": "../outside/below", "o3": "../outside"}.items():
        (root / name).symlink_to(target)
    return root


def test_links_to_folders_are_followed_once(linked: Path) -> None:
    expected = ["0.png", "o1/2.png", "o1/below/3.png", "pic.png", "z/1.png"]
    assert names(linked, linked) == expected
    assert (
        names(f"{linked}/**/*.png", linked)
        == names(f"{linked}/**", linked)
        == names(f"{linked}/**/*", linked)
        == expected
    )
    assert names(f"{linked}/*", linked) == expected
    items = Collection(linked)
    assert items.count() and items.passed_over.counts == {"leading to a folder above": 1, "without a suffix": 2}
    link = linked.parent / "link"
    link.symlink_to(linked)
    assert names(link, link) == expected


def test_links_into_hidden_folders(tmp_path: Path) -> None:
    """As of tools that store files by their content."""
    picture(tmp_path, ".store/1a/0.png", 0)
    (tmp_path / "album").symlink_to(".store/1a")
    (tmp_path / "again").symlink_to(".store")
    assert names(tmp_path, tmp_path) == ["again/1a/0.png"]
    (tmp_path / "again").unlink()
    assert names(tmp_path, tmp_path) == ["album/0.png"]


def test_sources_beside_one_another(tmp_path: Path) -> None:
    picture(tmp_path, "a/0.png", 0)
    picture(tmp_path, "b/1.png", 0)
    picture(tmp_path, "outside/2.png", 0)
    for name, target in (("a/b", "../b"), ("b/out", "../outside"), ("a/out", "../outside")):
        (tmp_path / name).symlink_to(target)
    found = [item.path for item in Collection([tmp_path / "a", tmp_path / "b"])]
    assert found == [str(tmp_path / name) for name in ("a/0.png", "a/out/2.png", "b/1.png")]


def test_many_links_in_circles(tmp_path: Path) -> None:
    """`glob` would find two to the power of 40 paths."""
    picture(tmp_path / "p", "0.png", 0)
    for name in "abcd":
        (tmp_path / "p" / name).symlink_to(".")
    for source in (tmp_path / "p", f"{tmp_path}/p/**/*.png", f"{tmp_path}/**", f"{tmp_path}/*/**/*.png"):
        assert names(source, tmp_path) == ["p/0.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.png", ["0.png", "a/1.png", "a/b/2.png", "a/b/c/3.png"]),
        ("a/**/*.png", ["a/1.png", "a/b/2.png", "a/b/c/3.png"]),
        ("**/b/*.png", ["a/b/2.png"]),
        ("**/b", ["a/b/2.png", "a/b/c/3.png"]),
        ("**/b/**/[3x].png", ["a/b/c/3.png"]),
        ("*/**/?.png", ["a/1.png", "a/b/2.png", "a/b/c/3.png"]),
        ("*", ["0.png", "a/1.png", "a/b/2.png", "a/b/c/3.png"]),
        ("*/*", ["a/1.png", "a/b/2.png", "a/b/c/3.png"]),
    ],
)
def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]) -> None:
    for name in ("0.png", "a/1.png", "a/b/2.png", "a/b/c/3.png"):
        picture(tmp_path, name, 0)
    assert sorted(names(f"{tmp_path}/{pattern}", tmp_path)) == expected
    monkeypatch.chdir(tmp_path)
    assert sorted(names(pattern, tmp_path)) == expected
