"""Folders of photographs, pairs of folders, split files, and what is wrong with them."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import datasets
from datasets.image_folder import ImageFolder, PairedImageFolders
from datasets.images import read_rgb, write_rgb
from datasets.listing import list_pictures, match_pairs, sort_names
from utils import ConfigError, DataError, natural_key

CACHES = ["none", "in_memory", "bin"]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def make_folder(folder: Path, names: list[str], size: tuple[int, int] = (9, 12)) -> Path:
    folder.mkdir(parents=True)
    for seed, name in enumerate(names):
        write_rgb(folder / name, noise(*size, seed=seed))
    return folder


def failure(**args: Any) -> str:
    name = "paired-image-folders" if "root_path_1" in args else "image-folder"
    with pytest.raises(DataError) as caught:
        list(datasets.make({"name": name, "args": args}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("cache", CACHES)
def test_folder(tmp_path: Path, cache: str) -> None:
    folder = make_folder(tmp_path / "a", ["img10.png", "img2.png", "IMG1.png"])
    spec = {"name": "image-folder", "args": {"root_path": str(folder), "repeat": 2, "cache": cache}}
    dataset = datasets.make(spec)
    assert len(dataset) == 6
    assert [Path(dataset.names(i)[0]).name for i in range(3)] == [
        "IMG1.png",
        "img2.png",
        "img10.png",
    ]
    for i in range(6):
        pixels = read_rgb(dataset.names(i)[0])
        assert np.array_equal(dataset.pixels(i)[0], pixels)
        assert dataset.sizes(i) == ((9, 12),)
        assert dataset[i].dtype == torch.float32
        assert torch.equal(dataset[i], torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    with pytest.raises(IndexError):
        dataset[6]
    assert len(list(dataset)) == 6


@pytest.mark.parametrize("cache", CACHES)
def test_pairs(tmp_path: Path, cache: str) -> None:
    low = make_folder(tmp_path / "low", ["ax2.png", "abx2.png", "a10x2.png", "a9x2.png"], (4, 5))
    high = make_folder(tmp_path / "high", ["a.png", "ab.png", "a9.png", "a10.png"], (8, 10))
    args = {"root_path_1": str(low), "root_path_2": str(high), "cache": cache, "first_k": 3}
    dataset = datasets.make({"name": "paired-image-folders", "args": args})
    names = [tuple(Path(name).name for name in dataset.names(i)) for i in range(3)]
    assert names == [("ax2.png", "a.png"), ("a9x2.png", "a9.png"), ("a10x2.png", "a10.png")]
    assert dataset.sizes(1) == ((4, 5), (8, 10))
    first, second = dataset[2]
    assert torch.equal(first, torch.from_numpy(read_rgb(low / "a10x2.png")).permute(2, 0, 1) / 255)
    assert torch.equal(second, torch.from_numpy(read_rgb(high / "a10.png")).permute(2, 0, 1) / 255)


def test_a_scale_is_left_out_of_the_order_only_where_all_names_have_it() -> None:
    assert sort_names(["abx2.png", "ax2.png"]) == ["ax2.png", "abx2.png"]
    assert sort_names(["abx2.png", "ax3.png"]) == ["abx2.png", "ax3.png"]
    assert sort_names(["b.png", "x10.png", "x9.png"]) == ["b.png", "x9.png", "x10.png"]


@pytest.mark.parametrize("cache", CACHES)
def test_split_file(tmp_path: Path, cache: str) -> None:
    folder = make_folder(tmp_path / "a", ["1.png", "2.png", "3.png", "4.png"])
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["4.png", "1.png"], "val": ["3.png"]}))
    args = {"root_path": str(folder), "split_file": str(split), "cache": cache}
    train = ImageFolder(**args, split_key="train")
    val = ImageFolder(**args, split_key="val")
    assert [path.name for path in train.paths[0]] == ["1.png", "4.png"]
    assert [path.name for path in val.paths[0]] == ["3.png"]
    assert np.array_equal(train.pixels(1)[0], noise(9, 12, seed=3))
    assert np.array_equal(val.pixels(0)[0], noise(9, 12, seed=2))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[" * 100000, "no JSON"),
        (b"[1, 2]", "no JSON object"),
        (b'{"train": ["1.png"]}', "no key 'val'; it has 'train'"),
        (b"{}", "no key 'val'"),
        (b'{"val": "1.png"}', "no list"),
        (b'{"val": []}', "no list"),
        (b'{"val": [1]}', "no list"),
        (b'{"val": ["../1.png"]}', "no plain file name"),
        (b'{"val": ["1.png", "1.png"]}', "twice"),
        (b'{"val": ["1.png", "9.png"]}', "'9.png'"),
    ],
)
def test_split_files_that_make_no_sense(tmp_path: Path, content: bytes, words: str) -> None:
    folder = make_folder(tmp_path / "a", ["1.png"])
    split = tmp_path / "split.json"
    split.write_bytes(content)
    message = failure(root_path=str(folder), split_file=str(split), split_key="val")
    assert words in message
    assert str(split) in message


def test_split_file_that_is_not_there(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", ["1.png"])
    message = failure(root_path=str(folder), split_file=str(tmp_path / "no.json"), split_key="val")
    assert "no.json: can't be read (No such file" in message
    for args, missing in (({"split_file": "a"}, "split_key"), ({"split_key": "a"}, "split_file")):
        with pytest.raises(ConfigError, match=f"{missing}: missing"):
            datasets.make({"name": "image-folder", "args": {"root_path": str(folder), **args}})


@pytest.mark.parametrize("cache", CACHES)
def test_folders_that_are_no_folders_of_images(tmp_path: Path, cache: str) -> None:
    missing = tmp_path / "missing"
    assert f"{missing}: no such folder" in failure(root_path=str(missing), cache=cache)
    empty = tmp_path / "empty"
    (empty / "X2").mkdir(parents=True)
    (empty / ".DS_Store").write_bytes(b"hidden")
    (empty / "Thumbs.db").write_bytes(b"litter")
    assert f"{empty}: no images, only folders (X2)" in failure(root_path=str(empty), cache=cache)
    file = tmp_path / "file"
    file.write_text("")
    assert "not a folder" in failure(root_path=str(file), cache=cache)


def test_what_other_systems_leave_in_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hidden files and folders go in silence, others in one line; pictures stay by content."""
    folder = make_folder(tmp_path / "a", ["1.png", "2.PNG", "3.png"])
    for name in ("._1.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png", "__MACOSX"):
        (folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (folder / "album.png").mkdir()
    (folder / "album").mkdir()
    (folder / "3.png").rename(folder / "without-ending")
    assert list_pictures(folder) == ["1.png", "2.PNG", "without-ending"]
    assert capsys.readouterr().err == ""
    (folder / "readme.txt").write_text("no picture")
    (folder / "notes").write_text("")
    os.mkfifo(folder / "pipe.png")
    assert len(ImageFolder(str(folder))) == 3
    line = f"{folder}: 3 of 6 files left out, for they are no images (the first: 'notes')\n"
    assert capsys.readouterr().err == line
    (folder / "2.PNG").write_text("text")
    assert f"{folder / '2.PNG'}: no image" in failure(root_path=str(folder))


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    "name", [b"caf\xe9.png", "写真".encode("shift_jis") + b".png", b"x" * 251 + b".png"]
)
def test_every_name_that_a_file_can_have(tmp_path: Path, cache: str, name: bytes) -> None:
    folder = make_folder(tmp_path / os.fsdecode(name[:200]), ["ok.png"])
    (folder / "ok.png").rename(folder / os.fsdecode(name))
    dataset = ImageFolder(str(folder), cache=cache)  # type: ignore[arg-type]
    assert np.array_equal(dataset.pixels(0)[0], noise(9, 12))
    assert os.fsencode(Path(dataset.names(0)[0]).name) == name


