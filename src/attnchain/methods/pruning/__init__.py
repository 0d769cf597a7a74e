"""Tokens dropped from a running vision transformer, by any score.

`prune` is the switch; which patches stay is said by one of these, one file for each:

* `TokenRankScore`: incoming or outgoing TokenRank of the layer's mean head.
* `ColumnSumScore`: the attention a token receives, one bounce of the uniform walk.
* `ClassRowScore`: the attention the class token pays.
* `ZeroTPruneScore`: voting over heads, and a step that drops tokens that are alike
  (arXiv 2305.17328).
* `RandomScore`: any patches; what every other one has to beat.

A score of your own is a subclass of `AbstractTokenScore`.
"""

from attnchain.methods.pruning.class_row_score import ClassRowScore
from attnchain.methods.pruning.column_sum_score import ColumnSumScore
from attnchain.methods.pruning.dropping import PrunedTokens, prune
from attnchain.methods.pruning.random_score import RandomScore
from attnchain.methods.pruning.token_rank_score import TokenRankScore
from attnchain.methods.pruning.token_scores import AbstractTokenScore, LayerReading
from attnchain.methods.pruning.zero_tprune import ZeroTPruneScore

__all__ = [
    "AbstractTokenScore",
    "ClassRowScore",
    "ColumnSumScore",
    "LayerReading",
    "PrunedTokens",
    "RandomScore",
    "TokenRankScore",
    "ZeroTPruneScore",
    "prune",
]
