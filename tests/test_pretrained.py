"""Weights by file and by name, fetched from a server of the test's own, and safetensors."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from engine.weights import pretrained
from engine.weights.__main__ import main as weights_command
from engine.weights.checkpoint import save_checkpoint
from engine.weights.download import download
from tests.small import TINY as SPEC
from utils import ConfigError, DataError


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` in the way `behaviour` says, and notes the ranges asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.behaviour: list[str] = []  # one entry for each request; after that, "whole"
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.pth?dl=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.content
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        how = self.server.behaviour.pop(0) if self.server.behaviour else "whole"
        if how in ("404", "503"):
            self.send_error(int(how))
            return
        match = re.fullmatch(r"bytes=(\d+)-", asked or "")
        first = int(match[1]) if match and how != "no ranges" else 0
        if first and first >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if how != "no length":
            self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        body = content[first:]
        self.wfile.write(body[: len(body) // 2] if how == "broken" else body)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    # Waiting between attempts is for real networks.
    monkeypatch.setattr("engine.weights.download.time.sleep", lambda seconds: None)
    with Server() as running:
        running.content = os.urandom(100_000)
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_checkpoint(path: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    model = models.make(SPEC)
    checkpoint = {"model": {**SPEC, "sd": model.state_dict()}, "epoch": 1}
    save_checkpoint(path, checkpoint)
    return checkpoint


# Downloading


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    content = server.content
    path = download(server.url, tmp_path / "new" / "file", len(content), sha256(content))
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file"]
    download(server.url, path, len(content), sha256(content))
    assert server.ranges == [None]  # the second call found it there


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.behaviour = ["broken", "broken"]
    path = download(server.url, tmp_path / "file", sha256=sha256(server.content))
    assert path.read_bytes() == server.content
    assert server.ranges == [None, "bytes=50000-", "bytes=75000-"]


def test_a_later_call_goes_on_where_the_last_one_gave_up(server: Server, tmp_path: Path) -> None:
    server.behaviour = ["broken", "503", "503", "503"]
    with pytest.raises(DataError, match=r"503.*50000 bytes that came are kept"):
        download(server.url, tmp_path / "file", sha256=sha256(server.content))
    assert (tmp_path / "file.part").read_bytes() == server.content[:50000]
    assert not (tmp_path / "file").exists()
    download(server.url, tmp_path / "file", sha256=sha256(server.content))
    assert (tmp_path / "file").read_bytes() == server.content
    assert server.ranges[-1] == "bytes=50000-"


def test_a_server_that_knows_no_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.behaviour = ["broken", "no ranges"]
    download(server.url, tmp_path / "file", sha256=sha256(server.content))
    assert (tmp_path / "file").read_bytes() == server.content


def test_a_server_that_says_no_length_is_believed_by_size(server: Server, tmp_path: Path) -> None:
    server.behaviour = ["no length"]
    download(server.url, tmp_path / "file", len(server.content))
    assert (tmp_path / "file").read_bytes() == server.content


def test_a_part_that_is_already_whole_is_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(server.content)
    download(server.url, tmp_path / "file", sha256=sha256(server.content))
    assert (tmp_path / "file").read_bytes() == server.content
    assert server.ranges == ["bytes=100000-"]


def test_a_part_of_something_longer_is_started_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(server.content + b"more")
    download(server.url, tmp_path / "file", sha256=sha256(server.content))
    assert (tmp_path / "file").read_bytes() == server.content


@pytest.mark.parametrize(
    ("size", "digest", "message"),
    [
        (100_000, "0" * 64, "SHA-256 0{64} was expected"),
        (99_999, None, "99999 bytes were expected, the server has 100000"),
        (100_001, None, "100001 bytes were expected, the server has 100000"),
    ],
)
def test_another_file_is_refused(
    server: Server, tmp_path: Path, size: int, digest: str | None, message: str
) -> None:
    (tmp_path / "file").write_bytes(b"an older one")
    with pytest.raises(DataError, match=message):
        download(server.url, tmp_path / "file", size, digest)
    assert (tmp_path / "file").read_bytes() == b"an older one"
    assert os.listdir(tmp_path) == ["file"]


def test_more_than_expected_is_refused_while_it_comes(server: Server, tmp_path: Path) -> None:
    server.behaviour = ["no length"]
    with pytest.raises(DataError, match="more than the expected 10 bytes"):
        download(server.url, tmp_path / "file", 10)
    assert os.listdir(tmp_path) == []


def test_refusals_of_the_server_are_final(server: Server, tmp_path: Path) -> None:
    server.behaviour = ["404"]
    with pytest.raises(DataError, match="the server answers 404"):
        download(server.url, tmp_path / "file")
    assert len(server.ranges) == 1
    assert os.listdir(tmp_path) == []


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only http and https"):
        download("file:///etc/hostname", tmp_path / "file")


def test_a_place_that_takes_no_file_is_said(server: Server, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file, not a folder")
    with pytest.raises(DataError, match=r"occupied.*can.?not be written"):
        download(server.url, tmp_path / "occupied" / "file")


def test_processes_that_fetch_one_file_at_once_do_not_mix(server: Server, tmp_path: Path) -> None:
    path, digest = tmp_path / "file", sha256(server.content)
    with ThreadPoolExecutor(6) as pool:
        fetched = [pool.submit(download, server.url, path, sha256=digest) for _ in range(6)]
    assert [each.result() for each in fetched] == [path] * 6
    assert path.read_bytes() == server.content
    assert os.listdir(tmp_path) == ["file"]
    assert server.ranges == [None]


# By name


@pytest.fixture
def published(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pretrained.Published:
    """A published name, `tiny`, whose file the test's server has."""
    make_checkpoint(tmp_path / "original.pth")
    server.content = (tmp_path / "original.pth").read_bytes()
    entry = pretrained.Published(server.url, len(server.content), sha256(server.content))
    monkeypatch.setitem(pretrained.PUBLISHED, "tiny", entry)
    monkeypatch.setenv("LIIF_CACHE", str(tmp_path / "cache"))
    return entry


