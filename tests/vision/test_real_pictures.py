"""End to end: the packaged model on three pictures, against outlines drawn by hand.

The thresholds are modest: a tenth to a quarter below what was measured when they were
set (overlaps of 0.92, 0.72 and 0.79 for person, cup and cat). They can fail: the whole
picture overlaps the three outlines by 0.53, 0.21 and 0.61 only, and a model of the
same form with random weights passes none of the first two tests.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from attnchain.errors import MissingExtraError, ModelNotFoundError
from attnchain.markov import metastable_sets, propagate, stationary
from attnchain.models import load, read_picture
from attnchain.vision import read_attention, segment, segment_sets
from attnchain.vision.segments import segment_point

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::attnchain.errors.NumericalWarning"),
]


@dataclass(frozen=True)
class Scene:
    """A picture with its object, all in pixels.

    Attributes:
        name: File in examples/.
        outline: Corners of the object, drawn by hand.
        box: Left, upper, right and lower edge of the object.
        places: Three points on the object.
        pieces: Metastable sets the object may fall into.
        overlap: Least overlap (intersection over union) of the object with its sets.
    """

    name: str
    outline: tuple[tuple[int, int], ...]
    box: tuple[int, int, int, int]
    places: tuple[tuple[int, int], ...]
    pieces: int
    overlap: float

    @property
    def picture(self):
        return read_picture(EXAMPLES / f"{self.name}.png")

    @property
    def object(self):
        drawn = Image.new("1", self.picture.size)
        ImageDraw.Draw(drawn).polygon(self.outline, fill=1)
        return torch.from_numpy(np.array(drawn))


PERSON = Scene(
    "astronaut",
    # with the collar, and the helmet under the arm
    (
        *((155, 75), (165, 45), (195, 20), (240, 15), (280, 35), (300, 75)),
        *((298, 110), (275, 130), (262, 165), (255, 180), (290, 215), (303, 240)),
        *((345, 275), (362, 340), (420, 345), (480, 380), (500, 440), (511, 511)),
        *((30, 511), (20, 400), (45, 290), (75, 245), (112, 215), (115, 185)),
        *((150, 155), (185, 150), (180, 125), (160, 100)),
    ),
    box=(20, 10, 400, 512),
    places=((225, 100), (150, 350), (225, 450)),
    pieces=3,
    overlap=0.7,
)
CUP = Scene(
    "coffee",
    (
        *((172, 110), (178, 70), (200, 40), (240, 20), (290, 15), (345, 28)),
        *((385, 60), (407, 100), (408, 130), (390, 180), (370, 205), (350, 240)),
        *((310, 280), (270, 283), (245, 278), (225, 305), (205, 305), (195, 290)),
        *((200, 265), (215, 240), (205, 220), (188, 190), (180, 150)),
    ),
    box=(175, 15, 430, 235),
    places=((300, 110), (215, 180), (260, 60)),
    pieces=1,
    overlap=0.55,
)
CAT = Scene(
    "chelsea",
    # the head; the picture cuts its ears
    (
        *((38, 0), (30, 60), (28, 110), (50, 180), (90, 230), (150, 265)),
        *((200, 280), (270, 285), (310, 262), (318, 230), (325, 195), (360, 155)),
        *((362, 110), (355, 85), (375, 60), (398, 10), (398, 0)),
    ),
    box=(50, 0, 380, 300),
    places=((175, 120), (245, 235), (220, 60)),
    pieces=1,
    overlap=0.7,
)
SCENES = (PERSON, CUP, CAT)


@pytest.fixture(scope="module")
def model():
    try:
        return load()
    except (ModelNotFoundError, MissingExtraError) as error:
        pytest.skip(f"the packaged model is not available: {error}")


@pytest.fixture(scope="module", params=SCENES, ids=lambda scene: scene.name)
def scene(request):
    return request.param


def overlap(a, b):
    return float((a & b).sum() / (a | b).sum())


def share_inside(region, target):
    return float((region & target).sum() / region.sum())


def main_share(region):
    """Share of a region's pixels that lie in its largest connected part."""
    parts, count = ndimage.label(region.numpy())
    return ndimage.sum_labels(region.numpy(), parts, range(1, count + 1)).max() / float(
        region.sum()
    )


