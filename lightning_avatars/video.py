"""Films of images: GIF by Pillow, MP4 by PyAV."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.nn.functional import pad

from lightning_avatars.images import to_picture

FRAMES_PER_SECOND = 24


def save_video(images: Tensor, path: Path) -> None:
    """Write images of bytes, N C H W, as a film that goes round (.gif) or ends (.mp4, H.264), 24 frames a second.

    Raises:
        ValueError: The suffix is another one, or PyAV is not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        first, *others = [to_picture(image) for image in images]
        first.save(path, save_all=True, append_images=others, duration=round(1000 / FRAMES_PER_SECOND), loop=0)
    elif path.suffix == ".mp4":
        save_mp4(images, path)
    else:
        raise ValueError(f"films end in .gif or .mp4, got {path}")


def save_mp4(images: Tensor, path: Path) -> None:
    """Write images of bytes as H.264, whose height and width are even."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ValueError("MP4 needs PyAV: pip install lightning-avatars[video], or ask for a gif") from error
    images = pad(images, (0, images.shape[3] % 2, 0, images.shape[2] % 2))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=FRAMES_PER_SECOND, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = images.shape[2], images.shape[3], "yuv420p"
        for image in images:
            for packet in stream.encode(av.VideoFrame.from_image(to_picture(image))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
