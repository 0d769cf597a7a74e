"""Methods of other papers, one file for each, read as operations on chains.

* `bayesian` (arXiv 2010.10604): `RandomTransition`, `BayesianAttention`: weights drawn.
* `ccmc` (arXiv 2402.13512): `context_conditioned`, attention as a chain over tokens.
* `diffseg` (arXiv 2308.12469): `segment_regions` merges attention maps that are alike.
* `diffcut` (arXiv 2406.02842): `recursive_cut`, normalised cuts while they are cheap.
* `fast_nystrom` (arXiv 2507.16018): low-rank attention, also in a running model.
* `hard_retrieval` (arXiv 2009.14658): one key for each query, likeliest or drawn.
* `iseg` (arXiv 2409.03209): `refine_map`, bounces in thinned attention.
* `m2n2` (arXiv 2411.10411): `segment_nearest`, clicks compete by their Markov maps.
* `massive` (arXiv 2507.16018): massive tokens, and attention without them.
* `ncut` (Shi and Malik, 2000): `normalised_cut`, a graph halved by an eigenvector.
* `pruning`: `prune`, patches dropped from a running model by any score; Zero-TPrune's
  (arXiv 2305.17328) among them.
* `relevance` (arXiv 2308.10240, base 2103.15679): what a score owes to each token;
  `rollout`; two streams.
* `reverse_probing` (arXiv 2209.03268): `reverse_probe`, bits that labels tell about
  states; `ablate`.
* `sec` (arXiv 2405.13337): attention inside groups of equal size.
* `tokencut` (arXiv 2202.11539): `token_cut`, one object by a normalised cut.

`gated` is an experiment of ours. `attnchain.vision` does none of this by default.
"""

from attnchain.methods.bayesian import (
    AbstractWeights,
    BayesianAttention,
    DirichletWeights,
    Draws,
    LogNormalWeights,
    RandomTransition,
    WeibullWeights,
)
from attnchain.methods.ccmc import context_conditioned, fit_prompts, fit_trajectory
from attnchain.methods.diffcut import recursive_cut
from attnchain.methods.diffseg import Anchors, RegionSegmentation, segment_regions
from attnchain.methods.fast_nystrom import (
    farthest_points,
    fast_nystrom,
    fast_nystrom_layers,
    nystrom_attention,
)
from attnchain.methods.gated import gated
from attnchain.methods.hard_retrieval import (
    HardAttention,
    HardRetrieval,
    functional_graph,
    sampled_paths,
)
from attnchain.methods.iseg import entropy_reduced, refine_map
from attnchain.methods.m2n2 import segment_nearest
from attnchain.methods.massive import massive_tokens
from attnchain.methods.ncut import normalised_cut, similarity
from attnchain.methods.pruning import (
    AbstractTokenScore,
    ClassRowScore,
    ColumnSumScore,
    LayerReading,
    PrunedTokens,
    RandomScore,
    TokenRankScore,
    ZeroTPruneScore,
    prune,
)
from attnchain.methods.relevance import (
    CrossRelevance,
    Relevance,
    cross_relevance,
    relevance,
    rollout,
)
from attnchain.methods.residual_shares import residual_shares
from attnchain.methods.reverse_probing import ReverseProbe, ablate, reverse_probe
from attnchain.methods.sec import (
    equitable_groups,
    even_groups,
    grouped_attention,
    slow_groups,
)
from attnchain.methods.tokencut import strong_edges, token_cut

__all__ = [
    "AbstractTokenScore",
    "AbstractWeights",
    "Anchors",
    "BayesianAttention",
    "ClassRowScore",
    "ColumnSumScore",
    "CrossRelevance",
    "DirichletWeights",
    "Draws",
    "HardAttention",
    "HardRetrieval",
    "LayerReading",
    "LogNormalWeights",
    "PrunedTokens",
    "RandomScore",
    "RandomTransition",
    "RegionSegmentation",
    "Relevance",
    "ReverseProbe",
    "TokenRankScore",
    "WeibullWeights",
    "ZeroTPruneScore",
    "ablate",
    "context_conditioned",
    "cross_relevance",
    "entropy_reduced",
    "equitable_groups",
    "even_groups",
    "farthest_points",
    "fast_nystrom",
    "fast_nystrom_layers",
    "fit_prompts",
    "fit_trajectory",
    "functional_graph",
    "gated",
    "grouped_attention",
    "massive_tokens",
    "normalised_cut",
    "nystrom_attention",
    "prune",
    "recursive_cut",
    "refine_map",
    "relevance",
    "residual_shares",
    "reverse_probe",
    "rollout",
    "sampled_paths",
    "segment_nearest",
    "segment_regions",
    "similarity",
    "slow_groups",
    "strong_edges",
    "token_cut",
]
