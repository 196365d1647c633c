"""Small models of every family with random weights, saved as their libraries save them."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from conftest import REPO
from microdiff.config.settings import ImageEncoderSettings, TextEncoderSettings

CLIP_TOKENIZER = REPO / "samples" / "models" / "clip"
_TOKENIZER_FILES = ("merges.txt", "vocab.json", "special_tokens_map.json", "tokenizer_config.json")
_WORDS = ["a", "bee", "on", "flower", "the", "sea", "at", "night", "red", "blue", "green"]

FOUR_CHANNELS = {"latent_channels": 4, "scaling_factor": 0.13025}
SIXTEEN_CHANNELS = {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def image_settings(model: Path | str, **changes: Any) -> ImageEncoderSettings:
    """Return settings for a model that was saved here: 64 px, float32."""
    settings = {"subfolder": None, "revision": None, "dtype": "float32", "latents": "sample", "store": "float16"}
    return ImageEncoderSettings(
        model=str(model), **{**settings, "resolutions": (64,), "batch_size": 4, "seed": 7, **changes}
    )


def text_settings(model: Path | str, **changes: Any) -> TextEncoderSettings:
    """Return settings for a model that was saved here: float32."""
    settings = {"subfolder": None, "revision": None, "dtype": "float32", "store": "float16", "batch_size": 4}
    return TextEncoderSettings(model=str(model), **{**settings, **changes})


def save_vae(folder: Path, **config: Any) -> Any:
    """Save an AutoencoderKL that reduces by 8; return it."""
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    widths = (8, 8, 16, 16)
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=1,
        norm_num_groups=4,
        **config,
    ).eval()
    vae.save_pretrained(folder)
    return vae


def save_clip(folder: Path, kind: str = "CLIPTextModel") -> Any:
    """Save a CLIP text tower and the tokenizer of the embedded one; return the tower."""
    import transformers

    torch.manual_seed(2)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vocabulary = json.loads((CLIP_TOKENIZER / "vocab.json").read_text(encoding="utf-8"))
    config = transformers.CLIPTextConfig(vocab_size=len(vocabulary), projection_dim=24, **sizes)
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    for name in _TOKENIZER_FILES:
        shutil.copy(CLIP_TOKENIZER / name, folder)
    return model


def save_t5(folder: Path, tokenizer_folder: Path | None = None, model_max_length: int | None = 24) -> Any:
    """Save a T5 encoder and a tokenizer that knows a few words; return the encoder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    torch.manual_seed(3)
    vocabulary = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in _WORDS)]
    tokenizer = Tokenizer(models.Unigram([(word, -float(n)) for n, word in enumerate(vocabulary)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    length = {} if model_max_length is None else {"model_max_length": model_max_length}
    T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, **length).save_pretrained(tokenizer_folder or folder)
    config = T5Config(
        vocab_size=len(vocabulary),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    model = T5EncoderModel(config).eval()
    model.save_pretrained(folder)
    return model


def save_openclip(folder: Path, **text: Any) -> Any:
    """Save an open_clip model for open_clip's own tokenizer; return it. `custom_text` gives it a tower apart."""
    import open_clip

    torch.manual_seed(4)
    custom_text = text.pop("custom_text", False)
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, **text},
    }
    model = (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**config).eval()
    folder.mkdir(parents=True, exist_ok=True)
    document = {"model_cfg": {**config, **({"custom_text": True} if custom_text else {})}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(document), encoding="utf-8")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


FAMILIES = {
    "clip": save_clip,
    "t5": save_t5,
    "openclip": save_openclip,
}


def save(family: str, folder: Path) -> str:
    """Save a text encoder of a family; return what settings call it."""
    FAMILIES[family](folder)
    return f"openclip:{folder}" if family == "openclip" else str(folder)
