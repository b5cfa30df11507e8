"""Machines made up for the tests: with and without wheels, drivers, libraries."""

from runtime.sessions.cuda_driver import CudaDriver, Gpu
from runtime.sessions.machine import Machine
from runtime.sessions.openvino import OpenVino

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
L4 = Gpu(0, "NVIDIA L4", "8.9", 24 * 2**30)
ORIN = Gpu(1, "Orin", "8.7", 8 * 2**30)
NO_DRIVER = CudaDriver(fault="no NVIDIA driver: libcuda.so.1: cannot open shared object file")

CPU_WHEEL = Machine({"onnxruntime": "1.32.0"}, (CPU,), driver=NO_DRIVER)


def gpu_machine(**changes: object) -> Machine:
    """A GPU server where everything works, but for the changes."""
    facts = {
        "distributions": {"onnxruntime-gpu": "1.31.1"},
        "providers": (TENSORRT, CUDA, CPU),
        "cuda_build": "13.0",
        "driver": CudaDriver((13, 1), (L4, ORIN)),
        "tensorrt": "10.9.0",
    }
    return Machine(**(facts | changes))


def openvino_machine(**changes: object) -> Machine:
    """A processor with AMX and OpenVINO's plugin, but for the changes."""
    facts = {
        "distributions": {"onnxruntime": "1.32.0"},
        "providers": (CPU,),
        "driver": NO_DRIVER,
        "openvino": OpenVino("1.8.1", None, "Intel Xeon", ("BF16", "FP32", "INT8")),
        "amx_bf16": True,
    }
    return Machine(**(facts | changes))
