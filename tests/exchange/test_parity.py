"""Models of transformers in llmlab: logits, greedy text, loss and gradients."""

import numpy as np
import pytest

from llmlab.batch import Batch
from llmlab.exchange import names as naming
from llmlab.exchange.architecture import Names
from llmlab.exchange.safetensors_files import find_tensors
from llmlab.generate import Engine
from llmlab.network import Network
from llmlab.optim import OPTIMIZERS
from llmlab.train.trainer import Trainer

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

SHAPES = ((2, 50), (1, 1), (3, 17))
NAMES = (
    "gpt2",
    "gpt2-untied",
    "gpt2-relu",
    "llama",
    "llama-tied",
    "llama-biases",
    "llama-one-key",
    "mistral",
    "mistral-tied",
)


@pytest.fixture(scope="module")
def hf():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import hf_models

    assert set(NAMES) == set(hf_models.MODELS)
    return hf_models


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_logits(hf, tmp_path, name, seed):
    for dtype in (hf.torch.float32, hf.torch.float64):
        model = hf.make(name, seed, dtype)
        wide = dtype == hf.torch.float64
        folder = hf.save(model, tmp_path / str(wide))
        _, stack, params = hf.read(folder, np.float64 if wide else np.float32)
        # transformers does norms, softmax and RoPE of Llama in float32 whatever the dtype.
        limit = 1e-12 if wide and name.startswith("gpt2") else 1e-5
        for shape in SHAPES:
            ids = hf.some_ids(shape, seed)
            wanted, found = hf.their_logits(model, ids), hf.our_logits(stack, params, ids)
            assert found.dtype == wanted.dtype
            assert np.abs(found - wanted).max() <= limit * np.abs(wanted).max()
            np.testing.assert_array_equal(found.argmax(-1), wanted.argmax(-1))


def test_the_comparison_sees_a_wrong_transpose(hf, tmp_path):
    for name, array in (
        ("gpt2", "blocks.0.attention.out.weight"),
        ("gpt2-untied", "blocks.1.feed_forward.up.weight"),
        ("llama", "blocks.1.attention.out.weight"),
        ("llama", "blocks.0.feed_forward.gate.weight"),
    ):
        model, ids = hf.make(name), hf.some_ids((2, 20))
        _, stack, params = hf.read(hf.save(model, tmp_path / name), np.float32)
        turned = params[array].T.copy()
        assert turned.shape == params[array].shape, "it must be a square matrix to prove anything"
        params[array][...] = turned
        wanted, found = hf.their_logits(model, ids), hf.our_logits(stack, params, ids)
        assert np.abs(found - wanted).max() > 1e-2 * np.abs(wanted).max()


@pytest.mark.parametrize("name", NAMES)
def test_greedy_text_of_50_tokens(hf, tmp_path, name):
    model = hf.make(name)
    network, stack, params = hf.read(hf.save(model, tmp_path), np.float32)
    prompts = hf.some_ids((2, 9), seed=5)
    given = hf.torch.from_numpy(prompts)
    options = {"max_new_tokens": 50, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    # Without a mask, transformers takes the prompt's own zeros for padding.
    mask = hf.torch.ones_like(given)
    wanted = model.generate(given, attention_mask=mask, **options)[:, 9:].tolist()
    replies = Engine(Network(stack, params, network.max_seq_len)).generate(
        prompts.tolist(), max_new_tokens=50
    )
    assert [reply.ids for reply in replies] == wanted
    assert all(len(ids) == 50 for ids in wanted)


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_of_a_step(hf, tmp_path, name):
    model = hf.make(name, dtype=hf.torch.float64)
    network, stack, params = hf.read(hf.save(model, tmp_path), np.float64)
    ids = hf.some_ids((3, 21))
    tensor = hf.torch.from_numpy(ids)
    # Its own loss is taken in float32.
    logits = model(tensor).logits[:, :-1].flatten(0, 1)
    loss = hf.torch.nn.functional.cross_entropy(logits, tensor[:, 1:].flatten())
    loss.backward()
    wanted = {key: p.grad.numpy() for key, p in model.named_parameters()}
    batch = Batch(ids[:, :-1], ids[:, 1:], np.ones((3, 20), np.float32))
    with Trainer(stack, params, OPTIMIZERS.build("adam", ""), lr=1e-3, clip_norm=None) as trainer:
        result = trainer.step([batch])
        every = naming.tensor_slices(network, Names.usual(network.num_blocks))
        found = naming.to_theirs(every, dict(trainer.grads.items()))
    limit = 1e-11 if name.startswith("gpt2") else 1e-5
    assert abs(result.loss - loss.item()) <= limit * loss.item()
    assert found.keys() == wanted.keys()
    for key, gradient in wanted.items():
        error = np.abs(found[key] - gradient).max()
        assert error <= limit * np.abs(gradient).max(), f"{key}: {error:.3g}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_shards_and_half_precision(hf, tmp_path, dtype):
    model = hf.make("llama").to(getattr(hf.torch, dtype))
    folder = hf.save(model, tmp_path, max_shard_size="10KB")
    assert len(list(folder.glob("*.safetensors"))) >= 2
    found = find_tensors(folder)
    wanted = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor)
    _, stack, params = hf.read(folder, np.float32)
    ids = hf.some_ids((2, 30))
    # Not model.float(), whose table of RoPE was rounded with the rest.
    loaded = type(model).from_pretrained(folder, dtype=hf.torch.float32)
    logits = hf.their_logits(loaded, ids)
    assert np.abs(hf.our_logits(stack, params, ids) - logits).max() <= 1e-5 * np.abs(logits).max()


def test_damaged_files_are_refused_whenever_the_library_refuses(hf, tmp_path):
    from safetensors.numpy import load_file

    from llmlab.errors import CheckpointError

    file = hf.save(hf.make("gpt2"), tmp_path) / "model.safetensors"
    sound, rng = file.read_bytes(), np.random.default_rng(0)
    length = int.from_bytes(sound[:8], "little")
    refused = 0
    for _ in range(300):
        data = bytearray(sound)
        for place in rng.integers(length + 8, size=rng.integers(1, 3)):
            data[place] = rng.choice(list(b'0123456789"[]{},:-.eFU \xff\x00'))
        file.write_bytes(data)
        try:
            names = set(find_tensors(tmp_path))
        except CheckpointError:
            refused += 1
        else:
            assert set(load_file(file)) == names
    assert refused > 100
