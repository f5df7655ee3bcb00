"""What open_clip's models share: an image tower for the graph, a text tower that embeds the prompts once, here."""

from importlib.metadata import version

import torch
import torch.nn.functional as F

import folder
import graphs


def embed(model, tokenizer, asked):
    """One vector of length 1 an answer: the mean of its prompts' vectors, as open_clip's zero-shot classifiers do it."""
    vectors = {}
    with torch.no_grad():
        for question in asked:
            for answer in question["answers"]:
                texts = F.normalize(model.encode_text(tokenizer(answer["prompts"])).float(), dim=-1)
                vectors[f"{question['id']}/{answer['id']}"] = F.normalize(texts.mean(0), dim=-1).numpy()
    return vectors


def run(wanted, model, tokenizer, about):
    """Writes the folder of an open_clip model in evaluation mode."""
    import open_clip

    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = preprocess["size"]
    size = size if isinstance(size, int) else size[0]
    asked = folder.questions(wanted.questions)
    vectors = embed(model, tokenizer, asked)
    out = folder.make(wanted.out)
    module = embedded(model, preprocess)
    sha256, worst = graphs.write(module, out / "model.onnx", ["embedding"], size, 0.0, 1.0)
    dim = len(next(iter(vectors.values())))
    about = {
        "version": version("open_clip_torch"),
        "uncalibrated": "Its answers are a softmax over the scaled cosines of image and prompts, with the scale that it was "
                        "trained with and no bias. That is no probability. So it decides nothing yet: nothing is out of scope "
                        "(`scope_min = 0`), nothing unfit to read (`fitness_min = 0`), and nothing is ever cleared. "
                        "`duet eval --triage` measures what it would be worth; write thresholds that you have measured into "
                        "`model.toml`, with [calibration] and the miss rate, before it may clear anything.",
        **about,
    }
    if wanted.random is not None:
        about["title"] = folder.RANDOM + about["title"]
        about["source"] = f"random weights, seed {wanted.random}, in the architecture of {about['source']}"
        about["licence"] = "Random weights, for trying out; code of open_clip: MIT."
    folder.write_generalist(out, about, sha256, size, dim, about["tower"], model.logit_scale.exp().item(), asked, vectors)
    folder.write_card(
        out, about,
        f"one grey channel, {size} x {size} px, the picture's middle square; the graph repeats it into three channels and "
        f"normalises each by mean {preprocess['mean']} and deviation {preprocess['std']}. The package scales with a bicubic "
        "filter, Duet with an antialiased triangle.",
        f"a vector of {dim} numbers, of length 1; the prompts' vectors are in `prompts.json`.", worst,
    )
    folder.done(out, worst)


def embedded(model, preprocess):
    return graphs.Embedded(model.visual, graphs.ThreeChannels(preprocess["mean"], preprocess["std"]))
