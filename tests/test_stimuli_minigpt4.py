import json
import os
import shutil
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from test_stimuli_images import noise
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
)

from paperlib.stimuli.captioners import load_captioner
from paperlib.stimuli.minigpt4 import BEFORE_IMAGE, BLIP2_PARTS, image_transform
from paperlib.stimuli.weights import read_tensors

PROMPT = "Describe this image in detail."
SIZE, N_QUERIES, WIDTH = 28, 4, 16
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # as sentencepiece writes it
LETTERS = [SPACE, *(chr(code) for code in range(33, 127)), "##"]
PARTS = {"vision": "blip2", "projection": "projection.pth", "language": "vicuna"}
VOCABULARY = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *LETTERS])}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Write tiny random weights in the layout of the released files."""
    folder = tmp_path_factory.mktemp("released")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        blip2, llama = tiny_blip2(), tiny_llama()
        projection = torch.nn.Linear(WIDTH, llama.config.hidden_size)
    for parameter in projection.parameters():
        parameter.data *= 8  # so that captions differ from image to image
    write_blip2(folder / "blip2", blip2)
    llama.save_pretrained(folder / "vicuna")
    tokenizer = LlamaTokenizer(vocab=VOCABULARY, merges=[("#", "#")])
    tokenizer.save_pretrained(folder / "vicuna")
    named = {f"llama_proj.{k}": v for k, v in projection.state_dict().items()}
    torch.save({"model": named, "epoch": 3}, folder / "projection.pth")
    return folder


def tiny_blip2():
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    layers |= {"initializer_range": 0.5}
    vision = {"hidden_size": 24, "image_size": SIZE, "patch_size": 14}
    qformer = {"hidden_size": WIDTH, "encoder_hidden_size": 24, "vocab_size": 8}
    text = {"model_type": "t5", "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1}
    config = Blip2Config(
        vision_config=layers | vision,
        qformer_config=layers | qformer,
        text_config=text | {"num_heads": 2, "vocab_size": 16},
        num_query_tokens=N_QUERIES,
    )
    model = Blip2ForConditionalGeneration(config).eval()
    model.query_tokens.data.normal_()
    return model


def tiny_llama():
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
    layers |= {"intermediate_size": 48, "max_position_embeddings": 512}
    tokens = {"vocab_size": len(VOCABULARY), "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(**layers, **tokens, initializer_range=0.4)
    return LlamaForCausalLM(config).eval()


def write_blip2(folder, model, *, ending="safetensors"):
    """Write two shards with their index; the second holds nothing but T5."""
    folder.mkdir()
    model.config.save_pretrained(folder)
    stem = "model" if ending == "safetensors" else "pytorch_model"
    shards = [f"{stem}-0000{number}-of-00002.{ending}" for number in (1, 2)]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    late = {k for k in tensors if k.startswith("language_model.decoder")}
    places = {name: shards[name in late] for name in tensors}
    save = save_file if ending == "safetensors" else torch.save
    save({k: v for k, v in tensors.items() if k not in late}, folder / shards[0])
    (folder / shards[1]).write_bytes(b"not to be read")
    index = {"metadata": {}, "weight_map": places}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    assert late and any(k.startswith("language_model.") for k in tensors.keys() - late)


def load(released, **changes):
    parts = {name: str(released / place) for name, place in PARTS.items()} | changes
    revisions = {"vision_revision": None, "language_revision": None}
    return load_captioner("minigpt4", **parts, **revisions, device="cpu")


@pytest.fixture(scope="module")
def captioner(released):
    return load(released)


@pytest.fixture(scope="module")
def whole(released):
    """Return the same BLIP-2 in transformers, but for its language model."""
    config = Blip2Config.from_pretrained(released / "blip2")
    model = Blip2ForConditionalGeneration(config).eval()
    tensors = read_tensors(str(released / "blip2"), BLIP2_PARTS, revision=None)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and all(k.startswith("language_") for k in missing)
    return model


@pytest.fixture(scope="module")
def pictures():
    return noise([(40, 40), (60, 30), (30, 90), (28, 28), (5, 7)])


def test_batch_gives_the_captions_of_single_images(captioner, pictures):
    options = {"prompt": PROMPT, "max_new_tokens": 12}
    captions = captioner(pictures, **options)
    assert captions == [captioner([picture], **options)[0] for picture in pictures]
    assert len(set(captions)) > 2


@torch.inference_mode()
def test_image_tokens_are_those_of_blip2_projected(
    released, captioner, whole, pictures
):
    pixels = torch.stack([image_transform(SIZE)(picture) for picture in pictures])
    weights = torch.load(released / "projection.pth", weights_only=True)["model"]
    patches = whole.vision_model(pixels).last_hidden_state
    queries = whole.query_tokens.expand(len(pictures), -1, -1)
    tokens = whole.qformer(queries, encoder_hidden_states=patches)[0]
    expected = tokens @ weights["llama_proj.weight"].T + weights["llama_proj.bias"]
    torch.testing.assert_close(captioner.image_tokens(pictures), expected)


def test_language_model_reads_one_start_token_and_the_released_words(
    captioner, pictures, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        captioner.language,
        "generate",
        lambda **options: seen.append(options) or torch.zeros(1, 0, dtype=torch.long),
    )
    captioner(pictures[:1], prompt=PROMPT, max_new_tokens=5)
    words = captioner.language.get_input_embeddings().weight.detach().numpy()
    embedded = seen[0]["inputs_embeds"][0].numpy()
    exact = (embedded[:, None] == words[None]).all(axis=2)
    read = [int(row.argmax()) if row.any() else "image" for row in exact]
    begin, end = read.index("image"), read.index("image") + N_QUERIES
    assert read[0] == captioner.tokenizer.bos_token_id not in read[1:]
    assert read[begin:end] == ["image"] * N_QUERIES
    assert text_of(read[1:begin]) == BEFORE_IMAGE
    assert text_of(read[end:]) == "</Img> Describe this image in detail.###Assistant: "
    assert not seen[0]["do_sample"]


def text_of(ids):
    tokens = list(VOCABULARY)
    text = "".join(tokens[i] for i in ids).replace(SPACE, " ")
    return text.removeprefix(" ")  # sentencepiece puts one before every text


def forced(captioner, texts, monkeypatch):
    """Let the language model write these tokens, whatever it reads."""
    language, step = captioner.language, []
    forward = type(language).forward

    def writing(self, **inputs):
        output = forward(self, **inputs)
        column = len(step)
        step.append(column)
        output.logits[:, -1] = 0.0
        for row, tokens in enumerate(texts[: len(output.logits)]):
            token = tokens[column] if column < len(tokens) else "x"
            output.logits[row, -1, VOCABULARY[token]] = 9.0
        return output

    monkeypatch.setattr(type(language), "forward", writing)
    return step


def test_captions_stop_at_the_end_of_the_turn(captioner, pictures, monkeypatch):
    cat = [*"A▁cat.", "##", "#", *"Human:"]
    dog = [*"▁A▁#▁dog.", "#", "##"]
    emu = [*"An▁emu.", "##", "</s>"]
    endings = {"An emu.##" + 16 * "x": 24, "An emu.##": len(dog)}
    for last, (ending, n_steps) in zip([emu[:-1], emu], endings.items(), strict=True):
        with monkeypatch.context() as patch:
            steps = forced(captioner, [cat, dog, last], patch)
            captions = captioner(pictures[:3], prompt=PROMPT, max_new_tokens=24)
        assert captions == ["A cat.", "A # dog.", ending]
        assert len(steps) == n_steps  # none after the last stop


def test_squashed_as_blip_does():
    wide = Image.new("RGB", (90, 30), (255, 0, 0))
    wide.paste((0, 0, 255), (45, 0, 90, 30))
    pixels = image_transform(SIZE)(wide)
    assert pixels.shape == (3, SIZE, SIZE)
    assert pixels[0, 0, 0].item() == pytest.approx((1 - 0.48145466) / 0.26862954)
    assert pixels[2, -1, -1].item() == pytest.approx((1 - 0.40821073) / 0.27577711)


def test_record_names_every_part(released, captioner):
    assert captioner.revision is None
    assert all(str(released / part) in captioner.name for part in PARTS.values())
    expected = {"do_sample": False, "num_beams": 1, "pixels": SIZE**2}
    assert captioner.decoding == expected | {"dtype": "float32"}


def test_shards_of_either_kind(released, captioner, whole, tmp_path, pictures):
    write_blip2(tmp_path / "bin", whole, ending="bin")
    again = load(released, vision=str(tmp_path / "bin"))
    assert torch.equal(again.image_tokens(pictures), captioner.image_tokens(pictures))


WEIGHT, BIAS = "llama_proj.weight", {"llama_proj.bias": torch.zeros(32)}
MATRIX = torch.zeros(32, WIDTH)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({WEIGHT: MATRIX}, "there is no tensor llama_proj.bias"),
        (
            {"llama_prj.weight": MATRIX, **BIAS},
            "llama_proj.weight. Did you mean 'llama_prj.",
        ),
        ({WEIGHT: MATRIX.T, **BIAS}, r"weight: .* shape torch.Size\(\[16, 32\]\)"),
        ({WEIGHT: MATRIX / 0, **BIAS}, "the weights weight are NaN"),
        (None, "projection.pth is damaged.*KeyError: 'model'"),
    ],
)
def test_projection_that_does_not_fit(released, tmp_path, tensors, message):
    path = tmp_path / "projection.pth"
    torch.save({"epoch": 3} if tensors is None else {"model": tensors}, path)
    with pytest.raises(ValueError, match=message):
        load(released, projection=str(path))


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_hostile_projection_is_refused(released, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "projection.pth"
    torch.save({"model": {"llama_proj.weight": Hostile()}}, path)
    with pytest.raises(ValueError, match="projection.pth is damaged.*UnpicklingError"):
        load(released, projection=str(path))
    assert os.listdir(tmp_path) == ["projection.pth"]


def test_weights_of_blip2_must_be_whole(released, tmp_path):
    folder = Path(shutil.copytree(released / "blip2", tmp_path / "blip2"))
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    index.unlink()
    with pytest.raises(FileNotFoundError, match="has no index of its weights"):
        load(released, vision=str(folder))
    del content["weight_map"]["vision_model.post_layernorm.bias"]
    index.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match="blip2 is damaged.*there is no tensor vision_model.post"
    ):
        load(released, vision=str(folder))


def test_a_language_model_with_the_tokenizer_of_sentencepiece(released, tmp_path):
    """As the first Vicuna has it, without a tokenizer.json."""
    ignored = shutil.ignore_patterns("tokenizer*", "special_tokens*")
    vicuna = shutil.copytree(released / "vicuna", tmp_path / "vicuna", ignore=ignored)
    written = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([PROMPT] * 20),
        model_writer=written,
        **{"vocab_size": 300, "model_type": "bpe", "byte_fallback": True},
        minloglevel=2,
    )
    (vicuna / "tokenizer.model").write_bytes(written.getvalue())
    kind = json.dumps({"tokenizer_class": "LlamaTokenizer"})
    (vicuna / "tokenizer_config.json").write_text(kind)
    ours = load(released, language=str(vicuna)).tokenizer
    own = SentencePieceProcessor(model_proto=written.getvalue())
    assert ours.bos_token_id == own.bos_id()
    assert ours(PROMPT, add_special_tokens=False).input_ids == own.encode(PROMPT)


@pytest.mark.parametrize("part", PARTS)
def test_missing_or_truncated_parts(released, tmp_path, part):
    folder = Path(shutil.copytree(released, tmp_path / "released"))
    path = folder / PARTS[part]
    file = path if path.is_file() else next(path.glob("model*.safetensors"))
    file.write_bytes(file.read_bytes()[:-200])
    message = f"{path}.* is damaged.*Download it again"
    with pytest.raises(ValueError, match=message):
        load(folder)
    message = "There is no folder .*nowhere; expected a folder|nowhere is missing"
    with pytest.raises(FileNotFoundError, match=message):
        load(released, **{part: str(tmp_path / "nowhere")})
