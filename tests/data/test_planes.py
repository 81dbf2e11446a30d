"""What lies beside the pixels: sources, label maps, domains and counterparts, from the store to batches."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from hashlib import blake2b
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_avatars.data import store as store_module
from lightning_avatars.data import writer
from lightning_avatars.data.base import FaceData, FaceDataset, Picture
from lightning_avatars.data.batches import corners, opposites
from lightning_avatars.data.cache import file_hash
from lightning_avatars.data.pictures import StorePictures
from lightning_avatars.data.store import build

NAMES = ["skin", "left_eye", "right_eye", "l_lip"]


class Planes(FaceDataset):
    """Pictures whose pixels tell where they are: row and column, in image, source and label map alike."""

    name = "planes"
    label_names = ("number",)

    def __init__(self, count=40, source_channels=2, maps=True, domains=(), people=0, **settings) -> None:
        super().__init__(**settings)
        self.count, self.source_channels, self.people = count, source_channels, people
        self.maps, self.domains, self.counterparts = maps, list(domains), people > 0

    @property
    def mask_names(self) -> list[str]:
        return NAMES if self.maps else []

    @property
    def domain_names(self) -> list[str]:
        return self.domains

    def fingerprint(self) -> dict[str, object]:
        return vars(self)

    def pictures(self, resolution: int) -> Iterator[Picture]:
        for i in range(self.count):
            image, source, mask = planes(i, self.source_channels, resolution)
            yield Picture(
                str(i),
                image,
                np.array([i], np.float32),
                blake2b(b"%d" % i, digest_size=16).digest(),
                identity=f"person {i % self.people}" if self.people else None,
                source=source if self.source_channels else None,
                mask=mask if self.maps else None,
                domain=self.domain(i),
            )

    def domain(self, i: int) -> int | None:
        """Every third picture is of the first domain, the others of the others in turn."""
        if not self.domains:
            return None
        return 0 if i % 3 == 0 else 1 + i % (len(self.domains) - 1)


def planes(i, channels, resolution):
    row, column = np.mgrid[:resolution, :resolution].astype(np.uint8)
    image = np.stack([row, column, np.full_like(row, i)])
    source = np.stack([image[(c + 1) % 3] for c in range(channels)]) if channels else None
    mask = np.where(row < 2, 0, np.where(column < resolution // 2, 1, 2))  # the upper border, left and right
    return image, source, mask.astype(np.uint8)[None]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))


def prepared(dataset, resolution=8, batch_size=6, rank=0, world_size=1, images_seen=0, **settings):
    data = FaceData(dataset, resolution, batch_size, **settings)
    module = SimpleNamespace(images_seen=images_seen)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, lightning_module=module)
    data.prepare_data()
    data.setup("fit")
    return data


def training(data, count):
    return list(itertools.islice(data.train_dataloader(), count))


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
@pytest.mark.parametrize("limit", [store_module.RAW_LIMIT, 0, 6000])
def test_sources_and_maps_are_read_as_they_were_written(channels, limit, monkeypatch):
    monkeypatch.setattr(writer, "BUFFER", 16 * 64 * (4 + channels))  # 16 pictures at a time: past 6000 bytes midway
    store = build(Planes(source_channels=channels), 8, raw_limit=limit)
    index = np.random.default_rng(0).permutation(40)
    expected = [planes(i, channels, 8) for i in index]
    for place, plane in enumerate(("images", "sources", "masks")):
        if plane in store.planes:
            assert (store.read(index, plane) == np.stack([one[place] for one in expected])).all()
    assert list(store.planes) == ["images", *(["sources"] if channels else []), "masks"]
    assert store.compressed == (limit < store_module.RAW_LIMIT)
    assert store.domains is None and store.others is None


def test_what_has_nothing_beside_its_pixels_is_stored_as_ever():
    """Stores made before there were planes open, and scores still name the pictures by the same key."""
    plain = Planes(source_channels=0, maps=False)
    parts = [1, 8, 3, "planes", plain.fingerprint(), ("number",)]
    known = json.dumps([parts, [(0.7, 0.15, 0.15), 0.01]], sort_keys=True, default=str)
    store = build(plain, 8)
    assert store.key == hashlib.sha256(known.encode()).hexdigest()
    path = store.directory / "store.json"
    contents = json.loads(path.read_text())
    assert not {"domains.npy", "others.npy"} & contents["sizes"].keys() and contents.pop("planes") == ["images"]
    path.write_text(json.dumps(contents))
    sums = store.directory / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith("store.json")]
    sums.write_text("\n".join([*lines, f"{file_hash(path)}  store.json"]) + "\n")
    assert build(plain, 8).directory == store.directory and json.loads(path.read_text()) == contents
    assert (build(plain, 8).read(np.arange(40)) == np.stack([planes(i, 0, 8)[0] for i in range(40)])).all()


def test_what_a_dataset_has_not_is_in_no_batch():
    data = prepared(Planes(source_channels=0, maps=False))
    for batch in (*training(data, 1), *data.val_dataloader()):
        assert batch.keys() == {"image", "labels", "index"}
    assert (data.source_channels, data.mask_names, data.domain_names) == (0, [], [])


def test_every_choice_beside_the_pixels_has_a_store_of_its_own():
    choices = [{}, {"source_channels": 1}, {"maps": False}, {"domains": "ab"}, {"domains": "ac"}, {"people": 9}]
    assert len({store_module.store_key(Planes(**one), 8) for one in choices}) == 6


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"source": np.zeros((1, 8, 8), np.uint8)}, r"3: expected sources of uint8 \(2, 8, 8\), got .*\(1, 8, 8\)"),
        ({"source": None}, r"3: expected sources of uint8 \(2, 8, 8\), got None"),
        ({"mask": np.zeros((1, 8, 8), np.float32)}, r"3: expected masks of uint8 \(1, 8, 8\), got \('float32'"),
        ({"mask": np.full((1, 8, 8), 4, np.uint8)}, "3: its label map has class 4, but only 4 classes are known"),
        ({"domain": 1}, r"3: domain 1 is none of \[\]"),
    ],
)  # fmt: skip
def test_a_picture_that_breaks_its_datasets_promise_is_named(wrong, match):
    class Wrong(Planes):
        def pictures(self, resolution):
            for picture in super().pictures(resolution):
                yield Picture(**vars(picture) | (wrong if picture.name == "3" else {}))

    with pytest.raises(ValueError, match=match):
        build(Wrong(), 8)


def test_domains_of_one_picture_or_none_are_refused():
    with pytest.raises(ValueError, match="domain 'a' of planes has 1 pictures; a domain needs more than one"):
        build(Planes(count=3, domains="ab"), 8)

    class Two(Planes):
        def domain(self, i):
            return i % 2

    with pytest.raises(ValueError, match="domain 'c' of planes has 0 pictures"):
        build(Two(domains="abc"), 8)


def test_batches_hold_domains_in_turn_and_evaluation_shows_all_once():
    data = prepared(Planes(domains="ab"), world_size=1)
    for batch in training(data, 4):
        assert batch["domain"].tolist() == [0, 1] * 3 and batch["domain"].dtype == torch.int64
        assert (batch["domain"] == (batch["index"] % 3 > 0)).all()
    shown = [batch["index"] for batch in data.val_dataloader()]
    assert torch.cat(shown).tolist() == data.store.split("val").tolist()
    assert all((batch["domain"] == (batch["index"] % 3 > 0)).all() for batch in data.val_dataloader())


def test_batches_that_cannot_hold_all_domains_equally_are_refused():
    with pytest.raises(ValueError, match="multiple of the 1 processes times 2 domains"):
        training(prepared(Planes(domains="ab"), batch_size=7), 1)
    with pytest.raises(ValueError, match="multiple of the 2 processes times 2 domains"):
        training(prepared(Planes(domains="ab"), batch_size=6, world_size=2), 1)


def test_a_split_that_lacks_a_domain_is_named():
    class Late(Planes):
        def domain(self, i):
            return int(build(Planes(), 8).splits[i] > 0)

    data = prepared(Late(domains="ab"))
    with pytest.raises(
        ValueError, match=r"the train split of planes lacks a domain \(\d+ of a, 0 of b\); add pictures"
    ):
        data.train_dataloader()
    with pytest.raises(ValueError, match=r"the val split of planes lacks a domain \(0 of a, \d+ of b\)"):
        data.val_dataloader()


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_move_picture_source_and_map_alike(flip):
    data = prepared(Planes(), 8, 6, horizontal_flip=flip, crop_from=1.625, seed=4)
    batches = training(data, 30)
    image, source, mask = (torch.cat([batch[name] for batch in batches]).int() for name in ("image", "source", "mask"))
    assert image.shape == (180, 3, 8, 8) and mask.shape == (180, 1, 8, 8)
    top, left = image[:, 0, 0, 0], image[:, 1].amin((1, 2))
    rows, columns = torch.arange(8)[:, None], torch.arange(8)[None]
    turned = image[:, 1, 0, 0] > image[:, 1, 0, -1]
    across = torch.where(turned[:, None, None], 7 - columns, columns) + left[:, None, None]
    assert (image[:, 0] == top[:, None, None] + rows).all() and (image[:, 1] == across).all()
    assert (source[:, 0] == image[:, 1]).all() and (source[:, 1] == image[:, 2]).all()
    side = torch.where((across < 6) != turned[:, None, None], 1, 2)  # in the mirror left is right
    assert (mask[:, 0] == torch.where(image[:, 0] < 2, 0, side)).all()
    assert set(top.tolist()) == set(left.tolist()) == set(range(6)), "every offset from 0 to 5 comes"
    assert (0.35 < turned.float().mean() < 0.65) if flip else not turned.any()


def test_crops_are_drawn_from_the_position_alone():
    plain = training(prepared(Planes(), crop_from=1.625, horizontal_flip=True), 6)
    later = training(prepared(Planes(), crop_from=1.625, horizontal_flip=True, images_seen=12), 4)
    halves = [
        training(prepared(Planes(), crop_from=1.625, horizontal_flip=True, rank=r, world_size=2), 6) for r in (0, 1)
    ]
    for key in ("image", "source", "mask"):
        assert all(torch.equal(a[key], b[key]) for a, b in zip(plain[2:], later, strict=True))
        joined = [torch.cat([a[key], b[key]]) for a, b in zip(*halves, strict=True)]
        assert all(torch.equal(a[key], b) for a, b in zip(plain, joined, strict=True))


def test_corners_are_spread_evenly():
    drawn = corners(1, np.arange(60_000), 2)
    counts = np.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9)
    assert drawn.shape == (60_000, 2) and abs(counts / 60_000 - 1 / 9).max() < 0.006  # 4.7 standard deviations


def test_evaluation_sees_whole_pictures_at_the_resolution():
    data = prepared(Planes(), 8, crop_from=1.625, horizontal_flip=True)
    for batch in data.val_dataloader():
        for i, image, mask in zip(batch["index"], batch["image"], batch["mask"], strict=True):
            expected = planes(int(i), 2, 8)
            assert (image.numpy() == expected[0]).all() and (mask.numpy() == expected[2]).all()
    for wrong in (0.9, 143):
        with pytest.raises(
            ValueError, match=f"crop_from is how many times the resolution .* from 1 to 8, got {wrong};"
        ):
            FaceData(Planes(), 8, crop_from=wrong)


def test_in_a_mirror_left_and_right_trade_places_where_both_are_there():
    assert opposites(NAMES).tolist() == [0, 2, 1, 3]
    assert opposites(["r_ear", "l_eye", "l_ear", "ear_r", "left_hand"]).tolist() == [2, 1, 0, 3, 4]


def test_counterparts_are_the_next_picture_of_the_person_in_the_split():
    data = prepared(Planes(count=60, people=15))
    loaders = {"train": None, "val": data.val_dataloader(), "test": data.test_dataloader()}
    assert all("other" not in batch for batch in training(data, 2))
    for split in ("val", "test"):
        for batch in loaders[split]:
            expected = (batch["index"] + 15) % 60  # each person has four pictures, all in one split
            assert (batch["other"][:, 2, 0, 0] == expected).all() and (batch["other_labels"][:, 0] == expected).all()
        pictures = StorePictures(data.store, data.store.split(split), split)
        again = pictures.batch(slice(0, 3), torch.device("cpu"))
        assert (again["other_labels"][:, 0] == (again["index"] + 15) % 60).all() and again["mask"].shape == (3, 1, 8, 8)


def test_a_person_without_a_counterpart_is_named():
    with pytest.raises(ValueError, match="planes promises another picture of everybody, but person 3 has one"):
        build(Planes(count=19, people=16), 8)
