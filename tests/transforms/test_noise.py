"""Noise against the references' formulas, evaluated by quadrature and by sums; and what a frame's noise hangs on."""

import hashlib
import math
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
import torch

from vidssl.errors import ConfigError
from vidssl.transforms import noise
from vidssl.transforms.noise import KINDS, TABLES, add_noise, frame_keys

LEVELS = [0, 1, 37, 128, 250, 255]
CONDITIONS = list(product(TABLES, KINDS, range(1, 6)))


def to_8_bits(y):
    """As both references go back from [0, 1]."""
    return np.uint8(np.clip(y, 0, 1) * 255)


@lru_cache
def probabilities(kind, c, level):
    """float64 [256]: how often `level` becomes each value, by the references' own formulas."""
    x = np.array(level) / 255.0
    if kind == "shot":
        k = np.arange(1000)
        log_factorials = np.array([math.lgamma(n + 1) for n in k])
        weights = np.exp(k * np.log(x * c) - x * c - log_factorials) if level else (k == 0).astype(float)
        values = to_8_bits(k / c)
    elif kind == "impulse":
        weights, values = np.array([c / 2, c / 2, 1 - c]), to_8_bits(np.array([0.0, 1.0, x]))
    else:
        z = np.linspace(-8, 8, 400_001)
        weights = np.exp(-(z**2) / 2)
        values = to_8_bits(x + (c if kind == "gaussian" else x * c) * z)
    return np.bincount(values, weights / weights.sum(), minlength=256)


def constant_frames(levels=LEVELS, frames=2, height=96, width=96):
    """uint8 [levels, frames, H, W, 3]"""
    levels = torch.tensor(levels, dtype=torch.uint8)
    return levels[:, None, None, None, None].expand(-1, frames, height, width, 3).contiguous()


def random_frames(batch=3, frames=4, height=5, width=7):
    """An odd number of values a frame, so that half of the last 64 random bits is left over."""
    return torch.randint(0, 256, (batch, frames, height, width, 3), generator=torch.Generator().manual_seed(1)).byte()


def keys_of(batch, frames, seed=0):
    return frame_keys(torch.arange(100, 100 + batch), torch.arange(frames).expand(batch, frames), seed)


def centred(frames):
    """float64, every frame's mean taken away, unit variance over all."""
    x = frames.double()
    x = x - x.mean()
    return x / x.square().mean().sqrt()


@pytest.mark.parametrize(("table", "kind", "severity"), CONDITIONS)
def test_distribution(table, kind, severity):
    noisy = add_noise(constant_frames(), kind, severity, table, seed=5).numpy()
    for got, level in zip(noisy, LEVELS, strict=True):
        want = probabilities(kind, TABLES[table][kind][severity - 1], level)
        count, w = got.size, np.arange(256)
        mean = want @ w
        variance, fourth = want @ (w - mean) ** 2, want @ (w - mean) ** 4
        # the quadrature knows a probability to one of its steps, hence the constant
        assert abs(got.mean() - mean) <= 4.5 * math.sqrt(variance / count) + 1e-5
        spread = np.square(got - mean).mean()
        assert abs(spread - variance) <= 4.5 * math.sqrt(max(fourth - variance**2, 0) / count) + 1e-5
        # chi-square over the values that are expected at least eight times, all others as one
        observed, often = np.bincount(got.ravel(), minlength=256), want * count >= 8
        terms = [*zip(observed[often], want[often] * count, strict=True)]
        rest = want[~often].sum() * count
        if rest >= 8:
            terms.append((observed[~often].sum(), rest))
        assert observed[~often].sum() <= rest + 4.5 * math.sqrt(rest) + 3
        chi_square, freedom = sum((o - e) ** 2 / e for o, e in terms), len(terms) - 1
        assert (
            chi_square <= freedom + 4.5 * math.sqrt(2 * freedom) + 15
        )  # the tail is long where there is little freedom


@pytest.mark.parametrize(("table", "kind"), list(product(TABLES, KINDS)))
def test_the_table_that_is_drawn_from_is_exact(table, kind):
    for severity in range(1, 6):
        keep, alias = noise._alias_table(kind, severity, table, torch.device("cpu"))
        keep, alias = keep.numpy().reshape(256, 256) / 2**24, alias.numpy().reshape(256, 256)
        for level in (*LEVELS, 200):
            got = keep[level] + np.bincount(alias[level], 1 - keep[level], minlength=256)
            want = probabilities(kind, TABLES[table][kind][severity - 1], level)
            # a value on the edge of two belongs to one of the 400,001 points of the quadrature
            assert np.abs(got / 256 - want).max() < (2e-9 if kind in {"shot", "impulse"} else 2e-5)


