"""The public names, reviewed, and docstrings that tell the truth about signatures.

A name that is added or removed changes a list here, so that it is seen in review.
"""

import dataclasses
import importlib
import inspect
import re

import pytest

NAMES = {
    "attnchain": """
        AbstractTransition AttentionRecord ChainError TokenGrid __version__
        as_transition capture load load_capture metastable_sets mix propagate read_text
        segment spectrum stationary token_rank
    """,
    "attnchain.operators": """
        AbstractTransition AttentionTransition ColumnNormalized Conditioned Damped
        DenseTransition Grouped Lazy Mixture Permuted Power Product Restricted Reversed
        Seating Side Stacked announce_storage as_transition check_transition fits_budget
        forward_backward full_precision is_causal kept_mass kept_states normalize_rows
        stored to_scipy
    """,
    "attnchain.markov": """
        Direction LeadingSubspaces MetastableSets Outcome SecondEigenvalue Spectrum
        Start Stationary closed_classes coarse_grained detailed_balance_error
        explained_bounce implied_timescale is_irreducible is_reversible
        is_stochastic leading_subspaces metastable_levels metastable_sets mix
        mixing_time most_distinct oriented propagate relaxation_time
        second_eigenvalue spectral_gap spectrum starting_distribution stationary
    """,
    "attnchain.capturing": """
        AbstractRecord AttentionCall AttentionRecord AttentionSite CapturedAttention
        Denoising DenseRecord GUIDED Numbers Selection TextTokens TokenGrid
        UNCONDITIONAL_FIRST attention_gradients capture check_known fused_attention
        joined_passes load_capture picture_in_tiles prompt_tokens replaced_attention
    """,
    "attnchain.models": """
        Frame LoadedDenoiser LoadedModel LoadedPipeline LoadedSpeech LoadedText
        ObjectProbe PICTURE_ENDINGS file_digest layer_stack load of_kind origin
        read_frames read_picture read_probe to_rgb versions weights_digest
    """,
    "attnchain.readouts": """
        Resolvent Sink cluster_heads column_sums continued_sums effective_rank
        head_spectra laplacian_eigenvalues received resolvent row_entropy sinks
        stable_rank
    """,
    "attnchain.vision": """
        ClickSegmentation Clicks DEFAULT_LAYERS EXPORTS FrameSegmentation
        ObjectSegmentation PictureAttention PictureRank PictureSegmentation Prompt
        Segmentation SetSegmentation Track begin_track check_exports check_options
        cutout fit_probe object_mask polygons rank_patches read_attention segment
        segment_object segment_point segment_prompt segment_sets segment_video
    """,
    "attnchain.language": """
        AnswerReading Comparison RequestAttention ServedAttention TextReading
        WordInPicture compare key_scores read_answer read_text serve_attention
        token_rank_press
    """,
    "attnchain.folder": """
        ENGINES Item Job Outcome Picture RECORD Sheet contact_sheet find_pictures
        match_marks merged_coco orphans plan ray_cluster read_marks run
    """,
    "attnchain.text": """
        TextAttention WordReading WordSegmentation checked_prompt draw_words
        read_diffusion read_generation read_words segment_words show_picture
        text_attention
    """,
    "attnchain.guidance": "AttentionGuidance Guided NoiseLevel Salience guide",
    "attnchain.methods": """
        AbstractTokenScore AbstractWeights Anchors BayesianAttention ClassRowScore
        ColumnSumScore CrossRelevance DirichletWeights Draws HardAttention HardRetrieval
        LayerReading LogNormalWeights PrunedTokens RandomScore RandomTransition
        RegionSegmentation Relevance ReverseProbe TokenRankScore WeibullWeights
        ZeroTPruneScore ablate context_conditioned cross_relevance entropy_reduced
        equitable_groups even_groups farthest_points fast_nystrom fast_nystrom_layers
        fit_prompts fit_trajectory functional_graph gated grouped_attention
        massive_tokens normalised_cut nystrom_attention prune recursive_cut refine_map
        relevance residual_shares reverse_probe rollout sampled_paths segment_nearest
        segment_regions similarity slow_groups strong_edges token_cut
    """,
    "attnchain.nested": """
        ConceptEncoder NestedConfig NestedTokens TrainingSettings concept_mask
        draw_keeps explained_variance keep_prefix prefix_losses train
    """,
    "attnchain.plot": """
        NARROWEST PRINTED_POINTS new_figure plot_heads plot_labels plot_map plot_picture
        plot_spectrum save_figure save_labels save_map segment_colors tinted
    """,
}


@pytest.mark.parametrize("module", NAMES)
def test_public_names_are_the_reviewed_ones(module):
    exported = importlib.import_module(module).__all__
    assert sorted(exported) == sorted(NAMES[module].split())
    assert len(exported) == len(set(exported))


def test_the_surface_is_small():
    import attnchain

    names = [name for name in attnchain.__all__ if name != "__version__"]
    assert len(names) <= 16


@pytest.mark.parametrize("module", NAMES)
def test_every_public_name_exists(module):
    package = importlib.import_module(module)
    assert package.__doc__
    for name in package.__all__:
        assert getattr(package, name) is not None


