"""Which provider runs, and why others do not: on this machine and on made-up ones."""

import logging

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from runtime.bundle.graph import Graph
from runtime.errors import BundleError, EarsightError, ProviderError, SettingsError
from runtime.sessions import factory as providers_module
from runtime.sessions.choice import PROBE_MODEL
from runtime.sessions.cuda_driver import CudaDriver, read_cuda_driver
from runtime.sessions.factory import (
    Provider,
    SessionFactory,
    SessionSettings,
    cuda_options,
    provider_list,
    select_provider,
    session_options,
)
from runtime.sessions.machine import installed_distributions, read_machine
from runtime.sessions.obstacles import find_obstacles, parse_provider
from runtime.sessions.placement import Placement, check_placement, read_placement
from tests.tools.machines import CPU, CPU_WHEEL, CUDA, L4, NO_DRIVER, ORIN, TENSORRT, gpu_machine


@pytest.fixture
def probe(tmp_path):
    path = tmp_path / "probe.onnx"
    path.write_bytes(PROBE_MODEL)
    return Graph("probe", "fp32", path, "")


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", "cpu"),
        ("CUDA", "cuda"),
        (" tensorrt ", "tensorrt"),
        (CPU, "cpu"),
        (CUDA, "cuda"),
        (TENSORRT, "tensorrt"),
    ],
)
def test_both_kinds_of_names_are_understood(name, expected):
    assert parse_provider(name) == expected