def test_a_name_is_fetched_once(server: Server, published: pretrained.Published) -> None:
    server.behaviour = ["broken"]
    model = pretrained.load_model("tiny")
    torch.manual_seed(0)
    expected = models.make(SPEC)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert not model.training
    pretrained.load_model("tiny")
    assert len(server.ranges) == 2  # the broken transfer, and its rest


@pytest.mark.parametrize("length", [-1, None])
def test_another_file_in_the_cache_is_named_with_both_checksums(
    server: Server, published: pretrained.Published, length: int | None
) -> None:
    path = pretrained.find_weights("tiny")
    other = bytes(byte ^ 1 for byte in server.content[:length])
    path.write_bytes(other)
    with pytest.raises(DataError) as caught:
        pretrained.find_weights("tiny")
    assert str(caught.value) == (
        f"{path}: not tiny: SHA-256 {sha256(other)}, {published.sha256} expected; delete it to "
        "have it fetched anew"
    )
    path.unlink()
    assert pretrained.find_weights("tiny").read_bytes() == server.content


def test_weights_come_from_a_mirror(
    server: Server, published: pretrained.Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pretrained.Published("http://127.0.0.1:9/f", published.bytes, published.sha256)
    monkeypatch.setitem(pretrained.PUBLISHED, "tiny", nobody)
    monkeypatch.setenv("LIIF_MIRROR", server.url.rsplit("/", 1)[0] + "/")
    assert pretrained.find_weights("tiny").read_bytes() == server.content


def test_names_serve_for_whole_files_too(
    published: pretrained.Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verify` and `average`; `--init` and `--resume`: tests/test_train_cli.py."""
    weights_command(["verify", "tiny"])
    cached = str(pretrained.cache_folder() / "tiny.pth")
    assert f"{cached}: whole" in capsys.readouterr().out
    weights_command(["average", "tiny", cached, str(tmp_path / "mean.pth")])
    mean = pretrained.load_model(tmp_path / "mean.pth").state_dict()
    for name, value in pretrained.load_model("tiny").state_dict().items():
        assert torch.equal(value, mean[name]), name
    with pytest.raises(ConfigError, match="file: 'tinyy' is neither a file nor a known name"):
        weights_command(["verify", "tinyy"])


def test_offline_says_how_to_place_the_file_by_hand(
    server: Server, published: pretrained.Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pretrained.Published("http://127.0.0.1:9/f", published.bytes, published.sha256)
    monkeypatch.setitem(pretrained.PUBLISHED, "tiny", nobody)
    with pytest.raises(DataError) as caught:
        pretrained.load_model("tiny")
    message = str(caught.value)
    path = pretrained.cache_folder() / "tiny.pth"
    assert "no connection" in message
    assert (
        f"save the file as {path} ({published.bytes} bytes, SHA-256 {published.sha256})" in message
    )
    assert "\n" not in message
    path.write_bytes(server.content)  # placed by hand
    pretrained.load_model("tiny")
    assert server.ranges == []


def test_published_weights_are_those_of_the_checksum(reference: Path) -> None:
    path = reference / "weights" / "edsr-baseline-liif.pth"
    entry = pretrained.PUBLISHED["edsr-baseline-liif"]
    assert path.stat().st_size == entry.bytes
    assert sha256(path.read_bytes()) == entry.sha256


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIIF_CACHE", "/somewhere")
    assert pretrained.cache_folder() == Path("/somewhere")
    monkeypatch.delenv("LIIF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert pretrained.cache_folder() == Path("/caches/liif")


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'edsr-baseline-liif'"):
        pretrained.find_weights("edsr-baseline-lif")


def test_no_model_is_the_default_or_a_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "DEFAULT", tmp_path / "default.pth")
    with pytest.raises(ConfigError, match="no --model given"):
        pretrained.load_model()
    make_checkpoint(tmp_path / "default.pth")
    assert pretrained.load_model().encoder.out_dim == 4


def test_a_fetching_process_interrupted_leaves_nothing_that_looks_whole(
    server: Server, tmp_path: Path
) -> None:
    """As a real process, killed in the middle."""
    server.content = os.urandom(30_000_000)
    script = (
        "import sys, os; from engine.weights import download as d; original = d._read\n"
        "def read(answer):\n"
        "    block = original(answer)\n"
        "    os.path.getsize(sys.argv[2] + '.part') > 5_000_000 and os.kill(os.getpid(), 9)\n"
        "    return block\n"
        "d._read = read; d.download(sys.argv[1], sys.argv[2])"
    )
    root = Path(__file__).resolve().parent.parent
    ended = subprocess.run(
        [sys.executable, "-c", script, server.url, str(tmp_path / "file")], cwd=root, timeout=60
    )
    assert ended.returncode == -9
    assert os.listdir(tmp_path) == ["file.part"]
    download(server.url, tmp_path / "file", sha256=sha256(server.content))
    assert (tmp_path / "file").read_bytes() == server.content
    assert server.ranges[-1] is not None


# safetensors


def test_safetensors_round_trip(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    checkpoint = make_checkpoint(tmp_path / "model.pth")
    path = tmp_path / "model.safetensors"
    pretrained.write_safetensors(path, SPEC, pretrained.load_model(tmp_path / "model.pth"))
    model = pretrained.load_model(path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, checkpoint["model"]["sd"][name]), name
    renamed = path.rename(tmp_path / "model.weights")  # told by content
    assert pretrained.load_model(renamed).state_dict().keys() == model.state_dict().keys()
    read = pretrained.read_safetensors(renamed)["model"]
    assert {"name": read["name"], "args": read["args"]} == SPEC


@pytest.mark.parametrize("damage", ["empty", "short", "no spec", "checkpoint", "missing"])
def test_what_is_no_export_is_refused(damage: str, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    make_checkpoint(tmp_path / "model.pth")
    path = tmp_path / "model.safetensors"
    pretrained.write_safetensors(path, SPEC, pretrained.load_model(tmp_path / "model.pth"))
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "no spec":
        safetensors.save_file({"a": torch.zeros(2)}, path)
    elif damage == "checkpoint":
        path.write_bytes((tmp_path / "model.pth").read_bytes())
    else:
        safetensors.save_file({"a": torch.zeros(2)}, path, {"model": json.dumps(SPEC)})
    with pytest.raises(DataError, match=re.escape(str(path))) as caught:
        pretrained.load_model(path)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"package no-such-thing is needed to test; .* pip install"
    ):
        pretrained.import_optional("no_such_thing.inner", "to test")
