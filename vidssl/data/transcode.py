"""One source video: probe, decode every frame once, judge, and encode in the same pass.

What comes out is `ok`, `damaged` or `rejected`, always with the number of frames that did decode:

- `damaged`: the decoder or the demuxer reported an error anywhere, a frame was concealed, or the file ends clearly
  before its header says. Such a file is not stored: its decodable part may be grey smear, and its length is wrong.
- `rejected`: nothing to decode (empty, no video, not a video, a Git LFS pointer).
- Headers are not trusted beyond that. AVI counts one or two frames more than decode; MP4 counts frames that its edit
  list hides (they are not shown by players and not taken here). A few missing frames are therefore fine.

Which stream: libav's best one (the stream marked default, then the largest); cover pictures do not count.
Every frame is kept by its index: variable frame rates are not resampled, interlaced frames are not touched.
One thread and no hardware: the same source gives the same bytes. Torch is never imported here; workers start fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.stream

from .encode import Encoder, packet_table
from .picture import PictureMaker, Recipe, display_matrix

_HEAD_BYTES = 4096
_FALLBACK_RATE = Fraction(25)  # where a file states no usable rate, as libav's own demuxers assume
_ISO_MEDIA = "mp4"
_STATES_DURATION = ("matroska", "flv")  # these state no frame count but a length, written when the file was finished


@dataclass
class Transcoded:
    """What became of one source. Sizes are those shown (upright, square pixels); `data` is the MP4 of an `ok` one."""

    status: str
    reason: str = ""
    frames: int = 0
    frames_promised: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    rotation: int = 0
    codec: str = ""
    duration_seconds: float = 0.0
    data: bytes | None = field(default=None, repr=False)
    first_offset: int = 0
    packet_sizes: list[int] = field(default_factory=list, repr=False)
    packet_keys: list[bool] = field(default_factory=list, repr=False)


def transcode(path: Path, recipe: Recipe) -> Transcoded:
    """Decodes `path` whole and encodes it by `recipe`, in memory. Raises OSError where the file cannot be read."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    reason = not_a_video(head)
    if reason:
        return Transcoded("rejected", reason)
    try:
        container = av.open(_name_for_libav(path), metadata_errors="ignore")
    except av.error.FFmpegError as error:
        return Transcoded("rejected", _why_unreadable(path, head, error))
    with container:
        stream: Any = _best_stream(container)
        if stream is None:
            kinds = sorted({s.type for s in container.streams}) or ["nothing"]
            return Transcoded("rejected", f"it has no video stream, only {', '.join(kinds)}")
        if stream.codec_context is None:
            return Transcoded("rejected", "no decoder for its video stream in this libav")
        return _Pass(container, stream, recipe).run()


def not_a_video(head: bytes) -> str:
    """Why a file cannot be a video, seen in its first bytes; "" where it may be one."""
    if not head:
        return "the file is empty (0 bytes)"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "it is a Git LFS pointer, not the video: fetch the content with `git lfs pull`"
    if b"annex/objects/" in head[:512]:
        return "it is a git-annex pointer, not the video: fetch the content with `git annex get`"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page, not a video (a failed download?)"
    return ""


