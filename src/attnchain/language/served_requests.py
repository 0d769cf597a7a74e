"""Attention of requests while an engine serves many: O(n) numbers for each head.

transformers' continuous batching packs the tokens of all requests into one sequence,
and reads their keys from a paged cache. Here every request's own rows are summed by
column as they are computed, and forgotten: no matrix leaves the engine.
"""

# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.errors import CaptureError, UnsupportedModelError
from attnchain.operators import AttentionTransition
from attnchain.optional import require
from attnchain.readouts import continued_sums
from attnchain.replacing import replaced

_READ = ("sdpa", "paged|eager")
"""Implementations whose queries and keys are seen."""
_TILE = 2**22
"""Probabilities held at a time."""


@dataclass(frozen=True, eq=False)
class RequestAttention:
    """What is known of the attention of one request.

    The tokens are those that the model read: the prompt, and the answer without its
    last token.

    Attributes:
        column_sums: Attention that each token got, in each layer and head, float64.
        chains: One transition for each layer, batch shape `(heads,)`, for `token_rank`
            and all else; empty where queries and keys were not kept.
    """

    column_sums: Float[Tensor, "layers heads n"]
    chains: tuple[AttentionTransition, ...]

    @property
    def received(self) -> Float[Tensor, "layers heads n"]:
        """The same, a mean over the tokens that may look, see `readouts.received`."""
        n = self.column_sums.shape[-1]
        lookers = torch.arange(n, 0, -1, device=self.column_sums.device)
        return self.column_sums / lookers


