import pytest
import torch
from tests.methods.test_cuts import blocks
from tests.vision import tiny
from torch import nn

from attnchain.errors import UnsupportedModelError
from attnchain.evaluate import baselines
from attnchain.evaluate.subject import read_subject, watched_layers
from attnchain.markov import mix
from attnchain.operators import forward_backward
from attnchain.vision import segment_object


@pytest.fixture(scope="module")
def model():
    return tiny.dinov2()


@pytest.fixture(scope="module")
def subject(model):
    return read_subject(tiny.picture(), model, size=64)


def test_features_are_the_states_after_each_layer(model, subject):
    pixels = model.pixels(tiny.picture(), size=64)
    with torch.no_grad():
        states = model.model(pixels, output_hidden_states=True).hidden_states
    assert len(subject.features) == len(states) - 1
    for found, state in zip(subject.features, states[1:], strict=True):
        torch.testing.assert_close(found, state[0, 1:])


@pytest.mark.parametrize("weights", ["lambda2", "uniform"])
@pytest.mark.parametrize("layers", [(1,), (0, 1)])
def test_the_chain_is_the_mixture_of_the_library(subject, layers, weights):
    heads = [subject.attention.heads[layer] for layer in layers]
    expected = mix(heads, weights).to_dense()
    found = subject.chain(layers, weights)
    torch.testing.assert_close(found.matrix, expected.float(), atol=1e-6, rtol=1e-5)
    back = forward_backward(mix(heads, weights)).to_dense().float()
    found = subject.out_and_back(layers, weights).matrix
    torch.testing.assert_close(found, back, atol=1e-6, rtol=1e-4)


def test_the_default_is_the_task_itself(subject):
    expected = segment_object(subject.part((0, 1)))
    assert torch.equal(baselines.default_map(subject, layers=(0, 1)), expected.maps[0])


def test_a_part_holds_the_layers_asked_for(subject):
    part = subject.part((1,))
    assert part.layers == (1,)
    assert part.heads == (subject.attention.heads[1],)
    assert len(part.class_rows) == 1


def test_hooks_are_gone_after_a_failing_run(model):
    def hooks():
        return [len(module._forward_hooks) for module in model.model.modules()]

    before = hooks()

    def fail():
        assert sum(hooks()) == sum(before) + 2
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), watched_layers(model.model):
        fail()
    assert hooks() == before


def test_a_model_without_layers_is_refused():
    with pytest.raises(UnsupportedModelError, match="no stack of layers"):
        watched_layers(nn.Linear(2, 2)).__enter__()


GATE = {"layers": (0, 1), "features": 0}


def gated_matrix(subject):
    """The gated chain by its formula, in float64."""
    unit = subject.features[0].double()
    unit = unit / unit.norm(dim=1, keepdim=True)
    matrix = subject.chain((0, 1), "lambda2").matrix.double()
    matrix = matrix * (unit @ unit.T - 0.3).clamp_min(0)
    return matrix / matrix.sum(1, keepdim=True)


def test_gated_bounces_walk_between_like_features(subject):
    seen = subject.class_row(1).double()
    for _ in range(3):
        seen = gated_matrix(subject) @ seen
    found = baselines.gated_bounces(subject, bounces=3, **GATE)
    torch.testing.assert_close(found.double(), seen, atol=1e-6, rtol=1e-4)


def test_eigenvectors_rise_with_what_the_class_token_sees(subject):
    """Each stays what it is under the chain, times the second eigenvalue."""
    plain = subject.chain((0, 1), "lambda2").matrix.double()
    slow = baselines.second_eigenvector(subject, layers=(0, 1), weights="lambda2")
    gated = baselines.gated_eigenvector(subject, **GATE)
    for matrix, found in ((plain, slow), (gated_matrix(subject), gated)):
        values = torch.linalg.eigvals(matrix)
        second = values[values.abs().argsort(descending=True)[1]]
        if abs(float(second.imag)) < 1e-9:
            stepped = matrix @ found.double()
            middle = found.double() * float(second.real)
            shift = (stepped - middle).mean()
            assert float((stepped - middle - shift).norm() / stepped.norm()) < 1e-2
        seen = subject.class_row(1)
        assert float((found - found.mean()) @ (seen - seen.mean())) >= 0


def test_rollout_is_the_product_of_lazy_layers_with_a_class_token(subject):
    n = subject.attention.grid.n_patches
    walker = torch.zeros(n + 1)
    walker[0] = 1
    for layer in (1, 0):
        whole = torch.zeros(n + 1, n + 1)
        whole[0, 1:] = subject.class_row(layer)
        whole[1:, 1:] = subject.chain((layer,)).matrix
        walker = walker @ (whole + torch.eye(n + 1)) / 2
    torch.testing.assert_close(baselines.rollout(subject, layers=(0, 1)), walker[1:])


def test_parts_are_chosen_by_what_the_class_token_sees(subject):
    seen = subject.class_row(-1)
    labels = (seen > seen.median()).long()
    found = baselines.seen_parts(subject, labels, -1)
    assert torch.equal(found, labels.float())


def test_k_means_finds_the_blocks_and_repeats():
    features = blocks([20, 14, 9])
    found = baselines.k_means(features, 3)
    assert [len(part.unique()) for part in found.split([20, 14, 9])] == [1, 1, 1]
    assert len(found.unique()) == 3
    assert torch.equal(found, baselines.k_means(features, 3))
