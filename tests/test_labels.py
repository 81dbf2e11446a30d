"""Labels by name: groups of columns, and what a person writes."""

import pytest
import torch

from lightning_avatars.labels import assign, groups, leading, one_hot_groups, parse

NAMES = ["hair=short", "hair=curly", "hair=long", "Smiling", "accessories=none", "accessories=round"]


def test_groups_are_slices_of_columns():
    assert groups(NAMES) == {"hair": slice(0, 3), "Smiling": slice(3, 4), "accessories": slice(4, 6)}
    assert one_hot_groups(NAMES) == {"hair", "accessories"}
    assert groups([]) == {}


def test_a_torn_group_is_an_error():
    with pytest.raises(ValueError, match="'hair' must lie side by side"):
        groups(["hair=short", "Smiling", "hair=curly"])


def test_an_assignment_sets_whole_groups():
    assert parse("hair=curly, accessories=round", NAMES) == {"hair": [0, 1, 0], "accessories": [0, 1]}
    assert parse("", NAMES) == {}


@pytest.mark.parametrize(("text", "value"), [("Smiling", 1), ("Smiling=1", 1), ("Smiling=0", 0)])
def test_plain_names_are_switches(text, value):
    assert parse(text, NAMES) == {"Smiling": [value]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hair=curley", "no label is called 'hair=curley'; hair is one of short, curly, long"),
        ("hair", "hair is one of short"),
        ("hiar=curly", "the nearest are hair=curly"),
        ("Smilling", "the nearest are Smiling"),
        ("Smiling=2", "Smiling is 0 or 1"),
        ("zzz", "there are hair, Smiling, accessories"),
        ("hair=curly,hair=long", "'hair' is named twice"),
    ],
)
def test_what_is_not_there_lists_what_is(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text, NAMES)


def test_assign_overrides_the_named_groups_of_rows_and_leaves_the_others():
    rows = torch.tensor([[1.0, 0, 0, 1, 0, 1], [0, 0, 1, 0, 1, 0]])
    given = assign(rows, "hair=curly,Smiling=0", NAMES)
    assert given.tolist() == [[0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0]]
    assert rows[0, 0] == 1


def test_groups_lead_those_that_are_functions_of_them_wherever_they_stand():
    names = ["eyes=open", "eyes=shut", "mood=calm", "mood=sad", "mood=glad", "grave", "hat", "here"]
    rows = torch.tensor([[1.0, 0, 1, 0, 0, 0, 0, 1], [0, 1, 0, 1, 0, 1, 0, 1], [1, 0, 0, 0, 1, 0, 1, 1]])
    rows = torch.cat([rows, rows[:1]])
    rows[3, 6] = 1  # the calm wear hats or not
    assert leading(list(groups(names)), rows, names).keys() == {"mood", "hat"}
    assert leading(["mood"], rows, names)["mood"].keys() == {"eyes", "grave"}
    assert list(leading(["grave", "eyes", "hat"], rows, names)) == ["grave", "hat"], "of two of each other the first"
    assert list(leading(["mood", "here"], rows[:0], names)) == ["mood", "here"]
