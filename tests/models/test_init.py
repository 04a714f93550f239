"""A student's first weights: copied layers, sliced channels, and growth that keeps the function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekd.errors import ModelError
from edgekd.models import BUILT_IN
from edgekd.models.init import copy_layers, deeper, every_nth, slice_weights, wider
from edgekd.models.init.channels import channels_of
from edgekd.models.mobilenet import MobileNetV2
from edgekd.models.resnet import ResNet, resnet8, resnet20
from edgekd.models.unet import unet
from edgekd.models.wrn import WideResNet
from edgekd.recipe import Init

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(9))


def seasoned(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode, with weights and statistics as if it had been trained: no two channels alike."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
            ):
                assert values is not None
                values.copy_(low + (high - low) * torch.rand(values.shape, generator=generator))
    return model.eval()


def change(a: nn.Module, b: nn.Module, images: Tensor = IMAGES) -> float:
    """The largest difference of the outputs, relative to the largest output."""
    with torch.no_grad():
        first, second = a.eval()(images), b.eval()(images)
    return float((first - second).abs().max() / first.abs().max())


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


class Joined(nn.Module):
    """Two branches that are concatenated, a flattened image."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(3, b, 3, padding=1)
        self.bn = nn.BatchNorm2d(a + b)
        self.mix = nn.Conv2d(a + b, a, 3, stride=4)
        self.hidden = nn.Linear(16 * a, b)
        self.fc = nn.Linear(b, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(torch.cat([self.left(x), self.right(x)], dim=1)))
        y = self.mix(y)
        return self.fc(torch.relu(self.hidden(y.view(y.size(0), -1))))  # type: ignore[no-any-return]


