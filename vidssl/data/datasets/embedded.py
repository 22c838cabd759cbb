"""The embedded data set: rendered motion clips that need no download, as source files for `prep`.

One renderer, two label systems of the same videos. *appearance* is what is seen (shape x texture of the moving things),
*motion* is how they move; every pair of the two comes equally often, so neither tells anything about the other.

A single frame must not give the motion away. So the state of an object (place, angle, size) is uniform at every moment
whatever its motion: places live on a torus (an object that leaves on one side enters on the other), sizes run through
their range as a sawtooth of random phase, angles are uniform. Colours, background, drift of the background, camera
shake and noise are drawn before the motion is looked at. No class turns into another when the picture is mirrored left
to right, because every common training recipe flips at random: hence "across" instead of left and right.

All videos have the same ground and the same greys: objects of a dark and a bright half. With free colours a network
knows each of some hundred training videos by its colour instead of learning the classes (seen: fine-tuning at 0.59 on
train and at chance on test); with a breath of tint, a ground or a piece of ground of its own a contrastive task knows
the video by that and learns neither class (benchmarks/results/NOTES.md).

Two things hold in nearly all real video, and here too, in every video alike. Light falls from above, on the scene and
on every object: without it nothing tells which side of a picture is up, and rotation prediction stayed at chance. And
time has a direction: dark stains spread over the ground, so that a later moment can be told from an earlier one
(benchmarks/results/NOTES.md).

Speeds are bounded (SPEED pixels a frame, background and camera a fraction of it), so that the same video played 1, 2, 4
and 8 times as fast can be told apart at 64 pixels, which is what playback-rate tasks need.

Every video is a pure function of (split, number): a Philox stream with the split and the number in its key. Train and
test have no stream in common.
"""

from __future__ import annotations

import csv
import io
import json
import math
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import numba
import numpy as np

from ...errors import ConfigError, EnvironmentProblem

RENDER_VERSION = 6  # a higher number renders everything again
NUM_TRAIN, NUM_TEST = 480, 96  # multiples of the 48 pairs of appearance and motion
NUM_FRAMES, FPS = 144, 30  # playback-rate tasks need 16 frames at dilation 8: 121, and room for a random start
WIDTH, HEIGHT = 160, 120
SHAPES, TEXTURES = ("disc", "triangle", "cross"), ("stripes", "spots")
APPEARANCES = tuple(f"{texture}-{shape}" for texture in TEXTURES for shape in SHAPES)
MOTIONS = ("across", "up", "down", "spin", "grow", "shrink", "sway", "surge")
NUM_OBJECTS = 3
RADIUS = (14.0, 34.0)  # pixels; log-uniform
SPEED = (0.9, 1.4)  # pixels a frame
DRIFT, SHAKE = 0.25, 1.2  # background: pixels a frame at most; camera: pixels of standard deviation
GREYS = (20.0, 220.0)  # of the objects; which of them is the pattern is drawn
LIGHT = 40.0  # grey levels from the top of the picture, and of each object, to its bottom
STAIN, STAINED = 40.0, 0.8  # how much darker, in grey levels; share of the ground at the end of the video
NOISE = 2.0  # grey levels of standard deviation, fresh in each frame
SPLIT_KEYS = {"train": 0x747261696E, "test": 0x74657374}
TILE = 64  # the ground repeats after this many pixels, a power of two: each video shows all of it


@dataclass(frozen=True)
class Scene:
    """Everything of one video, drawn. Shapes: N objects, 2 axes (x, y); pixels, frames and radians."""

    appearance: int
    motion: int
    place_N2: np.ndarray
    size_phase_N: np.ndarray
    angle_N: np.ndarray
    speed: float
    heading: float
    period: float
    phase: float
    turn: float
    ground_2: np.ndarray
    drift_2: np.ndarray
    shake_23K: np.ndarray
    greys_2: np.ndarray
    split: str
    number: int