def test_strengths_are_the_published_ones():
    # in parts of 1000, shot as it is
    both = {"gaussian": [80, 120, 180, 260, 380], "impulse": [30, 60, 90, 170, 270]}
    video = {**both, "shot": [250, 100, 50, 30, 15], "speckle": [150, 200, 250, 300, 350]}
    imagenet_c = {**both, "shot": [60, 25, 12, 5, 3], "speckle": [150, 200, 350, 450, 600]}
    for table, want in (("video", video), ("imagenet-c", imagenet_c)):
        got = {kind: [round(c if kind == "shot" else c * 1000) for c in cs] for kind, cs in TABLES[table].items()}
        assert got == want


def test_strengths_by_hand():
    # standard deviations at x = 0.4, severity 1, from the formulas: c, sqrt(x / c) and c x; truncation widens them
    frames = constant_frames([102], height=128, width=128)

    def spread(kind, table="video"):
        return add_noise(frames, kind, 1, table, seed=0).double().std().item() / 255

    assert spread("gaussian") == pytest.approx(0.08, rel=0.03)
    assert spread("shot") == pytest.approx(math.sqrt(0.4 / 250), rel=0.03)
    assert spread("shot", "imagenet-c") == pytest.approx(math.sqrt(0.4 / 60), rel=0.03)
    assert spread("speckle") == pytest.approx(0.15 * 0.4, rel=0.03)


def test_video_is_the_default_table():
    frames = constant_frames([120], height=8, width=8)
    for kind in ("shot", "speckle"):
        default = add_noise(frames, kind, 4, seed=0)
        assert torch.equal(default, add_noise(frames, kind, 4, "video", seed=0))
        assert not torch.equal(default, add_noise(frames, kind, 4, "imagenet-c", seed=0))


