"""One video: pictures upright, in shape and in colour; damage is seen; the same source gives the same bytes."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg

from tests.media import BLUE, GREEN, RED, WHITE, corners, moving_square, read_rgb, write_video
from vidssl.data.picture import Recipe, crop_box
from vidssl.data.transcode import Transcoded, transcode

H264 = Recipe("h264", "cover", (171, 128), (176, 128), 8)
MJPEG = Recipe("mjpeg", "cover", (171, 128), (176, 128), 1)
SQUASH = Recipe("h264", "squash", (171, 128), (176, 128), 8)


def pictures(made: Transcoded) -> np.ndarray:
    """uint8 [T, 128, 171, 3] of what is stored."""
    assert made.status == "ok", made.reason
    frames = read_rgb(io.BytesIO(made.data))
    assert frames.shape[1:] == (128, 176, 3)
    with av.open(io.BytesIO(made.data)) as container:  # what was applied must not be asked for again
        assert next(container.decode(video=0)).rotation == 0
        assert container.streams.video[0].sample_aspect_ratio in (None, 0, 1)
    return frames[:, :, :171]


def corner_colours(frames: np.ndarray) -> list[tuple[int, ...]]:
    """Mean colour near each corner: top left, top right, bottom left, bottom right."""
    last = frames[-1].astype(float)
    return [tuple(last[y : y + 20, x : x + 20].mean((0, 1)).round().astype(int)) for y in (10, 98) for x in (10, 141)]


def assert_colours(frames: np.ndarray, expected: list[tuple[int, ...]], tolerance: int = 10) -> None:
    seen = corner_colours(frames)
    assert np.abs(np.array(seen) - np.array(expected)).max() <= tolerance, f"{seen} instead of {expected}"


# A point (x, y) of the coded frame is shown at (ax + cy, bx + dy): where each corner's colour must come to.
UPRIGHT = [RED, GREEN, BLUE, WHITE]
ORIENTATIONS = {
    (1, 0, 0, 1): UPRIGHT,
    (-1, 0, 0, 1): [GREEN, RED, WHITE, BLUE],
    (1, 0, 0, -1): [BLUE, WHITE, RED, GREEN],
    (-1, 0, 0, -1): [WHITE, BLUE, GREEN, RED],
    (0, 1, 1, 0): [RED, BLUE, GREEN, WHITE],
    (0, 1, -1, 0): [BLUE, RED, WHITE, GREEN],
    (0, -1, 1, 0): [GREEN, WHITE, RED, BLUE],
    (0, -1, -1, 0): [WHITE, GREEN, BLUE, RED],
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_display_matrix_is_applied(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    file = write_video(tmp_path / "turned.mp4", corners((96, 64)), matrix=matrix)
    made = transcode(file, H264)
    assert_colours(pictures(made), ORIENTATIONS[matrix])
    assert (made.width, made.height) == ((96, 64) if matrix[0] else (64, 96))


@pytest.mark.parametrize("recipe", [H264, MJPEG], ids=["h264", "mjpeg"])
@pytest.mark.parametrize(
    ("codec", "pixel_format", "name"),
    [
        ("libx264", "yuv420p", "a.mp4"),
        ("libx264", "yuvj420p", "full.mp4"),
        ("libx264", "yuv444p", "444.mp4"),
        ("libx264rgb", "rgb24", "rgb.mkv"),
        ("ffv1", "bgr0", "lossless.mkv"),
        ("mjpeg", "yuvj420p", "a.avi"),
    ],
)
def test_colours_survive(tmp_path: Path, recipe: Recipe, codec: str, pixel_format: str, name: str) -> None:
    file = write_video(tmp_path / name, corners((96, 72)), codec=codec, pixel_format=pixel_format)
    assert_colours(pictures(transcode(file, recipe)), UPRIGHT)


def test_grey_comes_out_as_three_equal_channels(tmp_path: Path) -> None:
    grey = moving_square(10)[..., 0]
    file = write_video(tmp_path / "grey.mp4", grey, pixel_format="gray")
    frames = pictures(transcode(file, H264)).astype(int)
    assert np.abs(frames - frames.mean(-1, keepdims=True)).max() <= 1
    assert frames.std() > 10


def ring(size: tuple[int, int], pixel: Fraction = Fraction(1)) -> np.ndarray:
    """A white disc on black that is round when shown with this pixel aspect. uint8 [9, H, W, 3]."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    radius = 0.35 * min(height, width * float(pixel) * 0.75)  # of what a cut to 4:3 leaves
    inside = ((x - width / 2) * float(pixel)) ** 2 + (y - height / 2) ** 2 < radius**2
    return np.repeat(np.where(inside[..., None], 235, 0).astype(np.uint8)[None].repeat(3, -1), 9, 0)


