"""Make the small text encoder of the sample preset: CLIP's layout, untrained weights, a real vocabulary.

It stands in for CLIP ViT-H/14 where neither a network nor a GPU is at hand, and the same code loads it:
`CLIPTextModel.from_pretrained` and `CLIPTokenizer.from_pretrained`. Its hidden states tell captions apart and
depend on every word before them, but mean nothing: never train a diffusion model on them.

The vocabulary is the beginning of CLIP's own: 256 bytes, 256 bytes that end a word, the first 7,680 merges,
and last the two special tokens. Merges build only on earlier ones, so any prefix is a complete vocabulary:
every text still round-trips, in lower case, only in more tokens than with all 48,894 merges.

The same versions of NumPy, transformers and safetensors write the same bytes on every run:

    python samples/models/make_clip.py --out samples/models/clip
"""

import argparse
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import open_clip
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

NUM_MERGES = 7_680
MAX_TOKENS = 77  # CLIP's context length
START, END = "<|startoftext|>", "<|endoftext|>"
OPEN_CLIP_MERGES = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")

# Standard deviations as multiples of 1/sqrt(inputs). Sharp attention and a strong value path make every
# hidden state depend on the words before it; with small weights all padding would come out nearly alike.
GAINS = {"q_proj": 1.5, "k_proj": 1.5, "v_proj": 2.0, "out_proj": 2.0, "fc1": 1.0, "fc2": 1.0}
POSITION_STD = 0.3  # of the token embeddings, whose standard deviation is 1


def read_merges(path: Path) -> list[str]:
    """Read the first `NUM_MERGES` merges; the file's first line is a version header."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [line.rstrip("\n") for _, line in zip(range(NUM_MERGES + 1), lines, strict=False)][1:]


def make_tokenizer(merges: list[str]) -> CLIPTokenizer:
    """Build the tokenizer; ids below the two special tokens equal those of the full vocabulary."""
    # In code point order this alphabet (one printable character per byte) is in CLIP's order.
    alphabet = sorted(ByteLevel.alphabet())
    tokens = alphabet + [f"{char}</w>" for char in alphabet] + [merge.replace(" ", "") for merge in merges]
    tokens += [START, END]
    with tempfile.TemporaryDirectory() as folder:
        vocab_file, merges_file = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab_file.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
        merges_file.write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        return CLIPTokenizer(str(vocab_file), str(merges_file), model_max_length=MAX_TOKENS)


def make_model(tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    """Build the text encoder, its weights drawn in the order of their names so that `seed` fixes them."""
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            projection_dim=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,  # where pooling looks
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    rng = np.random.default_rng(seed)
    for name, weight in sorted(model.named_parameters()):
        layer = name.split(".")[-2]
        if layer in GAINS and name.endswith("weight"):
            std = GAINS[layer] / weight.shape[1] ** 0.5
        elif layer.endswith("embedding"):
            std = POSITION_STD if layer.startswith("position") else 1.0
        else:
            continue  # layer norms and biases start as they are: ones and zeros
        weight.data = torch.from_numpy(std * rng.standard_normal(tuple(weight.shape), dtype=np.float32))
    return model.half()


def main() -> None:
    """Write the tokenizer and the model to one folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--merges", type=Path, default=OPEN_CLIP_MERGES, help="default: open_clip's file")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("clip"))
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    tokenizer = make_tokenizer(read_merges(args.merges))
    model = make_model(tokenizer, args.seed)
    tokenizer.save_pretrained(args.out)
    model.save_pretrained(args.out)
    (args.out / "model.safetensors").chmod(0o644)  # safetensors makes it private
    print(f"{args.out}: {len(tokenizer):,} tokens, {model.num_parameters():,} weights")


if __name__ == "__main__":
    main()
