"""Losses against arithmetic done here, and the promise that ranks add up."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from errors import InputError
from losses import AssignerConfig, Criterion, LossConfig, TaskAlignedAssigner
from losses.boxes import complete_iou, wasserstein_similarity
from losses.criterion import distribution_focal_loss, predicted_boxes
from models.head import HeadOutput, make_anchors

LEVELS = ((8, 8, 8), (4, 4, 16), (2, 2, 32))
BINS = torch.arange(16.0)


def head(images=2, classes=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    anchors = make_anchors(LEVELS, torch.device("cpu"))
    box = torch.randn(images, 84, 64, generator=generator).to(dtype).requires_grad_()
    cls = (torch.randn(images, 84, classes, generator=generator) - 2).to(dtype).requires_grad_()
    return HeadOutput(box, cls, anchors, BINS)


def objects(*rows):
    """Targets from rows (image, label, x1, y1, x2, y2)."""
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return SimpleNamespace(boxes=rows[:, 2:], labels=rows[:, 1].long(), image_index=rows[:, 0].long())


SOME = objects((0, 0, 3, 3, 20, 25), (0, 2, 30, 8, 44, 20), (1, 1, 10, 30, 40, 60), (1, 1, 50, 2, 60, 10))


def criterion(**changes):
    return Criterion(LossConfig(), TaskAlignedAssigner(3), **changes)


def test_ciou_by_hand():
    a = torch.tensor([[0.0, 0, 4, 4], [0, 0, 1, 1], [0, 0, 2, 2]])
    b = torch.tensor([[2.0, 2, 6, 6], [5, 5, 6, 6], [0, 0, 2, 2]])
    # equal squares: v = 0, so CIoU = IoU - d^2 / c^2 = 4/28 - 8/72 and 0 - 50/72
    assert complete_iou(a, b).tolist() == pytest.approx([4 / 28 - 8 / 72, -50 / 72, 1], abs=1e-6)


def test_wasserstein_similarity_by_hand():
    """Centres 3 and 4 px apart; sides that differ by 6 and 8; the same box, whose gradient is finite."""
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 3, 3]], requires_grad=True)
    b = torch.tensor([[3.0, 4, 5, 6], [-3, -4, 5, 6], [1, 1, 3, 3]])
    got = wasserstein_similarity(a, b, 10.0)
    assert got.tolist() == pytest.approx([np.exp(-0.5), np.exp(-0.5), 1], rel=1e-4)
    got.sum().backward()
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("size", [12.8, 5.0])
def test_the_box_loss_takes_its_share_of_the_wasserstein_similarity(size):
    """In pixels, whatever the stride: its terms change linearly from CIoU's to the similarity's."""
    output = head()
    assigner = TaskAlignedAssigner(3)
    boxes = [Criterion(LossConfig(nwd=share, nwd_size=size), assigner)(output, None, SOME).box.item() for share in (0, 0.25, 1)]
    points, strides, levels = output.anchors
    predicted = predicted_boxes(output)
    image, anchor, target, weight = assigner(output.class_logits.detach().sigmoid(), predicted, points, strides, SOME, levels)
    similarity = wasserstein_similarity(predicted[image, anchor], SOME.boxes[target], size)
    assert boxes[2] == pytest.approx(7.5 * (weight * (1 - similarity)).sum().item() / max(weight.sum().item(), 1), rel=1e-4)
    assert boxes[1] == pytest.approx(0.75 * boxes[0] + 0.25 * boxes[2], rel=1e-4)


@pytest.mark.parametrize(("config", "value", "words"), [
    (LossConfig, {"nwd": 1.5}, "loss.nwd: 1.5 is no share"), (LossConfig, {"nwd_size": 0}, "loss.nwd_size: 0 is not above 0"),
    (AssignerConfig, {"nwd": -1}, "assigner.nwd: -1 is no share"),
    (AssignerConfig, {"nwd_size": -2}, "assigner.nwd_size: -2 is not above 0"),
])
def test_a_share_outside_0_to_1_and_a_size_of_nothing_are_refused(config, value, words):
    with pytest.raises(InputError, match=words):
        config(**value)


def test_the_weight_of_the_aspect_ratio_is_a_constant_for_the_gradient_of_ciou():
    """Against differences of CIoU whose alpha is held at the place where the gradient is taken, in float64 by NumPy."""
    a, b = np.array([2.0, 3, 15, 9]), np.array([4.0, 1, 12, 17])

    def parts(box):
        (wa, ha), (wb, hb) = box[2:] - box[:2], b[2:] - b[:2]
        overlap = np.prod(np.maximum(np.minimum(box[2:], b[2:]) - np.maximum(box[:2], b[:2]), 0))
        iou = overlap / (wa * ha + wb * hb - overlap)
        diagonal = ((np.maximum(box[2:], b[2:]) - np.minimum(box[:2], b[:2])) ** 2).sum()
        distance = (((box[:2] + box[2:] - b[:2] - b[2:]) / 2) ** 2).sum()
        aspect = 4 / np.pi**2 * (np.arctan(wb / hb) - np.arctan(wa / ha)) ** 2
        return iou - distance / diagonal, aspect, iou

    _, aspect, iou = parts(a)
    alpha = aspect / (1 - iou + aspect)
    steps = np.eye(4) * 1e-5
    value = [[(lambda first, second, _: first - alpha * second)(*parts(a + sign * step)) for sign in (1, -1)] for step in steps]
    expected = [(up - down) / 2e-5 for up, down in value]
    box = torch.tensor(a, requires_grad=True)
    complete_iou(box, torch.tensor(b)).backward()
    np.testing.assert_allclose(box.grad.numpy(), expected, rtol=1e-5)


def test_dfl_by_hand():
    logits = torch.zeros(1, 4, 16)
    logits[0, 0, 3] = 2.0
    p3 = np.exp(2) / (np.exp(2) + 15)
    p4 = 1 / (np.exp(2) + 15)
    # 3.25 lies three quarters towards bin 3, one quarter towards bin 4; 99 is clamped to 14.99
    got = distribution_focal_loss(logits, torch.tensor([[3.25, 0.0, 7.0, 99.0]]))
    expected = np.mean([-(0.75 * np.log(p3) + 0.25 * np.log(p4)), np.log(16), np.log(16), np.log(16)])
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_terms_equal_the_dense_definition():
    """Class loss from a full (B, A, C) target, box and DFL losses by a loop over the positives."""
    output = head()
    terms = criterion()(output, None, SOME)

    logits = output.box_logits.detach().reshape(2, 84, 4, 16)
    distance = logits.softmax(-1) @ BINS
    points, strides, levels = output.anchors
    cells = points / strides[:, None]
    predicted = torch.cat((cells - distance[..., :2], cells + distance[..., 2:]), -1)
    scores = output.class_logits.detach().sigmoid()
    assigned = TaskAlignedAssigner(3)(scores, predicted * strides[:, None], points, strides, SOME, levels)
    target = torch.zeros(2, 84, 3, dtype=torch.float64)
    box = dfl = 0.0
    for i, a, t, w in zip(*(x.tolist() for x in assigned), strict=True):
        target[i, a, SOME.labels[t]] = w
        truth = SOME.boxes[t] / strides[a]
        box += w * (1 - complete_iou(predicted[i, a], truth).item())
        sides = torch.cat((cells[a] - truth[:2], truth[2:] - cells[a])).clamp(0, 14.99)
        for side in range(4):
            low = int(sides[side])
            log_p = logits[i, a, side].log_softmax(-1)
            dfl -= w * ((low + 1 - sides[side]) * log_p[low] + (sides[side] - low) * log_p[low + 1]).item() / 4
    p = output.class_logits.detach().double().sigmoid()
    cls = -(target * p.log() + (1 - target) * (1 - p).log()).sum().item()
    n = max(target.sum().item(), 1)
    assert terms.box.item() == pytest.approx(7.5 * box / n, rel=1e-4)
    assert terms.cls.item() == pytest.approx(0.5 * cls / n, rel=1e-4)
    assert terms.dfl.item() == pytest.approx(1.5 * dfl / n, rel=1e-4)
    assert terms.total.item() == pytest.approx(2 * (terms.box + terms.cls + terms.dfl).item(), rel=1e-5)


def test_a_batch_without_objects_trains_the_classes_alone():
    output = head()
    terms = criterion()(output, None, objects())
    terms.total.backward()
    assert terms.box == terms.dfl == 0
    assert terms.cls > 0
    assert output.class_logits.grad.abs().sum() > 0
    assert torch.isfinite(output.box_logits.grad).all()


def test_objects_without_a_cell_are_counted():
    terms = criterion()(head(), None, objects((0, 0, 6, 6, 10, 10), (1, 1, 10, 30, 40, 60)))     # 4 px between four centres
    assert (terms.objects.item(), terms.unassigned.item()) == (2, 1)


def test_two_ranks_give_the_gradient_of_one_process():
    output = head()
    criterion()(output, None, SOME).total.backward()
    expected = output.box_logits.grad, output.class_logits.grad

    halves = [
        (slice(0, 1), objects((0, 0, 3, 3, 20, 25), (0, 2, 30, 8, 44, 20))),
        (slice(1, 2), objects((0, 1, 10, 30, 40, 60), (0, 1, 50, 2, 60, 10))),
    ]
    sums = []
    for part, targets in halves:         # what each rank would contribute to the all-reduce
        criterion(world_size=2, all_sum=lambda x: sums.append(x.clone()) or x)(share(output, part), None, targets)
    whole = head()
    for part, targets in halves:
        total = criterion(world_size=2, all_sum=lambda x: sum(sums))(share(whole, part), None, targets).total
        (total / 2).backward()           # DDP averages over the two ranks
    torch.testing.assert_close(whole.box_logits.grad, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.class_logits.grad, expected[1], rtol=1e-4, atol=1e-5)


def share(output, part):
    return output._replace(box_logits=output.box_logits[part], class_logits=output.class_logits[part])


def test_auxiliary_losses_are_weighted_and_apart():
    main, auxiliary = head(seed=0), head(seed=1)
    alone, other = criterion()(main, None, SOME), criterion()(auxiliary, None, SOME)
    both = criterion()(main, auxiliary, SOME)
    assert both.auxiliary.item() == pytest.approx(0.25 * (other.box + other.cls + other.dfl).item(), rel=1e-5)
    assert both.total.item() == pytest.approx((alone.total + 0.25 * other.total).item(), rel=1e-5)
    assert both.box.item() == pytest.approx(alone.box.item(), rel=1e-6)


def test_it_computes_in_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        inside = criterion()(head(), None, SOME).total
    assert inside.dtype == torch.float32
    assert inside.item() == criterion()(head(), None, SOME).total.item()
    assert torch.isfinite(criterion()(head(dtype=torch.float16), None, SOME).total)
