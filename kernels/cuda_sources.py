"""The CUDA kernels of `kernels/cuda`, compiled on the first call and launched on torch's stream.

NVRTC and the driver are called by their C interfaces. `torch.cuda._compile_kernel` would do the
same, but looks for a CUDA toolkit even for sources without headers, and most machines have none.
"""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

FOLDER = Path(__file__).parent / "cuda"


@dataclass(frozen=True)
class Kernel:
    """A function on one device, ready to launch."""

    function: ctypes.c_void_p
    context: ctypes.c_void_p
    device: torch.device

    def launch(
        self, *, grid: tuple[int, int], threads: int, arguments: Sequence[Tensor | int]
    ) -> None:
        """Starts the kernel on the device's current stream and does not wait for it.

        Args:
            grid: blocks along x and y.
            threads: of a block.
            arguments: tensors for pointers, ints for C's `int`.

        Raises:
            RuntimeError: the driver refuses the launch.
        """
        values = [
            ctypes.c_int(argument)
            if isinstance(argument, int)
            else ctypes.c_void_p(argument.data_ptr())
            for argument in arguments
        ]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
        with torch.cuda.device(self.device):
            # A thread that has called nothing of CUDA yet has no context of its own.
            _driver("cuCtxSetCurrent", self.context)
            _driver(
                "cuLaunchKernel", self.function, *grid, 1, threads, 1, 1, 0, stream, pointers, None
            )


def missing(device: torch.device, capabilities: Sequence[tuple[int, int]]) -> str | None:
    """What keeps kernels for these compute capabilities from a device; None if nothing does."""
    if device.type != "cuda" or torch.version.cuda is None:
        return f"the operands are on {device}; CUDA kernels need a CUDA GPU and torch's CUDA build"
    have = torch.cuda.get_device_capability(device)
    if have not in capabilities:
        known = ", ".join(f"{major}.{minor}" for major, minor in capabilities)
        return f"compute capability is {have[0]}.{have[1]}; the CUDA kernel is written for {known}"
    try:
        _nvrtc()
    except OSError as error:
        return f"NVRTC, which compiles CUDA kernels, cannot be loaded: {error}"
    return None


@cache
def load(source: str, function: str, device: torch.device) -> Kernel:
    """The function of `kernels/cuda/{source}.cu`, compiled for the device the first time.

    Args:
        source: the file's name without its ending.
        function: one of its `extern "C"` kernels.
        device: of a tensor, so with its index.

    Raises:
        RuntimeError: NVRTC or the driver refuses it, with its message.
    """
    handle, context = ctypes.c_void_p(), ctypes.c_void_p()
    with torch.cuda.device(device):
        torch.cuda.init()
        ordinal = ctypes.c_int()
        _driver("cuDeviceGet", ctypes.byref(ordinal), device.index)
        _driver("cuDevicePrimaryCtxRetain", ctypes.byref(context), ordinal)
        _driver("cuCtxSetCurrent", context)
        module = _module(source, device)
        _driver("cuModuleGetFunction", ctypes.byref(handle), module, function.encode())
    return Kernel(function=handle, context=context, device=device)


def compile_source(source: str, architecture: str) -> bytes:
    """The machine code (cubin) of `kernels/cuda/{source}.cu` for an architecture like `sm_90a`.

    Raises:
        RuntimeError: it does not compile; the message has the compiler's.
        OSError: there is no NVRTC.
    """
    text = (FOLDER / f"{source}.cu").read_bytes()
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
    _check_nvrtc(
        nvrtc.nvrtcCreateProgram(
            ctypes.byref(program), text, f"{source}.cu".encode(), 0, None, None
        )
    )
    try:
        status = nvrtc.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*options)
        )
        if status:
            log = _nvrtc_bytes(program, "ProgramLog").rstrip(b"\0").decode()
            raise RuntimeError(f"{source}.cu does not compile for {architecture}:\n{log}")
        return _nvrtc_bytes(program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def _module(source: str, device: torch.device) -> ctypes.c_void_p:
    """Machine code belongs to a device; several functions share it."""
    major, minor = torch.cuda.get_device_capability(device)
    module = ctypes.c_void_p()
    # The `a` architectures have the instructions that no later GPU promises, such as wgmma.
    _driver("cuModuleLoadData", ctypes.byref(module), compile_source(source, f"sm_{major}{minor}a"))
    return module


@cache
def _nvrtc() -> ctypes.CDLL:
    """The compiler that came with torch, by name or from where its wheels put it."""
    if torch.version.cuda is None:
        raise OSError("this build of torch has no CUDA")
    major = torch.version.cuda.split(".")[0]
    name = f"libnvrtc.so.{major}"
    spec = importlib.util.find_spec("nvidia")
    folders = (spec.submodule_search_locations if spec else None) or []
    # NVRTC opens its built-ins by name, which finds those of the wheels only once they are loaded.
    for pattern in (f"libnvrtc-builtins.so.{major}.*", name):
        for path in (path for folder in folders for path in Path(folder).glob(f"*/lib/{pattern}")):
            ctypes.CDLL(str(path))
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise OSError(f"{error}; looked in {[str(folder) for folder in folders]}") from error


def _check_nvrtc(status: int) -> None:
    if status:
        nvrtc = _nvrtc()
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(status).decode()}")


def _nvrtc_bytes(program: ctypes.c_void_p, name: str) -> bytes:
    nvrtc, size = _nvrtc(), ctypes.c_size_t()
    _check_nvrtc(getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check_nvrtc(getattr(nvrtc, f"nvrtcGet{name}")(program, content))
    return content.raw


@cache
def _libcuda() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _driver(name: str, *arguments: object) -> None:
    """Calls a function of the driver; raises its error as words."""
    status = getattr(_libcuda(), name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        _libcuda().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"{name}: {(text.value or b'unknown error').decode()} ({status})")
