"""Models from outside: found, refused in one line, never executed, and continued bit for bit."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig, MixtralForCausalLM

from harness import checkpoint
from harness.corpus.tokenizer import train_bpe
from harness.errors import SpecError
from harness.loop import InterruptedRunError
from harness.model import build_model, count_row_flops, token_losses
from harness.model_check import check_model
from harness.preflight import check_buildable, localized
from harness.pretrained import fingerprint_model, model_folder, tokenizer_folder
from harness.records import CHECKPOINT
from harness.runner import Runner, open_finished
from harness.spec import Checkpoint, Model
from harness.specfile import load_ablation
from tests.harness.test_model import some_rows
from tests.tiny import MakeLoop, MakeSpec, Onlooker

VOCABULARY, TOKENS = 512, 32
SMALL: dict[str, bool | int | float | str] = {"hidden_size": 32, "num_hidden_layers": 2}
CAUSAL = ("gpt2", "llama", "mistral", "gpt_neo", "opt")

Folder = Callable[[str], Path]


def say_nothing(text: str) -> None:
    """Ignore progress."""


def model_of(architecture: str) -> Model:
    """Return a tiny model from scratch."""
    masked = architecture in ("bert", "roberta")
    objective = "masked" if masked else "causal"
    return Model(architecture=architecture, objective=objective, config=SMALL)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Return a function from an architecture to a folder with such a model, saved once."""
    root = tmp_path_factory.mktemp("saved")

    def save(architecture: str) -> Path:
        folder = root / architecture
        if not folder.exists():
            model: Any = build_model(model_of(architecture), VOCABULARY, TOKENS, seed=7)
            model.save_pretrained(folder)
            train_bpe(["the cat sat on the mat " * 9], 300).save(str(folder / "tokenizer.json"))
        return folder

    return save


@pytest.fixture
def copy(saved: Folder, tmp_path: Path) -> Callable[..., Path]:
    """Return a function to a copy of a saved model that may be broken."""

    def make(architecture: str = "gpt2", **config: Any) -> Path:
        folder = Path(shutil.copytree(saved(architecture), tmp_path / architecture))
        edited = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(edited))
        return folder

    return make


def found(source: str | Path, out: Path, trust: bool = False) -> Path:
    """Resolve a source."""
    return model_folder(str(source), None, trust, out, say_nothing)


@pytest.mark.parametrize("architecture", [*CAUSAL, "bert", "roberta"])
def test_a_source_is_its_weights_whatever_the_seed(architecture: str, saved: Folder) -> None:
    """Equal to the model that was saved, in float32, without dropout; the blank one is not."""
    scratch = build_model(model_of(architecture), VOCABULARY, TOKENS, seed=7)
    spec = Model(source=str(saved(architecture)), objective=model_of(architecture).objective)
    check_model(spec, 300, TOKENS, mask_token=3)
    before = torch.get_rng_state()
    model = build_model(spec, 0, 0, seed=1)

    assert torch.equal(torch.get_rng_state(), before)
    theirs = scratch.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
    assert torch.equal(token_losses(model, some_rows()), token_losses(scratch, some_rows()))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    blank = build_model(spec, 0, 0, seed=1, blank=True).state_dict()
    assert any(not torch.equal(blank[name], theirs[name]) for name in blank)
    counted = count_row_flops(spec, 0, TOKENS)
    assert counted == count_row_flops(model_of(architecture), VOCABULARY, TOKENS)
    assert counted.forward > 0


