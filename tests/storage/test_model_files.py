"""Where models come from: folders, the hub and object stores (imitated), what pins them, and what is said if not."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest

from microdiff.config.model_reference import parse_model_reference, public_name, reference_problems
from microdiff.config.settings import ImageEncoderSettings, TextEncoderSettings
from microdiff.core.files import digest_bytes, digest_json
from microdiff.errors import ParamsError, SourceError
from microdiff.pipeline.params import Params
from microdiff.storage import retry, s3
from microdiff.storage.model_files import located, needed_files, tokenizer_folder
from tests.hub_server import HubServer
from tests.s3_servers import moto
from tests.waiting import PATIENCE_S
from tests.web_server import Fault

REPO = "ORG/some-model"
WEIGHTS = bytes(range(256)) * 400
VAE = {"config.json": b'{"scaling_factor": 1}', "diffusion_pytorch_model.safetensors": WEIGHTS}
FILES = {
    "README.md": b"# A model\n",
    **{f"vae/{name}": data for name, data in VAE.items()},
    "vae/diffusion_pytorch_model.fp16.safetensors": WEIGHTS[:9],
    "vae/diffusion_pytorch_model.bin": WEIGHTS[:8],
    "text_encoder_2/config.json": b"{}",
    "text_encoder_2/model-00001-of-00002.safetensors": WEIGHTS[1:],
    "text_encoder_2/model-00002-of-00002.safetensors": WEIGHTS[2:],
    "text_encoder_2/model.safetensors.index.json": b"{}",
    "text_encoder_2/model.fp16-00001-of-00001.safetensors": WEIGHTS[:7],
    "tokenizer_2/tokenizer.json": b"{}",
    "empty/config.json": b"{}",
}
DIGEST = f"sha256:{digest_json({name: digest_bytes(data) for name, data in VAE.items()})}"
ZEROS = f"sha256:{'0' * 64}"


def image(model: str, subfolder: str | None = None, revision: str | None = None) -> ImageEncoderSettings:
    return ImageEncoderSettings(
        model=model,
        subfolder=subfolder,
        revision=revision,
        dtype="float32",
        latents="mode",
        store="float16",
        resolutions=(256,),
        batch_size=1,
        seed=0,
    )


def text(model: str, subfolder: str | None = None, revision: str | None = None) -> TextEncoderSettings:
    return TextEncoderSettings(
        model=model, subfolder=subfolder, revision=revision, dtype="float32", store="float16", batch_size=1
    )


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(autouse=True)
def _quick_and_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: None))


# --- names


COMMIT = "0123456789" * 4


@pytest.mark.parametrize(
    ("model", "revision", "place", "shown"),
    [
        ("samples/models/vae", None, ("folder", "samples/models/vae", "sub", None), "samples/models/vae"),
        ("/data/models/vae", None, ("folder", "/data/models/vae", "sub", None), "vae"),
        ("ORG/NAME", COMMIT, ("hub", "ORG/NAME", "sub", COMMIT), "ORG/NAME"),
        (f"hf://ORG/NAME@{COMMIT}", None, ("hub", "ORG/NAME", "sub", COMMIT), "ORG/NAME"),
        (f"hf://ORG/NAME@{COMMIT}/a/b", COMMIT, ("hub", "ORG/NAME", "a/b/sub", COMMIT), "ORG/NAME"),
        ("openclip:hf-hub:ORG/NAME", COMMIT, ("hub", "ORG/NAME", "sub", COMMIT), "openclip:hf-hub:ORG/NAME"),
        (f"openclip:hf://ORG/NAME@{COMMIT}", None, ("hub", "ORG/NAME", "sub", COMMIT), "openclip:hf-hub:ORG/NAME"),
        ("openclip:/data/vit", None, ("folder", "/data/vit", "sub", None), "openclip:vit"),
        ("s3://bucket/a/", ZEROS, ("url", "s3://bucket/a", "sub", ZEROS), "s3://bucket/a"),
        ("ftp://me:pass@host/a", ZEROS, ("url", "ftp://me:pass@host/a", "sub", ZEROS), "ftp://host/a"),
        ("file:///data/vae", ZEROS, ("url", "file:///data/vae", "sub", ZEROS), "vae"),
    ],
)
def test_names_say_where_a_model_is(model: str, revision: str | None, place: tuple[Any, ...], shown: str) -> None:
    found = parse_model_reference(model, "sub", revision)
    assert (found.kind, found.root, found.folder, found.revision) == place
    assert public_name(model) == shown
    assert not list(reference_problems(model, None, revision))


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("ORG/NAME", None, "revision: expected the full 40-digit commit of ORG/NAME, got None"),
        ("ORG/NAME", "main", "revision: expected the full 40-digit commit"),
        ("hf://ORG/NAME@main", None, "model: expected hf://ORG/NAME@COMMIT or"),
        ("hf://ORG/NAME", COMMIT, "model: expected hf://ORG/NAME@COMMIT or"),
        (f"hf://ORG/NAME@{COMMIT}", "1" * 40, "revision: expected null or the commit that hf://ORG/NAME@0123"),
        ("s3://bucket/vae", None, "revision: expected sha256:<64 digits>, the digest of the files of s3://bucket/vae"),
        (
            "s3://me:secret@bucket/vae",
            COMMIT,
            "revision: expected sha256:<64 digits>, the digest of the files of s3://bucket/vae, got '0123",
        ),
        ("./vae", COMMIT, "revision: expected null or sha256:<64 digits> for a local folder"),
    ],
)
def test_what_is_not_pinned_is_a_mistake_in_the_params(
    make_params: Callable[..., Params], model: str, revision: str | None, message: str
) -> None:
    with pytest.raises(ParamsError) as error:
        make_params({"encode.image.model": model, "encode.image.revision": revision})
    assert f"encode.image.{message}" in str(error.value)
    assert "secret" not in str(error.value)
    with pytest.raises(ParamsError, match=r"encode\.text\.caption_latents\.(model|revision): expected"):
        make_params({"encode.text.caption_latents.model": model, "encode.text.caption_latents.revision": revision})


# --- a folder


def test_a_local_model_is_used_in_place_and_known_by_its_digest(tmp_path: Path) -> None:
    folder = write(tmp_path / "vae", VAE)
    for work in (None, tmp_path / "work"):
        found = located(image(str(folder)), work)
        assert (found.folder, found.revision) == (folder, DIGEST)
        assert located(image(str(tmp_path), "vae", DIGEST), work).revision == DIGEST
        assert located(found, work) is found
    (folder / "config.json").write_bytes(b"{}")
    for work in (None, tmp_path / "work"):
        with pytest.raises(ParamsError, match=f"vae: expected the model {DIGEST}, found sha256:.*\n.*encode.image.rev"):
            located(image(str(tmp_path), "vae", DIGEST), work)


def test_a_model_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"none: no model there. Check encode\.text\.caption_latents\.model"):
        located(text(str(tmp_path / "none")), None, "encode.text.caption_latents")


# --- the hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with HubServer({REPO: FILES}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_a_hub_model_is_fetched_once_at_its_commit_and_only_what_is_needed(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.commit(REPO)
    hub.push(REPO, {**FILES, "vae/config.json": b"newer"})
    found = located(image(REPO, "vae", commit), tmp_path)
    assert found.revision == commit
    assert {name: (found.folder / name).read_bytes() for name in names_below(found.folder)} == VAE
    asked = len(hub.requests) + len(hub.blobs.requests)
    assert located(image(REPO, "vae", commit), tmp_path) == found
    assert located(image(f"hf://{REPO}@{commit}", "vae"), tmp_path).folder == found.folder
    assert located(image(f"hf://{REPO}@{commit}/vae"), tmp_path).folder == found.folder
    assert len(hub.requests) + len(hub.blobs.requests) == asked
    assert not [name for name in names_below(tmp_path / "fetch") if "diffusion" in name]  # not kept twice


def test_a_tokenizer_in_a_folder_of_its_own_comes_with_the_model(hub: HubServer, tmp_path: Path) -> None:
    found = located(text(REPO, "text_encoder_2", hub.commit(REPO)), tmp_path)
    assert names_below(found.folder) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert names_below(tokenizer_folder(found.folder)) == ["tokenizer.json"]


def test_pruning_leaves_fetched_models(hub: HubServer, tmp_path: Path) -> None:
    from microdiff.pipeline.store import Store

    found = located(image(REPO, "vae", hub.commit(REPO)), tmp_path)
    Store(tmp_path).prune([])
    assert len(names_below(found.folder)) == 2


@pytest.mark.parametrize(
    ("repo", "subfolder", "commit", "message"),
    [
        ("ORG/absent", None, None, "ORG/absent@.*: no such model, or a private one. Check encode.image.model"),
        (REPO, None, "0" * 40, "no revision 0+. Check encode.image.model"),
        (REPO, "vea", None, "vea: no model there. Check encode.image.model and encode.image.subfolder"),
        (REPO, "empty", None, "empty: no model there."),
    ],
)
def test_what_the_hub_lacks_is_a_mistake_in_the_params(
    hub: HubServer, tmp_path: Path, repo: str, subfolder: str | None, commit: str | None, message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        located(image(repo, subfolder, commit or hub.commit(REPO)), tmp_path)


def test_damaged_bytes_are_never_published_and_a_break_is_continued(hub: HubServer, tmp_path: Path) -> None:
    settings = image(REPO, "vae", hub.commit(REPO))
    hub.on("GET", Fault(), Fault(), Fault(damage=True), Fault(damage=True))  # a listing, the small file, the large one
    with pytest.raises(SourceError, match="twice"):
        located(settings, tmp_path)
    assert not list(tmp_path.glob("models/*/files"))
    hub.on("GET", Fault(drop_after=5000))
    found = located(settings, tmp_path)
    assert (found.folder / "diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS


def test_several_at_once_fetch_a_model_once(hub: HubServer, tmp_path: Path) -> None:
    settings = image(REPO, "vae", hub.commit(REPO))
    together = threading.Barrier(4)

    def locate(_: int) -> Path:
        together.wait(PATIENCE_S)
        return located(settings, tmp_path).folder

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(locate, range(4)))) == 1
    fetched = [request.target for request in hub.requests if "/resolve/" in request.target]
    assert len(fetched) == len(set(fetched)) == 2


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        (["config.json", "model.safetensors", "pytorch_model.bin", "flax_model.msgpack"], [0, 1]),
        (["config.json", "spiece.model", "pytorch_model.bin", "tf_model.h5"], [0, 1, 2]),
        (["merges.txt", "open_clip_pytorch_model.bin", "model.safetensors", "logo.png"], [0, 1]),
        (["config.json", "model.fp16.safetensors"], []),
    ],
)
def test_one_form_of_the_weights_is_chosen(names: list[str], needed: list[int]) -> None:
    order = ("open_clip_model", "open_clip_pytorch_model", "model", "pytorch_model")
    assert needed_files([f"a/{name}" for name in names], order) == [f"a/{names[n]}" for n in needed]


# --- object stores


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as server:
        yield server.url


@pytest.fixture
def bucket(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "opens nothing"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    s3._client.cache_clear()  # a client keeps the endpoint it was made with
    client = botocore.session.Session().create_client("s3", endpoint_url=address, region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    for name, data in FILES.items():
        client.put_object(Bucket="bucket", Key=f"models/{name}", Body=data)
    yield client
    client.close()


def test_a_folder_in_an_object_store_is_the_same_as_a_local_one(bucket: Any, tmp_path: Path) -> None:
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"):
        bucket.delete_object(Bucket="bucket", Key=f"models/vae/{name}")
    with pytest.raises(ParamsError, match=f"s3://bucket/models/vae: expected the model {ZEROS}, found {DIGEST}"):
        located(image("s3://bucket/models", "vae", ZEROS), tmp_path)
    found = located(image("s3://bucket/models", "vae", DIGEST), tmp_path)
    assert {name: (found.folder / name).read_bytes() for name in names_below(found.folder)} == VAE
    bucket.put_object(Bucket="bucket", Key="models/vae/config.json", Body=b"newer")
    assert located(image("s3://bucket/models", "vae", DIGEST), tmp_path) == found  # asks nothing
    with pytest.raises(ParamsError, match=f"expected the model {DIGEST}, found sha256:"):
        located(image("s3://bucket/models", "vae", DIGEST), tmp_path / "elsewhere")


def test_a_tokenizer_in_an_object_store_counts_too(bucket: Any, tmp_path: Path) -> None:
    local = write(tmp_path / "copy", FILES)
    digest = located(text(str(local), "text_encoder_2")).revision
    found = located(text("s3://bucket/models", "text_encoder_2", digest), tmp_path / "work")
    assert names_below(tokenizer_folder(found.folder)) == ["tokenizer.json"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/none", "s3://bucket/none: no model there. Check encode.image.model"),
        ("s3://no-bucket/none", r"no such bucket at http://127\.0\.0\.1:\d+\. Check encode.image.model"),
        ("nosuch://x/y", "unknown kind of source"),
    ],
)
def test_what_a_store_lacks_is_a_mistake_in_the_params(bucket: Any, tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        located(image(url, None, ZEROS), tmp_path)
