"""The embedded data set: what a label may and may not be read from, and files that survive an interruption.

The two statistical tests draw frames straight from the renderer (no encoding), each video giving one frame or one pair,
so that the test samples are independent and the binomial interval holds. Everything is seeded: a pass stays a pass.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from vidssl.data.datasets import embedded
from vidssl.data.datasets.embedded import APPEARANCES, MOTIONS, SPLIT_KEYS, draw, scene, trajectory
from vidssl.errors import ConfigError, EnvironmentProblem

NUM_FIT, NUM_HELD = 336, 288  # multiples of 48: every pair of labels as often


def _grid(picture_HW: np.ndarray, cells: int) -> np.ndarray:
    height, width = picture_HW.shape[0] // cells * cells, picture_HW.shape[1] // cells * cells
    return picture_HW[:height, :width].reshape(cells, height // cells, cells, width // cells).mean(axis=(1, 3))


def _frame_features(frame_HW3: np.ndarray) -> np.ndarray:
    """A single frame: thumbnail, colour histogram, gradient orientations, spectrum of the picture."""
    grey = frame_HW3.astype(np.float64).mean(axis=2)
    thumbnail = _grid(grey, 10).ravel()
    colour = np.concatenate([np.histogram(frame_HW3[..., c], 12, (0, 256))[0] for c in range(3)])
    dy, dx = np.gradient(grey)
    strength = np.hypot(dx, dy)
    angle = (np.arctan2(dy, dx) % math.pi) * 12 / math.pi
    orientation = np.sort(np.bincount(angle.astype(int).ravel() % 12, strength.ravel(), 12))
    spectrum = np.log1p(np.abs(np.fft.rfft2(grey - grey.mean()))[:40, :40].reshape(8, 5, 8, 5).mean(axis=(1, 3)))
    levels = np.histogram(strength, 16, (0, 160))[0]
    return np.concatenate([thumbnail, colour, orientation, spectrum.ravel(), np.log1p(levels)])


def _pair_features(pair_2HW3: np.ndarray) -> np.ndarray:
    """Two frames: the histogram of normal flow (direction x speed) where there is an edge, and its divergence."""
    first, second = pair_2HW3.astype(np.float64).mean(axis=3)
    dy, dx = np.gradient((first + second) / 2)
    change = second - first
    strength = np.hypot(dx, dy)
    speed = -change / np.maximum(strength, 1)
    edge = strength > 12
    angle = ((np.arctan2(dy, dx) + (speed < 0) * math.pi) % (2 * math.pi)) * 8 / (2 * math.pi)
    place = angle[edge].astype(int) % 8 * 4 + np.digitize(np.abs(speed[edge]), (0.25, 0.75, 1.5))
    return np.concatenate([np.bincount(place, minlength=32) / max(edge.sum(), 1), [np.abs(change).mean()]])


def _ridge_hits(fit: np.ndarray, fit_labels: np.ndarray, held: np.ndarray, held_labels: np.ndarray) -> float:
    mean, scale = fit.mean(axis=0), fit.std(axis=0) + 1e-9
    x, y = (fit - mean) / scale, np.eye(fit_labels.max() + 1)[fit_labels]
    weights = np.linalg.solve(x.T @ x + 50.0 * np.eye(x.shape[1]), x.T @ (y - y.mean(axis=0)))
    return float(np.mean(((held - mean) / scale @ weights).argmax(axis=1) == held_labels))


def _neighbour_hits(fit: np.ndarray, fit_labels: np.ndarray, held: np.ndarray, held_labels: np.ndarray) -> float:
    mean, scale = fit.mean(axis=0), fit.std(axis=0) + 1e-9
    a, b = (held - mean) / scale, (fit - mean) / scale
    distance = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    near = np.argsort(distance, axis=1)[:, :9]
    votes = np.array([np.bincount(fit_labels[row]).argmax() for row in near])
    return float(np.mean(votes == held_labels))


@pytest.fixture(scope="module")
def sampled() -> dict[str, dict[str, np.ndarray]]:
    """Features and labels of both splits; the moment of each video is drawn at random."""
    out = {}
    for split, count in (("train", NUM_FIT), ("test", NUM_HELD)):
        rng = np.random.default_rng(len(split))
        scenes = [scene(split, number) for number in range(count)]
        pairs = [draw(video, rng.integers(0, embedded.NUM_FRAMES - 1) + np.arange(2)) for video in scenes]
        out[split] = {
            "single": np.stack([_frame_features(pair[0]) for pair in pairs]),
            "pair": np.stack([_pair_features(pair) for pair in pairs]),
            "appearance": np.array([video.appearance for video in scenes]),
            "motion": np.array([video.motion for video in scenes]),
        }
    return out


def _interval(classes: int) -> float:
    """Half the 95 % interval of the hit rate of a guess."""
    chance = 1 / classes
    return 1.96 * math.sqrt(chance * (1 - chance) / NUM_HELD)


@pytest.mark.parametrize("classifier", [_ridge_hits, _neighbour_hits])
def test_a_single_frame_tells_the_appearance_and_not_the_motion(sampled, classifier):
    fit, held = sampled["train"], sampled["test"]
    motion = classifier(fit["single"], fit["motion"], held["single"], held["motion"])
    appearance = classifier(fit["single"], fit["appearance"], held["single"], held["appearance"])
    print(f"{classifier.__name__}: motion {motion:.3f}, appearance {appearance:.3f}")
    assert abs(motion - 1 / len(MOTIONS)) < _interval(len(MOTIONS)), "a single frame gives the motion away"
    assert appearance > 1 / len(APPEARANCES) + 3 * _interval(len(APPEARANCES)), "the appearance cannot be seen"


def test_two_frames_tell_the_motion(sampled):
    fit, held = sampled["train"], sampled["test"]
    motion = _ridge_hits(fit["pair"], fit["motion"], held["pair"], held["motion"])
    assert motion > 1 / len(MOTIONS) + 3 * _interval(len(MOTIONS)), f"the motion cannot be seen: {motion:.3f}"


def test_places_sizes_and_angles_are_spread_alike_in_every_motion_and_at_every_time():
    """Kolmogorov-Smirnov against the uniform law, at the first, a middle and the last frame."""
    for motion in range(len(MOTIONS)):
        numbers = [n + 48 * k + 6 * motion for k in range(40) for n in range(6)]
        states = np.stack([trajectory(scene("train", n), np.array([0, 71, 143])) for n in numbers])
        low, high = np.log(embedded.RADIUS)
        shares = {
            "x": states[..., 0] % embedded.WIDTH / embedded.WIDTH,
            "y": states[..., 1] % embedded.HEIGHT / embedded.HEIGHT,
            "size": (np.log(states[..., 2]) - low) / (high - low),
            "angle": states[..., 3] % (2 * math.pi) / (2 * math.pi),
        }
        for name, share in shares.items():
            for moment in range(3):
                sample = np.sort(share[:, moment].ravel())
                gap = np.abs(sample - np.arange(len(sample)) / len(sample)).max()
                assert gap < 1.95 / math.sqrt(len(sample)), f"{MOTIONS[motion]}: {name} leaks at {moment}"


def test_motion_is_what_its_name_says_and_its_speed_bounded():
    """Mean way per frame of moving classes lies in SPEED; growing grows, rising rises."""
    t = np.arange(embedded.NUM_FRAMES)
    for number in range(48):
        video = scene("test", number)
        state = trajectory(video, t)
        step = np.linalg.norm(np.diff(state[:, 0, :2], axis=0), axis=1)
        name = MOTIONS[video.motion]
        if name in ("across", "up", "down", "sway", "surge"):
            low, high = embedded.SPEED
            assert low * 0.75 < step.mean() < high * 1.25
            assert step.max() < 2.1 * high
            assert np.ptp(state[..., 2], axis=0).max() == 0
        else:
            assert step.max() == 0
        if name == "up":
            assert state[-1, 0, 1] < state[0, 0, 1]
        if name in ("grow", "shrink"):
            growing = np.diff(state[..., 2], axis=0) > 0
            assert (growing.mean() > 0.9) if name == "grow" else (growing.mean() < 0.1)
        if name == "spin":
            assert abs(state[-1, 0, 3] - state[0, 0, 3]) > math.pi


def test_labels_are_balanced_and_independent():
    for count in (embedded.NUM_TRAIN, embedded.NUM_TEST):
        pairs = Counter((n % len(APPEARANCES), n // len(APPEARANCES) % len(MOTIONS)) for n in range(count))
        assert len(pairs) == len(APPEARANCES) * len(MOTIONS)
        assert set(pairs.values()) == {count // 48}
    assert len(MOTIONS) >= 6 <= len(APPEARANCES)
    assert embedded.NUM_FRAMES >= 129


def test_train_and_test_share_no_random_stream():
    assert len(set(SPLIT_KEYS.values())) == 2
    drawn = [tuple(scene(split, n).place_N2.ravel()) for split in SPLIT_KEYS for n in range(100)]
    assert len(set(drawn)) == 200
    with pytest.raises(ConfigError, match=r"valid.*Available: train, test"):
        scene("valid", 0)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("embedded")
    embedded.render(directory, workers=1, num_train=3, num_test=1)
    return directory


def _bytes(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_files_are_real_h264_of_the_stated_length_and_near_the_rendering(rendered):
    with av.open(str(rendered / "train/0002.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == embedded.FPS
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert frames.shape == (embedded.NUM_FRAMES, embedded.HEIGHT, embedded.WIDTH, 3)
    truth = draw(scene("train", 2), np.arange(embedded.NUM_FRAMES))
    assert np.abs(frames.astype(int) - truth).mean() < 6


def test_tables_name_every_file_and_both_labels(rendered):
    rows = list(csv.DictReader((rendered / "train.csv").open()))
    assert [row["path"] for row in rows] == ["train/0000.mp4", "train/0001.mp4", "train/0002.mp4"]
    for number, row in enumerate(rows):
        video = scene("train", number)
        assert row["label"] == row["label:motion"] == MOTIONS[video.motion]
        assert row["label:appearance"] == APPEARANCES[video.appearance]
        assert (rendered / row["path"]).exists()


def test_an_interrupted_rendering_ends_with_the_same_files(rendered, tmp_path):
    whole = _bytes(rendered)
    (tmp_path / "train").mkdir()
    # as left by a kill: one file finished, one in the making, no tables
    for name in ("train/0001.mp4", "render.json"):
        (tmp_path / name).write_bytes(whole[name])
    (tmp_path / "train/.0002.mp4.123.part").write_bytes(b"half")
    seen: list[tuple[int, int]] = []
    embedded.render(tmp_path, 2, lambda done, total: seen.append((done, total)), num_train=3, num_test=1)
    assert _bytes(tmp_path) == whole
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_files_of_another_version_are_rendered_again(rendered, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test/0000.mp4").write_bytes(b"of an older renderer")
    (tmp_path / "render.json").write_text("{}")
    embedded.render(tmp_path, workers=1, num_train=0, num_test=1)
    assert (tmp_path / "test/0000.mp4").read_bytes() == (rendered / "test/0000.mp4").read_bytes()


def test_a_place_that_cannot_be_written_gives_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot write the embedded data set"):
        embedded.render(tmp_path / "file", num_train=1, num_test=0)
