"""BiomedCLIP: a ViT-B/16 of timm and PubMedBERT in one space, as open_clip builds them."""

import json
import tempfile
from pathlib import Path

import torch

import towers
import weights

EXAMPLE = """examples:
  export.py biomedclip --weights hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224 --out ~/models/biomedclip
      open_clip fetches the weights, the tokenizer's words and PubMedBERT's configuration itself
  export.py biomedclip --weights open_clip_pytorch_model.bin --vocabulary vocab.txt --out ~/models/biomedclip
      files that you have: the weights, and the words of PubMedBERT's tokenizer
"""
HUB = "hf-hub:"
# What BiomedCLIP's own configuration says; its mean and deviation are open_clip's default, OpenAI's.
VISION = {
    "timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": 224,
}
TEXT = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "hf_model_pretrained": False, "context_length": 256}
EMBEDDING = 512
# PubMedBERT, which is BERT-base with words of its own.
BERT = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512,
    "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
}


def arguments(parser):
    parser.add_argument("--weights", metavar="NAME_OR_FILE", help="a name that begins with hf-hub:, or a file")
    parser.add_argument("--vocabulary", type=Path, metavar="FILE", help="of a file: the tokenizer's words, one a line (vocab.txt)")
    parser.add_argument("--trust-pickle", action="store_true", help="read a file that holds more than tensors, which runs what it holds")
    parser.add_argument("--questions", metavar="MODEL_TOML", help="a manifest whose questions and prompts it is to answer; default Duet's own")


def build(vocabulary, vision=VISION, bert=BERT, embedding=EMBEDDING, text=TEXT):
    """The model with random weights, and its tokenizer, with nothing fetched."""
    from open_clip.model import CustomTextCLIP, set_model_preprocess_cfg
    from open_clip.tokenizer import HFTokenizer
    from open_clip.transform import PreprocessCfg

    words = vocabulary.read_text(encoding="utf-8").split("\n")
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        (place / "config.json").write_text(json.dumps(bert))
        (place / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
        (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
        text = {**text, "hf_model_name": str(place), "hf_tokenizer_name": str(place)}
        model = CustomTextCLIP(embed_dim=embedding, vision_cfg=vision, text_cfg=text)
        tokenizer = HFTokenizer(str(place), context_length=text["context_length"])
    set_model_preprocess_cfg(model, vars(PreprocessCfg(size=vision["image_size"])))
    return model, tokenizer


def run(wanted):
    if wanted.weights and wanted.weights.startswith(HUB):
        import open_clip

        model, _ = open_clip.create_model_from_pretrained(wanted.weights)
        tokenizer = open_clip.get_tokenizer(wanted.weights)
    else:
        if not wanted.vocabulary or not wanted.vocabulary.is_file():
            raise SystemExit("--vocabulary is missing: give the tokenizer's words (vocab.txt of PubMedBERT) beside the file of weights")
        torch.manual_seed(wanted.random or 0)
        model, tokenizer = build(wanted.vocabulary)
        if wanted.random is None:
            state = weights.state_of(weights.load(wanted.weights, wanted.trust_pickle))
            weights.fill(model, state, wanted.weights, ignore={"text.transformer.embeddings.position_ids"})
    towers.run(wanted, model.eval(), tokenizer, {
        "title": "BiomedCLIP, ViT-B/16 and PubMedBERT",
        "source": f"BiomedCLIP, weights {wanted.weights}" if wanted.weights else "BiomedCLIP",
        "licence": "Research use only, as its authors intend it. Weights: MIT (Microsoft). Code of open_clip: MIT.",
        "tower": "BiomedCLIP's PubMedBERT, prompts averaged, unit length",
        "what": "A dual encoder of images and texts, learnt contrastively from fifteen million figures of biomedical articles and "
                "their captions.",
        "citation": "Zhang S. et al., A multimodal biomedical foundation model trained from fifteen million image-text pairs, "
                    "NEJM AI 2025 · Gu Y. et al., Domain-specific language model pretraining for biomedical natural language "
                    "processing, 2021.",
    })