@pytest.mark.parametrize("cache", CACHES)
def test_subfolders_by_an_option(
    tmp_path: Path, cache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder's own pictures first, then those of its folders; hidden ones never."""
    folder = make_folder(tmp_path / "a", ["10.png", "9.JPG"])
    made = {"": ["9.JPG", "10.png"], "trip2": ["1.PNG", "2.png"], "trip10": ["1.PNG"]}
    made["trip2/beach"] = ["a.tif"]
    for inside in [*made][1:]:
        make_folder(folder / inside, made[inside])
    for litter in (".cache/1.png", "@eaDir/1.png", "trip2/._1.PNG", "trip2/Thumbs.db"):
        (folder / litter).parent.mkdir(exist_ok=True)
        (folder / litter).write_bytes(b"no picture")
    (folder / "trip2" / "notes.txt").write_text("no picture")
    (folder / "trip2" / "back").symlink_to(folder)
    expected = ["9.JPG", "10.png", "trip2/1.PNG", "trip2/2.png", "trip2/beach/a.tif"]
    expected.append("trip10/1.PNG")

    assert list_pictures(folder) == expected[:2]
    capsys.readouterr()
    assert list_pictures(folder, recursive=True) == expected
    line = f"{folder}: 1 of 7 files left out, for they are no images (the first: "
    assert capsys.readouterr().err == f"{line}'trip2/notes.txt')\n"
    for _ in range(2):  # the second time from the cache, which is no picture itself
        args = {"root_path": str(folder), "recursive": True, "cache": cache}
        dataset = datasets.make({"name": "image-folder", "args": args})
        assert [dataset.names(i)[0] for i in range(6)] == [str(folder / n) for n in expected]
        for index, name in enumerate(expected):
            assert np.array_equal(dataset.pixels(index)[0], read_rgb(folder / name))
    assert len(datasets.make({"name": "image-folder", "args": {**args, "recursive": False}})) == 2
    assert (tmp_path / "_bin_a").is_dir() == (cache == "bin")


def test_split_files_and_messages_where_there_are_subfolders(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for trip in ("x", "y"):
        make_folder(folder / trip, ["1.png", "2.png"])
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"val": ["y/1.png", "x/2.png"], "out": ["../a/x/1.png"]}))
    args = {"root_path": str(folder), "split_file": str(split), "recursive": True}
    dataset = ImageFolder(**args, split_key="val")
    assert [dataset.names(i)[0] for i in range(2)] == [f"{folder}/x/2.png", f"{folder}/y/1.png"]
    assert "1 of the 1 files" in failure(**args, split_key="out")
    assert failure(root_path=str(folder)) == (
        f"{folder}: no images, only folders (x, y); recursive: true reads them too"
    )
    (tmp_path / "b" / "c").mkdir(parents=True)
    assert failure(root_path=str(tmp_path / "b"), recursive=True) == (
        f"{tmp_path / 'b'}: no images, only folders (c)"
    )


