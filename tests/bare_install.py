"""What somebody who trains does with a bare `pip install microdiff`; writes what came of it as JSON.

Run by tests/test_wheel.py and by CI, with a Python that has the wheel and what it asks for, and nothing else.
"""

import builtins
import json
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

COLUMNS = {
    "key": "str",
    "caption": "str",
    "width": "int32",
    "height": "int32",
    "caption_latents": "ndarray:float16:77,64",
    "latents_256": "ndarray:float16:4,32,32",
}
NUM = 6

_import = builtins.__import__
_imported: set[str] = set()


def _noting(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """Import as always, and note what our own modules ask for: what streaming itself imports is not ours to choose."""
    if str((globals or {}).get("__name__")).partition(".")[0] == "microdiff":
        _imported.add(name.partition(".")[0])
    return _import(name, globals, locals, fromlist, level)


def main() -> None:
    """Write shards and train on them, as far as the data goes."""
    builtins.__import__ = _noting
    import microdiff

    with tempfile.TemporaryDirectory() as folder:
        _write_shards(Path(folder))
        loader = microdiff.build_streaming_latents_dataloader(
            folder, batch_size=3, image_size=256, cap_drop_prob=0.1, cap_seq_size=77, cap_emb_dim=64, num_workers=1
        )
        batches = [{name: list(getattr(value, "shape", ())) for name, value in batch.items()} for batch in loader]
    try:
        microdiff.clean_caption("A <b>cat</b>")
    except ImportError as error:
        refusal = str(error)
    else:
        refusal = ""
    package = Path(str(microdiff.__file__)).parent
    document = {
        "batches": batches,
        "clean_caption": refusal,
        "folder": str(package),
        "imported": sorted(_imported - sys.stdlib_module_names - {"microdiff"}),
        "py.typed": (package / "py.typed").is_file(),
        "version": version("microdiff"),
    }
    sys.stdout.write(json.dumps(document) + "\n")


def _write_shards(folder: Path) -> None:
    import numpy as np

    from microdiff.artifacts.mds_index import index_document

    rng = np.random.default_rng(7)
    samples = [
        {
            "key": f"{number:03}",
            "caption": f"no. {number}",
            "width": 256,
            "height": 256,
            "caption_latents": rng.normal(size=(77, 64)).astype(np.float16),
            "latents_256": rng.normal(size=(4, 32, 32)).astype(np.float16),
        }
        for number in range(NUM)
    ]
    factory = runpy.run_path(str(Path(__file__).with_name("mds_factory.py")))  # that one module of the tests
    entry = factory["write_shard"](folder / "shard.00000.mds", COLUMNS, samples)
    (folder / "index.json").write_text(json.dumps(index_document([entry])))
    (folder / "manifest.json").write_text(json.dumps({"encoders": {"image": {"model": "none"}}}))


if __name__ == "__main__":
    main()