def _name_for_libav(path: Path) -> Any:
    """A name that is not UTF-8 goes to libav as an open file."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.open("rb")
    return str(path.absolute())  # never "scheme:rest", which libav would take for a protocol


def _why_unreadable(path: Path, head: bytes, error: Exception) -> str:
    if head[4:8] == b"ftyp" and b"moov" not in _box_names(path):
        return "its index (moov) is missing: the file was cut, as by a broken download"
    if b"\0" not in head:
        return "it is text, not a video"
    return f"no video format that libav knows ({_words(error)})"


def _box_names(path: Path) -> list[bytes]:
    """Names of the outermost boxes of an MP4."""
    names = []
    with path.open("rb") as file:
        while len(header := file.read(16)) >= 8:
            size = int.from_bytes(header[:4], "big")
            names.append(header[4:8])
            skip = int.from_bytes(header[8:16], "big") - 16 if size == 1 else size - len(header)
            if size == 0 or skip < 0:
                break
            file.seek(skip, 1)
    return names


def _words(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _best_stream(container: Any) -> Any:
    videos = container.streams.video
    pictures = [s for s in videos if s.disposition & av.stream.Disposition.attached_pic]
    best = container.streams.best("video")
    if best is not None and best not in pictures:
        return best
    return next((s for s in videos if s not in pictures), None)


class _Pass:
    """The one pass over a file: counters, the encoder while all is well, and the judgement at the end."""

    def __init__(self, container: Any, stream: Any, recipe: Recipe) -> None:
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        self._container, self._stream, self._recipe = container, stream, recipe
        self._rate = _frame_rate(stream)
        self._maker = PictureMaker(recipe, stream.sample_aspect_ratio)
        self._encoder: Encoder | None = None
        self._frames = self._hidden = 0
        self._end_seconds = 0.0
        self._trouble: list[str] = []
        self._shown: tuple[int, int, int] | None = None

    def run(self) -> Transcoded:
        try:
            for frame in self._decode():
                self._take(frame)
            return self._judge()
        finally:
            if self._encoder is not None:
                with suppress(av.error.FFmpegError):
                    self._encoder.abort()

    def _decode(self) -> Iterator[av.VideoFrame]:
        """All frames that decode. An error is noted and decoding goes on, so that the count is of the whole file."""
        packets = self._container.demux()
        start: float | None = None
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                self._note(f"reading stopped after frame {self._frames} ({_words(error)})")
                return
            if packet.pts is not None and packet.time_base is not None:
                begin = float(packet.pts * packet.time_base)
                start = begin if start is None else start
                end = begin + float((packet.duration or 0) * packet.time_base)
                self._end_seconds = max(self._end_seconds, end - start)
            if packet.stream.index != self._stream.index:  # packet.stream_index is 0 in the final, flushing packets
                continue
            self._hidden += packet.is_discard
            if packet.is_corrupt:
                self._note(f"the data of frame {self._frames} are cut or marked as corrupt")
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                self._note(f"decoding failed near frame {self._frames} ({_words(error)})")
                continue
            yield from frames

    def _note(self, trouble: str) -> None:
        self._trouble.append(trouble)
        if self._encoder is not None:  # it will not be stored; the rest is only counted
            self._encoder.abort()
            self._encoder = None

    def _take(self, frame: av.VideoFrame) -> None:
        if frame.is_corrupt:
            self._note(f"errors in the picture of frame {self._frames}")
        if self._shown is None:
            self._shown = _shown_size(frame, self._stream.sample_aspect_ratio)
        if not self._trouble:
            if self._encoder is None:
                self._encoder = Encoder(self._recipe, self._rate)
            self._encoder.add(self._maker.make(frame, self._frames, 1 / self._rate))
        self._frames += 1

    def _judge(self) -> Transcoded:
        stream = self._stream
        promised = max(0, stream.frames)
        missing = "" if self._trouble else self._too_short(promised)
        width, height, rotation = self._shown or (stream.codec_context.width, stream.codec_context.height, 0)
        result = Transcoded(
            status="ok",
            frames=self._frames,
            frames_promised=promised,
            fps=float(self._rate),
            width=width,
            height=height,
            rotation=rotation,
            codec=stream.codec_context.name,
            duration_seconds=round(self._frames / float(self._rate), 6),
        )
        if self._frames == 0:
            result.status = "rejected"
            result.reason = "no frame of it decodes" + (f": {self._trouble[0]}" if self._trouble else "")
        elif self._trouble or missing:
            result.status = "damaged"
            further = len(self._trouble) - 1
            more = f", and {further} further error{'s' * (further > 1)}" if further else ""
            of_promised = f" of {promised}" if promised else ""
            result.reason = missing or f"{self._trouble[0]}{more}; {self._frames}{of_promised} frames decode"
        else:
            assert self._encoder is not None
            result.data = self._encoder.finish()
            self._encoder = None
            result.first_offset, result.packet_sizes, result.packet_keys = packet_table(result.data, self._recipe.gop)
            if len(result.packet_sizes) != self._frames:
                raise ValueError(f"{len(result.packet_sizes)} packets were encoded of {self._frames} frames")
        return result

    def _too_short(self, promised: int) -> str:
        """Says so where the file ends clearly before its header: over 2 frames and 1 % short, or 10 % of its time."""
        container = self._container
        if promised:
            entries = len(self._stream.index_entries)
            if _ISO_MEDIA in container.format.name.split(",") and entries:
                promised = min(promised, entries)  # the rest is hidden by an edit list
            promised -= self._hidden
            if promised - self._frames > max(2, promised // 100):
                return f"the file promises {promised} frames and ends after {self._frames}"
        elif container.duration and container.format.name.startswith(_STATES_DURATION):
            stated = container.duration / av.time_base
            if self._end_seconds < 0.9 * stated - 0.5:
                seen = f"{self._end_seconds:.1f} ({self._frames} frames)"
                return f"the file promises {stated:.1f} seconds and ends after {seen}"
        return ""


def _frame_rate(stream: Any) -> Fraction:
    """The average rate, within what an MP4 can state."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and Fraction(1, 100) <= rate <= 1000:
            return Fraction(rate).limit_denominator(100_000)
    return _FALLBACK_RATE


def _shown_size(frame: av.VideoFrame, aspect: Fraction | None) -> tuple[int, int, int]:
    """Width and height as a player shows the frame, and the display rotation in degrees (0, 90, 180, 270)."""
    width, height = frame.width, frame.height
    if aspect and aspect > 0:
        width = max(1, round(width * aspect))
    if display_matrix(frame)[0] == 0:
        width, height = height, width
    return width, height, round(frame.rotation / 90) * 90 % 360