def roundness(frames: np.ndarray) -> float:
    """Width of the disc over its height."""
    bright = frames[-1, ..., 0] > 128
    return np.ptp(np.flatnonzero(bright.any(0))) / np.ptp(np.flatnonzero(bright.any(1)))


@pytest.mark.parametrize(
    ("size", "aspect"),
    [
        ((160, 120), None),
        ((240, 96), None),
        ((96, 200), None),
        ((120, 120), Fraction(16, 11)),
        ((160, 90), Fraction(3, 4)),
    ],
)
def test_cover_keeps_round_things_round(tmp_path: Path, size: tuple[int, int], aspect: Fraction | None) -> None:
    pixel = aspect or Fraction(1)
    file = write_video(tmp_path / "disc.mp4", ring(size, pixel), aspect=aspect)
    made = transcode(file, H264)
    assert roundness(pictures(made)) == pytest.approx(1, abs=0.06)
    assert (made.width, made.height) == (round(size[0] * pixel), size[1])


def test_squash_shows_the_whole_source(tmp_path: Path) -> None:
    wide = write_video(tmp_path / "wide.mp4", corners((240, 80)))
    assert_colours(pictures(transcode(wide, SQUASH)), UPRIGHT)
    disc = write_video(tmp_path / "disc.mp4", ring((240, 80)))
    assert roundness(pictures(transcode(disc, SQUASH))) == pytest.approx(171 / 240 * 80 / 128, abs=0.03)


def test_crop_box() -> None:
    assert crop_box((340, 256), Fraction(1), (171, 128)) == (340, 255, 0, 0)
    assert crop_box((640, 256), Fraction(1), (171, 128)) == (342, 256, 148, 0)
    assert crop_box((352, 288), Fraction(16, 11), (171, 128)) == (265, 288, 42, 0)
    assert crop_box((2, 2000), Fraction(1), (171, 128)) == (2, 1, 0, 998)


def test_mjpeg_packets_are_whole_jpegs(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", moving_square(12))
    made = transcode(file, MJPEG)
    frames = read_rgb(io.BytesIO(made.data))
    assert made.packet_keys == [True] * 12
    offset = made.first_offset
    for frame, size in zip(frames, made.packet_sizes, strict=True):
        jpeg = made.data[offset : offset + size]
        assert np.abs(simplejpeg.decode_jpeg(jpeg).astype(int) - frame).mean() < 2
        assert simplejpeg.decode_jpeg_header(jpeg)[:3] == (128, 176, "YCbCr")
        offset += size


def test_h264_is_made_for_clips(tmp_path: Path) -> None:
    """Index first, a key frame every 8 frames with its parameter sets, no B frames, the packets in one piece."""
    made = transcode(write_video(tmp_path / "a.mp4", moving_square(30)), H264)
    assert made.packet_keys == [n % 8 == 0 for n in range(30)]
    assert made.data.index(b"moov") < made.data.index(b"mdat") < made.first_offset
    assert made.first_offset + sum(made.packet_sizes) == len(made.data)
    offset = made.first_offset
    for size, key in zip(made.packet_sizes, made.packet_keys, strict=True):
        units, at = [], offset
        while at < offset + size:
            units.append(made.data[at + 4] & 31)
            at += 4 + int.from_bytes(made.data[at : at + 4], "big")
        assert at == offset + size
        assert units[-1] == (5 if key else 1)
        assert ({7, 8} <= set(units)) == key
        offset += size


def test_same_source_same_bytes(tmp_path: Path) -> None:
    """x264's macroblock tree made one video in seventy differ, where the heap was not clean."""
    small = Recipe("h264", "cover", (64, 48), (64, 48), 8)
    file = write_video(tmp_path / "a.mp4", moving_square(30))
    made = set()
    for number in range(60):
        made.add(transcode(file, small).data)
        junk = [bytes([number * 7 % 256]) * size for size in range(2000, 200_000, 9000)]
        del junk
    assert len(made) == 1


def test_every_frame_in_order(tmp_path: Path) -> None:
    """Brightness counts the frames; B frames and an odd rate must not disturb that."""
    steps = np.arange(40, dtype=np.uint8)[:, None, None, None] * 5 + 20
    frames = np.broadcast_to(steps, (40, 48, 64, 3)).copy()
    file = write_video(tmp_path / "a.mp4", frames, rate=Fraction(30000, 1001), options={"preset": "medium"})
    made = transcode(file, H264)
    assert np.abs(pictures(made).mean((1, 2, 3)) - steps[:, 0, 0, 0]).max() < 3
    assert made.fps == pytest.approx(30000 / 1001)


def cut(file: Path, fraction: float) -> Path:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * fraction)])
    return file


