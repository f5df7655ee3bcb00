"""The exports against the packages they are of, at random weights: `make test-export`.

Compared with what the package itself computes from the same picture: outputs on tract (through the example
`run_model`, which DUET_RUN_MODEL names), normalisation, labels, thresholds, prompts; and the ways of reading weights.
"""

import argparse
import contextlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import tomllib
import unittest
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.simplefilter("ignore")

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

import biomedclip
import chexnet
import concepts
import export
import folder
import graphs
import open_clip_vit
import weights
import xray_vision

TOLERANCE = 1e-4
RUN_MODEL = os.environ.get("DUET_RUN_MODEL")
MODELS = folder.HERE.parent
torch.set_num_threads(1)

WORK = tempfile.TemporaryDirectory()
AT = Path(WORK.name)

QUESTIONS = """
[[questions]]
id = "kind"
answers = [
    { id = "chest-radiograph-frontal", meaning = "chest radiograph", in_scope = true, prompts = ["a chest x-ray", "a radiograph of the lungs"] },
    { id = "photograph", meaning = "photograph", in_scope = false, prompts = ["a photograph"] },
]
[[questions]]
id = "fitness"
answers = [{ id = "fit", meaning = "fit", prompts = ["sharp"] }, { id = "blurred", meaning = "blurred", prompts = ["blurred"] }]
[[questions]]
id = "abnormal"
answers = [{ id = "normal", meaning = "normal", prompts = ["clear lungs"] }, { id = "abnormal", meaning = "abnormal", prompts = ["a disease"] }]
"""


def film():
    """A drawn chest, wider than high, with the structure and noise of a film."""
    path = AT / "film.png"
    if not path.exists():
        rng = np.random.default_rng(3)
        picture = Image.new("L", (640, 512), 20)
        draw = ImageDraw.Draw(picture)
        draw.ellipse((60, 30, 580, 700), fill=170)
        draw.ellipse((130, 90, 300, 440), fill=60)
        draw.ellipse((340, 90, 510, 440), fill=60)
        draw.ellipse((270, 250, 430, 430), fill=190)
        for rib in range(9):
            draw.arc((110, 60 + 40 * rib, 530, 200 + 40 * rib), 180, 360, fill=130, width=7)
        grey = np.asarray(picture.resize((640, 512)), dtype=np.float32) + rng.normal(0, 6, (512, 640))
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(path)
    return path


