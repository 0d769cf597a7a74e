"""A folder of pictures, answered one by one: found, resumed, recorded, on any engine.

`find_pictures` finds them, `read_marks` reads what people marked in each; a `Job` says
what to do with every one, and `run` does it: in this process, in several, or on Ray.
"""

from attnchain.folder.cluster import ray_cluster
from attnchain.folder.contacts import Sheet, contact_sheet
from attnchain.folder.engines import ENGINES, run
from attnchain.folder.finding import Picture, find_pictures
from attnchain.folder.job import RECORD, Item, Job, Outcome, orphans, plan
from attnchain.folder.marking import match_marks, read_marks
from attnchain.folder.merging import merged_coco

__all__ = [
    "ENGINES",
    "RECORD",
    "Item",
    "Job",
    "Outcome",
    "Picture",
    "Sheet",
    "contact_sheet",
    "find_pictures",
    "match_marks",
    "merged_coco",
    "orphans",
    "plan",
    "ray_cluster",
    "read_marks",
    "run",
]
