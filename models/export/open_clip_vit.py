"""open_clip's ViT-B/32, with either activation."""

import torch

import towers

EXAMPLE = """examples:
  export.py open-clip --weights laion2b_s34b_b79k --out ~/models/clip-laion
      the package fetches the weights itself
  export.py open-clip --model ViT-B-32-quickgelu --weights ViT-B-32.pt --licence "MIT" --out ~/models/clip-openai
      a file that you have, with the terms that it came under
"""
# Weights that the package fetches by name, and the terms that their publishers state.
LICENCES = {
    "openai": "MIT (OpenAI CLIP); its authors rule out deployment without testing on the task",
    "laion400m_e31": "MIT (LAION, OpenCLIP)", "laion400m_e32": "MIT (LAION, OpenCLIP)",
    "laion2b_e16": "MIT (LAION, OpenCLIP)", "laion2b_s34b_b79k": "MIT (LAION, OpenCLIP)",
    "datacomp_xl_s13b_b90k": "MIT (DataComp)",
}
MODELS = ["ViT-B-32", "ViT-B-32-quickgelu"]


def arguments(parser):
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="quickgelu: OpenAI's own weights and some early ones")
    parser.add_argument("--weights", metavar="NAME_OR_FILE", help=f"one of {', '.join(LICENCES)}, which the package fetches, or a file")
    parser.add_argument("--licence", help="of a file: the terms that it came under")
    parser.add_argument("--questions", metavar="MODEL_TOML", help="a manifest whose questions and prompts it is to answer; default Duet's own")


def run(wanted):
    import open_clip

    named = wanted.weights in LICENCES
    if wanted.random is not None:
        torch.manual_seed(wanted.random)
        model = open_clip.create_model(wanted.model, pretrained=None)
    else:
        if not named and not wanted.licence:
            raise SystemExit("--weights is a file: say with --licence under which terms it came, for the manifest")
        model = open_clip.create_model(wanted.model, pretrained=wanted.weights)
    towers.run(wanted, model.eval(), open_clip.get_tokenizer(wanted.model), {
        "title": f"open_clip {wanted.model}" + (f", weights {wanted.weights}" if wanted.weights else ""),
        "source": f"open_clip {wanted.model}" + (f", weights {wanted.weights}" if wanted.weights else ""),
        "licence": f"Research use only. Weights: {wanted.licence or LICENCES.get(wanted.weights)}. Code of open_clip: MIT.",
        "tower": f"the text tower of open_clip {wanted.model}, prompts averaged, unit length",
        "what": "A dual encoder of images and texts, learnt contrastively from pictures of the web and their captions: a "
                "generalist that has seen few radiographs.",
        "citation": "Radford A. et al., Learning transferable visual models from natural language supervision, ICML 2021 · "
                    "Cherti M. et al., Reproducible scaling laws for contrastive language-image learning, CVPR 2023 · "
                    "Ilharco G. et al., OpenCLIP, 2021.",
    })