def test_the_products_of_experts_are_counted(tmp_path: Path) -> None:
    """Of those that a token is sent to, as they are where experts are written out."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": VOCABULARY}
    MixtralForCausalLM(MixtralConfig(**sizes, **heads, **experts)).save_pretrained(tmp_path)
    spec = Model(source=str(tmp_path))

    counted = count_row_flops(spec, 0, TOKENS)

    model: Any = build_model(spec, 0, 0, seed=0, attention="eager")
    model.set_experts_implementation("eager")
    with FlopCounterMode(display=False) as forward:
        loss = token_losses(model, some_rows(1)).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert counted == (forward.get_total_flops(), backward.get_total_flops())


@pytest.mark.parametrize("architecture", ["bert", "roberta", "opt"])
def test_every_token_and_position_learns(architecture: str) -> None:
    """No token is padding: the embedding of each one that is read gets a gradient."""
    model: Any = build_model(model_of(architecture), VOCABULARY, TOKENS, seed=0)
    batch = some_rows(1)
    inputs = torch.arange(TOKENS)[None]
    token_losses(model, replace(batch, inputs=inputs)).sum().backward()

    embedding = model.get_input_embeddings().weight
    assert bool((embedding.grad[:TOKENS].abs().sum(1) > 0).all())
    again = token_losses(model, replace(batch, inputs=inputs.flip(1)))
    assert not torch.equal(again.flip(1), token_losses(model, replace(batch, inputs=inputs)))


def test_dropout_of_a_source_is_off_and_half_precision_becomes_float32(
    copy: Callable[..., Path],
) -> None:
    """A run is a function of its spec, in the precision that the spec says."""
    folder = copy("gpt2", resid_pdrop=0.3, attn_pdrop=0.2, embd_pdrop=0.1)
    half: Any = build_model(Model(source=str(folder)), 0, 0, seed=0)
    half.half().save_pretrained(folder)
    model: Any = build_model(Model(source=str(folder)), 0, 0, seed=0)

    assert {p.dtype for p in model.parameters()} == {torch.float32}
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.0}
    assert model.config.use_cache is False


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt_neo", "opt"])
def test_a_continued_run_resumes_bit_for_bit(
    architecture: str, saved: Folder, make_spec: MakeSpec, make_loop: MakeLoop, tmp_path: Path
) -> None:
    """Tied weights too: stopped after two of four steps, and taken up from the checkpoint."""
    spec = make_spec(model=Model(source=str(saved(architecture))), num_steps=4, model_id="m")
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    make_loop(spec, folder=whole).run()
    with pytest.raises(InterruptedRunError):
        make_loop(spec, folder=halves, watch=Onlooker(stop_after=2)).run()
    make_loop(spec, folder=halves).run()

    one, two = checkpoint.load(whole / CHECKPOINT), checkpoint.load(halves / CHECKPOINT)
    assert one is not None
    assert two is not None
    assert one["model"].keys() == two["model"].keys()
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
    moments, others = one["optimizer"]["state"], two["optimizer"]["state"]
    assert all(torch.equal(moments[i]["exp_avg_sq"], others[i]["exp_avg_sq"]) for i in moments)
    model: Any = make_loop(spec).view.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_finished_run_opens_where_its_source_has_moved(
    saved: Folder, make_spec: MakeSpec, store: Any, tmp_path: Path
) -> None:
    """Its weights come from the checkpoint, its shape from where the asking run finds the model."""
    source = Path(shutil.copytree(saved("llama"), tmp_path / "here"))
    spec = make_spec(model=Model(source=str(source)), num_steps=2, model_id="m")
    runner = Runner(tmp_path, store, Checkpoint(minutes=None), lambda _: Onlooker())
    run_id = runner.ensure(spec).run_id
    source.rename(tmp_path / "there")

    model, flops = open_finished(tmp_path / "runs", run_id, str(tmp_path / "there"))

    trained = checkpoint.load(tmp_path / "runs" / run_id / CHECKPOINT)
    assert trained is not None
    assert all(torch.equal(v, trained["model"][k]) for k, v in model.state_dict().items())
    assert flops == count_row_flops(model_of("llama"), VOCABULARY, TOKENS)


def test_a_fingerprint_is_of_the_content(copy: Callable[..., Path], tmp_path: Path) -> None:
    """Another place or writer is the same model; another weight or setting is another."""
    folder, out = copy("gpt2"), tmp_path / "out"
    first = fingerprint_model(folder, out)
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}))
    assert fingerprint_model(moved, out) == first

    (moved / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 0.1}))
    assert fingerprint_model(moved, out) != first
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint_model(folder, out) != first


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_a_pickle_from_outside_is_refused_and_does_not_run(
    copy: Callable[..., Path], tmp_path: Path
) -> None:
    """Whether torch or a plain pickle wrote it; plain tensors in a .bin are loaded."""
    folder, mark = copy("gpt2"), tmp_path / "mark"
    model = build_model(Model(source=str(folder)), 0, 0, seed=0)
    (folder / "model.safetensors").unlink()
    spec = Model(source=str(found_after_saving(model.state_dict(), folder, tmp_path)))
    check_model(spec, 300, TOKENS)
    loaded = build_model(spec, 0, 0, seed=0)
    assert torch.equal(token_losses(loaded, some_rows()), token_losses(model, some_rows()))

    torch.save({"weight": Bomb(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(SpecError, match=r"is not plain tensors .* was not loaded"):
        check_model(spec, 300, TOKENS)
    with pytest.raises(pickle.UnpicklingError):
        build_model(spec, 0, 0, seed=0)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(SpecError, match="is not plain tensors"):
        check_model(spec, 300, TOKENS)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()  # the mark does mark


def found_after_saving(state: Any, folder: Path, out: Path) -> Path:
    """Write a .bin of plain tensors and resolve its folder."""
    torch.save(dict(state), folder / "pytorch_model.bin")
    return found(folder, out)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def rubbish(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 400)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def marked_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def cut_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_bytes(path.read_bytes()[:-9])


def cut_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')


def no_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (cut, "it was cut short"),
        (rubbish, "is no safetensors file"),
        (no_config, "has no config.json"),
        (marked_config, r"config\.json is no JSON: Unexpected UTF-8 BOM .*; mend it"),
        (cut_config, r"config\.json is no JSON: .* line .*; mend it"),
        (cut_index, r"model\.safetensors\.index\.json is no JSON: "),
        (no_weights, "has no model.safetensors"),
        (no_shard, "model-1.safetensors is missing"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(
    spoil: Callable[[Path], None], complaint: str, copy: Callable[..., Path], tmp_path: Path
) -> None:
    """Before torch is imported: only headers are read."""
    folder = copy("gpt2")
    spoil(folder)
    with pytest.raises(SpecError, match=complaint) as caught:
        found(folder, tmp_path / "out")
    assert str(caught.value).startswith("model.source: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("no/such/folder/here", "no such file or folder: no/such/folder/here"),
        ("./missing", "no such file or folder"),
        ("~nobody-at-all/model", "no such file or folder: ~nobody-at-all/model; correct the path"),
        ("missing.gguf", "no such file or folder"),
        ("owner/name", "cannot be had from the Hugging Face hub .* point model.source at a local"),
        ("bad.gguf", "is no GGUF file .it starts with b'not a'"),
    ],
)
def test_a_source_that_is_nowhere_is_refused(
    source: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path, a hub name without a network, and a file of another kind."""
    monkeypatch.chdir(tmp_path)
    Path("bad.gguf").write_bytes(b"not a model")
    complaint = complaint.replace("b'not a'", "b'not '")
    with pytest.raises(SpecError, match=complaint) as caught:
        found(source, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_hub_that_never_answers_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts and is silent; the library's own download would wait for minutes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("harness.pretrained.PATIENCE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", endpoint)
        started = time.monotonic()

        with pytest.raises(SpecError, match=r"cannot be had .*timed out.*; check the name"):
            found("someone/some-model", tmp_path)

    assert time.monotonic() - started < 20


def refused(spec: Model, vocab_size: int = 300, mask: int | None = None) -> str:
    """Return why a model is refused before compute."""
    with pytest.raises(SpecError) as caught:
        check_model(spec, vocab_size, TOKENS, mask)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_that_does_not_fit_is_refused(copy: Callable[..., Path], saved: Folder) -> None:
    """Objective, vocabulary, positions and kind; each line names the key and the fix."""
    bert, gpt = str(saved("bert")), str(saved("gpt2"))
    assert 'a bert cannot be trained on "causal"; set' in refused(Model(source=bert))
    wrong = refused(Model(source=gpt, objective="masked"), mask=3)
    assert 'model.objective: a gpt2 cannot be trained on "masked"' in wrong
    assert "has no mask token" in refused(Model(source=bert, objective="masked"))
    assert "has 600 tokens and the model of model.source 512" in refused(Model(source=gpt), 600)
    assert "a vit is no language model" in refused(
        Model(source=str(copy("llama", model_type="vit")))
    )
    with pytest.raises(SpecError, match=r"32 positions are fewer than batch\.tokens = 64"):
        check_model(Model(source=gpt), 300, 64)
    roberta = Model(source=str(saved("roberta")), objective="masked")
    check_model(roberta, 300, TOKENS, 3)
    with pytest.raises(SpecError, match=r"32 positions are fewer than batch\.tokens = 33"):
        check_model(roberta, 300, TOKENS + 1, 3)


def test_weights_that_leave_a_part_unset_are_refused(copy: Callable[..., Path]) -> None:
    """A third layer that the file does not have would be random."""
    assert "of its weights" in refused(Model(source=str(copy("gpt2", n_layer=3))))


def test_code_beside_the_weights_needs_consent(copy: Callable[..., Path], tmp_path: Path) -> None:
    """An architecture of its own is refused, and its code does not run."""
    mark = tmp_path / "mark"
    folder = copy("gpt2", model_type="own", auto_map={"AutoConfig": "own.Own"})
    (folder / "own.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()")
    with pytest.raises(SpecError, match=r"set model\.trust_remote_code = true"):
        found(folder, tmp_path)
    assert not mark.exists()


SPEC = """
name = "x"
target = "a"
baseline = "u"
seeds = [0]
[domains.a]
kind = "synthetic"
[budget]
steps = 1
[batch]
tokens = 32
[arms.u]
method = "static"
"""


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ('model.source = "m"', 'tokenizer.kind: .* tokenizer.source = "m"'),
        ('model.source = "m"\nmodel.size = "mini"', "model.size: model.source brings its own"),
        ('model.source = "m"\nmodel.architecture = "llama"', "model.architecture: model.source"),
        ('model.source = "m"\nmodel.config = {n_layer = 1}', "model.config: model.source"),
        ('model.revision = "v1"', "model.revision: belongs to model.source"),
        ("model.trust_remote_code = true", "model.trust_remote_code: belongs to model.source"),
        ('model.architecture = "bert"', 'bert cannot be "causal"; set "masked"'),
        ('model.objective = "masked"', 'gpt2 cannot be "masked"; set "causal"'),
        ('tokenizer.source = "t"', "source belongs to kind"),
    ],
)
def test_settings_that_contradict_each_other(lines: str, complaint: str, tmp_path: Path) -> None:
    """One line each, before anything is opened."""
    from harness.cli import find_method

    path = tmp_path / "x.toml"
    path.write_text(lines + SPEC)
    with pytest.raises(SpecError, match=complaint) as caught:
        load_ablation(path, [], find_method)
    assert "\n" not in str(caught.value)


