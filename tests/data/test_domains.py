from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from PIL import Image

from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.base import FaceData, FaceDataset, Picture
from lightning_avatars.data.domains import AttributeDomains, DomainFolders, Domains
from lightning_avatars.data.store import build


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))


class People(FaceDataset):
    """Twenty people with three pictures each, some smiling, some young; one file cannot be read."""

    label_names = ("Smiling", "Young", "hair=long", "hair=short")

    def __init__(self, name="people", shift=0, **settings) -> None:
        super().__init__(max_rejected=0.1, **settings)
        self.called, self.shift = name, shift

    @property
    def name(self) -> str:
        return self.called

    def fingerprint(self) -> dict[str, object]:
        return {"shift": self.shift}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        for i in range(60):
            image = np.full((3, resolution, resolution), i + self.shift, np.uint8)
            labels = np.array([i % 2, i % 3 == 0, i % 5 == 0, i % 5 != 0], np.float32)
            digest = blake2b(image[0, 0, 0].tobytes(), digest_size=16).digest()
            yield Picture(
                f"{i}.png", image if i != 7 else None, labels, digest, f"{i % 20}", error="broken" if i == 7 else None
            )


@pytest.fixture
def folders(tmp_path):
    for name, count, shade in (("photos", 30, 0), ("drawings", 20, 100)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (12, 10), (shade + i, 2 * i, 3 * i)).save(tmp_path / name / f"{i:02}.png")
    return {"photo": tmp_path / "photos", "drawing": tmp_path / "drawings"}


def test_folders_are_domains(folders):
    dataset = DomainFolders(folders)
    store = build(dataset, 8)
    assert (
        dataset.domain_names == ["photo", "drawing"] and dataset.label_names == [] and dataset.name == "photo_drawing"
    )
    assert store.domains.tolist() == [0] * 30 + [1] * 20
    assert store.names[0] == "photo/00.png" and store.names[49] == "drawing/19.png"
    assert (store.read(np.arange(50))[:, 0, 0, 0] == [*range(30), *range(100, 120)]).all()


def test_each_domain_is_split_as_it_is_alone(folders):
    together = build(DomainFolders(folders), 8)
    for name, path in folders.items():
        other = {"other": next(one for key, one in folders.items() if key != name)}
        again = build(DomainFolders({name: path} | other), 8)
        mine = {n: s for n, s in zip(together.names, together.splits, strict=True) if n.startswith(name)}
        assert mine == {n: s for n, s in zip(again.names, again.splits, strict=True) if n.startswith(name)}


def test_published_splits_of_domains_are_their_folders_names(tmp_path):
    for name in ("a", "b"):
        for i, split in enumerate(("train", "test") * 3):
            (tmp_path / name / split).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i, ord(name), 0)).save(tmp_path / name / split / f"{i}.png")
    store = build(DomainFolders({"a": tmp_path / "a", "b": tmp_path / "b"}, split="standard"), 8)
    assert store.counts() == {"train": 6, "val": 0, "test": 6}


def test_training_batches_of_three_domains(folders, tmp_path):
    (tmp_path / "more").mkdir()
    for i in range(15):
        Image.new("RGB", (8, 8), (200 + i, i, i)).save(tmp_path / "more" / f"{i:02}.png")
    data = FaceData(
        DomainFolders(folders | {"sketch": tmp_path / "more"}, split=(0.5, 0.25, 0.25)), 8, 9, num_workers=0
    )
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    red = batch["image"][:, 0, 0, 0]
    assert batch["domain"].tolist() == [0, 1, 2] * 3 and ((red >= 100).int() + (red >= 200)).tolist() == [0, 1, 2] * 3
    assert data.domain_names == ["photo", "drawing", "sketch"]
    assert data.label_names == ["domain=photo", "domain=drawing", "domain=sketch"]
    assert batch["labels"].tolist() == np.eye(3)[batch["domain"]].tolist()


def test_domains_of_one_picture_are_refused(folders, tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "one/a.png")
    with pytest.raises(ValueError, match="domain 'one' of photo_one has 1 pictures; a domain needs more than one"):
        build(DomainFolders({"photo": folders["photo"], "one": tmp_path / "one"}), 8)


