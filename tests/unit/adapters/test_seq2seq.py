"""Adapters on the encoder of an encoder-decoder: where they sit, and that PEFT finds them there."""

import pytest
import torch
import transformers

from tunewise.adapters.bottleneck import adapted_layers
from tunewise.adapters.files import save_adapter
from tunewise.adapters.ia3 import IA3Form, IA3Stack, rescaled_layers
from tunewise.adapters.lora import LoraForm, LoraStack, target_layers
from tunewise.adapters.prefix import refusal
from tunewise.adapters.stack import Member, Pass
from tunewise.models.tree import shared_tree

# PEFT asks transformers for a property under its old name; missing or unexpected weights still are errors
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

IDS = torch.tensor([[8, 9, 10, 2], [11, 12, 13, 2]])


@pytest.fixture(scope="module", params=["t5", "bart"])
def encoder(request, base_of):
    return base_of(request.param)


def changed(stack):
    rng = torch.Generator().manual_seed(1)
    return {name: v[0] + torch.randn(v.shape[1:], generator=rng) * 0.1 for name, v in stack.start().items()}


def hidden(encoder, tensors, form):
    tree = shared_tree(encoder.model)
    stack = form.stack(tree, tensors)
    stack.bind({name: tensor[None] for name, tensor in tensors.items()})
    stack.now = Pass(active=(0,), sequences=0, positions=0)
    with torch.no_grad():
        return stack.attach(tree)(input_ids=IDS).last_hidden_state


def test_attention_and_feed_forward_layers_are_told_apart(encoder):
    attention, feedforward = (target_layers(encoder.model, kind) for kind in ("attention", "feedforward"))
    assert len(attention) == 2 * 4
    assert {name.rsplit(".", 1)[-1] for name in attention} in (
        {"q", "k", "v", "o"},
        {"q_proj", "k_proj", "v_proj", "out_proj"},
    )
    assert {name.rsplit(".", 1)[-1] for name in feedforward} in ({"wi_0", "wi_1", "wo"}, {"fc1", "fc2"})
    assert {*attention, *feedforward} == {*target_layers(encoder.model)}
    assert all(name.startswith("encoder.") for name in target_layers(encoder.model))


def test_bottlenecks_stand_after_attention_and_feed_forward(encoder):
    endings = {name.rsplit(".", 1)[-1] for name in adapted_layers(encoder.model, "houlsby")}
    assert endings in ({"o", "wo"}, {"out_proj", "fc2"})
    assert len(adapted_layers(encoder.model, "houlsby")) == 2 * len(adapted_layers(encoder.model, "pfeiffer")) == 4


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_peft_loads_what_was_trained_on_the_encoder(encoder, tmp_path, kind):
    import peft

    model = encoder.model
    if kind == "lora":
        stack = LoraStack(model, [Member()], rank=4, targets=target_layers(model))
        form = LoraForm(rank=4, alpha=8.0)
    else:
        stack, form = IA3Stack(model, [Member()], targets=rescaled_layers(model)), IA3Form()
    tensors = changed(stack)
    save_adapter(tensors, form, tmp_path)
    whole = transformers.AutoModel.from_pretrained(encoder.info.path)
    theirs = peft.PeftModel.from_pretrained(whole, tmp_path).eval()
    with torch.no_grad():
        expected = theirs.get_encoder()(input_ids=IDS).last_hidden_state
        plain = encoder.model(input_ids=IDS).last_hidden_state
    found = hidden(encoder, tensors, form)
    assert float((found - expected).abs().max()) < 1e-5
    assert float((found - plain).abs().max()) > 1e-3


def test_an_encoder_keeps_no_keys_and_values_that_a_prefix_could_stand_before(encoder):
    assert "it takes no `past_key_values`" in str(refusal(encoder.model))
    with pytest.raises(TypeError, match="an encoder keeps no keys and values"):
        encoder.model(input_ids=IDS, past_key_values=transformers.DynamicCache())
