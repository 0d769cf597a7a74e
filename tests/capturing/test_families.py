"""Each family: captured attention is the model's own, and the model does not notice."""

import pytest
import torch
from tests.capturing.cases import CASES, IDS

from attnchain.capturing import TokenGrid, capture
from attnchain.errors import GridError, ShapeError


@pytest.fixture(params=CASES, ids=IDS)
def case(request):
    return request.param


def captured(tiny, **options):
    with capture(tiny.model, **options) as attention:
        tiny.run()
    return attention


def tensors(output):
    """All tensors of a model's output, however it packs them."""
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [t for part in parts if part is not None for t in tensors(part)]


def test_captured_attention_is_the_models_own(case):
    tiny = case.build()
    expected = case.reference(tiny)
    attention = captured(tiny)
    assert len(attention) == len(expected)
    for record, matrix in zip(attention, expected, strict=True):
        uneven = matrix.max() * matrix.shape[-1]
        assert uneven > 2, "the reference is too even to tell anything"
        torch.testing.assert_close(record.probabilities(), matrix, atol=1e-5, rtol=0)


def test_transitions_are_the_models_own_attention(case):
    tiny = case.build()
    expected = case.reference(tiny)
    for record, matrix in zip(captured(tiny), expected, strict=True):
        if record.site.kind == "cross":
            with pytest.raises(ShapeError, match="no chain"):
                record.transition()
        else:
            transition = record.transition()
            assert transition.batch_shape == record.shape[:2]
            dense = transition.to_dense()
            own = matrix * record.live[:, None, :, None]  # padding has no rows
            torch.testing.assert_close(dense, own, atol=1e-5, rtol=0)


def test_outputs_are_the_same_with_and_without_capture(case):
    tiny = case.build()
    plain = tensors(tiny.run())
    with capture(tiny.model):
        watched = tensors(tiny.run())
    again = tensors(tiny.run())
    for before, during, after in zip(plain, watched, again, strict=True):
        assert torch.equal(before, after)
        if case.fused:
            assert torch.equal(before, during)
        else:
            torch.testing.assert_close(before, during, atol=1e-4, rtol=1e-4)


def test_hooks_and_switches_are_gone_afterwards(case):
    tiny = case.build()
    tiny.run()  # some models of transformers hook their own parts
    state = switches(tiny.model), hooks(tiny.model)
    captured(tiny)
    assert (switches(tiny.model), hooks(tiny.model)) == state


def hooks(model):
    return [
        (list(m._forward_hooks.values()), list(m._forward_pre_hooks.values()))
        for m in model.modules()
    ]


def switches(model):
    return [
        (getattr(m, "fused_attn", None), getattr(m, "config", None) and repr(m.config))
        for m in model.modules()
    ] + [torch.backends.mha.get_fastpath_enabled()]


def test_token_grids_are_those_of_the_family(case):
    attention = captured(case.build())
    if case.grids:
        grids = [record.grid for record in attention]
        assert tuple(dict.fromkeys(grids)) == case.grids
        assert all(r.key_grid.n_tokens == r.shape[-1] for r in attention)
    else:
        with pytest.raises(GridError, match="by hand"):
            _ = attention[0].grid


def test_a_grid_given_by_hand_is_used():
    case = CASES[IDS.index("torch nn.TransformerEncoder")]
    attention = captured(case.build(), grid=TokenGrid(2, 3, prefix=1))
    assert attention.grid == TokenGrid(2, 3, prefix=1)


def test_a_grid_by_hand_may_depend_on_the_module():
    case = CASES[IDS.index("torch nn.TransformerEncoder")]
    attention = captured(case.build(), grid=lambda _name, n: TokenGrid.of_text(n))
    assert attention.grid == TokenGrid.of_text(7)


def test_a_grid_of_another_length_is_refused():
    case = CASES[IDS.index("torch nn.TransformerEncoder")]
    attention = captured(case.build(), grid=TokenGrid(2, 2))
    with pytest.raises(GridError, match="2 x 2 patches are 4 tokens where there are 7"):
        _ = attention.grid


def test_a_model_without_its_input_says_what_is_missing():
    tiny = CASES[IDS.index("transformers Llama")].build()
    embedded = tiny.model.embed_tokens(tiny.kwargs["input_ids"])
    with capture(tiny.model) as attention:
        tiny.model(inputs_embeds=embedded)
    with pytest.raises(GridError, match="input_ids"):
        _ = attention.grid