def test_an_ablation_gets_local_folders_and_a_fingerprint(saved: Folder, tmp_path: Path) -> None:
    """What workers see is a path and no name; nothing of it needs torch."""
    from harness.cli import find_method

    source = saved("llama")
    path = tmp_path / "x.toml"
    path.write_text(
        f'model.source = "{source}"\ntokenizer = {{kind = "pretrained", source = "{source}"}}'
        + SPEC
    )
    ablation, model_id = localized(load_ablation(path, [], find_method), tmp_path, say_nothing)

    assert ablation.model.source == ablation.tokenizer.source == str(source)
    assert model_id == fingerprint_model(source, tmp_path)
    check_buildable(ablation)
    program = (
        "import sys; from pathlib import Path; from harness.pretrained import *;"
        f"p = model_folder({str(source)!r}, None, False, Path({str(tmp_path)!r}), print);"
        f"print(fingerprint_model(p, Path({str(tmp_path)!r})));"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == model_id


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """Write a tiny LLaMA with a tokenizer as GGUF; skipped loudly without the package."""
    gguf = pytest.importorskip("gguf", reason='GGUF is not tested: pip install "steelyard[gguf]"')
    made: Any = build_model(model_of("llama"), VOCABULARY, TOKENS, seed=7)
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    config = made.config
    writer.add_context_length(TOKENS)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(VOCABULARY)
    trained = train_bpe(["the cat sat on the mat " * 9], 300)
    words = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    words += [f"<unused{i}>" for i in range(VOCABULARY - len(words))]
    merges = [" ".join(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, *[1] * (len(words) - 1)])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    _add_tensors(writer, made)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "token_embd",
    "model.norm": "output_norm", "model.layers": "blk",
}  # fmt: skip


