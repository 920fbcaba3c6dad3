"""The published archives, what they hold, and how they become folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engine.runtime import say
from engine.weights.download import download
from scripts.preparation.archives import entries, save
from scripts.preparation.pictures import picture_names
from utils import DataError

GIB = 1 << 30
DIV2K_URL = "http://data.vision.ee.ethz.ch/cvl/DIV2K/"


@dataclass(frozen=True)
class Folder:
    """A folder of pictures that the configurations expect, below the data root."""

    path: str
    count: int

    @property
    def inside(self) -> tuple[str, ...]:
        """How the paths of its pictures end inside an archive: without the first component."""
        return PurePosixPath(self.path).parts[1:]


@dataclass(frozen=True)
class Source:
    """An archive and the folders it fills.

    size, sha256: bytes and checksum of the archive, where they are known.
    max_bytes: what its pictures may have together; more is refused.
    """

    name: str
    url: str
    folders: tuple[Folder, ...]
    max_bytes: int
    size: int | None = None
    sha256: str | None = None


def _div2k(
    name: str, folder: str, count: int, size: int | None = None, sha256: str | None = None
) -> Source:
    folders = (Folder(f"div2k/{folder}", count),)
    return Source(f"{name}.zip", f"{DIV2K_URL}{name}.zip", folders, 8 * GIB, size, sha256)


DIV2K = {
    "train-hr": _div2k(
        "DIV2K_train_HR",
        "DIV2K_train_HR",
        800,
        3530603713,
        "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
    ),
    "valid-hr": _div2k(
        "DIV2K_valid_HR",
        "DIV2K_valid_HR",
        100,
        448993893,
        "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
    ),
    "valid-lr-x2": _div2k(
        "DIV2K_valid_LR_bicubic_X2",
        "DIV2K_valid_LR_bicubic/X2",
        100,
        117763600,
        "60eed9875c697df51204aa579e2a699e1d5215095788a097ff54dd17e2664d57",
    ),
    "valid-lr-x3": _div2k("DIV2K_valid_LR_bicubic_X3", "DIV2K_valid_LR_bicubic/X3", 100),
    "valid-lr-x4": _div2k("DIV2K_valid_LR_bicubic_X4", "DIV2K_valid_LR_bicubic/X4", 100),
    "train-lr-x2": _div2k(
        "DIV2K_train_LR_bicubic_X2",
        "DIV2K_train_LR_bicubic/X2",
        800,
        925390592,
        "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850",
    ),
}
# Only the x2 baselines train on ready-made LR pictures, so these come when asked for.
DIV2K_DEFAULT = tuple(part for part in DIV2K if part != "train-lr-x2")

BENCHMARK = Source(
    "benchmark.tar",
    "https://cv.snu.ac.kr/research/EDSR/benchmark.tar",
    tuple(
        Folder(f"benchmark/{name}/{kind}", count)
        for name, count in (("Set5", 5), ("Set14", 14), ("B100", 100), ("Urban100", 100))
        for kind in ("HR", "LR_bicubic/X2", "LR_bicubic/X3", "LR_bicubic/X4")
    ),
    2 * GIB,
)


def prepare(
    source: Source, root: Path, archive: Path | None = None, mirror: str | None = None
) -> bool:
    """Fill the source's folders below root; False where all of them were whole already.

    Args:
        archive: archive or folder that the user has; downloaded when absent.
        mirror: address of a folder that holds the archive, instead of the published one.

    Raises:
        DataError: the archive can't be had, is broken or unsafe, or doesn't hold what it should.
    """
    missing = [folder for folder in source.folders if not _is_whole(folder, root)]
    for folder in source.folders:
        if folder not in missing:
            say(f"{root / folder.path}: {folder.count} pictures, already there")
    if not missing:
        return False
    fetched = None
    if archive is None:
        url = source.url if mirror is None else f"{mirror.rstrip('/')}/{source.name}"
        fetched = root / "downloads" / source.name
        say(f"{source.name}: fetching {url}")
        archive = download(url, fetched, size=source.size, sha256=source.sha256)
    say(f"{source.name}: unpacking {archive}")
    _unpack(source, archive, missing, root)
    for folder in missing:
        say(f"{root / folder.path}: {folder.count} pictures")
    if fetched is not None:
        fetched.unlink()
    return True


def find_owned(source: Source, owned: Sequence[Path]) -> Path | None:
    """Which of the user's archives and folders is meant for a source, by its name.

    That is one named like the source's archive, with or without the suffix; or a folder that
    holds such a one; or a folder that holds the source's own folders, as `load/div2k` does.
    """
    stem = source.name.split(".")[0]
    for path in owned:
        if path.resolve().name.split(".")[0] == stem:
            return path
        if not path.is_dir():
            continue
        for inside in (path / source.name, path / stem):
            if inside.exists():
                return inside
        if all(path.joinpath(*folder.inside).is_dir() for folder in source.folders):
            single = len(source.folders) == 1
            return path.joinpath(*source.folders[0].inside) if single else path
    return None


def _is_whole(folder: Folder, root: Path) -> bool:
    return len(picture_names(root / folder.path)) == folder.count


def _unpack(source: Source, archive: Path, missing: Sequence[Folder], root: Path) -> None:
    """Put the pictures of the missing folders in place; nothing is left behind on failure."""
    staging = root / PurePosixPath(source.folders[0].path).parts[0] / f".unpacking-{source.name}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        _stage(source, archive, missing, staging)
        for folder in missing:
            found = len(picture_names(staging / folder.path))
            if found != folder.count:
                raise DataError(
                    f"{archive}: {found} pictures for {folder.path}, {folder.count} expected"
                )
        for folder in missing:
            target = root / folder.path
            target.mkdir(parents=True, exist_ok=True)
            for name in picture_names(staging / folder.path):
                os.replace(staging / folder.path / name, target / name)
            found = len(picture_names(target))
            if found != folder.count:
                raise DataError(
                    f"{target}: {found} pictures, {folder.count} expected; "
                    "remove those that are not part of the data set"
                )
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _stage(source: Source, archive: Path, missing: Sequence[Folder], staging: Path) -> None:
    left = min(source.max_bytes, shutil.disk_usage(staging).free)
    for entry in entries(archive):
        if not entry.is_picture:
            continue
        folder = _folder_of(entry.path, source, missing)
        if folder is None:
            continue
        target = staging / folder.path / entry.path.name
        if target.exists():
            raise DataError(f"{archive}: two pictures named {entry.path.name} for {folder.path}")
        if entry.size > left:
            raise DataError(
                f"{archive}: its pictures need more than the {source.max_bytes} bytes that they "
                f"may have or than the disk has free"
            )
        left -= save(entry, target, max_bytes=entry.size)


def _folder_of(path: PurePosixPath, source: Source, missing: Sequence[Folder]) -> Folder | None:
    """The folder a picture belongs to; archives of a single folder may be laid out anyhow."""
    if len(source.folders) == 1:
        return missing[0]
    for folder in missing:
        if path.parent.parts[-len(folder.inside) :] == folder.inside:
            return folder
    return None