def scene(split: str, number: int) -> Scene:
    """Draws the video `number` of a split: class numbers and every parameter. Any number >= 0 is legal."""
    if split not in SPLIT_KEYS:
        raise ConfigError(f"unknown split {split!r} of the embedded data set. Available: {', '.join(SPLIT_KEYS)}.")
    rng = _stream(split, number, part=0)
    appearance = number % len(APPEARANCES)
    motion = number // len(APPEARANCES) % len(MOTIONS)
    drift_angle, drift = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 1.0) * DRIFT
    amount, wave = rng.normal(0, SHAKE / math.sqrt(1.5), (2, 3)), rng.uniform(24, 96, (2, 3))
    shake = np.stack([amount, 2 * math.pi / wave, rng.uniform(0, 2 * math.pi, (2, 3))], axis=1)
    return Scene(
        appearance=appearance,
        motion=motion,
        place_N2=rng.uniform(0, 1, (NUM_OBJECTS, 2)) * (WIDTH, HEIGHT),
        size_phase_N=rng.uniform(0, 1, NUM_OBJECTS),
        angle_N=rng.uniform(0, 2 * math.pi, NUM_OBJECTS),
        speed=rng.uniform(*SPEED),
        heading=rng.uniform(0, 2 * math.pi),
        period=rng.uniform(36, 52),
        phase=rng.uniform(0, 2 * math.pi),
        turn=rng.choice((-1.0, 1.0)),
        drift_2=np.array([math.cos(drift_angle), math.sin(drift_angle)]) * drift,
        shake_23K=shake,
        greys_2=rng.permutation(GREYS),
        ground_2=rng.uniform(0, TILE, 2),
        split=split,
        number=number,
    )


def _stream(split: str, number: int, part: int) -> np.random.Generator:
    """The random stream of one video: key = (split, number), counter = part; no two overlap."""
    key = np.array([SPLIT_KEYS[split], number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, part], np.uint64)))


def trajectory(video: Scene, frames_T: np.ndarray) -> np.ndarray:
    """float64 [T, N, 4]: x, y (pixels), radius (pixels), angle (radians) of each object, before the camera's shake."""
    t = frames_T[:, None].astype(np.float64)
    way = np.zeros((len(t), 2))
    angle, size = np.zeros_like(t), np.zeros_like(t)
    along = np.array([math.cos(video.heading), math.sin(video.heading)])
    omega = 2 * math.pi / video.period
    match MOTIONS[video.motion]:
        case "across":
            way = video.turn * video.speed * t * (1, 0)
        case "up":
            way = video.speed * t * (0, -1)
        case "down":
            way = video.speed * t * (0, 1)
        case "spin":
            angle = video.turn * video.speed * t / 14  # the rim of a middling object makes 1.5 to 2.5 pixels a frame
        case "grow":
            size = video.speed * t / 36
        case "shrink":
            size = -video.speed * t / 36
        case "sway":  # mean speed as in the others: 4 amplitudes a period
            way = video.speed * video.period / 4 * np.sin(omega * t + video.phase) * along
        case "surge":  # between standing and twice the mean speed
            way = video.speed * (t + np.sin(omega * t + video.phase) / omega) * along
    state = np.empty((len(t), NUM_OBJECTS, 4))
    state[..., :2] = video.place_N2 + way[:, None]
    phase = (video.size_phase_N + size) % 1.0
    state[..., 2] = RADIUS[0] * (RADIUS[1] / RADIUS[0]) ** phase
    state[..., 3] = video.angle_N + angle
    return state


def draw(video: Scene, frames_T: np.ndarray) -> np.ndarray:
    """Renders frames: uint8 [T, HEIGHT, WIDTH, 3], RGB. Any frame numbers, in any order."""
    frames = np.asarray(frames_T, np.int64)
    amount, rate, phase = video.shake_23K[:, 0], video.shake_23K[:, 1], video.shake_23K[:, 2]
    shake_T2 = (amount * np.sin(rate * frames[:, None, None] + phase)).sum(axis=-1)
    state = trajectory(video, frames)
    state[..., :2] += shake_T2[:, None]
    offset_T2 = video.ground_2 + frames[:, None] * video.drift_2 + shake_T2
    out = np.empty((len(frames), HEIGHT, WIDTH, 3), np.uint8)
    texture, shape = divmod(video.appearance, len(SHAPES))
    rng = _stream(video.split, video.number, part=1)
    noise = rng.normal(0, NOISE, 1 << 15).astype(np.float32)
    noise_start = (rng.integers(len(noise)) + frames * 7919) % len(noise)
    stained = STAINED * frames / (NUM_FRAMES - 1)
    _draw(out, _background(), -offset_T2, stained, state, shape, texture, video.greys_2, noise, noise_start)
    return out


