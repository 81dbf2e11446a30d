"""The curated labels name artwork that there is, and no two of them draw the same."""

from lightning_avatars.data.artwork import definition
from lightning_avatars.data.avataaars import AVATAAARS, FIXED


def chosen():
    return [(group, name, value.options) for group, values in AVATAAARS.items() for name, value in values.items()]


def test_every_variant_exists_in_the_artwork():
    components = definition("avataaars")["components"]
    for group, name, options in chosen():
        for option, variant in options.items():
            if option.endswith("Variant"):
                assert variant in components[option.removesuffix("Variant")]["variants"], f"{group}={name}"


def test_every_option_is_one_that_the_artwork_has():
    style = definition("avataaars")
    parts, colours = set(style["components"]), set(style["colors"])
    for group, name, options in [*chosen(), ("fixed", "", FIXED)]:
        for option in options:
            stem, kind = next(
                (option.removesuffix(k), k) for k in ("Variant", "Color", "Probability") if option.endswith(k)
            )
            assert stem in (colours if kind == "Color" else parts), f"{group}={name}: {option}"


def test_the_values_of_a_group_draw_different_things():
    for group, values in AVATAAARS.items():
        drawn = [tuple(sorted(value.options.items())) for value in values.values()]
        assert len(set(drawn)) == len(drawn), group
        assert all(value.share > 0 for value in values.values())