def test_links_that_lead_to_themselves(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", ["1.png"])
    (folder / "2.png").symlink_to("2.png")
    (folder / "3.png").symlink_to("gone.png")
    (folder / "4.png").symlink_to("1.png")
    (folder / "5.txt").symlink_to("5.txt")
    dataset = ImageFolder(str(folder))
    assert [Path(dataset.names(i)[0]).name for i in range(4)] == [f"{i}.png" for i in (1, 2, 3, 4)]
    assert np.array_equal(dataset.pixels(3)[0], noise(9, 12))
    for index, words in ((1, "(?i)2.png: .*symbolic link"), (2, "(?i)3.png: .*no such file")):
        with pytest.raises(DataError, match=words):
            dataset.pixels(index)
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic link" in failure(root_path=str(tmp_path / "loop"))


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make_folder(tmp_path / "a", ["1.png", "2.png"])
    (tmp_path / "split.json").write_text('{"val": ["2.png"]}')
    dataset = ImageFolder("~/a", "~/split.json", "val")
    assert dataset.names(0) == (str(tmp_path / "a/2.png"),)
    assert "nobody-of-this-name" in failure(root_path="~nobody-of-this-name/a")


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image_is_named_and_the_others_stay_usable(
    tmp_path: Path, cache: str, suffix: str
) -> None:
    folder = make_folder(tmp_path / "a", [f"{i}{suffix}" for i in range(3)], (40, 40))
    broken = folder / f"1{suffix}"
    broken.write_bytes(broken.read_bytes()[:-300])
    dataset = ImageFolder(str(folder), cache=cache)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"1{suffix}: damaged"):
        dataset[1]
    assert dataset[0].shape == dataset[2].shape == (3, 40, 40)


