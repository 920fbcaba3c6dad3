"""Every mistake that users make and every file that lets them down: one clear line each.

Through the commands themselves: exit code 2 for usage and configuration, 1 for data and run time,
never a traceback, and whatever was there before is still there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.commands import Commands, contents, real_command
from tests.scene import (
    SCRIPTS,
    SET,
    command_for,
    encoded,
    make_scene,
    picture,
    run,
    train_model,
    write_bad_checkpoints,
    write_kinds,
)

ENCODER = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4}}


@pytest.fixture(scope="module")
def model(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return train_model(commands, tmp_path_factory.mktemp("model"))


@pytest.fixture
def scene(tmp_path: Path, model: bytes) -> Path:
    return make_scene(tmp_path, model)


def fresh(kind: str, scene: Path) -> tuple[str, ...]:
    """Arguments for a run of training in a folder of its own."""
    number = len(list(scene.glob("save/run-*")))
    return ("--name", f"run-{number}") if kind == "train" else ()


def refused(commands: Commands, kind: str, scene: Path, code: int, words: str, *extra: str) -> None:
    """The command with `extra` arguments must end so, and change nothing that was there."""
    before = contents(scene)
    given = {}
    if kind == "train":
        extra = (*extra, *fresh(kind, scene))
    if kind == "demo":
        given["input"] = next((value for value in extra if not value.startswith("-")), "")
        extra = ()
    ended = run(commands, kind, scene, *extra, plain_user=True, **given)
    assert ended.code == code, ended
    assert re.search(words, ended.line), ended.line
    after = contents(scene)
    assert {name: after.get(name) for name in before} == before
    assert not any(name.endswith(".pth") for name in set(after) - set(before))
    assert "executed" not in after


def pictures_from(kind: str, place: str) -> tuple[str, ...]:
    """Arguments that make a command read its pictures from another place."""
    return (place,) if kind == "demo" else ("--set", f"{SET[kind]}.dataset.args.root_path={place}")


# Folders and pictures


@pytest.mark.parametrize("kind", SCRIPTS)
def test_folders(commands: Commands, scene: Path, kind: str) -> None:
    for name in ("empty", "locked", "nested/inside"):
        (scene / name).mkdir(parents=True)
    (scene / "locked").chmod(0)
    cases = {
        "nothing": "^nothing: no such f",
        "empty": "^empty: no images",
        "locked": "^locked: .*[Pp]ermission denied",
        "nested": "^nested: no images, only folders .inside.",
        "split.json": "^split.json: (a file, not a folder|no image; PNG, JPEG)",
    }
    try:
        for place, words in cases.items():
            refused(commands, kind, scene, 1, words, *pictures_from(kind, place))
    finally:
        (scene / "locked").chmod(0o700)


@pytest.mark.parametrize("kind", SCRIPTS)
def test_pictures_that_cannot_be_read_are_named(commands: Commands, scene: Path, kind: str) -> None:
    png, jpeg, tiff = (encoded(scene, f"a{suffix}") for suffix in (".png", ".jpg", ".tif"))
    cases = {
        "truncated.png": (png[: len(png) // 2], "damaged"),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "damaged"),
        "truncated.tif": (tiff[: len(tiff) // 2], "damaged"),
        "header.png": (png[:33], "damaged"),
        "text.jpg": (b"no picture\n", "no image; PNG, JPEG"),
        "empty.png": (b"", "an empty file"),
    }
    if kind == "demo":  # data sets leave it out
        cases["page.html"] = (b"<html>", "no image")
    for name, (content, words) in cases.items():
        place = scene / name.replace(".", "-") / name
        place.parent.mkdir()
        picture().save(place.parent / "0.png")
        place.write_bytes(content)
        given = f"{place.parent.name}/{name}" if kind == "demo" else place.parent.name
        pattern = f"^{place.parent.name}/{re.escape(name)}: {words}"
        refused(commands, kind, scene, 1, pattern, *pictures_from(kind, given))


@pytest.mark.parametrize("kind", SCRIPTS)
def test_every_kind_of_picture_is_accepted(commands: Commands, scene: Path, kind: str) -> None:
    """Grey, palette, with alpha, 16 bits, CMYK."""
    names = write_kinds(scene / "kinds")
    assert len(names) == 13
    if kind == "demo":
        (scene / "kinds/palette.gif").rename(scene / "kinds/palette-too.gif")
        ended = run(commands, kind, scene, input="kinds", output="results")
        assert ended.code == 0
        assert len(ended.err.splitlines()) == len(names), ended.err
        assert len(contents(scene / "results")) == len(names)
        for name, size in (("cmyk.tif", (48, 40)), ("deep.png", (48, 40)), ("alpha.png", (48, 40))):
            assert Image.open(scene / "results" / name).size == size
        return
    ended = run(commands, kind, scene, *pictures_from(kind, "kinds"))
    assert (ended.code, ended.err) == (0, "")
    if kind == "train":
        assert "train: 39 items" in ended.out
    else:
        figures = dict(re.findall(r"^(\S+)  20x24  psnr ([0-9.]+)", ended.out, re.MULTILINE))
        assert sorted(figures) == names
        # The same photograph with 16 bits, and with an alpha channel, is the same to a network.
        assert figures["deep.png"] == figures["deep.tif"] == figures["alpha.png"]
        assert figures["grey.png"] == figures["grey-alpha.png"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["train_dataset.wrapper.args.inp_size=50"],
            r"^pictures/\d.png: 20x24 pixels, smaller than the crop of 150x150 \(inp_size 50",
        ),
        (
            ["train_dataset.wrapper.args.sample_q=2000"],
            r"^pictures/\d.png: sample_q 2000 is more than the 5x5 = 25 pixels of a crop",
        ),
        (
            [
                "train_dataset.dataset={name: paired-image-folders, "
                "args: {root_path_1: low, root_path_2: high}}",
                "train_dataset.wrapper={name: sr-implicit-paired, args: {inp_size: 11}}",
            ],
            r"^low/\d.png: 10x12 pixels, smaller than the crop of 11x11 \(inp_size\)",
        ),
    ],
)
def test_pictures_smaller_than_the_crop(
    commands: Commands, scene: Path, settings: list[str], words: str
) -> None:
    refused(commands, "train", scene, 1, words, "--set", *settings)


def test_pictures_smaller_than_the_scale_or_the_border(commands: Commands, scene: Path) -> None:
    setting = "test_dataset.wrapper.args.scale_min"
    words = "^pictures/0.png: 20x24 pixels leave nothing at scale 30x30"
    refused(commands, "test", scene, 1, words, "--set", f"{setting}=30")
    words = "20x24 pixels has nothing left inside a border of 12x12"
    refused(commands, "test", scene, 1, words, "--set", "eval_type=benchmark-12")


@pytest.mark.parametrize("kind", ["train", "test"])
def test_mismatched_pairs(commands: Commands, scene: Path, kind: str) -> None:
    part = SET[kind]
    settings = (
        "--set",
        f"{part}.dataset={{name: paired-image-folders, args: "
        "{root_path_1: low, root_path_2: high}}",
        f"{part}.wrapper={{name: sr-implicit-paired}}",
        f"{part}.batch_size=1",
    )
    assert run(commands, kind, scene, *settings).code == 0
    picture(23, 27).save(scene / "high/1.png")
    for path in scene.glob("save/*/*.pth"):
        path.unlink()
    words = r"^low/1.png \(10x12 pixels\) and high/1.png \(23x27\) can't be a pair"
    refused(commands, kind, scene, 1, words, *settings)
    (scene / "high/1.png").unlink()
    words = "^low has 2 images and high has 1; pairs need as many"
    refused(commands, kind, scene, 1, words, *settings)
    single = "{name: image-folder, args: {root_path: pictures}}"
    words = "SRImplicitPaired: needs a data set of pairs; ImageFolder gives 1"
    more = ("--set", f"{part}.dataset={single}", f"{part}.wrapper={{name: sr-implicit-paired}}")
    refused(commands, kind, scene, 2, words, *more)


# Caches and split files


@pytest.mark.parametrize("kind", ["train", "test"])
def test_a_read_only_data_folder_has_its_cache_elsewhere(
    commands: Commands, scene: Path, kind: str
) -> None:
    data = scene / "data"
    data.mkdir()
    (scene / "pictures").rename(data / "pictures")
    before = contents(data)
    settings = (
        "--set",
        f"{SET[kind]}.dataset.args.root_path=data/pictures",
        f"{SET[kind]}.dataset.args.cache=bin",
    )
    home = {"XDG_CACHE_HOME": str(scene / "cache")}
    for folder in (data / "pictures", data):
        folder.chmod(0o500)
    try:
        for number in range(2):
            extra = (*settings, *fresh(kind, scene))
            ended = run(commands, kind, scene, *extra, env=home, plain_user=True)
            assert ended.code == 0, ended
            assert f"using {scene}/cache/liif" in ended.err
            assert ("writing the pixels of 6 images" in ended.err) == (number == 0)
        files = [name for name in contents(scene / "cache") if name.endswith(".raw")]
        assert len(files) == 1
        (scene / "cache/liif").chmod(0o500)
        (scene / "cache").chmod(0o500)
        nowhere = {"XDG_CACHE_HOME": "/proc/nowhere"}
        extra = (*settings, *fresh(kind, scene))
        ended = run(commands, kind, scene, *extra, env=nowhere, plain_user=True)
        assert ended.code == 1
        assert re.search("^cache: neither .*_bin_pictures nor /proc/nowhere.* can be", ended.line)
    finally:
        for folder in (data, scene / "cache", scene / "cache/liif"):
            folder.chmod(0o700)
    assert contents(data) == before


@pytest.mark.parametrize("kind", ["train", "test"])
def test_split_files(commands: Commands, scene: Path, kind: str) -> None:
    def settings(file: str, key: str = "train") -> tuple[str, ...]:
        args = f"{SET[kind]}.dataset.args"
        return ("--set", f"{args}.split_file={file}", f"{args}.split_key={key}")

    texts = {
        "text.json": ("not json", "^text.json: no JSON"),
        "binary.json": ("\x00\x01", "^binary.json: no JSON"),
        "deep.json": ("[" * 100_000, "^deep.json: no JSON"),
        "list.json": ('["0.png"]', "^list.json: no JSON object"),
        "number.json": ('{"train": 3}', "^number.json: 'train' is no list of file names"),
        "none.json": ('{"train": []}', "^none.json: 'train' is no list of file names"),
        "lost.json": ('{"train": ["7.png"]}', "^pictures: 1 of the 1 files .* missing.* '7.png'"),
        "path.json": ('{"train": ["../low/0.png"]}', "'../low/0.png' is no plain file name"),
        "twice.json": ('{"train": ["0.png", "0.png"]}', "'train' lists a file twice"),
    }
    for name, (text, words) in texts.items():
        (scene / name).write_text(text)
        refused(commands, kind, scene, 1, words, *settings(name))
    words = "^split.json: no key 'tarin'; it has 'train'"
    refused(commands, kind, scene, 1, words, *settings("split.json", "tarin"))
    refused(
        commands,
        kind,
        scene,
        1,
        "^nothing.json: can.t be read .No such file",
        *settings("nothing.json"),
    )
    words = "split_key: missing; allowed: the name of a list in split_file"
    refused(commands, kind, scene, 2, words, *settings("split.json")[:2])
    assert run(commands, kind, scene, *settings("split.json")).code == 0


# Checkpoints


@pytest.mark.parametrize("kind", ["init", "resume", "test", "demo"])
def test_checkpoints(commands: Commands, scene: Path, kind: str) -> None:
    """Truncated, no checkpoint, with code inside, or not fitting its specification."""
    cases = {"nothing.pth": "", "pictures": "a folder", **write_bad_checkpoints(scene)}
    before = contents(scene)
    for name, words in cases.items():
        ended = run(commands, kind, scene, model=name)
        if name == "nothing.pth":
            assert ended.code == 2  # it may have been meant as the name of published weights
            assert "'nothing.pth' is neither a file nor a known name; allowed: " in ended.line
            continue
        if kind in ("init", "resume") and name in ("unknown.pth", "argument.pth", "no-args.pth"):
            # The weights fit what the configuration says, which is what is trained.
            assert ended.code == 0, ended
            for path in scene.glob("save/*/*"):
                if path.is_file():
                    path.unlink()
            continue
        assert ended.code == 1, ended
        assert re.search(f"{re.escape(name)}: .*({words})", ended.line), ended.line
        after = contents(scene)
        assert {file: after[file] for file in before} == before
        assert "executed" not in after, f"{name}: its code was run"
        assert "out.png" not in after


@pytest.mark.parametrize("kind", ["resume", "demo"])
def test_checkpoints_that_ask_for_too_much(commands: Commands, scene: Path, kind: str) -> None:
    """A few bytes can stand for more values, layers or memory than there can be."""
    good = torch.load(scene / "model.pth", weights_only=True)
    many: list[object] = [1]
    for _ in range(50):
        many = [many, many]
    itself: list[object] = []
    itself.append(itself)
    torch.save({**good, "more": many}, scene / "many.pth")
    torch.save({**good, "more": itself}, scene / "itself.pth")
    cases = {"many.pth": "it holds more than", "itself.pth": "it holds more than"}
    if kind == "demo":
        args = good["model"]["args"]
        encoder, layers = args["encoder_spec"]["args"], args["imnet_spec"]["args"]
        for name, place, key, value in (
            ("layer.pth", layers, "hidden_list", [10**15]),
            ("blocks.pth", encoder, "n_resblocks", 10**9),
            ("features.pth", encoder, "n_feats", 10**30),
        ):
            before, place[key] = place[key], value
            torch.save(good, scene / name)
            place[key] = before
            cases[name] = "the weights do not fit its model: 10000*[0-9]* is asked for"
        torch.save({**good, "model": {**good["model"], **ENCODER}}, scene / "encoder.pth")
        cases["encoder.pth"] = "'edsr-baseline' given; .*such as liif|weights do not fit"
    for name, words in cases.items():
        ended = run(commands, kind, scene, model=name, seconds=20)
        assert ended.code == 1, ended
        assert re.search(f"^{name}: .*{words}", ended.line), ended.line


def test_more_memory_than_there_is(commands: Commands, scene: Path) -> None:
    setting = f"model.args.imnet_spec.args.hidden_list=[{10**15}]"
    words = "^the memory is full .can't allocate memory: .* bytes.; try smaller sizes"
    refused(commands, "train", scene, 1, words, "--set", setting)


# Configurations


@pytest.mark.parametrize(
    ("kind", "setting", "words"),
    [
        ("train", "model.name=liiff", "^tiny.yaml: model.name: .*'liiff' .did you mean 'liif'"),
        (
            "train",
            "model.args.encoder_spec.name=edsr-baselin",
            "encoder_spec.name: unknown model 'edsr-baselin' .did you mean 'edsr-baseline'",
        ),
        (
            "train",
            "train_dataset.dataset.name=image-foldr",
            "dataset.name: unknown data set 'image-foldr' .did you mean 'image-folder'",
        ),
        (
            "test",
            "test_dataset.wrapper.name=sr-implicit-downsample",
            "did you mean 'sr-implicit-downsampled'",
        ),
        ("train", "optimizer.name=adamm", "optimizer.name: 'adamm' given; .*'adam', 'sgd'"),
        ("train", "optimizer.args.lrr=1", "optimizer.args.lrr: unknown key 'lrr' .*'lr'"),
        ("train", "epoch_mx=3", "epoch_mx: unknown key 'epoch_mx' .did you mean 'epoch_max'"),
        ("test", "eval_typ=none", "eval_typ: unknown key 'eval_typ' .did you mean 'eval_type'"),
        ("test", "eval_type=benchmark", "eval_type: 'benchmark' given; allowed: none, div2k-S"),
        ("test", "test_dataset.batch_size=0", "batch_size: 0 given; allowed: an integer of at"),
        ("train", "epoch_max", "--set: 'epoch_max' given; allowed: KEY.PATH=VALUE"),
        ("train", "model.args=[1", "--set model.args: no YAML"),
        ("train", "seed=!!python/object/apply:os.system [touch executed]", "--set seed: no YAML"),
        ("train", "model={name: edsr-baseline}", "'edsr-baseline' given; .*such as liif"),
        ("train", f"seed={10**30}", "^tiny.yaml: seed: 1000000.* given; allowed: up to 92233720"),
        ("train", f"train_dataset.batch_size={10**30}", "given; allowed: up to 922337203685477"),
        ("train", "precision=fp16", "precision: fp16 needs CUDA; allowed on .*: fp32, bf16"),
    ],
)
def test_settings(commands: Commands, scene: Path, kind: str, setting: str, words: str) -> None:
    refused(commands, kind, scene, 2, words, "--set", setting)


@pytest.mark.parametrize("kind", ["train", "test"])
def test_configuration_files(commands: Commands, scene: Path, kind: str) -> None:
    """No YAML, not keys with values, or YAML that asks for Python objects."""
    cases: dict[str, tuple[bytes, str]] = {
        "open.yaml": (b"model: {name: liif\nseed: [1", "no YAML .*line"),
        "tab.yaml": (b"model:\n\tname: liif\n", "no YAML .*line 2"),
        "empty.yaml": (b"", "None given; allowed: keys with values"),
        "list.yaml": (b"- 1\n- 2\n", "given; allowed: keys with values"),
        "binary.yaml": (b"\xff\xfe\x00\x80", "not UTF-8|no YAML"),
        "nul.yaml": (bytes(50), "no YAML"),
        "call.yaml": (b"seed: !!python/object/apply:os.system ['touch executed']\n", "no YAML"),
        "new.yaml": (b"seed: !!python/object/new:os.system ['touch executed']\n", "no YAML"),
        "name.yaml": (b"seed: !!python/name:os.system\n", "no YAML"),
        "deep.yaml": (b"a: " + b"[" * 5000, "no YAML"),
    }
    for name, (content, _) in cases.items():
        (scene / name).write_bytes(content)
    cases |= {"nothing.yaml": (b"", "can't be read"), "pictures": (b"", "can't be read")}
    before = contents(scene)
    for name, (_, words) in cases.items():
        ended = run(commands, kind, scene, config=name)
        assert ended.code == 2, ended
        assert re.search(f"^{re.escape(name)}: .*({words})", ended.line), ended.line
    assert contents(scene) == before


# Sizes and places of results


@pytest.mark.parametrize(
    ("option", "value", "given"),
    [
        ("--resolution", "1e300,1", r"1e\+300x1"),
        ("--resolution", "1" + "0" * 60 + ",5", r"1e\+60x5"),
        ("--resolution", "10000001,4", "10000001x4"),
        ("--scale", "1e300", r"\S{1,15}e\+30\dx\S{1,15}e\+30\d"),
        ("--scale", "1e308", r"\S{1,20}e\+308x\S{1,20}e\+308"),  # the product is infinite
    ],
)
def test_sizes_of_many_digits(
    commands: Commands, scene: Path, option: str, value: str, given: str
) -> None:
    arguments = command_for("demo")[:-2]
    ended = commands.run(*arguments, option, value, folder=scene)
    assert ended.code == 2
    words = f"{given} pixels asked for; allowed: up to 10000000 a side"
    assert re.search(f"(^|[ :]){words}$", ended.line), ended.line


@pytest.mark.parametrize("value", ["0,5", "5", "a,b", "-3,4", "5,", "1e9,1", "", "4,4,4"])
def test_resolutions(commands: Commands, scene: Path, value: str) -> None:
    arguments = command_for("demo")[:-2]
    ended = commands.run(*arguments, "--resolution", value, folder=scene)
    assert ended.code == 2
    if value == "1e9,1":
        assert "1000000000x1 pixels asked for; allowed: up to" in ended.line
    else:
        assert ended.line == (
            f"--resolution: {value!r} given; allowed: HEIGHT,WIDTH, two whole numbers of at least "
            "1, such as 480,640"
        )
    assert not (scene / "out.png").exists()


@pytest.mark.parametrize(
    ("output", "code", "words"),
    [
        ("locked/out.png", 1, "^locked/out.png: can't be written .Permission denied"),
        ("split.json/out.png", 1, "^split.json/out.png: can't be written .Not a directory"),
        ("/proc/out.png", 1, "^/proc/out.png: can't be written"),
        ("out.bmp", 2, "out.bmp given; allowed: a name that ends in .png"),
        ("out", 2, "out given; allowed: a name that ends in .png"),
        ("pictures/3.png", 2, "pictures/3.png is an input; allowed: another place"),
    ],
)
def test_demo_outputs(commands: Commands, scene: Path, output: str, code: int, words: str) -> None:
    (scene / "locked").mkdir(mode=0o500)
    before = contents(scene)
    ended = run(commands, "demo", scene, output=output, plain_user=True)
    assert ended.code == code
    assert re.search(words, ended.line), ended.line
    assert contents(scene) == before


def test_train_outputs(commands: Commands, scene: Path) -> None:
    (scene / "locked").mkdir(mode=0o500)
    cases: list[tuple[str, Callable[[], object], int, str]] = [
        ("../run", lambda: None, 2, "--name, --tag: '../run' given; allowed: the name of a folder"),
        ("/run", lambda: None, 2, "--name, --tag: '/run' given"),
        ("run", lambda: (scene / "save").write_text(""), 1, "save/run: no folder to write to"),
        ("run", lambda: (scene / "save").symlink_to("locked"), 1, "save/run: .*Permission denied"),
    ]
    for name, spoil, code, words in cases:
        (scene / "save").unlink(missing_ok=True)
        spoil()
        ended = run(commands, "train", scene, "--name", name, plain_user=True)
        assert ended.code == code, ended
        assert re.search(words, ended.line), ended.line


@pytest.mark.parametrize("option", ["--json", "--save-images"])
def test_test_outputs(commands: Commands, scene: Path, option: str) -> None:
    (scene / "locked").mkdir(mode=0o500)
    name = "figures.json" if option == "--json" else "pictures"
    before = contents(scene)
    for place in ("locked", "split.json"):
        ended = run(commands, "test", scene, option, f"{place}/{name}", plain_user=True)
        assert ended.code == 1, ended
        assert re.search(f"{place}.*(denied|[Nn]ot a dir|File exists)", ended.line), ended.line
    assert contents(scene) == before


# Full disks


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_a_disk_that_fills_while_rendering(commands: Commands, scene: Path, suffix: str) -> None:
    """The last good result is still there, and nothing else."""
    output = f"out{suffix}"
    assert run(commands, "demo", scene, output=output).code == 0
    before = contents(scene)
    whole = len(before[output])
    arguments = command_for("demo", output=output)[:-2]
    for limit in (0, 20, whole // 2, 2 * whole):
        ended = commands.run(*arguments, "--scale", "8", folder=scene, file_limit=limit)
        assert ended.code == 1, ended
        assert re.search(f"^{output}: can't be written", ended.line), ended.line
        assert contents(scene) == before


@pytest.mark.parametrize("kind", ["train", "test"])
def test_a_disk_that_fills_while_a_cache_is_written(
    commands: Commands, scene: Path, kind: str
) -> None:
    settings = ("--set", f"{SET[kind]}.dataset.args.cache=bin")
    before = contents(scene)
    for limit in (100, 4096, 6000, 4096 + 6 * 20 * 24 * 3):
        extra = (*settings, *fresh(kind, scene))
        ended = run(commands, kind, scene, *extra, file_limit=limit)
        assert ended.code == 1, ended
        assert "pixels.raw: can't be written (File too large)" in ended.error
        after = contents(scene)
        assert {name: after[name] for name in before} == before
        assert not [name for name in after if name.endswith((".raw", ".tmp"))]
    assert run(commands, kind, scene, *settings, *fresh(kind, scene)).code == 0
    (cache,) = scene.rglob("*.raw")
    good = cache.read_bytes()
    picture(21, 24).save(scene / "pictures/0.png")
    extra = (*settings, *fresh(kind, scene))
    assert run(commands, kind, scene, *extra, file_limit=6000).code == 1
    assert cache.read_bytes() == good


@pytest.mark.parametrize("limit", [0, 50, 2000, 12_000])
def test_a_disk_that_fills_while_training(commands: Commands, scene: Path, limit: int) -> None:
    ended = run(commands, "train", scene, "--name", "run", file_limit=limit)
    assert ended.code == 1, ended
    assert re.search(r"save/run.*(File too large|file too large)", ended.error), ended.error
    assert not list(scene.glob("save/run/*.pth"))
    assert not list(scene.glob("save/run/.*.tmp"))
    again = run(commands, "train", scene, "--name", "run", "--resume", "auto")
    assert again.code == 0, again
    assert (scene / "save/run/epoch-last.pth").exists()


@pytest.mark.parametrize("option", ["--json", "--save-images"])
def test_a_disk_that_fills_while_testing(commands: Commands, scene: Path, option: str) -> None:
    place = "figures.json" if option == "--json" else "results"
    ended = run(commands, "test", scene, option, place)
    assert ended.code == 0
    before = contents(scene)
    setting = ("--set", "test_dataset.wrapper.args.scale_min=3")
    ended = run(commands, "test", scene, option, place, *setting, file_limit=100)
    assert ended.code == 1, ended
    assert re.search(f"{place}.*[Ff]ile too large", ended.line), ended.line
    assert contents(scene) == before


# The same as real processes, two of each; the quick suite has one

REAL: list[tuple[str, list[str], int, str]] = [
    ("train", ["--set", "train_dataset.dataset.args.root_path=none"], 1, "none: no such folder"),
    ("test", ["--model", "code-zip.pth"], 1, "code-zip.pth: refused .it holds code"),
    ("demo", ["--resolution", "0,5"], 2, "--resolution: '0,5' given; allowed: HEIGHT,WIDTH"),
]
MORE: list[tuple[str, list[str], int, str]] = [
    ("train", ["--set", "model.name=liiff"], 2, "did you mean 'liif'"),
    ("test", ["--config", "call.yaml"], 2, "call.yaml: no YAML"),
    ("demo", ["--scale", "2", "--input", "cut.jpg"], 1, "cut.jpg: damaged"),
]


@pytest.mark.parametrize(
    ("kind", "extra", "code", "words"),
    [*REAL, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
    ids=str,
)
def test_real_commands(scene: Path, kind: str, extra: list[str], code: int, words: str) -> None:
    write_bad_checkpoints(scene)
    (scene / "call.yaml").write_text("seed: !!python/object/apply:os.system ['touch executed']")
    (scene / "cut.jpg").write_bytes(encoded(scene, "a.jpg")[:300])
    before = contents(scene)
    script, *arguments = command_for(kind)
    for option in extra[::2]:
        if option in arguments:
            place = arguments.index(option)
            del arguments[place : place + 2]
    if kind == "demo" and "--resolution" in extra:
        arguments = arguments[:-2]
    ended = real_command(script, *arguments, *extra, folder=scene)
    assert ended.code == code, ended
    assert ended.err.startswith("error: ")
    assert re.search(words, ended.line), ended.line
    after = contents(scene)
    assert {name: after[name] for name in before} == before
    assert "executed" not in after


def test_the_splits_that_are_shipped_are_whole(root: Path) -> None:
    """Nothing in a shipped split file would be refused."""
    for path in (root / "configs").rglob("split*.json"):
        for key, names in json.loads(path.read_text()).items():
            assert names == [os.path.basename(name) for name in names], key
            assert len(set(names)) == len(names)
