"""Every family of encoders against its own library's forward pass, with small random weights."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from microdiff.errors import ParamsError
from microdiff.models.clip_tokenizer import BoundedCache, ClipTokens
from microdiff.models.image_encoder import ImageEncoder, noise_for
from microdiff.models.text_encoder import TextEncoder
from microdiff.storage.model_files import located
from tests import tiny_models
from tests.tiny_models import FAMILIES, FOUR_CHANNELS, SIXTEEN_CHANNELS, image_settings, save, text_settings

CAPTIONS = ["a bee on the flower", "", "the sea at night " * 40, "red"]
KEYS = ["one", "two"]


@pytest.fixture(scope="module")
def images() -> Tensor:
    """uint8 (2, 64, 64, 3)."""
    return torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@torch.inference_mode()
@pytest.mark.parametrize("config", [FOUR_CHANNELS, SIXTEEN_CHANNELS], ids=["4 channels", "16 channels and a shift"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vaes_give_what_diffusers_gives(tmp_path: Path, images: Tensor, config: dict[str, Any], dtype: str) -> None:
    vae = tiny_models.save_vae(tmp_path, **config).to(getattr(torch, dtype))
    pixels = (images.permute(0, 3, 1, 2) / 127.5 - 1).to(vae.dtype)
    posterior = vae.encode(pixels).latent_dist
    mean, std = posterior.mean.float(), posterior.std.float()
    shift, scale = config.get("shift_factor", 0.0), config["scaling_factor"]
    channels = config["latent_channels"]
    noise = torch.stack([torch.from_numpy(noise_for(7, key, (channels, 8, 8))) for key in KEYS])
    tolerance = {"atol": 1e-5 if dtype == "float32" else 0.02, "rtol": 0}

    encoders = {
        latents: ImageEncoder(image_settings(tmp_path, latents=latents, dtype=dtype))
        for latents in ("mode", "moments", "sample")
    }
    found = {latents: encoder.encode(images, KEYS) for latents, encoder in encoders.items()}
    assert {latents.dtype for latents in found.values()} == {torch.float32}
    torch.testing.assert_close(found["mode"], (mean - shift) * scale, **tolerance)
    torch.testing.assert_close(found["sample"], (mean + std * noise - shift) * scale, **tolerance)
    torch.testing.assert_close(found["moments"][:, channels:], std * scale, **tolerance)
    assert torch.equal(found["moments"][:, :channels], found["mode"])
    drawn = found["moments"][:, :channels] + found["moments"][:, channels:] * noise
    assert torch.equal(drawn, found["sample"])
    description = encoders["sample"].description
    assert (description["channels"], description["downsampling"]) == (channels, 8)
    assert (description["scaling_factor"], description["shift_factor"]) == (scale, shift)
    assert (description["dtype"], description["stored_dtype"], description["seed"]) == (dtype, "float16", 7)
    assert encoders["mode"].description["seed"] is None


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["CLIPTextModel", "CLIPTextModelWithProjection"])
def test_clip_gives_what_transformers_gives(tmp_path: Path, kind: str) -> None:
    from transformers import CLIPTokenizer

    model = tiny_models.save_clip(tmp_path, kind)
    tokens = CLIPTokenizer.from_pretrained(tmp_path)(
        CAPTIONS, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    encoder = TextEncoder(text_settings(tmp_path))
    found = encoder.tokenize(CAPTIONS)
    assert torch.equal(found.ids_BT, tokens.input_ids)
    assert found.mask_BT is None
    expected = model(input_ids=tokens.input_ids).last_hidden_state
    torch.testing.assert_close(encoder.encode(found), expected, atol=1e-6, rtol=0)
    shape = [encoder.description[name] for name in ("tokens", "width", "mask", "tokenizer")]
    assert shape == [77, 32, False, "CLIPTokenizer"]


@torch.inference_mode()
@pytest.mark.parametrize(("max_tokens", "length"), [(None, 24), (8, 8)])
def test_t5_gives_what_transformers_gives_and_its_mask(tmp_path: Path, max_tokens: int | None, length: int) -> None:
    from transformers import AutoTokenizer

    model = tiny_models.save_t5(tmp_path)
    tokens = AutoTokenizer.from_pretrained(tmp_path)(
        CAPTIONS, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    encoder = TextEncoder(text_settings(tmp_path, max_tokens=max_tokens))
    found = encoder.tokenize(CAPTIONS)
    assert torch.equal(found.ids_BT, tokens.input_ids)
    assert found.mask_BT is not None
    assert found.mask_BT.dtype == torch.uint8
    assert found.mask_BT.sum(dim=1).tolist() == [6, 1, length, 2]  # words and the end
    states = encoder.encode(found)
    expected = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    torch.testing.assert_close(states, expected, atol=1e-6, rtol=0)
    assert (states - model(input_ids=tokens.input_ids).last_hidden_state).abs().max() > 1e-3  # the mask matters
    shape = [encoder.description[name] for name in ("tokens", "width", "mask", "tokenizer")]
    assert shape == [length, 32, True, "T5TokenizerFast"]


def test_a_t5_tokenizer_may_be_a_sentencepiece_file_alone(tmp_path: Path) -> None:
    """As in google/t5-v1_1-xxl: no tokenizer.json."""
    import sentencepiece

    tiny_models.save_t5(tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    (tmp_path / "text").write_text("\n".join(f"a cat and {number} dogs" for number in range(50)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "spiece"), vocab_size=26, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    (tmp_path / "text").unlink()
    (tmp_path / "spiece.vocab").unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    text = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 16}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(text))
    tokens = TextEncoder(text_settings(tmp_path)).tokenize(["a cat"])
    expected = [*pieces.encode("a cat"), 1]
    assert tokens.ids_BT[0].tolist() == expected + [0] * (16 - len(expected))
    assert tokens.mask_BT is not None
    assert tokens.mask_BT[0].tolist() == [1] * len(expected) + [0] * (16 - len(expected))


def test_padding_does_not_reach_the_tokens_of_a_t5_caption(tmp_path: Path) -> None:
    tiny_models.save_t5(tmp_path)
    short, long = (TextEncoder(text_settings(tmp_path, max_tokens=length)) for length in (6, 20))
    few, many = (encoder.encode(encoder.tokenize(CAPTIONS[:1])) for encoder in (short, long))
    torch.testing.assert_close(many[:, :6], few, atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(
    "text",
    [{}, {"custom_text": True}, {"custom_text": True, "no_causal_mask": True}],
    ids=["CLIP", "tower apart", "not causal"],
)
def test_openclip_gives_its_states_after_ln_final(tmp_path: Path, text: dict[str, Any]) -> None:
    import open_clip

    model = tiny_models.save_openclip(tmp_path, **text)
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(CAPTIONS)
    states: list[Tensor] = []
    tower = getattr(model, "text", model)
    tower.ln_final.register_forward_hook(lambda module, inputs, output: states.append(output))
    model.encode_text(ids)
    encoder = TextEncoder(text_settings(f"openclip:{tmp_path}"))
    tokens = encoder.tokenize(CAPTIONS)
    assert torch.equal(tokens.ids_BT, ids)
    assert tokens.ids_BT[1].tolist()[2:] == [0] * 75  # padded as open_clip pads
    torch.testing.assert_close(encoder.encode(tokens), states[0], atol=1e-6, rtol=0)
    assert (encoder.description["tokens"], encoder.description["width"]) == (77, 32)
    assert encoder.description["model"] == f"openclip:{tmp_path.name}"


def test_fewer_tokens_of_an_openclip_tower_are_its_first_ones(tmp_path: Path) -> None:
    tiny_models.save_openclip(tmp_path)
    short, long = (TextEncoder(text_settings(f"openclip:{tmp_path}", max_tokens=length)) for length in (8, None))
    few, many = (encoder.encode(encoder.tokenize(["a cat"])) for encoder in (short, long))
    assert (few.shape[1], many.shape[1]) == (8, 77)
    torch.testing.assert_close(few, many[:, :8], atol=1e-5, rtol=0)  # no token sees later ones


def test_an_openclip_tower_leaves_the_picture_tower_behind(tmp_path: Path) -> None:
    tiny_models.save_openclip(tmp_path)
    encoder = TextEncoder(text_settings(f"openclip:{tmp_path}"))
    assert not [name for name, _ in encoder._model._module.named_parameters() if "visual" in name]


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_near_and_precise_is_float32(tmp_path: Path, family: str) -> None:
    model = save(family, tmp_path)
    exact, rough = (TextEncoder(text_settings(model, dtype=dtype)) for dtype in ("float32", "bfloat16"))
    tokens = exact.tokenize(CAPTIONS)
    expected, found = exact.encode(tokens), rough.encode(tokens)
    assert found.dtype == torch.float32
    difference = (found - expected).abs().max()
    assert 1e-4 < difference < 0.1
    assert torch.equal(rough.encode(tokens, precise=True), expected)
    assert torch.equal(rough.encode(tokens), found)  # as it was before


def test_precise_latents_are_float32(tmp_path: Path, images: Tensor) -> None:
    tiny_models.save_vae(tmp_path, **FOUR_CHANNELS)
    exact, rough = (ImageEncoder(image_settings(tmp_path, dtype=dtype)) for dtype in ("float32", "bfloat16"))
    expected = exact.encode(images, KEYS)
    assert not torch.equal(rough.encode(images, KEYS), expected)
    assert torch.equal(rough.encode(images, KEYS, precise=True), expected)
    assert torch.equal(exact.encode(images, KEYS, precise=True), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_are_tokenised_in_several_threads_at_once(tmp_path: Path, family: str) -> None:
    encoder = TextEncoder(text_settings(save(family, tmp_path)))
    batches: Sequence[list[str]] = [[f"a bee on the flower {n}", "the sea " * (n % 9)] for n in range(60)]
    expected = [encoder.tokenize(batch).ids_BT for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(encoder.tokenize, batches))
    assert all(torch.equal(one.ids_BT, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("family", [family for family in FAMILIES if "t5" not in family])
def test_clip_tokenizers_are_asked_for_words_and_remember_a_bounded_number(tmp_path: Path, family: str) -> None:
    text: Any = TextEncoder(text_settings(save(family, tmp_path)))._text
    (by_words,) = [value for value in vars(text).values() if isinstance(value, ClipTokens)]
    assert by_words.by_words
    assert isinstance(text._tokenizer.cache, BoundedCache)


@torch.inference_mode()
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_full_batches_are_compiled_and_others_are_not(
    tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch, cuda_graphs: bool
) -> None:
    sizes: list[int] = []
    of_graph: list[Tensor] = []

    def compile_(module: torch.nn.Module, *, dynamic: bool, mode: str | None) -> Any:
        assert (dynamic, mode) == (False, "reduce-overhead" if cuda_graphs else None)

        def compiled(pixels: Tensor) -> Any:
            sizes.append(len(pixels))
            outputs = module(pixels)
            if not of_graph:
                of_graph.extend(outputs)
            if not cuda_graphs:
                return outputs
            return tuple(memory.copy_(output) for memory, output in zip(of_graph, outputs, strict=True))

        return compiled

    monkeypatch.setattr(torch, "compile", compile_)
    tiny_models.save_vae(tmp_path, **FOUR_CHANNELS)
    settings = image_settings(tmp_path, batch_size=2, compile=True, cuda_graphs=cuda_graphs, latents="mode")
    encoder = ImageEncoder(settings)
    both, one = encoder.encode(images, KEYS), encoder.encode(images[:1], KEYS[:1])
    assert sizes == [2]
    torch.testing.assert_close(both[:1], one, atol=1e-5, rtol=0)
    mean, deviation = encoder._model(2, images.permute(0, 3, 1, 2).float())
    kept = mean.clone(), deviation.clone()
    encoder._model(2, -images.permute(0, 3, 1, 2).float())
    assert torch.equal(mean, kept[0])  # a graph's memory has been written over, this has not
    assert torch.equal(deviation, kept[1])


@pytest.mark.parametrize("family", ["vae", *FAMILIES])
def test_models_can_be_traced_whole(tmp_path: Path, images: Tensor, family: str) -> None:
    """What torch.compile's front half makes of them: one graph, without falling back. Its code generator is not run."""
    torch._dynamo.reset()
    inputs: tuple[Any, ...]
    if family == "vae":
        tiny_models.save_vae(tmp_path, **FOUR_CHANNELS)
        model, inputs = ImageEncoder(image_settings(tmp_path))._model, (images.permute(0, 3, 1, 2).float(),)
    else:
        encoder = TextEncoder(text_settings(save(family, tmp_path)))
        tokens = encoder.tokenize(CAPTIONS)
        model, inputs = encoder._model, (tokens.ids_BT, tokens.mask_BT)
    with torch.inference_mode():
        traced = torch.compile(model._module, dynamic=False, fullgraph=True, backend="eager")
        torch.testing.assert_close(traced(*inputs), model._module(*inputs))