def exported(kind):
    """Public classes or functions, each once, by the name of where it is defined."""
    found = {}
    for module in NAMES:
        package = importlib.import_module(module)
        for name in package.__all__:
            value = getattr(package, name)
            if kind(value):
                found[f"{value.__module__.removeprefix('attnchain.')}.{name}"] = value
    return dict(sorted(found.items()))


FUNCTIONS = exported(inspect.isfunction)
CLASSES = exported(inspect.isclass)


def methods(cls):
    """Public methods written in the class itself."""
    for name, value in vars(cls).items():
        function = value.__func__ if isinstance(value, classmethod) else value
        if inspect.isfunction(function) and not name.startswith("_"):
            yield name, function


METHODS = {
    f"{place}.{name}": method
    for place, cls in CLASSES.items()
    for name, method in methods(cls)
}


def parameters(function):
    names = [
        {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(p.kind.name, "") + p.name
        for p in inspect.signature(function).parameters.values()
    ]
    return [name for name in names if name not in ("self", "cls")]


def section(doc, title):
    """Names described in a section of a Google docstring, in order; None without it."""
    lines = inspect.cleandoc(doc).splitlines()
    if f"{title}:" not in lines:
        return None
    names = []
    for line in lines[lines.index(f"{title}:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if entry := re.match(r" {4}(\*{0,2}\w+)(?: \([^)]*\))?:", line):
            names.append(entry[1])
    return names


def test_sections_are_read():
    doc = """Says something.

    Args:
        first: One thing,
            told on two lines: like this.
        *rest: Others.
        **options: See `Options`.

    Returns:
        Nothing: at all.
    """
    assert section(doc, "Args") == ["first", "*rest", "**options"]
    assert section(doc, "Raises") is None


@pytest.mark.parametrize("place", [*FUNCTIONS, *CLASSES])
def test_public_names_are_described(place):
    value = {**FUNCTIONS, **CLASSES}[place]
    first = (inspect.cleandoc(value.__doc__ or "")).split("\n")[0]
    assert first.endswith(".")
    # A dataclass without a docstring is given its signature as one.
    assert not first.startswith(f"{value.__name__}(")


@pytest.mark.parametrize("place", FUNCTIONS)
def test_args_of_functions_are_their_parameters(place):
    expected = parameters(FUNCTIONS[place])
    assert (section(FUNCTIONS[place].__doc__, "Args") or []) == expected


@pytest.mark.parametrize("place", METHODS)
def test_args_of_methods_are_their_parameters(place):
    """A method may be described in one line, or by the abstract one it fills in."""
    described = section(METHODS[place].__doc__ or "", "Args")
    assert described in (None, parameters(METHODS[place]))


DATACLASSES = [p for p, cls in CLASSES.items() if dataclasses.is_dataclass(cls)]


@pytest.mark.parametrize("place", DATACLASSES)
def test_fields_are_described(place):
    """Under Args where users make one, under Attributes where they are given one."""
    cls = CLASSES[place]
    inherited = {
        field.name
        for base in cls.__mro__[1:]
        if dataclasses.is_dataclass(base)
        for field in dataclasses.fields(base)
    }
    fields = [f.name for f in dataclasses.fields(cls) if not f.name.startswith("_")]
    made = [f.name for f in dataclasses.fields(cls) if f.init and f.name in fields]
    args = section(cls.__doc__, "Args")
    attributes = section(cls.__doc__, "Attributes") or []
    if args is not None:
        assert args == made
        assert set(attributes) <= set(fields) | set(dir(cls))
    else:
        assert attributes == [name for name in fields if name not in inherited]


@pytest.mark.parametrize("place", [*FUNCTIONS, *METHODS])
def test_public_functions_are_annotated(place):
    function = {**FUNCTIONS, **METHODS}[place]
    given = set(function.__annotations__)
    needed = {name.lstrip("*") for name in parameters(function)} | {"return"}
    assert needed <= given


@pytest.mark.parametrize("place", [p for p, c in CLASSES.items() if "results" in p])
def test_results_are_frozen(place):
    cls = CLASSES[place]
    if dataclasses.is_dataclass(cls):
        assert cls.__dataclass_params__.frozen


def errors():
    module = importlib.import_module("attnchain.errors")
    return {n: v for n, v in vars(module).items() if inspect.isclass(v)}


@pytest.mark.parametrize("name", [n for n in errors() if n.endswith("Error")])
def test_every_error_is_a_chain_error_and_a_builtin_one(name):
    from attnchain import ChainError

    error = errors()[name]
    assert issubclass(error, ChainError)
    assert error.__doc__
    if error is not ChainError:
        builtin = (ValueError, RuntimeError, LookupError, ImportError, OSError)
        assert issubclass(error, builtin)


@pytest.mark.parametrize("place", FUNCTIONS)
def test_named_errors_exist(place):
    raised = section(FUNCTIONS[place].__doc__, "Raises") or []
    assert set(raised) <= {*errors(), "ValueError", "TypeError", "AssertionError"}