@lru_cache
def _background() -> np.ndarray:
    """float32 [TILE, TILE, 2]: smooth noise between two greys, and the share of the ground that is stained when the
    stain gets here, 0 to 1; repeats without a seam."""
    rng = np.random.Generator(np.random.Philox(key=np.array([0, 0], np.uint64)))
    grey = 85 + 60 * np.clip(0.5 + 0.4 * _smooth_noise(rng, ((2, 1.0), (5, 0.8), (13, 0.6))), 0, 1)
    order = np.argsort(_smooth_noise(rng, ((3, 1.0), (10, 1.0))), axis=None)
    stained_at = np.empty(TILE * TILE)
    stained_at[order] = np.arange(TILE * TILE) / (TILE * TILE)
    return np.stack([grey, stained_at.reshape(TILE, TILE)], 2).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, scales: tuple[tuple[int, float], ...]) -> np.ndarray:
    """float32 [TILE, TILE]: a sum of lattices of so many cells a side, each with its weight."""
    noise = np.zeros((TILE, TILE), np.float32)
    for cells, weight in scales:
        knots = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        noise += weight * _stretch(_stretch(knots).T).T
    return noise


def _stretch(knots_YX: np.ndarray) -> np.ndarray:
    """Rows of knots -> TILE rows, by smoothstep between them, around the edge."""
    at = np.arange(TILE, dtype=np.float32) * len(knots_YX) / TILE
    first = at.astype(np.int64)
    part = (at - first)[:, None]
    part = part * part * (3 - 2 * part)
    return knots_YX[first] * (1 - part) + knots_YX[(first + 1) % len(knots_YX)] * part


@numba.njit(inline="always")
def _coverage(shape, x, y):
    """Signed distance to the edge of a shape of radius 1, positive inside."""
    if shape == 0:
        return 0.92 - math.sqrt(x * x + y * y)
    if shape == 1:  # equilateral, corners at distance 1.15 from the middle
        ax = abs(x)
        return min(0.575 - y, 0.575 - (ax * 0.8660254 - y * 0.5))
    ax, ay = abs(x), abs(y)
    return max(min(1.0 - ax, 0.34 - ay), min(0.34 - ax, 1.0 - ay))


@numba.njit(inline="always")
def _texture(texture, x, y):
    """0 to 1: share of the second grey at a place of the object."""
    if texture == 0:
        wave = x * 1.6
        value = 4.0 * abs(wave - math.floor(wave + 0.5)) - 1.0
        return min(max(0.5 + 2.5 * value, 0.0), 1.0)
    u, v = x * 1.7 + 0.5, y * 1.7 + 0.5
    u, v = u - math.floor(u + 0.5), v - math.floor(v + 0.5)
    return min(max(0.5 + 6.0 * (0.30 - math.sqrt(u * u + v * v)), 0.0), 1.0)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _draw(out, tile, offset, stained, state, shape, texture, greys, noise, noise_start):
    frames, height, width, _ = out.shape
    mask, noise_mask = tile.shape[0] - 1, len(noise) - 1
    canvas = np.empty((height, width), np.float32)
    for t in range(frames):
        # the background only shifts, so the four weights of its interpolation are those of the frame
        left, top = math.floor(offset[t, 0]), math.floor(offset[t, 1])
        fx, fy = np.float32(offset[t, 0] - left), np.float32(offset[t, 1] - top)
        one = np.float32(1)
        w00, w01, w10, w11 = (one - fy) * (one - fx), (one - fy) * fx, fy * (one - fx), fy * fx
        for y in range(height):
            y0, y1 = (int(top) + y) & mask, (int(top) + y + 1) & mask
            light = np.float32(LIGHT * (0.5 - y / height))
            for x in range(width):
                x0, x1 = (int(left) + x) & mask, (int(left) + x + 1) & mask
                grey = w00 * tile[y0, x0, 0] + w01 * tile[y0, x1, 0] + w10 * tile[y1, x0, 0] + w11 * tile[y1, x1, 0]
                when = w00 * tile[y0, x0, 1] + w01 * tile[y0, x1, 1] + w10 * tile[y1, x0, 1] + w11 * tile[y1, x1, 1]
                stain = min(max(np.float32(20) * (np.float32(stained[t]) - when), np.float32(0)), one)
                canvas[y, x] = grey + light - np.float32(STAIN) * stain
        for n in range(state.shape[1]):
            cx, cy, radius, angle = state[t, n, 0], state[t, n, 1], state[t, n, 2], state[t, n, 3]
            cos, sin, reach = math.cos(angle) / radius, math.sin(angle) / radius, int(radius * 1.2) + 2
            ix, iy = math.floor(cx), math.floor(cy)
            for dy in range(-reach, reach + 1):
                py = iy + dy - cy
                light = -0.5 * LIGHT * py / radius
                for dx in range(-reach, reach + 1):
                    px = ix + dx - cx
                    u, v = cos * px + sin * py, cos * py - sin * px
                    alpha = 0.5 + radius * _coverage(shape, u, v)  # one pixel of soft edge
                    if alpha <= 0.0:
                        continue
                    alpha = min(alpha, 1.0)
                    mix = _texture(texture, u, v)
                    x, y = (ix + dx) % width, (iy + dy) % height
                    grey = greys[0] * (1.0 - mix) + greys[1] * mix + light
                    canvas[y, x] += np.float32(alpha * (grey - canvas[y, x]))
        at = noise_start[t]
        for y in range(height):
            for x in range(width):
                grain = noise[at & noise_mask] + np.float32(0.5)
                at += 1
                out[t, y, x] = np.uint8(min(max(canvas[y, x] + grain, np.float32(0)), np.float32(255)))


