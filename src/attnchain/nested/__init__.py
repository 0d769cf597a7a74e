"""Pictures as a few ordered tokens, of which every prefix is a coarser picture.

After Semanticist (Wen et al., arXiv 2503.08685): an encoder whose concept tokens see
the picture and earlier tokens only, trained with nested drop-out, and a flow decoder
that takes any prefix. `NestedTokens` is the model, `train` learns it, `prefix_losses`
and `explained_variance` say what each prefix carries. Nothing else in the package uses
it.
"""

from attnchain.nested.encoder import ConceptEncoder, concept_mask
from attnchain.nested.model import NestedConfig, NestedTokens
from attnchain.nested.prefixes import draw_keeps, explained_variance, keep_prefix
from attnchain.nested.training import TrainingSettings, prefix_losses, train

__all__ = [
    "ConceptEncoder",
    "NestedConfig",
    "NestedTokens",
    "TrainingSettings",
    "concept_mask",
    "draw_keeps",
    "explained_variance",
    "keep_prefix",
    "prefix_losses",
    "train",
]