@pytest.mark.parametrize(
    ("name", "codec", "muxer"),
    [
        ("a.mp4", "libx264", {"movflags": "faststart"}),
        ("a.mkv", "libx264", {}),
        ("a.avi", "mpeg4", {}),
        ("a.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
    ],
)
def test_cut_files_are_damaged(tmp_path: Path, name: str, codec: str, muxer: dict[str, str]) -> None:
    frames = moving_square(150)
    whole = write_video(tmp_path / "whole" / name, frames, codec=codec, muxer=muxer)
    assert transcode(whole, H264).status == "ok"
    made = transcode(cut(write_video(tmp_path / "cut" / name, frames, codec=codec, muxer=muxer), 0.5), H264)
    assert made.status == "damaged"
    assert 0 < made.frames < 120
    assert str(made.frames) in made.reason
    assert made.data is None


def test_a_cut_last_frame_is_damage(tmp_path: Path) -> None:
    """The count alone is within what headers get wrong; the last picture is not whole."""
    file = write_video(tmp_path / "a.mp4", moving_square(50), muxer={"movflags": "faststart"})
    file.write_bytes(file.read_bytes()[:-8])
    made = transcode(file, H264)
    assert made.status == "damaged"
    assert "frame 49" in made.reason


def test_overwritten_payload_is_damaged(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", moving_square(60, size=(160, 120)))
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(range(256)) + bytes(144)
    file.write_bytes(data)
    made = transcode(file, H264)
    assert made.status == "damaged"
    assert made.data is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
        (b"../../.git/annex/objects/aa/bb/SHA256E-s1--x.mp4", "git-annex pointer"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"just words\n" * 50, "text"),
        (bytes(range(256)) * 40, "no video format"),
    ],
)
def test_not_a_video(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(content)
    made = transcode(file, H264)
    assert (made.status, made.frames, made.data) == ("rejected", 0, None)
    assert words in made.reason


def test_cover_picture_is_no_video(tmp_path: Path) -> None:
    file = tmp_path / "song.mp4"
    with av.open(str(file), "w") as out:
        sound = out.add_stream("aac", rate=44100)
        picture = out.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        for packet in picture.encode(av.VideoFrame.from_ndarray(corners((64, 64), 1)[0], format="rgb24")):
            out.mux(packet)
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        silence.sample_rate = 44100
        for packet in [*sound.encode(silence), *sound.encode(None), *picture.encode(None)]:
            out.mux(packet)
    made = transcode(file, H264)
    assert made.status == "rejected"
    assert "no video stream" in made.reason


def test_picture_size_may_change_in_mid_stream(tmp_path: Path) -> None:
    """Two H.264 streams of other sizes, one behind the other."""
    first = write_video(tmp_path / "1.h264", corners((96, 72), 10))
    second = write_video(tmp_path / "2.h264", corners((160, 128), 10))
    both = tmp_path / "both.h264"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    made = transcode(both, H264)
    assert made.frames == 20, made
    frames = pictures(made)
    assert_colours(frames[:10], UPRIGHT)
    assert_colours(frames[10:], UPRIGHT)


@pytest.mark.parametrize("recipe", [H264, MJPEG], ids=["h264", "mjpeg"])
def test_the_picture_reaches_its_last_column_and_the_rest_repeats_it(tmp_path: Path, recipe: Recipe) -> None:
    bright = np.full((9, 120, 160, 3), 200, np.uint8)
    made = transcode(write_video(tmp_path / "bright.mp4", bright), recipe)
    whole = read_rgb(io.BytesIO(made.data)).astype(int)
    assert whole.shape == (9, 128, 176, 3)
    assert np.abs(whole - 200).max() <= 6
