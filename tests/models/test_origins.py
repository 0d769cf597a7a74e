"""Where results come from: the same weights and input, the same digests."""

import hashlib

import torch
from torch import nn

import attnchain as ac
from attnchain.models import origin


def layers(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_the_digest_is_of_the_numbers_and_not_of_the_object():
    digest = origin(layers(), b"x")["weights_sha256"]
    assert origin(layers(), b"y")["weights_sha256"] == digest
    assert (
        origin(layers().eval().requires_grad_(False), b"")["weights_sha256"] == digest
    )
    changed = layers()
    with torch.no_grad():
        changed[0].weight[0, 0] += 1e-3
    assert origin(changed, b"x")["weights_sha256"] != digest
    assert origin(layers().double(), b"x")["weights_sha256"] != digest
    assert origin(layers()[0], b"x")["weights_sha256"] != digest


def test_half_precision_and_views_have_digests_too():
    model = layers().bfloat16()
    turned = layers().bfloat16()
    turned[0].weight.data = turned[0].weight.data.T.contiguous().T
    assert origin(model, b"") == origin(turned, b"")


def test_input_and_versions_are_told():
    told = origin(layers(), b"a cat")
    assert told["input_sha256"] == hashlib.sha256(b"a cat").hexdigest()
    assert told["versions"]["torch"] == torch.__version__
    assert told["versions"]["attnchain"] == ac.__version__
    assert {"python", "numpy"} <= set(told["versions"])