def test_the_same_pictures_as_two_domains_are_refused(folders):
    with pytest.raises(ValueError, match="domains 'photo' and 'again' have the same pictures"):
        build(DomainFolders({"photo": folders["photo"], "again": folders["photo"]}), 8)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["a"], r"two or more domains, got \['a'\]"),
        ([], "two or more domains"),
        (["a", "b/c"], "domain 'b/c': a name is letters"),
        (["a", "a_to_b"], "domain 'a_to_b'.*no '_to_'"),
    ],
)
def test_names_of_domains_are_checked_at_once(names, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        DomainFolders(dict.fromkeys(names, tmp_path))
    with pytest.raises(ValueError, match=match):
        AttributeDomains(People(), dict.fromkeys(names, "Smiling"))


def test_datasets_are_joined_as_domains():
    joined = Domains({"photo": People(), "other": People("others", shift=100)})
    store = build(joined, 8)
    assert joined.label_names == People.label_names and store.labels.shape == (118, 4)
    assert store.identities[0] == "people/0" and store.identities[60] == "others/1"
    assert [name for name, _ in store.rejected] == ["photo/7.png", "other/7.png"]
    avatars = Domains({"photo": People(), "avatar": Avatars(10)})
    assert avatars.label_names == [] and avatars.max_rejected == 0.1
    three = {"photo": People(), "other": People("others", shift=100), "more": People("more", shift=180)}
    assert Domains(three).label_names == People.label_names
    three["more"] = Avatars(10)
    assert Domains(three).label_names == ["domain=photo", "domain=other", "domain=more"]
    store = build(avatars, 8)
    assert store.labels.shape == (69, 0) and np.bincount(store.domains).tolist() == [59, 10]


def test_datasets_that_do_not_go_together_are_named():
    gray = People()
    gray.channels = 1
    with pytest.raises(ValueError, match="channels of domain 'b' is 1, of 'a' 3: make them equal"):
        Domains({"a": People(), "b": gray})
    with pytest.raises(ValueError, match="split of domain 'b' is standard, of 'a' "):
        Domains({"a": People(), "b": People(split="standard")})
    with pytest.raises(ValueError, match="domain 'b' has domains itself: c, d"):
        Domains({"a": People(), "b": Domains({"c": People(), "d": People()})})


def test_attributes_are_domains_and_people_stay_in_one_split():
    domains = {"smiling": "Smiling, not hair=long", "serious": "not Smiling,not hair=long"}
    dataset = AttributeDomains(People(), domains)
    store = build(dataset, 8)
    numbers = [int(name.removesuffix(".png")) for name in store.names]
    assert numbers == [i for i in range(60) if i % 5 and i != 7]
    assert (store.domains == [1 - i % 2 for i in numbers]).all() and dataset.domain_names == ["smiling", "serious"]
    assert dataset.name == "people_smiling_serious" and [name for name, _ in store.rejected] == ["7.png"]
    whole = dict(zip(build(People(), 8).names, build(People(), 8).splits, strict=True))
    assert all(whole[name] == split for name, split in zip(store.names, store.splits, strict=True))


def test_conditions_that_overlap_or_name_no_label_are_refused():
    with pytest.raises(ValueError, match=r"3\.png of people is in the domains smiling and young: make them exclude"):
        build(AttributeDomains(People(), {"smiling": "Smiling", "young": "Young"}), 8)
    with pytest.raises(
        ValueError, match="domain 'b': 'Old' is none of the labels Smiling, Young, hair=long, hair=short"
    ):
        build(AttributeDomains(People(), {"a": "Smiling", "b": "not Old"}), 8)
    with pytest.raises(ValueError, match="domain 'b' of people_a_b has 0 pictures"):
        build(AttributeDomains(People(), {"a": "Smiling", "b": "not Smiling, hair=long, hair=short"}), 8)


def test_datasets_and_domains_are_named_on_the_command_line(tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FaceData, "data")
    people = {"class_path": "lightning_avatars.data.folder.ImageFolder", "init_args": {"path": str(tmp_path)}}
    avatars = {"class_path": "lightning_avatars.data.avatars.Avatars", "init_args": {"count": 5}}
    joined = {"class_path": "lightning_avatars.data.domains.Domains"}
    joined["init_args"] = {"domains": {"photo": people, "avatar": avatars}}
    chosen = {"class_path": "lightning_avatars.data.domains.AttributeDomains"}
    chosen["init_args"] = {
        "dataset": avatars,
        "domains": {"plain": "accessories=none", "other": "not accessories=none"},
    }
    for described, names in ((joined, ["photo", "avatar"]), (chosen, ["plain", "other"])):
        config = parser.parse_object({"data": {"dataset": described}})
        again = parser.parse_string(parser.dump(config))  # as a run's own configuration keeps it
        assert parser.instantiate_classes(again).data.domain_names == names