def _add_tensors(writer: Any, model: Any) -> None:
    """Write weights under GGUF's names; its LLaMA interleaves the halves of each head."""
    heads = model.config.num_attention_heads
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        array = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            by_head = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
            array = by_head.swapaxes(1, 2).reshape(array.shape)
        for theirs, ggufs in NAMES.items():
            name = name.replace(theirs, ggufs)
        writer.add_tensor(name, array.copy())


def test_a_gguf_file_is_converted_once(gguf_file: Path, tmp_path: Path) -> None:
    """To the model that it was written from; the second time nothing is converted."""
    pytest.importorskip("accelerate", reason='GGUF is not tested: pip install "steelyard[gguf]"')
    said: list[str] = []
    folder = model_folder(str(gguf_file), None, False, tmp_path / "out", said.append)
    again = model_folder(str(gguf_file), None, False, tmp_path / "out", said.append)

    assert folder == again
    assert len(said) == 1
    assert "converting tiny.gguf" in said[0]
    assert folder.parent == (tmp_path / "out/models").resolve()
    assert not list(folder.parent.glob("*.part-*"))
    spec = Model(source=str(folder))
    check_model(spec, VOCABULARY, TOKENS)
    scratch = build_model(model_of("llama"), VOCABULARY, TOKENS, seed=7)
    ours, theirs = (token_losses(m, some_rows()) for m in (build_model(spec, 0, 0, 0), scratch))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    from harness.corpus.ready_tokenizer import read_ready

    ready = read_ready(tokenizer_folder(str(gguf_file), None, tmp_path / "out", said.append))
    assert ready.end_of_text == 0
    assert ready.tokenizer.decode(ready.tokenizer.encode("the cat sat").ids) == "the cat sat"


def test_a_gguf_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """Right in its first four bytes and wrong in the rest: one line, and nothing is left behind."""
    pytest.importorskip("gguf", reason='GGUF is not tested: pip install "steelyard[gguf]"')
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\xee" * 60)
    with pytest.raises(SpecError, match="cannot be read as a model") as caught:
        found(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    left = [p for p in (tmp_path / "out/models").iterdir() if p.is_dir()]
    assert [p.suffix for p in left] in ([], [".lease"])  # who made it, and that is all