@pytest.fixture(scope="module")
def result(model, scene):
    """What the command writes without any option."""
    return segment(scene.picture, model=model)


@pytest.fixture(scope="module")
def few(result):
    """As many sets as stand out most in the chain, which asks for no level."""
    found = metastable_sets(result.attention.out_and_back)
    return segment_sets(result.attention, len(found.prevalence))


def sets_inside(result, scene):
    """The sets that lie in the object by more than half."""
    sets = [result.labels == label for label in range(len(result.names))]
    inside = [s for s in sets if s.any() and share_inside(s, scene.object) > 0.5]
    assert len(inside) < len(sets)
    return inside


def test_the_object_is_made_of_few_metastable_sets(few, scene):
    inside = sets_inside(few, scene)
    assert 1 <= len(inside) <= scene.pieces
    region = torch.stack(inside).any(0)
    assert overlap(region, scene.object) >= scene.overlap
    assert main_share(region) >= 0.9


def test_sets_by_default_are_parts_of_the_object_or_of_the_rest(result, scene):
    region = torch.stack(sets_inside(result, scene)).any(0)
    assert overlap(region, scene.object) >= scene.overlap
    assert main_share(region) >= 0.9


def test_the_main_object_is_found_without_a_hint(model, scene):
    """Of the astronaut it is the head; the cup with its saucer; the cat."""
    found = segment(scene.picture, model=model, foreground=True).labels == 1
    if scene is CUP:
        assert share_inside(scene.object, found) >= 0.9
        assert float(found.float().mean()) <= 0.55
        return
    assert share_inside(found, scene.object) >= 0.7
    if scene is PERSON:
        assert found[100, 225]
        assert share_inside(scene.object, found) >= 0.1
    else:
        assert overlap(found, scene.object) >= scene.overlap


def test_the_segment_of_a_point_stays_in_the_object(result, scene):
    for x, y in scene.places:
        found = segment_point(result.attention, (x, y)).labels == 1
        assert found[y, x]
        assert share_inside(found, scene.object) >= 0.6
        # One point on the cup gives all of it; person and cat fall into parts.
        if scene is CUP:
            assert overlap(found, scene.object) >= 0.6


@pytest.fixture(scope="module")
def walks(model, scene):
    """Object mass of walks from three patches, and of what exceeds the limit.

    The chain is that of layers 8 to 11 at 518 pixels; a patch is on the object when
    its centre lies in the hand-drawn box.
    """
    picture = scene.picture
    attention = read_attention(picture, model, layers=(8, 9, 10, 11), size=518)
    grid = attention.grid
    x = (torch.arange(grid.columns) + 0.5) * picture.width / grid.columns
    y = (torch.arange(grid.rows) + 0.5) * picture.height / grid.rows
    left, upper, right, lower = scene.box
    across, down = (left < x) & (x < right), (upper < y) & (y < lower)
    on_object = (down[:, None] & across).flatten()
    limit = stationary(attention.chain).distribution
    found = []
    for place in scene.places:
        start = grid.patch_at(*place, width=picture.width, height=picture.height)
        assert on_object[start]
        bounces = propagate(attention.chain, start, 5, all_bounces=True).double()
        excess = (bounces - limit).clamp_min(0)
        excess = excess / excess.sum(-1, keepdim=True)
        found.append((bounces[:, on_object].sum(-1), excess[:, on_object].sum(-1)))
    return found


def test_two_bounces_beyond_the_limit_stay_on_the_object(walks):
    """Two bounces, the part above the limit, beat first-order row select.

    The mass compared is that of x = max(0, e P^2 - pi), scaled to sum one, with pi the
    stationary distribution; row select is e P. It does not hold for a plain push, as
    the next test states, nor is it a gain of the second bounce itself: the same
    measure after one bounce is as high or higher. What helps is taking away the
    popular tokens that every walk arrives at.
    """
    for pushed, excess in walks:
        assert excess[2] > pushed[1]


def test_a_plain_push_loses_the_object_with_every_bounce(walks):
    """A walk started on the object relaxes to the stationary distribution."""
    for pushed, _ in walks:
        assert (pushed[1:].diff() < 0).all()