def render(
    directory: Path,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    num_train: int = NUM_TRAIN,
    num_test: int = NUM_TEST,
) -> None:
    """Writes the data set as source files: `train/0000.mp4` ..., `test/0000.mp4` ..., `train.csv`, `test.csv`.

    The tables have the columns path, label, label:appearance, label:motion (names); label is the motion. A file that is
    there is whole, because it gets its name when it is finished; a second call adds what is missing, byte for byte what
    an uninterrupted call would have written.

    Args:
        directory: made if missing.
        workers: processes; by default one a processor.
        progress: called with (files done, files in all) as the work goes on.
        num_train, num_test: multiples of 48 keep the labels balanced and independent.
    Raises:
        EnvironmentProblem: the directory cannot be written.
    """
    directory = Path(directory)
    stamp = json.dumps({"version": RENDER_VERSION, "frames": NUM_FRAMES, "size": [WIDTH, HEIGHT]})
    jobs = [("train", n) for n in range(num_train)] + [("test", n) for n in range(num_test)]
    try:
        for split in SPLIT_KEYS:
            (directory / split).mkdir(parents=True, exist_ok=True)
            for leftover in (directory / split).glob(".*.part"):
                leftover.unlink()
        known = directory / "render.json"
        fresh = known.exists() and known.read_text() == stamp
        todo = [job for job in jobs if not (fresh and (directory / _path(*job)).exists())]
        if not fresh:
            # tables of another version would vouch for videos that are about to be replaced
            for split, number in jobs:
                (directory / _path(split, number)).unlink(missing_ok=True)
            _write(known, stamp.encode())
        _render_all(directory, todo, workers or os.cpu_count() or 1, len(jobs), progress)
        for split, count in (("train", num_train), ("test", num_test)):
            _write(directory / f"{split}.csv", _table(split, count))
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write the embedded data set into {directory}: {error.strerror or error}. Free some space "
            "(it needs about 20 MB) or choose another place with $VIDSSL_HOME."
        ) from error


def _render_all(
    directory: Path, todo: list[tuple[str, int]], workers: int, total: int, progress: Callable[[int, int], None] | None
) -> None:
    done = total - len(todo)
    if progress:
        progress(done, total)
    if not todo:
        return
    # spawn, not fork: the caller may have threads (CUDA, a progress bar); the workers import numpy, numba and av only
    with ProcessPoolExecutor(min(workers, len(todo)), multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(_render_one, repeat(directory), todo, chunksize=4):
            done += 1
            if progress:
                progress(done, total)


def _render_one(directory: Path, job: tuple[str, int]) -> None:
    _write(directory / _path(*job), _encode(draw(scene(*job), np.arange(NUM_FRAMES))))


def _encode(frames_THWC: np.ndarray) -> bytes:
    """The frames as an mp4 file: H.264, x264's usual long group of pictures with B frames."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        # x264's macroblock tree gives other bytes at each call (seen with PyAV 18.1), and files must be reproducible
        options = {"preset": "veryfast", "crf": "23", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _path(split: str, number: int) -> str:
    return f"{split}/{number:04d}.mp4"


def _table(split: str, count: int) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "label", "label:appearance", "label:motion"])
    for number in range(count):
        appearance = APPEARANCES[number % len(APPEARANCES)]
        motion = MOTIONS[number // len(APPEARANCES) % len(MOTIONS)]
        table.writerow([_path(split, number), motion, appearance, motion])
    return text.getvalue().encode()


def _write(path: Path, data: bytes) -> None:
    """Under a passing name first: a file that has its own name is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
