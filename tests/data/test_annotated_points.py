"""Points of an image as people and annotation programs write them."""

import json
from pathlib import Path
from typing import Any

import pytest

from dhpf.common.errors import UserError
from dhpf.data.annotated_points import read_points

IMAGE = Path("photographs/cat.jpg")


@pytest.mark.parametrize(
    "text",
    [
        "10.5 20\n-3 40\n",
        "10,5;20\n-3;40",
        "10,5\t20\n-3\t40",
        "\ufeffx,y\r\n10.5, 20\r\n\r\n-3 , 40\r\n",
        "x;y\n10,5;20\n-3;40",
        "# of the cat\n10.5,20  # eye\n  (-3, 40)\n",
        "10.5,20,left eye\n-3,40,nose",
        "1,left eye,10.5,20\n2,nose,-3,40",
        "name,y,x\nleft eye,20,10.5\nnose,40,-3",
        "source_x,source_y,target_x,target_y,confidence\n10.5,20,1,2,0.5\n-3,40,3,4,0.5",
        "10.5,20\n−3,40",  # a typographer's minus
        "[[10.5, 20], [-3, 40]]",
    ],
)
def test_lines_are_read_as_they_come(text: str) -> None:
    assert read_points(text, IMAGE) == [(10.5, 20), (-3, 40)]


LABELME = {
    "imagePath": "cat.jpg",
    "shapes": [
        {"label": "eye", "shape_type": "point", "points": [[10.5, 20]]},
        {"label": "box", "shape_type": "rectangle", "points": [[0, 0], [9, 9]]},
        {"label": "nose", "shape_type": "point", "points": [[-3, 40]]},
    ],
}
COCO = {
    "images": [{"id": 7, "file_name": "dog.jpg"}, {"id": 8, "file_name": "a/cat.jpg"}],
    "annotations": [
        {"image_id": 7, "keypoints": [1, 1, 2]},
        {"image_id": 8, "keypoints": [10.5, 20, 2, 0, 0, 0, -3, 40, 1]},
    ],
}
REGIONS = [
    {"shape_attributes": {"name": "point", "cx": 10.5, "cy": 20}},
    {"shape_attributes": {"name": "circle", "cx": 1, "cy": 1, "r": 3}},
    {"shape_attributes": {"name": "point", "cx": -3, "cy": 40}},
]
VIA: dict[str, Any] = {
    "dog.jpg99": {"filename": "dog.jpg", "regions": []},
    "cat.jpg123": {"filename": "cat.jpg", "regions": REGIONS},
}


@pytest.mark.parametrize(
    "content",
    [
        LABELME,
        COCO,
        VIA,
        {"_via_settings": {}, "_via_img_metadata": VIA},
        {"cat.jpg123": {"filename": "other.jpg", "regions": {str(k): r for k, r in enumerate(REGIONS)}}},
        {"matches": [{"source": [10.5, 20]}, {"source": [-3, 40]}]},
    ],
)
def test_what_annotation_programs_write_is_read(content: Any) -> None:
    assert read_points(json.dumps(content, indent=1), IMAGE) == [(10.5, 20), (-3, 40)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,2\n3", "line 2: '3'"),
        ("eye,nose", "line 1: 'eye,nose'"),
        ('{"shapes": 3}', "JSON"),
        ('{"a": {"filename": "a.jpg"}, "b": {"filename": "b.jpg"}}', r"cat\.jpg"),
    ],
)
def test_what_is_no_point_is_named(text: str, names: str) -> None:
    with pytest.raises(UserError, match=names):
        read_points(text, IMAGE)