class Functional(nn.Module):
    """Pooling, a gate on each channel and a mean over the image, all written as functions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.gate = nn.Conv2d(width, width, 1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.silu(self.bn(self.stem(x))), 2)
        y = 0.5 * F.avg_pool2d(y * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(y, 1))), 2) + 1.0
        return self.fc(F.dropout(y.mean((2, 3)), 0.1, self.training))  # type: ignore[no-any-return]


# copy_layers, every_nth


def test_layers_are_copied_with_their_buffers_and_the_rest_is_left() -> None:
    student, teacher = resnet8(), seasoned(resnet20(), 1)
    before = state(student)
    filled = copy_layers(student, teacher, {"layer2.0": "layer2.0", "fc": "fc"})
    assert {"layer2.0.bn1.running_var", "fc.weight"} <= set(filled)
    for name, value in student.state_dict().items():
        expected = teacher.state_dict()[name] if name in filled else before[name]
        assert torch.equal(value, expected), name


def test_the_copy_is_the_students_own() -> None:
    student, teacher = resnet8(), resnet8()
    copy_layers(student, teacher, {"fc": "fc"})
    with torch.no_grad():
        student.fc.weight.zero_()
    assert teacher.fc.weight.abs().sum() > 0


def test_six_of_twelve_layers_are_those_of_distilbert() -> None:
    def encoder(layers: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers))))

    pairs = every_nth(encoder(6), encoder(12))
    assert pairs == {f"2.{i}": f"2.{j}" for i, j in enumerate([0, 2, 4, 7, 9, 11])}


def test_a_single_layer_is_paired_with_the_first() -> None:
    assert every_nth(resnet8(), resnet20()) == {f"layer{i}.0": f"layer{i}.0" for i in (1, 2, 3)}


def test_layers_that_do_not_fit_are_told_with_both_shapes_and_nothing_is_copied() -> None:
    student, teacher = resnet8(width=8), resnet8()
    before = state(student)
    with pytest.raises(ModelError, match=r"weight .*\[8, 3, 3, 3\] .*\[16, 3, 3, 3\]"):
        copy_layers(student, teacher, {"relu": "relu", "stem": "stem"})
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_path_that_does_not_exist_is_told_with_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"teacher .*'layr3'.*Did you mean layer3\?"):
        copy_layers(resnet8(), resnet8(), {"layer3": "layr3"})


def test_a_student_that_repeats_more_layers_than_the_teacher_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'layer1' has 3 layers .*1 in"):
        every_nth(resnet20(), resnet8())
    with pytest.raises(ModelError, match="no repeated layers"):
        every_nth(nn.Linear(2, 2), resnet8())


# slice_weights


# BC-ResNet's sub-bands need 40 rows; of U-Net and GhostNet see below; and the two others read tables.
@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"bc-resnet", "unet", "ghostnet", "mlp", "ft-transformer"}))
def test_a_slice_of_all_channels_computes_the_same(name: str) -> None:
    teacher, student = seasoned(BUILT_IN[name](in_channels=3), 1), BUILT_IN[name](in_channels=3)
    slice_weights(student, teacher)
    assert change(teacher, student) == 0


def test_a_ghostnet_is_not_sliced() -> None:
    """Half a map and the other half go through one depthwise convolution, and are added to a map of one part."""
    with pytest.raises(ModelError, match="across a broadcast or different concatenations"):
        slice_weights(BUILT_IN["ghostnet"](), BUILT_IN["ghostnet"]())


def test_a_unet_is_not_sliced_but_copied() -> None:
    """Slicing knows no transposed convolution."""
    teacher, student = seasoned(unet(width=4), 1), unet(width=4)
    with pytest.raises(ModelError, match="is not supported"):
        slice_weights(student, teacher)
    copy_layers(student, teacher, {"up": "up"})
    assert torch.equal(student.state_dict()["up.1.grow.weight"], teacher.state_dict()["up.1.grow.weight"])


def test_zero_channels_are_the_ones_left_out() -> None:
    """Half of each group's channels are made zero by hand; the student of half the width computes the same."""
    teacher = seasoned(resnet8(width=16), 1)
    modules = dict(teacher.named_modules())
    generator = torch.Generator().manual_seed(3)
    groups = [
        ("stem", "bn", "layer1.0.conv2", "layer1.0.bn2"),
        ("layer2.0.skip", "layer2.0.conv2", "layer2.0.bn2"),
        ("layer3.0.skip", "layer3.0.conv2", "layer3.0.bn2"),
        *((f"layer{i}.0.conv1", f"layer{i}.0.bn1") for i in (1, 2, 3)),
    ]
    with torch.no_grad():
        for group in groups:
            width = modules[group[0]].get_parameter("weight").shape[0]
            dropped = torch.randperm(width, generator=generator)[: width // 2]
            for name in group:
                modules[name].get_parameter("weight")[dropped] = 0
                if isinstance(modules[name], nn.BatchNorm2d):
                    modules[name].get_parameter("bias")[dropped] = 0
    student = resnet8(width=8)
    slice_weights(student, teacher)
    assert change(teacher, student) < 1e-5


def test_channels_that_are_added_or_concatenated_are_one_choice() -> None:
    stream = {flow.writes for name, flow in channels_of(resnet20(), "net").layers.items() if name == "stem"}
    layers = channels_of(resnet20(), "net").layers
    assert {layers[f"layer1.{i}.conv2"].writes for i in range(3)} == stream
    assert layers["layer1.1.conv1"].reads == layers["bn"].reads == tuple(stream)  # type: ignore[comparison-overlap]
    joined = channels_of(Joined(4, 6), "net").layers
    assert joined["bn"].reads == (joined["left"].writes, joined["right"].writes) == joined["mix"].reads


def test_the_largest_norms_are_kept_in_their_order() -> None:
    teacher, student = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        teacher[0].weight.copy_(torch.tensor([[1.0, 1.0], [-9.0, 0.0], [0.0, 0.5], [2.0, -3.0]]))
    slice_weights(student, teacher)
    assert torch.equal(student[0].weight, torch.tensor([[-9.0, 0.0], [2.0, -3.0]]))
    assert torch.equal(student[0].bias, teacher[0].bias[[1, 3]])
    assert torch.equal(student[1].weight, teacher[1].weight[:, [1, 3]])


@pytest.mark.parametrize(
    ("student", "teacher"),
    [(MobileNetV2(0.5, 10, 3, True), MobileNetV2(1.0, 10, 3, True)), (Joined(3, 4), Joined(5, 8))],
)
def test_a_thinner_student_is_filled_everywhere(student: nn.Module, teacher: nn.Module) -> None:
    before = state(student)
    slice_weights(student, seasoned(teacher, 1))
    changed = [name for name, value in student.state_dict().items() if not torch.equal(value, before[name])]
    assert {name for name in before if name.endswith("weight")} <= set(changed)
    assert torch.isfinite(student.eval()(IMAGES)).all()


def test_a_wider_student_or_other_classes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"16 .*'stem', 'layer1\.0\.conv2', .*8; .*wider"):
        slice_weights(resnet8(width=16), resnet8(width=8))
    with pytest.raises(ModelError, match=r"5 .*'fc', .*10; inputs and outputs"):
        slice_weights(resnet8(num_classes=5), resnet8())


def test_models_that_differ_in_more_than_width_are_told_apart() -> None:
    with pytest.raises(ModelError, match=r"student .*teacher .*Conv2d 'layer1\.0\.skip'"):
        slice_weights(WideResNet(16, 1, 10, 3), WideResNet(16, 2, 10, 3))
    strided, plain = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2)), nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ModelError, match=r"Conv2d '0' .*stride \(2, 2\).*stride \(1, 1\)"):
        slice_weights(strided, plain)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), r"Conv2d '1' with groups=2"),
        (nn.Softmax2d(), r"Softmax2d '1'"),
        (nn.GroupNorm(2, 4), r"GroupNorm '1'"),
    ],
)
def test_a_layer_that_is_not_supported_is_told_by_name(layer: nn.Module, told: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer)
    with pytest.raises(ModelError, match=told):
        slice_weights(model, model)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