def run_model(*arguments):
    run = subprocess.run([RUN_MODEL, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def on_tract(out, images):
    """The graph's outputs on tract, one dictionary of arrays an image."""
    files = []
    for number, image in enumerate(images):
        files.append(AT / f"input-{number}.f32")
        files[-1].write_bytes(image.numpy().astype("<f4").tobytes())
    return [
        {name: np.array(own["values"], np.float32).reshape(own["shape"]) for name, own in line.items() if name != "file"}
        for line in run_model("--raw", out, *files)
    ]


def duets_input(out, size=224):
    return torch.tensor(run_model("--input", out, film())[0]["input"])[None].reshape(1, 1, size, size)


def exported(name, *arguments):
    out = AT / name
    if not out.exists():
        with contextlib.redirect_stdout(io.StringIO()):
            export.main([*arguments, "--out", str(out)])
    return out


def manifest(out):
    return tomllib.loads((out / "model.toml").read_text())


def wanted(**own):
    return argparse.Namespace(**{"weights": None, "set": None, "random": None, "trust_pickle": False, **own})


def refused(*arguments):
    """What the export says as it stops."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            export.main([*arguments, "--out", str(AT / "refused")])
        except SystemExit as end:
            return f"{errors.getvalue()}{end.code}"
    raise AssertionError("it must stop")


class Compared(unittest.TestCase):
    def near(self, ours, theirs, tolerance=TOLERANCE, words=""):
        worst = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
        print(f"    {self.id().split('.')[-1]} {words}: within {worst:.1e} of {tolerance:.1e}", file=sys.stderr)
        self.assertLess(worst, tolerance, words)

    def random_and_honest(self, out):
        own = manifest(out)
        self.assertTrue(own["title"].startswith("RANDOM WEIGHTS, FINDS NOTHING"))
        self.assertNotIn("calibration", own)
        self.assertIn("Not measured here: run `duet eval`", (out / "MODEL_CARD.md").read_text())
        return own


class TorchXRayVision(Compared):
    def test_tract_computes_what_the_package_does(self):
        out = exported("xrv", "torchxrayvision", "--random", "7")
        package, _ = xray_vision.network(wanted(random=7))
        images = list(graphs.pictures(224, -1024.0, 1024.0, range(3)))
        for image, ours in zip(images, on_tract(out, images)):
            with torch.no_grad():
                self.near(ours["logits"], package(image), words="logits")
                features = F.relu(package.features(image))
            self.near(ours["cam"], torch.einsum("nchw,lc->nlhw", features, package.classifier.weight.data), words="maps")

    def test_a_film_is_scaled_as_the_package_does(self):
        import torchxrayvision as xrv

        out = exported("xrv", "torchxrayvision", "--random", "7")
        grey = np.asarray(Image.open(film()))
        package = xrv.datasets.XRayCenterCrop()(xrv.datasets.normalize(grey, 255)[None])
        # The network's own resampling, where it is given another size than 224; Duet rounds to whole grey first,
        # which is half a level of 2048 / 255.
        resized = xrv.utils.fix_resolution(torch.from_numpy(package), 224, 0)
        self.near(duets_input(out), resized, 0.51 * 2048 / 255, "the network's own resampling")
        # The resampling of the package's readers (scikit-image, which smooths before it shrinks) differs more.
        reader = xrv.datasets.XRayResizer(224)(package)
        difference = float(np.abs(duets_input(out)[0].numpy() - reader).mean()) / 2048
        print(f"    against the readers' resampling: {difference:.4f} of the range on average", file=sys.stderr)
        self.assertLess(difference, 0.01)

    def test_labels_are_the_sets_and_empty_outputs_are_left_out(self):
        out = exported("xrv-nih", "torchxrayvision", "--random", "7", "--set", "densenet121-res224-nih")
        own = self.random_and_honest(out)
        from torchxrayvision.models import model_urls

        nih = model_urls["densenet121-res224-nih"]
        self.assertEqual([label["name"] for label in own["labels"]], [label for label in nih["labels"] if label])
        self.assertEqual(len(own["labels"]), 14)
        package, _ = xray_vision.network(wanted(random=7))
        image = next(graphs.pictures(224, -1024.0, 1024.0, [5]))
        with torch.no_grad():
            theirs = package(image)[0]
        [ours] = on_tract(out, [image])
        rows = [row for row, label in enumerate(nih["labels"]) if label]
        self.near(ours["logits"][0], theirs[rows], words="the outputs that have a label")
        for label, row in zip(own["labels"], rows):
            self.assertEqual(label["operating_point"]["threshold"], nih["op_threshs"][row])
            self.assertIn("op_threshs of densenet121-res224-nih", label["operating_point"]["source"])
        rsna = xray_vision.labels_of("densenet121-res224-rsna")
        self.assertEqual(([label for _, label in rsna[0]], sorted(rsna[1])), (["Pneumonia", "Lung Opacity"], ["Lung Opacity", "Pneumonia"]))
        chex = exported("xrv-chex", "torchxrayvision", "--random", "7", "--set", "densenet121-res224-chex")
        self.assertIn("of the network's eighteen outputs 7 are empty", (chex / "MODEL_CARD.md").read_text())

    def test_a_finding_of_the_package_is_one_of_duets(self):
        """The package shows an operating point as 0.5; Duet has it as a threshold of the sigmoid."""
        from torchxrayvision.models import model_urls, op_norm

        points = torch.tensor(model_urls["densenet121-res224-all"]["op_threshs"])
        logits = torch.linspace(-9, 6, 4001)[:, None].expand(-1, 18)
        probability = torch.sigmoid(logits)
        self.assertTrue(torch.equal(op_norm(probability, points) >= 0.5, probability >= points))

    def test_weights_of_a_file(self):
        package, _ = xray_vision.network(wanted(random=11))
        whole, tensors = AT / "whole.pt", AT / "tensors.pt"
        torch.save(package, whole)
        torch.save(package.state_dict(), tensors)
        self.assertIn("--trust-pickle", refused("torchxrayvision", "--weights", str(whole)))
        out = exported("xrv-whole", "torchxrayvision", "--weights", str(whole), "--trust-pickle")
        same = exported("xrv-tensors", "torchxrayvision", "--weights", str(tensors))
        self.assertEqual(manifest(out)["sha256"], manifest(same)["sha256"])
        self.assertNotIn("RANDOM", manifest(out)["title"])
        state = {name: value for name, value in package.state_dict().items() if "norm5" not in name}
        torch.save(state, tensors)
        self.assertIn("it lacks features.norm5.weight", refused("torchxrayvision", "--weights", str(tensors)))
        self.assertIn("no such file", refused("torchxrayvision", "--weights", str(AT / "nothing.pt")))
        self.assertIn("the package has no such set", refused("torchxrayvision", "--random", "1", "--set", "mars"))


class CheXNet(Compared):
    @staticmethod
    def published(seed):
        """The published re-implementation's module, sigmoid and all, with the weights of `--random seed`."""
        from torchvision.models import densenet121

        class DenseNet121(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.densenet121 = densenet121(weights=None)
                width = self.densenet121.classifier.in_features
                self.densenet121.classifier = torch.nn.Sequential(torch.nn.Linear(width, 14), torch.nn.Sigmoid())

            def forward(self, x):
                return self.densenet121(x)

        module = DenseNet121()
        module.densenet121.load_state_dict(chexnet.network(wanted(random=seed)).state_dict())
        return module.eval()

    def test_tract_computes_what_the_package_does(self):
        out = exported("chexnet", "chexnet", "--random", "7")
        package = self.published(7)
        images = list(graphs.pictures(224, 0.0, 1.0, range(3)))
        mean, std = (torch.tensor(own)[None, :, None, None] for own in (chexnet.MEAN, chexnet.STD))
        for image, ours in zip(images, on_tract(out, images)):
            three = (image.expand(-1, 3, -1, -1) - mean) / std
            with torch.no_grad():
                self.near(1 / (1 + np.exp(-ours["logits"])), package(three), words="probabilities")
                logits = package.densenet121.classifier[0](F.relu(package.densenet121.features(three)).mean((2, 3)))
            self.near(ours["logits"], logits, words="logits")

    def test_a_film_is_normalised_as_torchvision_does(self):
        from torchvision import transforms

        out = exported("chexnet", "chexnet", "--random", "7")
        picture = Image.open(film()).convert("RGB")
        theirs = transforms.Compose([
            transforms.CenterCrop(min(picture.size)), transforms.Resize(224), transforms.ToTensor(),
            transforms.Normalize(list(chexnet.MEAN), list(chexnet.STD)),
        ])(picture)
        ours = graphs.ThreeChannels(chexnet.MEAN, chexnet.STD)(duets_input(out))
        # One grey level: Pillow rounds between its two passes, Duet once.
        self.near(ours[0], theirs, 1.01 / 255 / min(chexnet.STD), "all three channels")

    def test_labels_and_no_threshold(self):
        own = self.random_and_honest(exported("chexnet", "chexnet", "--random", "7"))
        self.assertEqual([label["name"] for label in own["labels"]], chexnet.LABELS)
        self.assertFalse([label for label in own["labels"] if "operating_point" in label or "platt" in label])

    def test_a_published_checkpoint_is_read_by_its_own_names(self):
        package = self.published(12)
        old = {}
        for name, value in package.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            for part in ("norm1.", "norm2.", "conv1.", "conv2."):
                if "denselayer" in name:
                    name = name.replace(part, f"{part[:-2]}.{part[-2]}.")
            old["module." + name] = value
        self.assertIn("module.densenet121.features.denseblock1.denselayer1.norm.1.weight", old)
        self.assertIn("module.densenet121.classifier.0.weight", old)
        path = AT / "model.pth.tar"
        torch.save({"epoch": 3, "arch": "DENSE-NET-121", "state_dict": old, "best_loss": 0.1}, path)
        out = exported("chexnet-file", "chexnet", "--weights", str(path))
        image = next(graphs.pictures(224, 0.0, 1.0, [9]))
        [ours] = on_tract(out, [image])
        three = graphs.ThreeChannels(chexnet.MEAN, chexnet.STD)(image)
        with torch.no_grad():
            self.near(1 / (1 + np.exp(-ours["logits"])), package(three), words="probabilities")
        self.assertIn("model.pth.tar", manifest(out)["source"])
        del old["module.densenet121.classifier.0.bias"]
        torch.save({"state_dict": old}, path)
        self.assertIn("it lacks classifier.0.bias", refused("chexnet", "--weights", str(path)))


class Towers(Compared):
    def answers_are_the_packages(self, out, model, tokenizer):
        """Vectors, answers and normalisation as the package has them, on a film."""
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        [texts] = [
            [answer["prompts"] for answer in question["answers"]]
            for question in tomllib.loads(QUESTIONS)["questions"] if question["id"] == "kind"
        ]
        transform = image_transform_v2(PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)), is_train=False)
        config = open_clip.get_model_preprocess_cfg(model)
        ours = duets_input(out)
        three = graphs.ThreeChannels(config["mean"], config["std"])(ours)
        theirs = transform(Image.open(film()))[None]
        difference = (three - theirs).abs() * torch.tensor(config["std"])[None, :, None, None]
        print(f"    against bicubic resampling: mean {float(difference.mean()):.4f}, most {float(difference.max()):.3f} of the range", file=sys.stderr)
        self.assertLess(float(difference.mean()), 0.02, "bicubic there, triangle here")
        with torch.no_grad():
            classes = torch.stack([
                F.normalize(F.normalize(model.encode_text(tokenizer(own)), dim=-1).mean(0), dim=-1) for own in texts
            ])
            logits = model.logit_scale.exp() * model.encode_image(three, normalize=True) @ classes.T
        [line] = run_model(out, film())
        self.near(list(line["kind"].values()), logits.softmax(-1)[0], words="answers")
        vectors = json.loads((out / "prompts.json").read_text())
        self.near(vectors["kind/chest-radiograph-frontal"], classes[0], words="prompts")
        self.assertEqual(len(vectors), 6)

    def graph_is_the_packages(self, out, model):
        import open_clip

        config = open_clip.get_model_preprocess_cfg(model)
        images = list(graphs.pictures(224, 0.0, 1.0, range(2)))
        for image, ours in zip(images, on_tract(out, images)):
            three = graphs.ThreeChannels(config["mean"], config["std"])(image)
            with torch.no_grad():
                self.near(ours["embedding"], model.encode_image(three, normalize=True), words="embedding")

    def nothing_is_decided(self, out):
        own = self.random_and_honest(out)
        self.assertEqual(own["decision"], {"scope_min": 0.0, "fitness_min": 0.0})
        self.assertEqual((own["input"]["mean"], own["input"]["std"], own["input"]["fit"]), (0.0, 1.0, "crop"))

    def questions(self):
        path = AT / "questions.toml"
        path.write_text(QUESTIONS)
        return str(path)


class OpenClip(Towers):
    def model(self, seed):
        import open_clip

        torch.manual_seed(seed)
        return open_clip.create_model("ViT-B-32", pretrained=None).eval()

    def test_tract_computes_what_the_package_does(self):
        import open_clip

        out = exported("clip", "open-clip", "--random", "7", "--questions", self.questions())
        model = self.model(7)
        self.graph_is_the_packages(out, model)
        self.answers_are_the_packages(out, model, open_clip.get_tokenizer("ViT-B-32"))
        self.nothing_is_decided(out)

    def test_weights_of_a_file_come_with_their_terms(self):
        path = AT / "clip.pt"
        torch.save(self.model(8).state_dict(), path)
        arguments = ["open-clip", "--weights", str(path), "--questions", self.questions()]
        self.assertIn("--licence", refused(*arguments))
        out = exported("clip-file", *arguments, "--licence", "my own")
        self.assertIn("Weights: my own.", manifest(out)["licence"])
        self.graph_is_the_packages(out, self.model(8))
        path.unlink()


class BiomedClip(Towers):
    def vocabulary(self):
        path = AT / "vocab.txt"
        letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
        path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "-", "chest", "lungs", *letters, *("##" + c for c in letters)]))
        return path

    def test_tract_computes_what_the_package_does(self):
        out = exported(
            "biomedclip", "biomedclip", "--random", "7", "--vocabulary", str(self.vocabulary()), "--questions", self.questions(),
        )
        torch.manual_seed(7)
        model, tokenizer = biomedclip.build(self.vocabulary())
        # As the package builds it by the published configuration.
        self.assertEqual(type(model.visual.trunk).__name__, "VisionTransformer")
        self.assertEqual((len(model.visual.trunk.blocks), model.visual.trunk.embed_dim), (12, 768))
        self.assertEqual((model.text.config.num_hidden_layers, model.text.config.vocab_size), (12, 30522))
        # Beginning and end, words, then padding.
        self.assertEqual(tokenizer(["chest lungs"])[0, :5].tolist(), [2, 6, 7, 3, 0])
        self.graph_is_the_packages(out, model.eval())
        self.answers_are_the_packages(out, model, tokenizer)
        self.nothing_is_decided(out)
        state = AT / "biomedclip.bin"
        # As the published file has it: with a buffer that newer versions no longer keep.
        torch.save({**model.state_dict(), "text.transformer.embeddings.position_ids": torch.arange(512)[None]}, state)
        arguments = ["biomedclip", "--weights", str(state), "--questions", self.questions()]
        self.assertIn("--vocabulary", refused(*arguments))
        same = exported("biomedclip-file", *arguments, "--vocabulary", str(self.vocabulary()))
        self.assertEqual(manifest(same)["sha256"], manifest(out)["sha256"])
        state.unlink()