def test_impulse_hits_single_values_with_black_and_white_alike():
    frames = constant_frames([90], frames=4, height=128, width=128)
    for severity, c in enumerate(TABLES["video"]["impulse"], 1):
        noisy = add_noise(frames, "impulse", severity, seed=severity)
        count = noisy.numel()
        salt, pepper = (noisy == 255).sum().item(), (noisy == 0).sum().item()
        assert salt + pepper == (noisy != 90).sum().item()
        assert abs(salt + pepper - c * count) < 4.5 * math.sqrt(c * (1 - c) * count)
        assert abs(salt - pepper) < 4.5 * math.sqrt(c * count)
        # channels are hit one by one: all three of a pixel with the cube of the probability
        whole, pixels = (noisy != 90).all(4).sum().item(), count // 3
        assert abs(whole - c**3 * pixels) < 4.5 * math.sqrt(c**3 * pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_independent(kind):
    frames = constant_frames([128, 128], frames=2, height=128, width=128)
    keys = torch.tensor([[0, 1], [2, 1 << 62]])  # neighbours and far ones, used as they are
    x_BTHWC = centred(add_noise(frames, kind, 3, seed=keys))
    size = x_BTHWC[0, 0].numel()

    def correlation(a, b):
        return (a * b).mean().item() * math.sqrt(a.numel())

    pairs = {
        "neighbouring values": (x_BTHWC.flatten()[:-1], x_BTHWC.flatten()[1:]),
        "halves of one number": (x_BTHWC.flatten()[::2], x_BTHWC.flatten()[1::2]),
        "columns": (x_BTHWC[:, :, :, :-1], x_BTHWC[:, :, :, 1:]),
        "rows": (x_BTHWC[:, :, :-1], x_BTHWC[:, :, 1:]),
        "frames": (x_BTHWC[:, 0], x_BTHWC[:, 1]),
        "videos": (x_BTHWC[0], x_BTHWC[1]),
        "neighbouring frames, one number apart": (x_BTHWC[0, 0].flatten()[2:], x_BTHWC[0, 1].flatten()[: size - 2]),
    }
    for one, other in ((0, 1), (0, 2), (1, 2)):
        pairs[f"channels {one} and {other}"] = x_BTHWC[..., one], x_BTHWC[..., other]
    for severity, table, other in ((4, "video", kind), (3, "imagenet-c", kind), *((3, "video", k) for k in KINDS)):
        if (severity, table, other) != (3, "video", kind):
            y_BTHWC = centred(add_noise(frames, other, severity, table, seed=keys))
            pairs[f"{other} {severity} {table}"] = x_BTHWC, y_BTHWC
    far = {name: round(value, 1) for name, ab in pairs.items() if abs(value := correlation(*ab)) > 4.5}
    assert not far, f"correlations in standard errors: {far}"
    far = {
        name: round(value, 1)
        for name, (a, b) in pairs.items()
        if abs(value := correlation(centred(a.square()), centred(b.square()))) > 4.5
    }
    assert not far, f"correlations of squares in standard errors: {far}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_keeps_its_noise_wherever_it_stands(kind):
    frames, keys = random_frames(), keys_of(3, 4)
    whole = add_noise(frames, kind, 2, seed=keys)
    one_by_one = [add_noise(frames[b : b + 1], kind, 2, seed=keys[b : b + 1]) for b in range(3)]
    assert torch.equal(torch.cat(one_by_one), whole)
    turned = add_noise(frames.flip(0, 1), kind, 2, seed=keys.flip(0, 1))
    assert torch.equal(turned.flip(0, 1), whole)
    regrouped = add_noise(frames.view(4, 3, 5, 7, 3), kind, 2, seed=keys.view(4, 3))
    assert torch.equal(regrouped.view_as(whole), whole)


@pytest.mark.parametrize(("table", "kind", "severity"), [c for c in CONDITIONS if c[2] in {1, 5}])
def test_device_and_host_draw_the_same_bytes(table, kind, severity, monkeypatch):
    frames, keys = random_frames(), keys_of(3, 4)
    host = add_noise(frames, kind, severity, table, seed=keys)
    monkeypatch.setattr(noise, "_draw_on_host", noise._draw_on_device)
    for chunk in (1 << 22, 5 * 105, 1):
        monkeypatch.setattr(noise, "_CHUNK", chunk)
        assert torch.equal(add_noise(frames, kind, severity, table, seed=keys), host)


def test_a_device_draws_a_bounded_number_of_values_at_once(monkeypatch):
    seen = []
    mix = noise._mix
    monkeypatch.setattr(noise, "_mix", lambda x: seen.append(x.numel()) or mix(x))
    monkeypatch.setattr(noise, "_draw_on_host", noise._draw_on_device)
    monkeypatch.setattr(noise, "_CHUNK", 1000)
    add_noise(random_frames(batch=10, frames=10), "gaussian", 1, seed=keys_of(10, 10))
    assert max(seen) <= 1000 // 2 + 10
    assert sum(n > 100 for n in seen) >= 100 * 105 / 1000


@pytest.mark.gpu
@pytest.mark.parametrize(("table", "kind"), list(product(TABLES, KINDS)))
def test_a_gpu_draws_the_same_bytes(table, kind):
    frames, keys = random_frames(8, 16, 63, 45), keys_of(8, 16)
    for severity in range(1, 6):
        host = add_noise(frames, kind, severity, table, seed=keys)
        assert torch.equal(add_noise(frames.cuda(), kind, severity, table, seed=keys).cpu(), host)


def test_every_setting_draws_afresh():
    frames = constant_frames([128], frames=1, height=32, width=32)
    noises = {c: add_noise(frames, c[1], c[2], c[0], seed=3) for c in CONDITIONS}
    noises["seed 4"] = add_noise(frames, "gaussian", 1, seed=4)
    noises["seed -3"] = add_noise(frames, "gaussian", 1, seed=-3)
    noises["seed 2**64 + 3"] = add_noise(frames, "gaussian", 1, seed=2**64 + 3)
    assert len({hashlib.sha256(noisy.numpy().tobytes()).digest() for noisy in noises.values()}) == len(noises)


def test_an_integer_numbers_the_frames_by_their_place():
    frames = constant_frames([128] * 2, frames=2, height=16, width=16)
    noisy = add_noise(frames, "gaussian", 3, seed=7)
    assert torch.equal(noisy, add_noise(frames, "gaussian", 3, seed=7))
    four = noisy.flatten(0, 1)
    assert all(not torch.equal(four[a], four[b]) for a in range(4) for b in range(a))


def test_frame_keys_differ_by_video_frame_and_seed():
    many = [frame_keys(torch.arange(-500, 500), torch.arange(100).expand(1000, 100), seed) for seed in range(3)]
    assert len(torch.stack(many).unique()) == 3 * 1000 * 100
    one = frame_keys(torch.tensor([-7, 9]), torch.tensor([[50, 51], [3, 50]]), 2)
    assert torch.equal(one[:, 1], torch.stack([many_keys(-7, 51), many_keys(9, 50)]))


def many_keys(video, frame):
    return frame_keys(torch.tensor([video]), torch.tensor([[frame]]), 2)[0, 0]


def mix(x):
    """splitmix64's finaliser on Python's integers."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def test_integer_arithmetic_wraps_and_shifts_as_unsigned():
    numbers = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF, 0xFEDCBA9876543210]
    signed = torch.from_numpy(np.array(numbers, np.uint64).view(np.int64))
    assert noise._mix(signed).numpy().view(np.uint64).tolist() == [mix(x) for x in numbers]


def test_the_way_from_video_to_value_stays_as_it_is():
    # results of one version are compared with another's; the same steps on Python's integers
    def number(text):
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    video, frame, seed, golden = 1234567890123456789, 17, 3, 0x9E3779B97F4A7C15
    key = mix((mix(video ^ number(f"seed {seed}")) + frame * golden) % 2**64)
    keys = frame_keys(torch.tensor([video]), torch.tensor([[frame]]), seed)
    assert keys.item() % 2**64 == key
    for kind in KINDS:
        state = mix(key ^ number(f"imagenet-c {kind} 5"))
        keep, alias = noise._alias_table(kind, 5, "imagenet-c", torch.device("cpu"))
        want = []
        for e in range(60):
            bits = mix((state + e // 2 * golden) % 2**64) >> 32 * (e % 2) & 0xFFFFFFFF
            cell = 100 * 256 + (bits >> 24)
            want.append(bits >> 24 if bits & 0xFFFFFF < keep[cell] else alias[cell].item())
        frames = constant_frames([100], frames=1, height=4, width=5)
        assert add_noise(frames, kind, 5, "imagenet-c", seed=keys).flatten().tolist() == want


def test_dtype_shape_and_input():
    frames = random_frames()
    before = frames.clone()
    for kind in KINDS:
        noisy = add_noise(frames, kind, 5, seed=0)
        assert noisy.dtype == torch.uint8
        assert noisy.shape == frames.shape
        assert not torch.equal(noisy, frames)
    assert torch.equal(frames, before)
    assert add_noise(frames[:0], "shot", 1, seed=0).shape == (0, 4, 5, 7, 3)


def test_frames_need_not_lie_in_order():
    frames = random_frames()
    strided = frames.permute(1, 0, 4, 2, 3).contiguous().permute(1, 0, 3, 4, 2)
    assert not strided.is_contiguous()
    noisy = add_noise(strided, "gaussian", 3, seed=1)
    assert torch.equal(noisy, add_noise(frames, "gaussian", 3, seed=1))
    cropped = add_noise(frames[:, :, 1:4, 2:], "gaussian", 3, seed=1)
    assert torch.equal(cropped, add_noise(frames[:, :, 1:4, 2:].clone(), "gaussian", 3, seed=1))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"kind": "gausian"}, ConfigError, "unknown noise 'gausian'. Did you mean 'gaussian'.*impulse, shot, speckle"),
        ({"table": "imagenet_c"}, ConfigError, "unknown noise table 'imagenet_c'. Did you mean 'imagenet-c'.*video"),
        ({"severity": 0}, ConfigError, "severity 0 is none of 1, 2, 3, 4, 5"),
        ({"severity": 6}, ConfigError, "severity 6 is none of 1"),
        ({"severity": "2"}, ConfigError, "severity '2' is none of 1"),
        ({"frames_BTHWC": torch.rand(1, 2, 4, 4, 3)}, TypeError, "uint8, not to torch.float32"),
        ({"frames_BTHWC": torch.zeros(2, 4, 4, 3, dtype=torch.uint8)}, ValueError, r"\[2, 4, 4, 3\] are not \[B, T"),
        ({"frames_BTHWC": torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8)}, ValueError, r"are not \[B, T, H, W, 3\]"),
        ({"seed": torch.zeros(2, 1, dtype=torch.int64)}, ValueError, r"need int64 \[1, 2\]: one a frame"),
        ({"seed": torch.zeros(1, 2)}, ValueError, "frame keys are torch.float32"),
        ({"seed": 0.5}, TypeError, "float"),
    ],
)
def test_errors(change, error, says):
    right = {"frames_BTHWC": torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8), "kind": "shot", "severity": 1, "seed": 0}
    with pytest.raises(error, match=says):
        add_noise(**(right | change))