@pytest.mark.parametrize("name", ["", "gpu", "ROCMExecutionProvider", "cuda,cpu"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(SettingsError, match="cpu, cuda, tensorrt, openvino"):
        parse_provider(name)


# -- choice --------------------------------------------------------------------------------------------------


def test_the_best_that_works_is_chosen_and_the_rest_explained(caplog):
    caplog.set_level(logging.INFO, logger="runtime")
    chosen = select_provider(machine=CPU_WHEEL)
    assert (chosen.name, chosen.device, chosen.gpu) == ("cpu", "cpu", None)
    assert [name for name, _ in chosen.passed_over] == ["cuda"]
    assert "no NVIDIA driver" in caplog.text
    assert "provider cpu chosen" in caplog.text


def test_a_gpu_is_preferred_where_it_works():
    chosen = select_provider(machine=gpu_machine())
    assert (chosen.name, chosen.device, chosen.gpu, chosen.passed_over) == ("cuda", "cuda", L4, ())


def test_tensorrt_is_automatic_only_with_engines_at_hand():
    assert select_provider(machine=gpu_machine(), engines=lambda gpu, version: True).name == "tensorrt"
    assert select_provider(machine=gpu_machine(), engines=lambda gpu, version: True).tensorrt == "10.9.0"
    assert select_provider(machine=gpu_machine(), engines=lambda gpu, version: False).tensorrt is None


def test_a_list_is_an_order_of_preference():
    assert select_provider([CUDA, CPU], machine=CPU_WHEEL).name == "cpu"
    assert select_provider(["cpu", "cuda"], machine=gpu_machine()).name == "cpu"
    with pytest.raises(ProviderError, match=r"provider tensorrt .* provider cuda "):
        select_provider(["tensorrt", "cuda"], machine=CPU_WHEEL)


def test_an_empty_list_is_refused():
    with pytest.raises(SettingsError, match="empty"):
        select_provider([])


def test_the_gpu_can_be_chosen_by_number():
    assert select_provider("cuda", machine=gpu_machine(), device_id=1).gpu == ORIN
    with pytest.raises(SettingsError, match="GPUs 0 to 1"):
        select_provider("cuda", machine=gpu_machine(), device_id=2)


# -- reasons -------------------------------------------------------------------------------------------------

BROKEN = [
    pytest.param(CPU_WHEEL, "cuda", ["onnxruntime 1.32.0 has no CUDAExecutionProvider", "no NVIDIA driver"],
                 ["pip uninstall", "onnxruntime-gpu[cuda,cudnn]", "nvidia-smi"], id="CPU wheel, no driver"),
    pytest.param(gpu_machine(driver=NO_DRIVER), "cuda", ["no NVIDIA driver"], ["--gpus all"], id="no driver"),
    pytest.param(gpu_machine(driver=CudaDriver((13, 0), (), "the NVIDIA driver sees no GPU")), "cuda",
                 ["sees no GPU"], ["nvidia-smi"], id="no GPU"),
    pytest.param(gpu_machine(driver=CudaDriver((12, 4), (L4,))), "cuda",
                 ["built for CUDA 13.0", "CUDA 12.4 at most"], ["580.65.06", "built for CUDA 12"],
                 id="CUDA major"),
    pytest.param(gpu_machine(libraries={"cuda": "libcublasLt.so.13: cannot open"}), "cuda",
                 ["libcublasLt.so.13"], ["onnxruntime-gpu[cuda,cudnn]"], id="library"),
    pytest.param(gpu_machine(distributions={"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}), "cuda",
                 ["onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed"],
                 ["pip uninstall -y onnxruntime onnxruntime-gpu"], id="both wheels"),
    pytest.param(gpu_machine(libraries={"tensorrt": "libnvinfer.so.10: cannot open"}), "tensorrt",
                 ["TensorRT 10 does not load", "libnvinfer.so.10"], ["tensorrt-cu13==10.*"],
                 id="TensorRT library"),
    pytest.param(gpu_machine(providers=(CUDA, CPU)), "tensorrt", ["has no TensorrtExecutionProvider"],
                 ["onnxruntime-gpu"], id="wheel without TensorRT"),
    pytest.param(gpu_machine(providers=(CPU,), cuda_build=None, architecture="aarch64"),
                 "cuda", ["has no CUDAExecutionProvider"], ["JetPack"], id="Jetson"),
]  # fmt: skip


@pytest.mark.parametrize(("machine", "name", "reasons", "remedies"), BROKEN)
def test_a_provider_asked_for_by_name_fails_with_reason_and_remedy(machine, name, reasons, remedies):
    with pytest.raises(ProviderError) as caught:
        select_provider(name, machine=machine)
    message = str(caught.value)
    cause, mend = message.split("To mend it:")
    assert message.startswith(f"provider {name} cannot run here: ")
    assert all(reason in cause for reason in reasons), message
    assert all(remedy in mend for remedy in remedies), message
    assert isinstance(caught.value, EarsightError)
    assert isinstance(caught.value, RuntimeError)


def test_a_tensorrt_fault_does_not_stop_cuda():
    machine = gpu_machine(libraries={"tensorrt": "libnvinfer.so.10: cannot open"})
    assert find_obstacles("cuda", machine) == ()
    assert len(find_obstacles("tensorrt", machine)) == 1


def test_the_cpu_has_no_obstacles():
    assert (
        find_obstacles("cpu", gpu_machine(distributions={"onnxruntime": "1", "onnxruntime-gpu": "1"})) == ()
    )


# -- this machine --------------------------------------------------------------------------------------------


def test_this_machine_is_read_without_errors():
    machine = read_machine()
    assert set(machine.providers) <= set(ort.get_available_providers())
    assert machine.distributions == installed_distributions()
    assert machine.distributions
    driver = read_cuda_driver()
    assert (driver.fault is None) == bool(driver.gpus)


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="the installed wheel has CUDA")
@pytest.mark.parametrize("name", ["cuda", "tensorrt", CUDA])
def test_a_cpu_only_installation_refuses_gpu_providers(name):
    with pytest.raises(ProviderError, match="cannot run here"):
        select_provider(name)


def test_a_provider_that_onnxruntime_drops_on_the_way_is_an_obstacle():
    """Facts say that CUDA is fine; only a session shows that it is not."""
    if CUDA in ort.get_available_providers():
        pytest.skip("the installed wheel has CUDA")
    from runtime.sessions.choice import _prove

    with pytest.warns(UserWarning, match="not in available provider names"):
        (obstacle,) = _prove("cuda", 0)
    assert "would have used the CPU" in obstacle.reason


# -- sessions ------------------------------------------------------------------------------------------------


def test_the_probe_model_is_what_its_comment_says():
    square = helper.make_node("MatMul", ["x", "x"], ["m"], name="m0")
    relu = helper.make_node("Relu", ["m"], ["y"], name="r0")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy"]
    graph = helper.make_graph([square, relu], "probe", values[:1], values[1:])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name=""
    )
    assert onnx.load_from_string(PROBE_MODEL) == model


def test_a_session_computes_and_reports_its_placement(probe):
    factory = SessionFactory(select_provider("cpu"), SessionSettings(threads=1))
    (y,) = factory.open(probe).run(None, {"x": np.float32([[1, 2], [3, -9]])})
    np.testing.assert_array_equal(y, [[7, 0], [0, 87]])  # whole numbers: exact
    report = factory.describe()
    assert report["provider"] == "cpu"
    assert report["settings"]["threads"] == 1
    assert report["placement"]["probe.onnx"]["nodes"] == {CPU: 2}
    assert factory.placements["probe.onnx"].fallen == ()


def test_a_session_that_is_not_on_the_provider_asked_for_is_an_error(probe):
    if CUDA in ort.get_available_providers():
        pytest.skip("the installed wheel has CUDA")
    factory = SessionFactory(Provider("cuda", gpu=L4))
    with (
        pytest.warns(UserWarning, match="not in available"),
        pytest.raises(ProviderError, match="uses CPUExec"),
    ):
        factory.open(probe)


def test_a_broken_graph_is_the_bundle_s_fault(tmp_path):
    broken = Graph("decoder_model", "fp32", tmp_path / "decoder_model.onnx", "")
    broken.path.write_bytes(b"no protobuf")
    with pytest.raises(BundleError, match="export the bundle again"):
        SessionFactory(select_provider("cpu")).open(broken)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 1025, 100_000])
