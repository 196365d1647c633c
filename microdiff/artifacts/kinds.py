"""The four kinds of artifact, and the step that makes each."""

KINDS = {"raw": "download", "captions": "clean", "latents": "encode", "shards": "shard"}
