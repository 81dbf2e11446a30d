"""Face recognisers in ONNX files: tiny ones made here in closed form, and a published one on real faces."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.metrics.extractors.onnx_face import OnnxFace
from lightning_avatars.metrics.pairwise import identity_similarity
from tests.conf.measuring import ROOT, shared

pytest.importorskip("onnxruntime", reason="needs the extra faces (onnxruntime)")


def field(number: int, value: int | str | bytes) -> bytes:
    """Encode one field of a protocol buffer."""
    if isinstance(value, int):
        return bytes([number << 3]) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def varint(value: int) -> bytes:
    high, low = divmod(value, 128)
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def tensor_type(name: str, shape: tuple[int | str, ...]) -> bytes:
    dims = b"".join(field(1, field(2 if isinstance(size, str) else 1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def network(
    path: Path, into: tuple[int | str, ...], out: tuple[int | str, ...], operation: str = "Flatten", extra: bytes = b""
) -> Path:
    """Write an ONNX file of one operation from ``pixels`` to ``embedding``."""
    inputs = field(1, "pixels") + (field(1, "weight") if extra else b"")
    node = inputs + field(2, "embedding") + field(4, operation)
    graph = field(1, node) + field(2, "graph") + extra
    graph += field(11, tensor_type("pixels", into)) + field(12, tensor_type("embedding", out))
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13)))
    return path


@pytest.fixture
def flat(tmp_path) -> Path:
    """A network of 2 x 2 pixels whose embedding is the pixels themselves."""
    return network(tmp_path / "flat.onnx", ("n", 3, 2, 2), ("n", 12))


def test_the_embedding_is_what_the_network_says_scaled_to_length_one(flat):
    extractor = OnnxFace(flat, name="flat", mean=100, std=50)
    images = torch.randint(256, (5, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = (images.double().flatten(1) - 100) / 50
    expected /= expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(extractor(images).features.double(), expected, rtol=0, atol=1e-6)
    assert (extractor.dim, extractor.score("fd"), extractor.label_names) == (12, "fd_flat", [])
    assert extractor.resize == "bilinear, antialiased, box (0.0, 0.0, 1.0, 1.0) to 2 x 2, minus 100, over 50"


def test_the_box_is_the_part_that_the_network_sees(flat):
    extractor = OnnxFace(flat, box=(0.25, 0.5, 0.75, 1.0), mean=0)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    images[:, :, 4:, 2:6] = 200
    assert extractor.prepare(images).min() > 0.99 * 200 / 127.5 * 0.75  # the filter reaches over the edges
    images = 200 - images
    assert extractor.prepare(images.expand(1, 3, 8, 8)).max() < 0.26 * 200 / 127.5


def test_an_exact_box_of_an_image_of_fitting_size_is_cut_out_without_resampling(flat):
    images = torch.arange(3 * 4 * 6).view(1, 3, 4, 6).to(torch.uint8)
    extractor = OnnxFace(flat, box=(1 / 3, 0.5, 2 / 3, 1.0), mean=0, std=1)
    assert torch.equal(extractor.prepare(images), images[:, :, 2:4, 2:4].float())


def test_grey_images_are_three_equal_channels(flat):
    grey = torch.randint(1, 256, (2, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor = OnnxFace(flat)
    assert torch.equal(extractor(grey).features, extractor(grey.expand(-1, 3, -1, -1)).features)


def test_copies_open_the_file_themselves(flat):
    extractor = OnnxFace(flat)
    images = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
    assert torch.equal(copy.deepcopy(extractor)(images).features, extractor(images).features)


@pytest.mark.parametrize(
    ("into", "out"),
    [(("n", 1, 2, 2), ("n", 4)), (("n", 3, "h", "w"), ("n", "d")), (("n", 12), ("n", 12))],
    ids=["grey", "open size", "no image"],
)
def test_what_is_not_a_face_recogniser_is_refused(tmp_path, into, out):
    path = network(tmp_path / "other.onnx", into, out)
    with pytest.raises(ValueError, match=r"other\.onnx is not a face recogniser: it takes .* expected one float image"):
        OnnxFace(path)


def test_what_is_not_onnx_is_refused(tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("no network")
    with pytest.raises(ValueError, match=r"onnxruntime can't read .*text\.onnx"):
        OnnxFace(path)


@pytest.mark.parametrize("location", ["weight.bin", "../weight.bin", "{folder}/weight.bin"])
def test_weights_outside_of_the_file_are_refused(tmp_path, monkeypatch, location):
    folder = tmp_path / "inner"
    folder.mkdir()
    for place in (tmp_path, folder):
        np.ones(4, np.float32).tofile(place / "weight.bin")
    outside = field(1, "location") + field(2, location.format(folder=folder))
    weight = field(1, 2) + field(1, 2) + field(2, 1) + field(8, "weight") + field(13, outside) + field(14, 1)
    path = network(folder / "outside.onnx", ("n", 3, 2, 2), ("n", 3, 2, 2), "MatMul", field(5, weight))
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"can't read .*outside\.onnx.*[Ee]xternal"):
        OnnxFace(path)


def test_a_missing_file_says_where_it_should_be(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", os.fspath(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"no weights at .*weights/w600k_mbf\.onnx \(for identity_arcface.*put the file there"
    ):
        OnnxFace()


def test_a_missing_onnxruntime_says_what_to_install(flat, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install lightning-avatars\[faces\]"):
        OnnxFace(flat)


@pytest.mark.parametrize("box", [(0.5, 0.0, 0.5, 1.0), (0.0, -0.1, 1.0, 1.0), (0.0, 0.0, 1.0, 1.1)])
def test_boxes_that_are_not_inside_the_image_are_refused(flat, box):
    with pytest.raises(ValueError, match="left < right and top < bottom, all from 0 to 1"):
        OnnxFace(flat, box=box)


def test_the_shipped_box_puts_celeba_eyes_where_arcface_has_them(flat):
    parser = ArgumentParser()
    parser.add_subclass_arguments(Extractor, "extractor")
    config = ROOT / "configs/extractor/arcface.yaml"
    parsed = parser.parse_args(["--extractor", str(config), "--extractor.weights", str(flat)])
    left, top, right, bottom = parser.instantiate_classes(parsed).extractor.box
    for (x, y), wanted in {(69.35, 111.2): (38.3, 51.7), (107.6, 111.1): (73.5, 51.5)}.items():
        x, y = (x - 15) / 148, (y - 35) / 148  # the centred square of 178 x 218
        found = 112 * (x - left) / (right - left), 112 * (y - top) / (bottom - top)
        assert found == pytest.approx(wanted, abs=0.2)


def areas(similarities: Tensor, same: Tensor) -> float:
    """Share of pairs of a same-person and a different-person pair in which the same person is more similar (AUC)."""
    return (similarities[same][:, None] > similarities[~same][None]).double().mean().item()


def test_photos_of_one_person_are_more_similar_than_those_of_two():
    extractor = OnnxFace(shared("weights/w600k_mbf.onnx"))
    photos = np.load(shared("data/olivetti_400x64x64_uint8.npz"))
    images, people = torch.from_numpy(photos["images"][:60, None]), torch.from_numpy(photos["identity"][:60])
    features = extractor(images).features
    first, second = torch.triu_indices(60, 60, 1)
    assert features.shape == (60, 512)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(60))
    assert areas(identity_similarity(features[first], features[second]), people[first] == people[second]) > 0.95