def delete_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path, metadata={"format": "pt"})


DAMAGES = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json that can be read"),
    "another kind": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
        "expected one of clip_text_model, clip, t5, mt5, umt5 as model_type, got 'bert'",
    ),
    "a weight missing": (delete_weight, "1 weights of T5EncoderModel are not in its files"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "T5EncoderModel cannot be loaded"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json there"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_incomplete_model_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    tiny_models.save_t5(tmp_path / "t5")
    change, message = DAMAGES[damage]
    change(tmp_path / "t5")
    with pytest.raises(ParamsError, match=f"^t5: .*{message}"):
        TextEncoder(text_settings(tmp_path / "t5"))


def test_what_does_not_fit_a_model_is_refused(tmp_path: Path) -> None:
    tiny_models.save_clip(tmp_path / "clip")
    with pytest.raises(ParamsError, match="clip: expected at most 77 max_tokens, which it has, got 78"):
        TextEncoder(text_settings(tmp_path / "clip", max_tokens=78))
    tiny_models.save_t5(tmp_path / "t5", model_max_length=None)
    with pytest.raises(ParamsError, match="t5: states no length; set max_tokens for it"):
        TextEncoder(text_settings(tmp_path / "t5"))
    tiny_models.save_vae(tmp_path / "vae", **FOUR_CHANNELS)
    with pytest.raises(ParamsError, match=r"expected multiples of 8, which vae reduces by, got \[36\]"):
        ImageEncoder(image_settings(tmp_path / "vae", resolutions=(64, 36)))


def test_a_tokenizer_may_be_where_diffusers_has_it(tmp_path: Path) -> None:
    tiny_models.save_t5(tmp_path / "text_encoder_3", tmp_path / "tokenizer_3")
    beside = TextEncoder(text_settings(tmp_path, subfolder="text_encoder_3"))
    tiny_models.save_t5(tmp_path / "together")
    together = TextEncoder(text_settings(tmp_path / "together"))
    assert torch.equal(beside.tokenize(CAPTIONS).ids_BT, together.tokenize(CAPTIONS).ids_BT)
    before = beside.description["revision"]
    (tmp_path / "tokenizer_3" / "special_tokens_map.json").write_text("{}")
    assert located(text_settings(tmp_path, subfolder="text_encoder_3")).revision != before