class Shuffled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Branching(), "copy_layers"),
        (Shifted(), "'shift', weights outside"),
        (nn.Sequential(Shuffled()), "flip in '0'"),
    ],
)
def test_an_operation_that_is_not_supported_is_told_by_name(model: nn.Module, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        slice_weights(model, model)


# wider


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (resnet8(width=16), resnet8(width=32)),
        (resnet8(width=8), resnet8(width=19)),
        (WideResNet(16, 2, 10, 3), WideResNet(16, 4, 10, 3)),
        (MobileNetV2(0.5, 10, 3, True), MobileNetV2(0.75, 10, 3, True)),
        (Joined(3, 4), Joined(5, 8)),
        (Functional(4).eval(), Functional(7).eval()),
    ],
)
@pytest.mark.parametrize("noise", [0.0, Init(how="wider").noise])  # none, and a recipe's
def test_a_wider_net_computes_the_same(small: nn.Module, large: nn.Module, noise: float) -> None:
    seasoned(small, 1)
    wider(small, large, noise=noise)
    assert change(small, large) < 1e-5


def test_the_originals_come_first_and_copies_share_what_follows() -> None:
    small, large = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    wider(small, large, seed=1)
    assert torch.equal(large[0].weight[:2], small[0].weight)
    copied = next(i for i in range(2) if torch.equal(large[0].weight[2], small[0].weight[i]))
    expected = small[1].weight.clone()
    expected[0, copied] /= 2
    assert torch.allclose(large[1].weight[:, :2], expected) and torch.allclose(
        large[1].weight[:, 2], expected[:, copied]
    )


def test_the_seed_decides_which_channels_are_copied_and_noise_parts_the_copies() -> None:
    def grown(**options: float) -> Tensor:
        torch.manual_seed(0)
        small, large = resnet8(width=8), resnet8(width=16)
        wider(small, large, **options)  # type: ignore[arg-type]
        assert torch.equal(large.stem.weight[:8], small.stem.weight)
        return large.stem.weight.detach()

    assert torch.equal(grown(seed=1), grown(seed=1)) and not torch.equal(grown(seed=1), grown(seed=2))
    apart = (grown(noise=0.01)[8:] - grown()[8:]).abs()
    assert 0 < apart.max() < 0.1 * grown().abs().max()


def test_a_thinner_net_is_no_growth() -> None:
    with pytest.raises(ModelError, match=r"8 .*'stem', .*slice_weights"):
        wider(resnet8(width=16), resnet8(width=8))


# deeper


def two_more(layers: list[nn.Module]) -> tuple[nn.Module, nn.Module]:
    """A net, and one with `layers` after its second layer; the head has the same path in both."""

    def net(extra: list[nn.Module]) -> nn.Module:
        body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *extra)
        net = nn.Sequential()
        net.add_module("body", body)
        net.add_module("pool", nn.AdaptiveAvgPool2d(1))
        net.add_module("flat", nn.Flatten())
        net.add_module("fc", nn.Linear(4, 5))
        return net

    return net([]), net(layers)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (resnet8(), resnet20()),
        (WideResNet(16, 2, 10, 3), WideResNet(28, 2, 10, 3)),
        two_more([nn.Conv2d(4, 4, 3, padding=1, bias=True), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)]),
        two_more([nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4), nn.ReLU())]),
    ],
)
def test_a_deeper_net_computes_the_same(small: nn.Module, large: nn.Module) -> None:
    seasoned(small, 1)
    seasoned(large, 2)
    deeper(small, large)
    assert change(small, large) < 1e-5


def test_a_new_residual_block_learns() -> None:
    """All but the layer that silences it keep their weights, and that one has a gradient."""
    small, large = resnet8(), resnet20()
    deeper(small, large)
    block = large.layer1[1]
    assert block.bn2.weight.abs().sum() == 0 and block.conv1.weight.abs().sum() > 0
    large.train()(IMAGES).square().sum().backward()
    assert block.bn2.weight.grad.abs().sum() > 0


def test_a_layer_that_the_large_net_lacks_is_told() -> None:
    with pytest.raises(ModelError, match=r"no layer 'layer1\.1'"):
        deeper(resnet20(), resnet8())


def no_identity(*layers: nn.Module) -> str:
    with pytest.raises(ModelError) as caught:
        deeper(*two_more(list(layers)))
    return str(caught.value)


def test_a_new_layer_that_cannot_be_an_identity_is_told() -> None:
    assert "'body.2' is new and no identity; can be:" in no_identity(nn.Conv2d(4, 4, 3))
    assert "'body.2' is new and no identity" in no_identity(nn.Tanh())


def test_a_new_relu_must_follow_a_relu() -> None:
    small = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Flatten())
    large = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), nn.Flatten())
    with pytest.raises(ModelError, match=r"'0\.1' .*no identity where .*negative"):
        deeper(small, large)


def test_what_is_not_new_must_be_the_same() -> None:
    with pytest.raises(ModelError, match=r"stem\.weight .*\[16, 3, 3, 3\], .*\[32, 3, 3, 3\]"):
        deeper(resnet8(width=16), resnet20(width=32))


def test_models_in_other_modes_keep_them() -> None:
    small, large = resnet8().train(), ResNet(2, 10, 3, 16).train()
    large.layer1[1].bn1.eval()
    grow: Callable[[nn.Module, nn.Module], None] = deeper
    grow(small, large)
    assert small.training and large.layer1[1].training and not large.layer1[1].bn1.training
