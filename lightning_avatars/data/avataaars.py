"""The curated ``avataaars``: which artwork is drawn, how often, and what people call it."""

from __future__ import annotations

from typing import NamedTuple

from lightning_avatars.data.artwork import Options


class Value(NamedTuple):
    """One value of a group: its share relative to the others of the group, and the DiceBear options that draw it."""

    share: float
    options: Options


def variants(component: str, share: float = 1, **names: str) -> dict[str, Value]:
    """Name variants of a component that are equally likely: ``name=variant``."""
    always: Options = {f"{component}Probability": 100}
    return {name: Value(share, {f"{component}Variant": variant, **always}) for name, variant in names.items()}


def nothing(component: str, share: float) -> dict[str, Value]:
    """Leave a component out."""
    return {"none": Value(share, {f"{component}Probability": 0})}


def colors(*components: str, share: float = 1, **names: str) -> dict[str, Value]:
    """Name equally likely colours that some components share: ``name=hex``."""
    return {
        name: Value(share, {f"{component}Color": value for component in components}) for name, value in names.items()
    }


# Left out on purpose:
# - disturbing or offensive when drawn by chance: vomit, crossed-out (xDizzy) eyes, tears, eye patch, the caricature of
#   Frida Kahlo, printed shirts (skull, "resist");
# - reads badly at 32 to 64 pixels: hearts (red eyes), rolling and squinting eyes, eating, disbelief, concerned and
#   screamOpen (blots), the ghostly overlays of bigHair and shavedSides, frizzle (a tuft on a bald head), the pale
#   unibrow, winterHat1 and winterHat04 (frames without a face);
# - cannot be told from a neighbour at that size: the "Natural" brows, winkWacky, prescription01, wayfarers, kurt,
#   beardMedium, moustacheFancy, shirtScoopNeck, blazerAndSweater, several haircuts;
# - yellow and orange skin.
# A hat hides the hair, so hats are values of `hair`: asking for `hair=curly` then never contradicts a hat. Beards take
# the hair's colour and hats the clothes', so that both colours mean one thing; glasses are always dark.
AVATAAARS: dict[str, dict[str, Value]] = {
    "hair": {
        **variants(
            "top",
            share=6,
            balding="sides",
            buzz="theCaesar",
            short="shortFlat",
            short_curly="shortCurly",
            short_wavy="shortWaved",
            spiky="dreads02",
            curly="curly",
            afro="fro",
            dreads="dreads",
            wavy="curvy",
            mullet="shaggyMullet",
            bun="bun",
            bob="bob",
            fringe="longButNotTooLong",
            long="straight01",
        ),
        **variants("top", share=4.5, beanie="winterHat03", sunhat="hat", hijab="hijab", turban="turban"),
    },
    "hair_color": {
        **colors(
            "hair",
            "facialHair",
            share=2,
            black="#2c1b18",
            brown="#724133",
            auburn="#a55728",
            blonde="#d6b370",
            red="#c93305",
            silver="#e8e1e1",
        ),
        **colors("hair", "facialHair", pink="#f59797"),
    },
    "skin": colors("skin", pale="#ffdbb4", light="#edb98a", tan="#d08b5b", brown="#ae5d29", dark="#614335"),
    "eyes": {
        **variants("eyes", share=2, normal="default", happy="happy"),
        **variants("eyes", wink="wink", closed="closed", surprised="surprised", side="side"),
    },
    "eyebrows": {
        **variants("eyebrows", share=2, normal="default", raised="raisedExcited"),
        **variants("eyebrows", flat="flatNatural", uneven="upDown", angry="angry", sad="sadConcerned"),
    },
    "mouth": {
        **variants("mouth", share=2, smile="smile", closed_smile="twinkle"),
        **variants("mouth", open="default", serious="serious", teeth="grimace", tongue="tongue", sad="sad"),
    },
    "clothes": variants(
        "clothes",
        blazer="blazerAndShirt",
        sweater="collarAndSweater",
        hoodie="hoodie",
        overalls="overall",
        crew_neck="shirtCrewNeck",
        v_neck="shirtVNeck",
    ),
    "clothes_color": colors(
        "clothes",
        "hat",
        black="#262e33",
        gray="#929598",
        red="#ff5c5c",
        pink="#ffafb9",
        blue="#5199e4",
        green="#a7ffc4",
        yellow="#ffffb1",
    ),
    "accessories": {
        **nothing("accessories", 5),
        **variants("accessories", share=2, round="round", square="prescription02"),
        **variants("accessories", share=1, sunglasses="sunglasses"),
    },
    "facial_hair": {
        **nothing("facialHair", 6),
        **variants("facialHair", share=1.35, light_beard="beardLight", full_beard="beardMajestic"),
        **variants("facialHair", share=1.3, moustache="moustacheMagnum"),
    },
}

FIXED: Options = {"accessoriesColor": "#262e33"}
