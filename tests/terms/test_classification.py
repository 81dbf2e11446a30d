"""Labels read off images: groups, plain names, unknown labels, and the two players."""

import math
from types import SimpleNamespace

import pytest
import torch

from lightning_avatars.networks.base import Verdict
from lightning_avatars.objectives.recognition import label_losses
from lightning_avatars.terms.classification import Classification, classification_loss

NAMES = ["hair=short", "hair=curly", "hair=long", "Smiling", "accessories=none", "accessories=round", "Young"]
LABELS = torch.tensor([[0.0, 1, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 1, 1]])


def test_the_loss_is_the_mean_over_groups_of_a_recognisers_losses():
    torch.manual_seed(0)
    logits = torch.randn(3, 7)
    expected = torch.stack(list(label_losses(logits, LABELS, NAMES).values())).mean()
    torch.testing.assert_close(classification_loss(logits, LABELS, NAMES), expected)
    zeros = classification_loss(torch.zeros(3, 7), LABELS, NAMES)
    assert zeros.item() == pytest.approx((math.log(3) + 3 * math.log(2)) / 4)


@pytest.mark.parametrize("names", [[f"digit={i}" for i in range(7)], [f"Attribute{i}" for i in range(7)]])
def test_one_class_and_attributes_alone_are_the_textbooks_losses(names):
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 7), torch.eye(7)[:4]
    if names[0] == "digit=0":
        expected = torch.nn.functional.cross_entropy(logits, labels.argmax(1))
    else:
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(classification_loss(logits, labels, names), expected)


def test_the_gradient_of_a_group_is_what_it_is_thought_to_be_without_what_it_is():
    torch.manual_seed(0)
    logits = torch.randn(3, 7, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(classification_loss(logits, LABELS.double(), NAMES), logits)
    thought = logits.detach().sigmoid()
    for group in (slice(0, 3), slice(4, 6)):  # hair and accessories exclude each other
        thought[:, group] = logits.detach()[:, group].softmax(1)
    torch.testing.assert_close(gradient, (thought - LABELS) / 3 / 4)  # of three images and four groups


def test_images_whose_labels_were_dropped_add_nothing_but_count():
    torch.manual_seed(0)
    logits = torch.randn(3, 7, requires_grad=True)
    known = torch.tensor([1.0, 0, 1])[:, None]
    loss = classification_loss(logits, LABELS * known, NAMES, dropped=True)
    torch.testing.assert_close(loss, classification_loss(logits[::2], LABELS[::2], NAMES) * 2 / 3)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[1].abs().max() == 0 and gradient[0].abs().min() > 0
    assert classification_loss(logits, LABELS * 0, NAMES, dropped=True).item() == 0


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_picture_of_which_no_name_is_so_is_learned_from_unless_its_labels_may_have_been_dropped(dropout):
    logits = torch.zeros(2, 1, requires_grad=True)
    step = SimpleNamespace(
        player="discriminator",
        labels=torch.tensor([[1.0], [0]]),
        module=SimpleNamespace(label_names=["Smiling"], label_dropout=dropout),
        real_verdict=Verdict([], heads={"class": logits}),
    )
    (gradient,) = torch.autograd.grad(Classification(made=0.0)(step), logits)
    assert gradient.flatten().tolist() == [-0.25, 0.0 if dropout else 0.25]


@pytest.mark.parametrize("made", [1.0, 0.5, 0.0])
def test_the_discriminator_reads_real_images_and_made_ones_the_generator_made_ones(made):
    torch.manual_seed(0)
    real, fake = torch.randn(3, 7), torch.randn(3, 7)
    step = SimpleNamespace(
        player="discriminator",
        labels=LABELS,
        asked=LABELS.flip(0),
        module=SimpleNamespace(label_names=NAMES, label_dropout=0.0),
        real_verdict=Verdict([], heads={"class": real}),
        fake_verdict=Verdict([], heads={"class": fake}),
    )
    losses = [classification_loss(real, LABELS, NAMES), classification_loss(fake, LABELS.flip(0), NAMES)]
    torch.testing.assert_close(Classification(made=made)(step), losses[0] + made * losses[1])
    if not made:
        step.fake_verdict = None  # which need not be asked for
        torch.testing.assert_close(Classification(made=made)(step), losses[0])
        step.fake_verdict = Verdict([], heads={"class": fake})
    step.player, step.real_verdict = "generator", None
    torch.testing.assert_close(Classification(made=made)(step), losses[1])
    with pytest.raises(ValueError, match="factor of 0 or more, got -1"):
        Classification(made=-1)
