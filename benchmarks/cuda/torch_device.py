"""GPU of the CUDA benchmark: memory, events and graphs by torch, and the peers of our kernels.

    cublas-fp16      torch.mm of float16: cuBLAS
    MatMulNBits-4    ONNX Runtime's own operator on its CUDA provider, many nodes in a model; also -2, where it has that
    torch-int4       torch's _weight_int4pack_mm, bfloat16 activations

All run on one stream. A peer that cannot be made or run is left out, and the report says why; the benchmark needs none.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cuda.device import AbsentError, Buffer, Contender, Work, library_hash, only_device
from dualbinary import InputError

__all__ = ["TorchDevice"]

_READ_BYTES = 1 << 30
_READ_SHARE = 8  # of the device's memory, at most
_UNKNOWN_L2 = 64 << 20
_SCALE = 0.03
_INNER_K_TILES = 8  # of torch's int4 format: a tile of 128 inputs for a warp


class _Tensor:
    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self.address = tensor.data_ptr()

    def numpy(self) -> npt.NDArray[Any]:
        return self._tensor.cpu().numpy()


class TorchDevice:
    """The current CUDA device of torch. Raises InputError where torch or the library sees none."""

    def __init__(self, library: Path) -> None:
        import torch

        if not torch.cuda.is_available():
            raise InputError(
                f"torch {torch.__version__} sees no CUDA device: the benchmark needs an NVIDIA GPU, its driver, and a "
                "CUDA build of torch"
            )
        self._torch, self.library = torch, library
        self._info = only_device(library)
        self.capability: int = self._info["compute_capability"]
        properties = torch.cuda.get_device_properties(0)
        self.l2_bytes: int = getattr(properties, "L2_cache_size", 0) or _UNKNOWN_L2
        # A new stream, because ONNX Runtime cannot be given the default one.
        torch.cuda.set_stream(torch.cuda.Stream())
        self._read_bytes = min(_READ_BYTES, properties.total_memory // _READ_SHARE)
        self._from = torch.ones(self._read_bytes // 4, dtype=torch.float32, device="cuda")
        self._to = torch.empty_like(self._from)
        self._sum = torch.empty((), dtype=torch.float32, device="cuda")

    def put(self, array: npt.NDArray[Any]) -> Buffer:
        """See Memory."""
        return _Tensor(self._torch.from_numpy(array).cuda())

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """See Memory."""
        return _Tensor(self._torch.empty(shape, dtype=getattr(self._torch, dtype), device="cuda"))

    def stream(self) -> int:
        """See Memory; inside captured() this is the captured stream."""
        return self._torch.cuda.current_stream().cuda_stream

    def facts(self) -> dict[str, Any]:
        """See Device."""
        return {
            "device": self._info["name"],
            "capability": self.capability,
            "multiprocessors": self._info["multiprocessors"],
            "l2_bytes": self.l2_bytes,
            "torch": self._torch.__version__,
            "cuda": self._torch.version.cuda,
            "cuda_library": library_hash(self.library),
        }

    def clock(self, work: Work) -> float:
        """Measure the seconds between two events around the work."""
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def captured(self, work: Work) -> Work:
        """See Device."""
        work()  # the first use of a library does what cannot be captured
        self._torch.cuda.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph):
            work()
        return graph.replay

    def reads(self) -> dict[str, tuple[int, Work]]:
        """See Device."""
        nbytes = self._from.nbytes
        return {
            "copy": (2 * nbytes, lambda: self._to.copy_(self._from)),
            "sum": (nbytes, lambda: self._torch.sum(self._from, dim=0, out=self._sum)),
        }

    def peer(self, name: str, N: int, K: int, M: int, G: int, count: int) -> Contender:
        """See Device."""
        try:
            if name == "cublas-fp16":
                return self._both(self._cublas(N, K, M, count), count)
            if name == "torch-int4":
                return self._both(self._int4(N, K, M, G, count), count)
            return self._mat_mul_n_bits(name, N, K, M, G, count)
        # Any error of a foreign library is the reason why it takes no part.
        except Exception as error:
            raise AbsentError(" ".join(str(error).split())[:200] or type(error).__name__) from error

    def release(self) -> None:
        """See Device."""
        self._torch.cuda.empty_cache()

    def _both(self, work: Work, count: int) -> Contender:
        return Contender({"replay": self.captured(work), "launch": work}, count)

    def _random(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return (self._torch.randn(shape, device="cuda", dtype=self._torch.float32) * _SCALE).to(dtype)

    def _cublas(self, N: int, K: int, M: int, count: int) -> Work:
        float16 = self._torch.float16
        x, y = self._random((M, K), float16), self._random((M, N), float16)
        weights = [self._random((N, K), float16).t() for _ in range(count)]

        def run() -> None:
            for weight in weights:
                self._torch.mm(x, weight, out=y)

        return run

    def _int4(self, N: int, K: int, M: int, G: int, count: int) -> Work:
        torch = self._torch
        x = self._random((M, K), torch.bfloat16)
        scales = self._random((K // G, N, 2), torch.bfloat16)
        weights = [
            torch.ops.aten._convert_weight_to_int4pack(
                torch.randint(0, 256, (N, K // 2), dtype=torch.uint8, device="cuda"), _INNER_K_TILES
            )
            for _ in range(count)
        ]

        def run() -> None:
            for weight in weights:
                torch.ops.aten._weight_int4pack_mm(x, weight, G, scales)

        return run

    def _mat_mul_n_bits(self, name: str, N: int, K: int, M: int, G: int, count: int) -> Contender:
        """Open a session that captures its own graph in its first runs."""
        import onnxruntime as ort

        from benchmarks.kernels import contenders

        provider = "CUDAExecutionProvider"
        if provider not in ort.get_available_providers():
            raise AbsentError(f"onnxruntime {ort.__version__} has no {provider}; onnxruntime-gpu has")
        weight_format = contenders.WeightFormat(G, planes=2, offset=False, dtype="float16")
        model = contenders.model(name, contenders.Point(N, K, M, threads=1), count, weight_format)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings = {"user_compute_stream": str(self.stream()), "enable_cuda_graph": "1"}
        session = ort.InferenceSession(model, options, providers=[(provider, settings)])
        x, y = self._random((M, K), self._torch.float16), self._random((M, N), self._torch.float16)
        binding = session.io_binding()
        for value in session.get_inputs():
            binding.bind_input(value.name, "cuda", 0, np.float16, [M, K], x.data_ptr())
        for value in session.get_outputs():
            binding.bind_output(value.name, "cuda", 0, np.float16, [M, N], y.data_ptr())
        run_options = ort.RunOptions()
        run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def run(keep: Any = (x, y)) -> None:
            session.run_with_iobinding(binding, run_options)

        for _ in range(3):
            run()
        self._torch.cuda.synchronize()
        return Contender({"replay": run}, count)