class Folders(Compared):
    def test_concepts_are_those_of_the_shipped_model(self):
        for label in manifest(MODELS / "cxr-findings")["labels"]:
            code = label["code"]
            self.assertEqual(concepts.concept(label["name"]), (code["scheme"], code["value"], code["meaning"], label["synonyms"]))

    def test_default_prompts_are_duets(self):
        asked = folder.questions(None)
        self.assertEqual(asked, manifest(MODELS / "generalist")["questions"])

    def test_wrong_use_says_what_to_do(self):
        self.assertIn("--weights is missing", refused("chexnet"))
        self.assertIn("exclude each other", refused("chexnet", "--random", "1", "--weights", "x"))
        with self.assertRaises(SystemExit) as end:
            folder.make(AT / "Not A Name")
        self.assertIn("lower-case letters", str(end.exception))
        taken = AT / "taken"
        taken.mkdir()
        (taken / "model.toml").write_text("")
        with self.assertRaises(SystemExit) as end:
            folder.make(taken)
        self.assertIn("holds a model already", str(end.exception))

    def test_every_command_has_help_with_an_example(self):
        for name in export.MODELS:
            told = io.StringIO()
            with contextlib.redirect_stdout(told), self.assertRaises(SystemExit):
                export.main([name, "--help"])
            self.assertIn(f"export.py {name} --weights", told.getvalue())

    def test_a_graph_that_is_not_the_network_is_not_written(self):
        class Dice(torch.nn.Module):
            def forward(self, image):
                # What the tracer writes down is the value of the first run.
                return image.mean((2, 3)) + float(torch.rand(1))

        with self.assertRaises(SystemExit) as end:
            graphs.write(Dice(), AT / "dice.onnx", ["logits"], 32, 0.0, 1.0)
        self.assertIn("differs from PyTorch", str(end.exception))
        self.assertFalse((AT / "dice.onnx").exists() or (AT / "dice.onnx.part").exists())

    def test_calibration_makes_probabilities_and_operating_points(self):
        import shutil

        out = AT / "xray-densenet"
        shutil.copytree(MODELS.parent / "shared/inference/testdata/export/xray-densenet", out)
        rng = np.random.default_rng(1)
        films = AT / "films"
        films.mkdir()
        for number in range(150):
            noise = rng.integers(0, 256, (rng.integers(2, 9), 6), dtype=np.uint8)
            Image.fromarray(noise).resize((40, 40), Image.BILINEAR).save(films / f"{number}.png")
        lines = run_model(out, *(films / f"{number}.png" for number in range(150)))
        logits = np.array([line["labels"][0]["logit"] for line in lines])
        # Atelectasis is there with a probability that the logit tells, though not as a sigmoid of it.
        z = (logits - logits.mean()) / logits.std()
        there = rng.random(150) < 1 / (1 + np.exp(-(1.5 * z - 0.5)))
        table = AT / "films.csv"
        rows = [f"{number}.png,{'Pulmonary atelectasis' if own else 'No Finding'}" for number, own in enumerate(there)]
        rows[3] = "3.png,Lung Opacity"
        table.write_text("\n".join(["file,findings", *rows]))
        run = subprocess.run(
            [sys.executable, folder.HERE / "calibrate.py", out, "--images", films, "--labels", table, "--set", "noise", "--run-model", RUN_MODEL],
            capture_output=True, text=True, check=False,
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        own = manifest(out)
        self.assertEqual((own["calibration"]["set"], own["calibration"]["n"]), ("noise", 150))
        first, second, third = own["labels"]
        self.assertGreater(first["platt"]["scale"], 0)
        self.assertNotIn("platt", second, "one film is too few")
        self.assertNotIn("operating_point", third)
        lines = run_model(out, *(films / f"{number}.png" for number in range(150)))
        probability = np.array([line["labels"][0]["probability"] for line in lines])
        self.assertLess(abs(probability.mean() - there.mean()), 0.03, "calibrated on average")
        threshold = first["operating_point"]["threshold"]
        judged = np.arange(150) != 3
        self.assertGreaterEqual((probability[judged & ~there] < threshold).mean(), 0.89)
        self.assertTrue(math.isfinite(threshold))


if __name__ == "__main__":
    if not RUN_MODEL:
        raise SystemExit("DUET_RUN_MODEL is not set: make test-export builds the example run_model and names it")
    unittest.main(verbosity=2)
