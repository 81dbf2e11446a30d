"""A face recogniser in an ONNX file as an extractor: whether two faces are of the same person."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_avatars.data.cache import file_hash
from lightning_avatars.metrics.extractors.base import Description, Extractor
from lightning_avatars.metrics.weights import ARCFACE, locate


class OnnxFace(Extractor):
    """Embeddings of length 1 from any face recogniser in an ONNX file, such as InsightFace's ArcFace networks.

    The network sees ``box``, stretched to its own size; nothing looks for the face. It knows people best where the eyes
    lie as in its training: for ArcFace at (38.3, 51.7) and (73.5, 51.5) of 112 x 112 pixels. CelebA's aligned pictures
    of 178 x 218 have them at (69.35, 111.2) and (107.6, 111.1), so their box is (0.1561, 0.2530, 0.8391, 0.8106), and
    in the square of 148 that is usually cut from them (0.0864, 0.1362, 0.9078, 0.9576).

    An ONNX file holds numbers and names of known operations and no code, so strangers' files can be read. Libraries of
    custom operations aren't loaded, and a file that keeps weights in other files is refused: its hash wouldn't cover
    them. Needs the extra ``faces``. On a GPU where its onnxruntime can use one, else on the CPU.

    Args:
        weights: The file: an image N 3 H W in, an embedding N D out; by default ``weights/w600k_mbf.onnx`` in the cache
            folder.
        name: Name in the scores: ``fd_<name>``.
        box: Left, top, right and bottom of what the network sees, as shares of the image's width and height.
        mean: Subtracted from the bytes, which are red, green, blue.
        std: They are divided by it then.

    Raises:
        FileNotFoundError: There is no such file.
        ModuleNotFoundError: The extra ``faces`` is not installed.
        ValueError: The file is not such a network, or the box is not inside the image.
    """

    def __init__(
        self,
        weights: Path | None = None,
        name: str = "arcface",
        box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        mean: float = 127.5,
        std: float = 127.5,
    ) -> None:
        super().__init__()
        self.path = locate(ARCFACE) if weights is None else Path(weights).expanduser()
        if not self.path.is_file():
            raise FileNotFoundError(
                f"no face recogniser at {self.path}: put an ONNX file there, such as w600k_mbf.onnx of InsightFace's "
                "buffalo_s (not for commercial use), or name another one with weights"
            )
        left, top, right, bottom = self.box = box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(f"box is {box}; it must be left < right and top < bottom, all from 0 to 1")
        if std <= 0:
            raise ValueError(f"std is {std}; it must be above 0")
        self.name, self.mean, self.std, self.sha256 = name, mean, std, file_hash(self.path)
        self.sessions: dict[torch.device, Any] = {}
        self.height, self.width, self.dim = self.shape()
        self.resize = f"bilinear, antialiased, box {box} to {self.height} x {self.width}, minus {mean}, over {std}"

    def shape(self) -> tuple[int, int, int]:
        """Read the network's height, width and length of the embedding from the file."""
        session = self.session(torch.device("cpu"))
        inputs, outputs = ([(x.type, x.shape) for x in xs] for xs in (session.get_inputs(), session.get_outputs()))
        match inputs, outputs:
            case [("tensor(float)", [_, 3, int(height), int(width)])], [("tensor(float)", [_, int(dim)])]:
                return height, width, dim
        raise ValueError(
            f"{self.path} is not a face recogniser: it takes {inputs} and gives {outputs}; expected one float image "
            "N x 3 x height x width and one float embedding N x D, of which only N may be open"
        )

    def session(self, device: torch.device) -> Any:  # noqa: ANN401 - onnxruntime has no types
        """Open the network on a device, once."""
        if device not in self.sessions:
            self.sessions[device] = open_session(self.path, device)
        return self.sessions[device]

    def __getstate__(self) -> dict[str, object]:
        """What copies and other processes get: they open the file themselves."""
        return self.__dict__ | {"sessions": {}}

    def prepare(self, images: Tensor) -> Tensor:
        left, top, right, bottom = self.box
        height, width = round(self.height / (bottom - top)), round(self.width / (right - left))
        x = F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True, align_corners=False)
        row, column = min(round(top * height), height - self.height), min(round(left * width), width - self.width)
        return x[:, :, row : row + self.height, column : column + self.width].sub(self.mean).div(self.std)

    def describe(self, prepared: Tensor) -> Description:
        session = self.session(prepared.device)
        (embedding,) = session.run(None, {session.get_inputs()[0].name: prepared.cpu().numpy()})
        return Description(F.normalize(torch.from_numpy(embedding).to(prepared.device)))


def open_session(path: Path, device: torch.device) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Open an ONNX file in onnxruntime, on as many threads as PyTorch uses, in full float32.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: It can't read the file.
    """
    try:
        runtime = import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a face recogniser needs onnxruntime: pip install lightning-avatars[faces]", name="onnxruntime"
        ) from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = (
        4  # what fails is raised; many files fix a batch of 1 in the output's shape, and run any
    )
    # a place below a file can't exist, so weights in other files aren't found
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path))
    providers: list[object] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0, "use_tf32": 0}))
    try:
        return runtime.InferenceSession(path.read_bytes(), options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no other class
        raise ValueError(f"onnxruntime can't read {path}: {error}") from error
