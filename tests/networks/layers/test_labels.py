"""Labels as vectors and as a projection, against their definitions."""

import pytest
import torch
from torch.nn.functional import one_hot

from lightning_avatars.networks.layers.labels import (
    ClassHead,
    CodeHead,
    LabelEmbedding,
    ProjectionHead,
    check_labels,
)


def test_labels_of_the_right_length_pass_as_they_are():
    labels = torch.rand(3, 4)
    assert check_labels(labels, 4) is labels


@pytest.mark.parametrize(
    ("labels", "given"), [(None, "none"), (torch.zeros(4), r"\(4,\)"), (torch.zeros(2, 5), r"\(2, 5\)")]
)
def test_other_labels_are_described(labels, given):
    with pytest.raises(ValueError, match=f"label_dim=4: give it labels N x 4, got .*{given}"):
        check_labels(labels, 4)


def test_an_embedding_sums_the_vectors_of_the_labels_and_keeps_their_variance():
    torch.manual_seed(0)
    embedding = LabelEmbedding(16, 4000, std=0.5)
    one, four = one_hot(torch.tensor([5]), 16), torch.zeros(1, 16)
    four[0, [1, 3, 5, 7]] = 1
    torch.testing.assert_close(embedding(one.float())[0], embedding.weight[5])
    torch.testing.assert_close(embedding(four)[0], embedding.weight[[1, 3, 5, 7]].sum(0) / 2)
    for labels in (one.float(), four, torch.ones(1, 16)):
        assert embedding(labels).std().item() == pytest.approx(0.5, rel=0.05)
    assert embedding(torch.zeros(2, 16)).abs().max() == 0


def test_whole_numbers_are_taken_as_labels_too():
    embedding = LabelEmbedding(3, 5)
    labels = torch.eye(3)
    assert torch.equal(embedding(labels.long()), embedding(labels))


def test_a_projection_is_a_linear_map_plus_an_inner_product():
    torch.manual_seed(0)
    head, phi, y = ProjectionHead(6, 3), torch.randn(4, 6), one_hot(torch.tensor([0, 1, 2, 0]), 3).float()
    psi = phi @ head.linear.weight[0] + head.linear.bias
    torch.testing.assert_close(head(phi, y), psi + ((y @ head.embedding.weight) * phi).sum(1))
    plain = ProjectionHead(6)
    torch.testing.assert_close(plain(phi), phi @ plain.linear.weight[0])  # the bias starts at 0
    assert plain.embedding is None and plain(phi).shape == (4,)


def test_logits_stay_in_float32_in_mixed_precision():
    torch.manual_seed(0)
    head, phi, y = ProjectionHead(64, 3), torch.randn(4, 64), torch.eye(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(phi, y)
    assert logits.dtype == torch.float32 and torch.equal(logits, head(phi, y))


def test_a_class_head_judges_without_labels_and_names_them():
    torch.manual_seed(0)
    head, phi = ClassHead(6, 3), torch.randn(4, 6)
    verdict = head.verdict(phi, torch.eye(4, 3))
    torch.testing.assert_close(verdict.logits[0], phi @ head.linear.weight[0])
    torch.testing.assert_close(verdict.heads["class"], phi @ head.classes.weight.T)
    assert head.heads == {"class": 3} and head.embedding is None and ProjectionHead(6, 3).heads == {}
    with pytest.raises(ValueError, match="a ClassHead names labels, but label_dim is 0"):
        ClassHead(6)


@pytest.mark.parametrize("label_dim", [0, 3])
def test_a_code_head_judges_as_a_projection_does_and_finds_codes(label_dim):
    torch.manual_seed(0)
    head, phi, labels = CodeHead(6, label_dim, code_dim=5, hidden=7), torch.randn(4, 6), torch.eye(4, 3)
    verdict = head.verdict(phi, labels if label_dim else None)
    assert torch.equal(verdict.logits[0], ProjectionHead.forward(head, phi, labels))
    assert verdict.heads["code"].shape == (4, 5) and head.heads == {"code": 5}
    with pytest.raises(ValueError, match="finds codes, but code_dim is 0: use a prior that has some"):
        CodeHead(6)


@pytest.mark.parametrize("head", [ClassHead(64, 3), CodeHead(64, 3, code_dim=5)])
def test_heads_stay_in_float32_in_mixed_precision(head):
    phi, labels = torch.randn(4, 64), torch.eye(4, 3)
    exact = head.verdict(phi, labels)
    with torch.autocast("cpu", torch.bfloat16):
        verdict = head.verdict(phi, labels)
        low = head.verdict(phi.bfloat16(), labels)
    for name in head.heads:
        assert torch.equal(verdict.heads[name], exact.heads[name]) and low.heads[name].dtype == torch.float32
    assert torch.equal(verdict.logits[0], exact.logits[0])