def test_a_thread_count_out_of_range_is_refused(threads):
    with pytest.raises(SettingsError, match="threads"):
        SessionSettings(threads=threads)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(SettingsError, match="fallen_share_limit"):
        SessionSettings(fallen_share_limit=share)


def test_session_options_follow_the_settings():
    options = session_options(SessionSettings(threads=3, spin_us=0, memory_arena=False, memory_pattern=False))
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(RuntimeError, match="spin_duration_us"):
        options.get_session_config_entry("session.intra_op.spin_duration_us")


def test_idle_threads_wait_actively_for_as_long_as_the_settings_say():
    options = session_options(SessionSettings(spin_us=35))
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert options.get_session_config_entry("session.intra_op.spin_duration_us") == "35"


@pytest.mark.parametrize("spin_us", [-1, 1_000_001, 1.5, True, "2"])
def test_a_waiting_time_out_of_range_is_refused(spin_us):
    with pytest.raises(SettingsError, match="spin_us"):
        SessionSettings(spin_us=spin_us)


def test_cuda_options_are_texts_and_follow_the_settings():
    options = cuda_options(SessionSettings(gpu_memory_bytes=1 << 30, tf32=True, cuda_graph=True), 1)
    assert options["device_id"] == "1"
    assert (options["use_tf32"], options["enable_cuda_graph"]) == ("1", "1")
    assert options["gpu_mem_limit"] == str(1 << 30)
    assert all(isinstance(value, str) for value in options.values())
    assert (
        cuda_options(SessionSettings(), 0)["use_tf32"] == "0"
    )  # float32 means float32 unless asked otherwise


def test_lower_providers_stand_behind_the_chosen_one():
    names = [name for name, _ in provider_list(Provider("tensorrt", gpu=L4), SessionSettings(), {"a": "b"})]
    assert names == [TENSORRT, CUDA, CPU]
    assert [name for name, _ in provider_list(Provider("cuda", gpu=L4), SessionSettings(), {})] == [CUDA, CPU]
    assert [name for name, _ in provider_list(Provider("cpu"), SessionSettings(), {})] == [CPU]


# -- placement -----------------------------------------------------------------------------------------------


class FakePart:
    def __init__(self, ep_name, nodes):
        self.ep_name = ep_name
        self.nodes = [type("Node", (), {"op_type": kind, "name": name}) for kind, name in nodes]

    def get_nodes(self):
        return self.nodes


class FakeSession:
    def __init__(self, *parts):
        self.parts = parts

    def get_provider_graph_assignment_info(self):
        return self.parts


def test_nodes_elsewhere_are_counted():
    session = FakeSession(FakePart(CUDA, [("MatMul", "m"), ("Add", "a")]), FakePart(CPU, [("Shape", "s")]))
    placement = read_placement(session, CUDA)
    assert (placement.total, dict(placement.counts)) == (3, {CUDA: 2, CPU: 1})
    assert placement.fallen == ((CPU, "Shape", "s"),)
    assert placement.to_dict()["fallen_operators"] == {f"Shape on {CPU}": 1}
    check_placement(placement, "graph", 0.34)
    with pytest.raises(
        ProviderError, match=r"1 of 3 nodes run elsewhere \(33%, allowed 30%\): Shape \(s\) on CPU"
    ):
        check_placement(placement, "graph", 0.30)


def test_arithmetic_elsewhere_is_an_error_at_any_share():
    placement = Placement(CUDA, {CUDA: 99, CPU: 1}, ((CPU, "MatMul", "big"),))
    with pytest.raises(ProviderError, match=r"none that computes\): MatMul \(big\)"):
        check_placement(placement, "graph", 1.0)


def test_cuda_counts_as_fallen_under_tensorrt():
    session = FakeSession(FakePart(TENSORRT, [("MatMul", "m")]), FakePart(CUDA, [("Gelu", "g")]))
    with pytest.raises(ProviderError, match="Gelu"):
        check_placement(read_placement(session, TENSORRT), "graph", 1.0)


def test_the_package_s_own_names_are_offered():
    assert set(providers_module.__all__) >= {"SessionFactory", "SessionSettings", "select_provider"}