@dataclass
class _Layer:
    """What was seen of one layer of one request."""

    sums: Tensor
    scale: float
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)

    def chain(self) -> AttentionTransition:
        """Its attention so far."""
        q, k = torch.cat(self.queries, 1), torch.cat(self.keys, 1)
        k = k.repeat_interleave(len(q) // len(k), dim=0)
        return AttentionTransition(q, k, scale=self.scale, causal=True)


class ServedAttention(Mapping[str, RequestAttention]):
    """Attention of the requests that an engine has served, by the id of each.

    `served[request_id]` raises CaptureError where the numbers would not be those of the
    whole request, and says why.
    """

    def __init__(self, manager: Any, *, chains: bool) -> None:
        self._manager, self._chains = manager, chains
        self._requests: dict[str, dict[int, _Layer]] = {}
        self._broken: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._requests))

    def __getitem__(self, request_id: str) -> RequestAttention:
        if request_id in self._broken:
            raise CaptureError(self._broken[request_id])
        layers = [layer for _, layer in sorted(self._requests[request_id].items())]
        lengths = {layer.sums.shape[-1] for layer in layers}
        if len(lengths) > 1:
            message = f"request {request_id!r} is being served; ask when it is done"
            raise CaptureError(message)
        return RequestAttention(
            torch.stack([layer.sums for layer in layers]),
            tuple(layer.chain() for layer in layers) if self._chains else (),
        )

    def attend(
        self, function: Callable[..., Any], module: Any, query: Tensor, *args: Any,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Runs the engine's attention, and looks at what it did.

        Args:
            function: Attention of transformers.
            module: The layer that runs.
            query: Queries of all requests of this batch.
            *args: All else that the layer gives.
            **kwargs: Likewise.
        """
        cache = kwargs.get("cache")
        if cache is None or cache is not self._manager.batch_processor.cache:
            return function(module, query, *args, **kwargs)
        seen: list[tuple[Tensor, Tensor]] = []
        update = partial(_updated, cache.update, seen)
        with replaced(cache, "update", update):
            out = function(module, query, *args, **kwargs)
        reason = _no_chain(module, cache.layer_to_allocator[module.layer_idx])
        batch = self._manager.batch_processor.inputs_and_outputs.requests_in_batch
        names = [one.state.request_id for one in batch]
        if reason is not None:
            self._broken.update(dict.fromkeys(names, reason))
            return out
        scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
        with torch.no_grad():
            for keys, ends in seen:
                rows = _pieces(query[0], kwargs["cu_seq_lens_q"])
                columns = _pieces(keys[0], ends)
                for name, q, k in zip(names, rows, columns, strict=True):
                    self._add(name, module.layer_idx, scale, q, k)
        return out

    def _add(self, name: str, number: int, scale: float, q: Tensor, k: Tensor) -> None:
        """Adds the rows of one request in one layer, after those seen before."""
        layers = self._requests.setdefault(name, {})
        past = k.shape[1] - q.shape[1]
        if past == 0:  # it begins, or was put out of the cache and begins again
            layers[number] = _Layer(k.new_zeros(len(q), 0, dtype=torch.float64), scale)
        layer = layers.get(number)
        if layer is None or layer.sums.shape[-1] != past:
            before = 0 if layer is None else layer.sums.shape[-1]
            self._broken.setdefault(name, _incomplete(name, past, before))
            return
        layer.sums = _grown(layer.sums, q, k, scale)
        if self._chains:
            layer.queries.append(q.detach().clone())
            layer.keys.append(k[:, past:].detach().clone())


@contextmanager
def serve_attention(
    manager: Any, *, chains: bool = False
) -> Generator[ServedAttention]:
    """Watches the attention of all requests that are served inside the block.

    Args:
        manager: A `ContinuousBatchingManager` of transformers, before it has requests:
            `model.continuous_batching_context_manager(...)`. With `sdpa` or eager
            attention, and `allow_block_sharing=False`.
        chains: Whether to keep queries and keys too, O(n d) for each head, so that all
            can be asked of each request: TokenRank, bounces, lambda_2.

    Yields:
        `ServedAttention`, by request id, filled while the engine runs.

    Raises:
        UnsupportedModelError: The engine runs another attention than `sdpa` or eager,
            or several batches at once.

    Cost:
        One product of queries and keys more, in tiles. Memory O(n) for each head.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = _implementation(manager)
    served, own = ServedAttention(manager, chains=chains), ALL_ATTENTION_FUNCTIONS[name]
    ALL_ATTENTION_FUNCTIONS[name] = partial(served.attend, own)
    try:
        yield served
    finally:
        ALL_ATTENTION_FUNCTIONS[name] = own


def _implementation(manager: Any) -> str:
    """The attention that the engine runs."""
    require("transformers", extra="text", feature="serve_attention")
    name = manager.model.config._attn_implementation
    if name not in _READ:
        message = (
            f"the engine runs {name!r} attention, whose keys are seen by its kernel "
            f"only; use one of {', '.join(_READ)}, with auto_switch_to_flash=False"
        )
        raise UnsupportedModelError(message)
    config = manager.continuous_batching_config
    if config.use_async_batching or any(config.cuda_graph_booleans):
        message = (
            "the engine runs several batches at once, or replays a graph; set "
            "use_async_batching=False and use_cuda_graph=False"
        )
        raise UnsupportedModelError(message)
    return name


def _no_chain(module: Any, allocator: Any) -> str | None:
    """Why attention of a layer is no causal chain over the tokens, if it is none."""
    name = type(module).__name__
    if hasattr(module, "sinks"):
        return f"{name} lets attention go to a sink that is no token: it is no chain"
    if allocator.layer_type != "full_attention":
        return f"{name} sees a {allocator.layer_type}, no causal chain over all tokens"
    return None


def _pieces(packed: Tensor, ends: Tensor) -> list[Tensor]:
    """The part of each request, from where each begins and ends."""
    places = ends.tolist()
    return [packed[:, a:b] for a, b in pairwise(places)]


def _updated(
    update: Callable[..., Any], seen: list[tuple[Tensor, Tensor]],
    *args: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    """What the cache returns, noted with where each request's keys end."""
    found = update(*args, **kwargs)
    told = kwargs.get("kwargs") or args[-1]
    seen.append((found[0], told["cu_seq_lens_k"]))
    return found


def _grown(sums: Tensor, q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Column sums after further queries, which see all keys up to their own."""
    heads, n_queries, _ = q.shape
    n_keys = k.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    keys = k.to(wide).repeat_interleave(heads // len(k), dim=0)
    step = max(1, _TILE // (heads * n_keys))
    places = torch.arange(n_keys, device=q.device)
    for start in range(0, n_queries, step):
        part = q[:, start : start + step].to(wide)
        own = places[n_keys - n_queries + start :][: part.shape[1], None]
        scores = (part * scale) @ keys.mT
        rows = scores.masked_fill(places > own, -torch.inf).softmax(-1)
        sums = continued_sums(sums, rows.double())
    return sums


def _incomplete(name: str, past: int, seen: int) -> str:
    return (
        f"request {name!r} has {past} tokens in the cache, where {seen} were seen: the "
        "others were read for another request, or before the block began; serve with "
        "allow_block_sharing=False, and begin the block before adding requests"
    )
