"""Writes `shared/inference/testdata/export`: tiny random networks of the same operators, by the code that exports the
real ones, with what PyTorch makes of one picture. `make test` holds tract to them; this runs when the code changes.

    python models/export/fixtures.py
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from torch import nn

import folder
import graphs
import towers
import xray_vision
import chexnet

PLACE = folder.HERE.parents[1] / "shared" / "inference" / "testdata" / "export"
SIDE = 32
ABOUT = {
    "version": "1", "title": folder.RANDOM + "a tiny network for tests", "licence": "Apache-2.0",
    "source": "models/export/fixtures.py",
}
QUESTIONS = [
    {"id": "kind", "answers": [
        {"id": "chest-radiograph-frontal", "meaning": "chest radiograph", "in_scope": True, "prompts": ["a chest X-ray"]},
        {"id": "photograph", "meaning": "photograph", "in_scope": False, "prompts": ["a photograph", "a photo of an animal"]},
    ]},
    {"id": "fitness", "answers": [
        {"id": "fit", "meaning": "fit to read", "prompts": ["a sharp film"]}, {"id": "blurred", "meaning": "blurred", "prompts": ["a blurred film"]},
    ]},
    {"id": "abnormal", "answers": [
        {"id": "normal", "meaning": "normal", "prompts": ["clear lungs"]}, {"id": "abnormal", "meaning": "abnormal", "prompts": ["a disease"]},
    ]},
]


def grey():
    """A picture that anybody can compute."""
    return [[(37 * x + 91 * y + 13 * x * y) % 256 for x in range(SIDE)] for y in range(SIDE)]


def save(name, module, outputs, mean, std, manifest):
    out = PLACE / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    low, high = (0 - mean) / std, (1 - mean) / std
    sha256, worst = graphs.write(module, out / "model.onnx", outputs, SIDE, low, high)
    image = (torch.tensor(grey(), dtype=torch.float32)[None, None] / 255 - mean) / std
    with torch.no_grad():
        results = module(image)
    results = results if isinstance(results, tuple) else (results,)
    golden = {key: [float(f"{v:.7g}") for v in value.flatten().tolist()] for key, value in zip(outputs, results)}
    (out / "pytorch.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    manifest(out, sha256)
    print(f"{out}: {sum(file.stat().st_size for file in out.iterdir())} bytes, within {worst:.1e}")


def densenets():
    from torchvision.models import DenseNet
    from torchxrayvision.models import DenseNet as XrayDenseNet

    small = {"growth_rate": 4, "block_config": (2, 2), "num_init_features": 8, "bn_size": 2, "num_classes": 3}
    torch.manual_seed(1)
    labels = ["Atelectasis", "Lung Opacity", "Pleural_Thickening"]
    model = graphs.settle(XrayDenseNet(**small), (1, SIDE, SIDE), 1, 512.0)
    mean, std = xray_vision.MEAN, xray_vision.STD
    save("xray-densenet", xray_vision.explained(model, list(enumerate(labels))), ["logits", "cam"], mean, std, lambda out, sha: (
        folder.write_classifier(out, ABOUT, sha, SIDE, mean, std, labels, {"Lung Opacity": (0.25, "models/export/fixtures.py")})
    ))
    torch.manual_seed(2)
    model = DenseNet(**small)
    model.classifier = nn.Sequential(nn.Linear(model.classifier.in_features, 3))
    model = graphs.settle(model, (3, SIDE, SIDE), 2)
    save("three-channel-densenet", chexnet.explained(model), ["logits", "cam"], 0.0, 1.0, lambda out, sha: (
        folder.write_classifier(out, ABOUT, sha, SIDE, 0.0, 1.0, chexnet.LABELS[:3], {})
    ))


def transformers():
    import open_clip
    import timm
    from open_clip.model import CLIP

    torch.manual_seed(3)
    clip = CLIP(
        embed_dim=8, vision_cfg={"image_size": SIDE, "layers": 1, "width": 16, "head_width": 8, "mlp_ratio": 2.0, "patch_size": 8},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    ).eval()
    vectors = towers.embed(clip, open_clip.get_tokenizer("ViT-B-32"), QUESTIONS)
    prepare = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}

    def manifest(out, sha):
        folder.write_generalist(out, ABOUT, sha, SIDE, 8, "a tiny random tower", 14.285714, QUESTIONS, vectors)

    save("open-clip-vit", towers.embedded(clip, prepare), ["embedding"], 0.0, 1.0, manifest)
    torch.manual_seed(4)
    vit = timm.models.VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=16, depth=1, num_heads=2, mlp_ratio=2.0, num_classes=0,
    )
    clip.visual = nn.Sequential(vit, nn.Linear(16, 8, bias=False)).eval()
    save("timm-vit", towers.embedded(clip, prepare), ["embedding"], 0.0, 1.0, manifest)


if __name__ == "__main__":
    densenets()
    transformers()
