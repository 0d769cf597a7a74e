"""Independent answers: each family's attention, computed without attnchain.

Every function runs a tiny model and returns its attention matrices in the order of
execution. Its first line says, in the support table, what capture is compared with.
"""

from unittest.mock import patch

import torch
from tests.capturing.zoo import eager_twin

from attnchain.testing.models import TinyModel, importable_torchvision

HEADS = 4


def eager_output(tiny):
    """the model's own `output_attentions` under eager attention"""
    tiny.model.set_attn_implementation("eager")
    out = tiny.run(output_attentions=True)
    tiny.model.set_attn_implementation("sdpa")
    if "encoder_attentions" not in out:
        return list(out.attentions)
    pairs = zip(out.decoder_attentions, out.cross_attentions, strict=True)
    return [*out.encoder_attentions, *(matrix for pair in pairs for matrix in pair)]


def eager_modules(tiny):
    """the weights each attention module returns under eager attention"""
    matrices = []

    def note(_module, _args, out):
        matrices.append(out[1])

    hooks = [
        module.register_forward_hook(note)
        for name, module in tiny.model.named_modules()
        if name.endswith(".attention")
    ]
    tiny.model.set_attn_implementation("eager")
    tiny.run()
    tiny.model.set_attn_implementation("sdpa")
    for hook in hooks:
        hook.remove()
    return matrices


def unfused_timm(tiny):
    """the input of the attention dropout on timm's unfused path"""
    modules = [m for m in tiny.model.modules() if hasattr(m, "fused_attn")]
    before = [module.fused_attn for module in modules]
    for module in modules:
        module.fused_attn = False
    matrices = []
    dropouts = [module.attn_drop for module in modules]
    run_hooked(tiny, dropouts, lambda _, args, __: matrices.append(args[0]))
    for module, fused in zip(modules, before, strict=True):
        module.fused_attn = fused
    return matrices


def eager_processor(tiny):
    """the scores of diffusers' eager attention processor for the same input"""
    importable_torchvision()
    from diffusers.models.attention_processor import Attention, AttnProcessor

    modules = [m for m in tiny.model.modules() if isinstance(m, Attention)]
    calls, matrices = noted_calls(tiny, modules), []

    def keeping(module):
        compute = type(module).get_attention_scores

        def get_attention_scores(*args):
            matrix = compute(module, *args)
            matrices.append(matrix.unflatten(0, (-1, module.heads)))
            return matrix

        return get_attention_scores

    for module, args, kwargs in calls:
        before = module.processor
        module.set_processor(AttnProcessor())
        module.get_attention_scores = keeping(module)
        with torch.no_grad():
            module(*args, **kwargs)
        module.set_processor(before)
        del module.get_attention_scores
    return matrices


def torch_weights(tiny):
    """the weights `nn.MultiheadAttention` returns for the same input"""
    modules = [
        m for m in tiny.model.modules() if isinstance(m, torch.nn.MultiheadAttention)
    ]
    matrices = []
    for module, args, kwargs in noted_calls(tiny, modules):
        asked = kwargs | {"need_weights": True, "average_attn_weights": False}
        with torch.no_grad():
            matrices.append(module(*args, **asked)[1])
    return matrices


def joint_projections(tiny):
    """softmax of the hooked projections of both streams, rotated as in FLUX"""
    modules = [
        m for n, m in tiny.model.named_modules() if n.endswith(("attn", "attn2"))
    ]
    matrices = []
    for module in modules:
        parts, given = {}, {}

        def note(child, _, __, out, parts=parts, module=module):
            parts[next(n for n, m in module.named_children() if m is child)] = out

        children = [m for n, m in module.named_children() if n.startswith("norm_")]
        hooks = [
            child.register_forward_hook(note, with_kwargs=True) for child in children
        ]
        run_hooked(tiny, [module], lambda _, __, kw, given=given: given.update(kw))
        for hook in hooks:
            hook.remove()
        matrices.append(joint_softmax(parts, given.get("image_rotary_emb")))
    return matrices


def joint_softmax(parts, rotary):
    """FLUX has tokens before heads, text first, and rotates; SD3 has neither."""
    q, k = (
        torch.cat(streams, dim=1 if rotary else 2)
        for streams in (
            [parts[n] for n in order if n in parts]
            for order in (
                (("norm_added_q", "norm_q"), ("norm_added_k", "norm_k"))
                if rotary
                else (("norm_q", "norm_added_q"), ("norm_k", "norm_added_k"))
            )
        )
    )
    if rotary:
        q, k = (rotated(x, *rotary).transpose(1, 2) for x in (q, k))
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)


def rotated(x, cosine, sine):
    """Multiplies pairs of neighbours, as complex numbers, by a phase per token."""
    numbers = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    phases = torch.complex(cosine[:, ::2].contiguous(), sine[:, ::2].contiguous())
    return torch.view_as_real(numbers * phases[:, None]).flatten(-2)


def own_projections(tiny):
    """softmax of the projections, with the module's scale and causal mask"""
    matrices = []

    def compute(module, args, _):
        q = module.q(args[0]).unflatten(-1, (4, 4)).transpose(1, 2)
        k = module.kv(args[0])[..., :8].unflatten(-1, (2, 4)).transpose(1, 2)
        scores = 0.7 * q @ k[:, [0, 0, 1, 1]].mT
        future = torch.ones(scores.shape[-2:]).triu(1).bool()
        matrices.append(scores.masked_fill(future, -torch.inf).softmax(-1))

    run_hooked(tiny, list(tiny.model), compute)
    return matrices


def noted_calls(tiny, modules):
    """Each call of some modules while the model runs: module, args, kwargs."""
    calls = []
    run_hooked(tiny, modules, lambda module, *given: calls.append((module, *given)))
    return calls


def run_hooked(tiny, modules, hook):
    """Runs the model, all its modules called, with hooks before some of them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    hooks = [m.register_forward_pre_hook(hook, with_kwargs=True) for m in modules]
    tiny.run()
    for handle in hooks:
        handle.remove()
    torch.backends.mha.set_fastpath_enabled(before)


def eager_softmaxes(tiny):
    """the softmax in the model's own eager attention"""
    twin, compute = eager_twin(tiny.model), torch.nn.functional.softmax
    matrices = []

    def noting(scores, *args, **kwargs):
        matrices.append(compute(scores, *args, **kwargs))
        return matrices[-1]

    with patch.object(torch.nn.functional, "softmax", noting):
        TinyModel(twin, tiny.args, tiny.kwargs).run()
    return [
        matrix if matrix.ndim == 4 else matrix.unflatten(0, (-1, HEADS))
        for matrix in matrices
    ]
