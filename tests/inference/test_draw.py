import numpy as np
import pytest

from vision_mtl.inference.draw import READABLE, class_colour, draw_image, text_colour


def blank(height: int, width: int, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_no_boxes_and_no_caption_change_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    assert np.array_equal(draw_image(image, np.zeros((0, 4)), [], []), image)


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    drawn = draw_image(blank(200, 200), np.zeros((0, 4)), [], [])
    assert drawn.shape == (800, 800, 3)
    assert max(draw_image(blank(3, 2), np.zeros((0, 4)), [], []).shape) >= READABLE


def test_a_box_is_outlined_in_its_colour_and_not_filled() -> None:
    drawn = draw_image(blank(600, 800), np.array([[100.0, 200, 300, 400]]), [""], [1])
    assert tuple(drawn[200, 200]) == class_colour(1)
    assert tuple(drawn[400, 200]) == class_colour(1)
    assert tuple(drawn[300, 100]) == class_colour(1)
    assert np.all(drawn[300, 200] == 128)
    changed = np.argwhere((drawn != 128).any(2))
    assert changed.min(0).tolist() == [200, 100]
    assert changed.max(0).tolist() == [400, 300]


@pytest.mark.parametrize("box", [[0, 0, 30, 20], [780, 590, 800, 600], [0, 0, 800, 600], [-50, -50, 20, 20]])
def test_labels_stay_inside_the_picture(box: list[int]) -> None:
    drawn = draw_image(blank(600, 800), np.array([box], float), ["a long name 99%"], [0])
    assert drawn.shape == (600, 800, 3)
    chip = (drawn == class_colour(0)).all(2).sum()
    assert chip > 800  # a filled label, not only an outline


def test_labels_of_the_same_box_do_not_hide_each_other() -> None:
    boxes = np.array([[300.0, 300, 500, 400]] * 2)
    drawn = draw_image(blank(600, 800), boxes, ["first", "second"], [0, 1])
    assert (drawn == class_colour(0)).all(2).sum() > 300
    assert (drawn == class_colour(1)).all(2).sum() > 300


def test_the_caption_is_below_and_wraps() -> None:
    one = draw_image(blank(600, 800), np.zeros((0, 4)), [], [], ["scene: brick 99%"])
    many = draw_image(blank(600, 800), np.zeros((0, 4)), [], [], ["word " * 100])
    assert one.shape[1] == many.shape[1] == 800
    assert 600 < one.shape[0] < many.shape[0]
    assert np.all(one[:600] == 128)


def test_names_beyond_ascii_are_drawn() -> None:
    drawn = draw_image(
        blank(600, 800), np.array([[50.0, 50, 100, 100]]), ["Schärfe 鼠 é"], [3], ["weiß: été"]
    )
    assert drawn.shape[1] == 800


def test_colours_differ_and_text_contrasts() -> None:
    colours = [class_colour(i) for i in range(80)]
    assert len(set(colours)) == 80
    assert text_colour((255, 255, 0)) == (0, 0, 0)
    assert text_colour((0, 0, 120)) == (255, 255, 255)


def test_every_letter_has_a_glyph_of_its_own() -> None:
    strips = [
        draw_image(blank(600, 800), np.zeros((0, 4)), [], [], [word])[600:] for word in ("öß", "клетка")
    ]
    others = [
        draw_image(blank(600, 800), np.zeros((0, 4)), [], [], [word])[600:] for word in ("éñ", "πίνακα")
    ]
    for strip, other in zip(strips, others, strict=True):
        assert not np.array_equal(strip, other)  # a font without them draws one box for all


def test_long_names_line_breaks_and_undecodable_names_fit() -> None:
    box = np.array([[300.0, 300, 500, 400]])
    for text in ("a" * 500, "two\nlines", "\udcff.png"):
        drawn = draw_image(blank(600, 800), box, [text], [0], [text])
        assert drawn.shape[1] == 800
        assert np.all(drawn[500:600] == 128)


def test_a_label_leaves_a_small_box_free() -> None:
    boxes = np.array([[300.0, 300, 500, 400], [305, 280, 330, 296]])
    drawn = draw_image(blank(600, 800), boxes, ["a name", ""], [0, 1])
    assert tuple(drawn[296, 320]) == class_colour(1)
    assert np.all(drawn[288, 310:326] == 128)


def test_boxes_may_be_an_empty_list() -> None:
    assert np.array_equal(draw_image(blank(600, 800), np.array([]), [], []), blank(600, 800))