WORDS = st.text("abcdefghij", min_size=1, max_size=5)
NUMBERS = st.integers(0, 9999).map(str)
OTHERS = st.sampled_from(["(1)", "+", "写真", "é!", os.fsdecode(b"caf\xe9")])
"""Own names, such as "baby", "img_001", "Canon-12-b": what two folders have in common."""
OWN_NAMES = st.lists(
    st.lists(WORDS | NUMBERS | OTHERS, min_size=1, max_size=3).map("_".join),
    min_size=2,
    max_size=7,
    unique_by=lambda name: tuple(natural_key(name.replace("_", "-"))),
)
"""What the folders make of a name: high resolution, low resolution."""
SCHEMES = {
    "equal": ("{}.png", "{}.png"),
    "DIV2K": ("{}.png", "{}x2.png"),
    "DIV2K mild": ("{}.png", "{}x4m.png"),
    "a scale that is no whole number": ("{}.tif", "{}x2.5.png"),
    "Huang": ("{}_SRF_2_HR.png", "{}_SRF_2_LR.png"),
    "Huang's beside the originals": ("{}.png", "{}_SRF_4_LR.png"),
    "RealSR": ("{}_HR.png", "{}_LR4.png"),
    "RCAN": ("{}_HR_x2.png", "{}_LRBI_x2.png"),
    "KAIR": ("{}.bmp", "{}_LR.PNG"),
    "prefixes": ("HR_{}.png", "LR_{}.png"),
    "own words": ("{}_large.jpg", "thumbnail-of-{}-small.png"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@given(names=OWN_NAMES, upper=st.booleans(), randomness=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_pairs_of_the_naming_schemes_that_circulate(
    scheme: str, names: list[str], upper: bool, randomness: random.Random
) -> None:
    high, low = (
        [Path(folder, form.format(name)) for name in names]
        for folder, form in zip(("HR", "LR"), SCHEMES[scheme], strict=True)
    )
    if upper:
        low = [path.with_name(path.name.upper()) for path in low]
    partner = dict(zip(high, low, strict=True))
    randomness.shuffle(low)
    assert match_pairs(low, high) == [partner[path] for path in high]


@pytest.mark.parametrize("scheme", SCHEMES)
@given(names=OWN_NAMES, data=st.data())
@settings(max_examples=40, deadline=None)
def test_folders_that_lost_different_pictures_are_no_pairs(
    scheme: str, names: list[str], data: st.DataObject
) -> None:
    numbered = [f"{name}_{number}" for number, name in enumerate(names)]
    first, second = data.draw(st.permutations(range(len(names))))[:2]
    high = [Path("HR", SCHEMES[scheme][0].format(n)) for n in numbered if n != numbered[first]]
    low = [Path("LR", SCHEMES[scheme][1].format(n)) for n in numbered if n != numbered[second]]
    with pytest.raises(DataError, match="no pair by their names"):
        match_pairs(low, high)


@pytest.mark.parametrize(
    ("low", "high", "first"),
    [
        (["0001x2", "0003x2", "0004x2"], ["0001", "0002", "0004"], ("0003x2", "0002")),
        (["0002x2", "0003x2", "0004x2"], ["0001", "0002", "0003"], ("0002x2", "0001")),
        (["0011", "0012"], ["0001", "0002"], ("0011", "0001")),
        (["img_11_LR", "img_12_LR"], ["img_1_HR", "img_2_HR"], ("img_11_LR", "img_1_HR")),
        (["bat", "bar"], ["cat", "car"], ("bar", "car")),
        (["babyx2"], ["butterfly"], ("babyx2", "butterfly")),
        (["birdx2", "fishx3"], ["bird", "fish"], ("birdx2", "bird")),
    ],
)
def test_the_first_names_that_differ_are_named(
    low: list[str], high: list[str], first: tuple[str, str]
) -> None:
    with pytest.raises(DataError) as caught:
        match_pairs([Path("L", f"{n}.png") for n in low], [Path("H", f"{n}.png") for n in high])
    said = "L/{}.png and H/{}.png: no pair by their names; allowed:".format(*first)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (["babyx2"], ["baby"]),
        (["img_001_SRF_2_LR"], ["img_001_SRF_2_HR"]),
        (["LR_baby"], ["HR_baby"]),
        (["a_small", "a_b_small"], ["a", "a_b"]),  # in another order by themselves
        (["x9x2", "x10x2"], ["x9", "x10"]),
        (["1", "2"], ["0001", "0002"]),
        (["baboon", "zebra"], ["Baboon", "ZEBRA"]),
        (["cafe\u0301_LR", "the_LR"], ["caf\u00e9", "the"]),  # as macOS and others write it
        (["ppt3x4", "comicx4"], ["ppt3", "comic"]),
    ],
)
def test_pairs_of_few(low: list[str], high: list[str]) -> None:
    paths = [Path("L", f"{n}.png") for n in low]
    assert match_pairs(paths[::-1], [Path("H", f"{n}.bmp") for n in high]) == paths


def test_names_that_do_not_correspond_are_refused_in_a_data_set(tmp_path: Path) -> None:
    low = make_folder(tmp_path / "low", [f"{n:04}x2.png" for n in (2, 3, 4, 5)], (4, 5))
    high = make_folder(tmp_path / "high", [f"{n:04}.png" for n in (1, 2, 3, 4)], (8, 10))
    message = failure(root_path_1=str(low), root_path_2=str(high))
    assert message.startswith(f"{low / '0002x2.png'} and {high / '0001.png'}: no pair")


def test_different_numbers_of_files(tmp_path: Path) -> None:
    low = make_folder(tmp_path / "low", ["1.png", "2.png"])
    high = make_folder(tmp_path / "high", ["1.png"])
    message = failure(root_path_1=str(low), root_path_2=str(high))
    assert f"{low} has 2 images and {high} has 1" in message


def test_names_and_arguments_are_checked() -> None:
    with pytest.raises(ConfigError, match="image-folder"):
        datasets.make({"name": "image-foldr", "args": {"root_path": "a"}})
    with pytest.raises(ConfigError, match="repeat"):
        datasets.make({"name": "image-folder", "args": {"root_path": "a", "repeat": 0}})
    with pytest.raises(ConfigError, match="in_memory"):
        datasets.make({"name": "image-folder", "args": {"root_path": "a", "cache": "in-memory"}})
    spec = {"name": "image-folder", "args": {"root_path": "/nowhere"}}
    before = json.dumps(spec)
    with pytest.raises(DataError):
        datasets.make(spec, {"first_k": 1})
    assert json.dumps(spec) == before


def test_a_new_data_set_can_be_registered() -> None:
    @datasets.register("squares-of-test")
    class Squares:
        def __init__(self, side: int) -> None:
            self.side = side

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.full((3, self.side, self.side), index / 255)

    dataset = datasets.make({"name": "squares-of-test", "args": {"side": 6}})
    wrapper = datasets.make(
        {"name": "sr-implicit-downsampled", "args": {"scale_min": 2}}, {"dataset": dataset}
    )
    assert torch.equal(wrapper[1]["gt"], torch.full((36, 3), 1 / 255))
    with pytest.raises(ConfigError, match="registered already"):
        datasets.register("squares-of-test")(Squares)


class Fixed(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Items drawn by position alone, as training draws them."""

    def __init__(self, wrapper: Any) -> None:
        self.wrapper = wrapper

    def __len__(self) -> int:
        return len(self.wrapper)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.wrapper.sample(index, np.random.default_rng([1, index]))


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("pickled", [False, True])
def test_loader_workers_give_the_same_items(tmp_path: Path, cache: str, pickled: bool) -> None:
    """Also after this process has decoded and written pictures itself, in every way it does."""
    folder = make_folder(tmp_path / "a", [f"{i}.png" for i in range(4)], (30, 30))
    write_rgb(tmp_path / "warm.jpg", noise(300, 300))
    read_rgb(tmp_path / "warm.jpg")
    wrapper = datasets.make(
        {"name": "sr-implicit-downsampled", "args": {"inp_size": 8, "scale_max": 3, "sample_q": 9}},
        {"dataset": ImageFolder(str(folder), cache=cache)},  # type: ignore[arg-type]
    )
    fixed = Fixed(wrapper)
    if pickled:  # what spawning does to a data set, without importing everything again
        fixed = pickle.loads(pickle.dumps(fixed))
    loader = DataLoader(
        fixed, batch_size=2, num_workers=1, multiprocessing_context="fork", timeout=60
    )
    items = [item for batch in loader for item in batch["gt"]]
    assert len(items) == 4
    for index, item in enumerate(items):
        assert torch.equal(item, Fixed(wrapper)[index]["gt"])


@pytest.mark.slow
@pytest.mark.parametrize("cache", CACHES)
def test_spawned_workers(tmp_path: Path, cache: str) -> None:
    folder = make_folder(tmp_path / "a", [f"{i}.png" for i in range(4)], (30, 30))
    dataset = ImageFolder(str(folder), cache=cache)  # type: ignore[arg-type]
    context = multiprocessing.get_context("spawn")
    loader = DataLoader(dataset, num_workers=1, multiprocessing_context=context, timeout=200)
    assert all(torch.equal(batch[0], dataset[i]) for i, batch in enumerate(loader))


def test_pairs_take_the_same_arguments(tmp_path: Path) -> None:
    low = make_folder(tmp_path / "low", ["1.png", "2.png"], (3, 3))
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"val": ["2.png"]}))
    pairs = PairedImageFolders(str(low), str(low), str(split), "val", repeat=3)
    assert len(pairs) == 3
    assert pairs.names(2) == (str(low / "2.png"), str(low / "2.png"))


@pytest.mark.parametrize("cache", CACHES)
def test_the_largest_picture_can_be_set(tmp_path: Path, cache: str) -> None:
    """Pixels and sizes obey it, after a pickle as well; a cache made below it is no hindrance."""
    folder = make_folder(tmp_path / "a", ["1.png"])
    args = {"root_path": str(folder), "cache": cache}
    message = failure(**args, max_pixels=107)
    assert message.endswith("1.png: 9x12 pixels, more than the limit of 107 (max_pixels)")
    small = datasets.make({"name": "image-folder", "args": {**args, "max_pixels": 107}})
    for dataset in (small, pickle.loads(pickle.dumps(small))):
        with pytest.raises(DataError, match="limit of 107"):
            dataset.sizes(0)
    large = datasets.make({"name": "image-folder", "args": {**args, "max_pixels": 108}})
    for dataset in (large, pickle.loads(pickle.dumps(large))):
        assert np.array_equal(dataset.pixels(0)[0], read_rgb(folder / "1.png"))
        assert dataset.sizes(0) == ((9, 12),)
    pair = {"root_path_1": str(folder), "root_path_2": str(folder), "cache": "none"}
    assert "limit of 107 (max_pixels)" in failure(**pair, max_pixels=107)
