"""Every block of book/use_it_on_your_model.md runs as printed, with tiny stand-ins for weights."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

import moxi_lite as moxi
from moxi_lite import cli

PAGE = Path(__file__).parents[2] / "book" / "use_it_on_your_model.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """What the page takes for granted, in the current folder."""
    transformers = pytest.importorskip("transformers", reason="pip install '.[hf]'")
    monkeypatch.chdir(tmp_path)
    image = moxi.sample_photo("chelsea")
    image.save("cat.jpg")
    for label in ("0", "1"):
        Path("photos", label).mkdir(parents=True)
        image.crop((0, 0, 200 + 50 * int(label), 300)).save(f"photos/{label}/{label}.png")
    Path("photos/labels.csv").write_text("image,label\n0/0.png,0\n1/1.png,1\n")
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint16) * 65, (64, 1))).save("scan.tif")
    resnet = timm.create_model("resnet18", num_classes=3)
    save_file(resnet.state_dict(), "checkpoint.safetensors")
    timm.models.save_for_hf(
        timm.create_model("test_vit", num_classes=3), "my-timm-model", safe_serialization=True
    )
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, num_labels=3,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained("my-vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("my-vit")
    # the only stand-ins: nothing is downloaded
    monkeypatch.setattr("moxi_lite.models.hugging_face._download", lambda *_: Path("my-vit"))
    monkeypatch.setattr(
        "moxi_lite.models.load.load_named_or_fallback",
        lambda name, _: (name, timm.create_model(name, depth=1), "random weights", ""),
    )


def test_no_line_of_a_block_has_to_be_scrolled_to():
    assert [line for _, block in BLOCKS for line in block.splitlines() if len(line) > 79] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*16-bit")
def test_every_block_runs(files, capsys):
    assert {kind for kind, _ in BLOCKS} == {"python", "bash"} and len(BLOCKS) > 12
    names: dict = {}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, str(PAGE), "exec"), names)
        else:
            commands = block.replace("\\\n", " ").strip().splitlines()
            assert [cli.main(shlex.split(line)[1:]) for line in commands] == [0, 0]
    assert np.asarray(names["scan"]).max() == 255
    assert names["ill"].n_classes == 2 and names["tags"].outputs == "multilabel"
    assert names["scores"].shape == (16,)
    assert set(names["result"].table["method"]) == {"moxi", "random"}
    table = pd.read_parquet(next(Path("study-of-my-vit").glob("*.parquet")))
    assert sorted(table["target"].unique()) == [0, 1]
    assert "drop" in capsys.readouterr().out
