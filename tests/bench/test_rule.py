"""The judge of outputs: right ones pass, and each way to be wrong is found and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from resnet_cuda.bench.rule import Given, Judge, Reading

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ME = "resnet_cuda"


def inputs(dtype: torch.dtype = torch.float32) -> Given:
    """A convolution's, in channels_last memory."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        tensor = torch.randn(shape, generator=generator).to(dtype)
        return tensor.contiguous(memory_format=torch.channels_last)

    return Given(x=normal(2, 8, 6, 6), weight=normal(4, 8, 3, 3), dz=normal(2, 4, 4, 4))


def plain(given: Given) -> Mapping[str, Tensor]:
    x, weight = given["x"], given["weight"]
    z = torch.conv2d(x, weight)
    stride, padding, dilation = [1, 1], [0, 0], [1, 1]
    _, dweight, _ = torch.ops.aten.convolution_backward.default(
        given["dz"], x, weight, None, stride, padding, dilation, False, [0, 0], 1, [False, True, False]
    )  # fmt: skip
    return {"z": z, "dweight": dweight}


def judge(dtype: torch.dtype = torch.float32) -> Judge:
    given = inputs(dtype).sealed()
    return Judge(lambda: given, plain)


def right(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in plain(inputs(dtype)).items()}


def verdict(judge: Judge, output: object) -> str:
    """The complaint about ours, beside another candidate that is right."""
    good = tuple(judge.plain(judge.given()).values())
    complaints = judge({ME: output, "eager channels_last": good})
    assert complaints.keys() <= {ME}, "a right candidate is blamed"
    return complaints.get(ME, "")


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_what_torch_computes_is_right(dtype: torch.dtype) -> None:
    assert verdict(judge(dtype), tuple(right(dtype).values())) == ""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["z", "dweight"])
def test_everything_a_little_wrong_is_found_by_the_norm(name: str, dtype: torch.dtype) -> None:
    output = right(dtype)
    output[name] = (output[name].double() * (1 + 6 * torch.finfo(dtype).eps)).to(dtype)
    complaint = verdict(judge(dtype), tuple(output.values()))
    assert complaint.startswith(name) and "relative L2 norm" in complaint, complaint


@pytest.mark.parametrize("name", ["z", "dweight"])
def test_one_wrong_element_is_found_even_where_the_norm_hides_it(name: str) -> None:
    """Torch's own error is made so large that one element does not show in the norm."""
    generator = torch.Generator().manual_seed(1)
    noise = {n: 0.01 * torch.randn(t.shape, generator=generator) for n, t in right().items()}

    def noisy(given: Given) -> Mapping[str, Tensor]:
        exact = given["x"].dtype == torch.float64
        return {n: t if exact else t + noise[n] for n, t in plain(given).items()}

    asked = replace(judge(), plain=noisy)
    output = right()
    assert verdict(asked, tuple(output.values())) == ""
    output[name][1, 1, 1, 1] += 0.18
    complaint = verdict(asked, tuple(output.values()))
    assert complaint.startswith(name) and "in one element" in complaint, complaint


def test_float64_must_agree_tightly() -> None:
    output = right(torch.float64)
    output["z"][0, 0, 0, 0] += 1e-8
    complaint = verdict(judge(torch.float64), tuple(output.values()))
    assert complaint.startswith("z (float64) is off by 1.00e-08"), complaint


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_a_value_that_is_not_finite_is_found(dtype: torch.dtype, value: float) -> None:
    output = right(dtype)
    output["dweight"][0, 0, 0, 0] = value
    assert verdict(judge(dtype), tuple(output.values())) == "dweight is not finite"


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ((), "returned 0 tensors, not 2 (z, dweight)"),
        ((torch.ones(2, 4, 4, 4),) * 3, "returned 3 tensors, not 2 (z, dweight)"),
        (torch.ones(2, 4, 4, 4), "returned 1 tensors, not 2 (z, dweight)"),
        ((right()["z"], None), "dweight is missing"),
        ((right()["z"], right()["dweight"].mT[:, :, :2]), "dweight has shape [4, 8, 2, 3]"),
        ((right()["z"].double(), right()["dweight"]), "z has dtype torch.float64"),
        ("text", "the output cannot be read: it is a str"),
        (None, "the output cannot be read: it is a NoneType"),
    ],
)
def test_an_output_of_another_form_is_wrong(output: object, complaint: str) -> None:
    found = verdict(judge(), output)
    assert found.startswith(complaint), found


def test_readings_say_what_of_an_output_counts() -> None:
    z, dweight = right().values()
    readings = {ME: Reading(lambda output: (output["z"], output["dweight"]))}
    with_readings = replace(judge(), readings=readings)
    assert verdict(with_readings, {"z": z, "dweight": dweight, "mask": None}) == ""
    assert "z is off" in verdict(with_readings, {"z": -z, "dweight": dweight}).replace(
        "(float32) ", ""
    )
    unreadable = replace(judge(), readings={ME: Reading(lambda output: output[7:8])})
    assert "returned 0 tensors" in verdict(unreadable, (z, dweight))


def test_a_candidate_in_nchw_is_compared_with_torch_in_nchw() -> None:
    layouts: list[bool] = []

    def watched(given: Given) -> Mapping[str, Tensor]:
        layouts.append(given["x"].is_contiguous())
        return plain(given)

    nchw = replace(judge(), plain=watched, readings={ME: Reading(channels_last=False)})
    assert nchw({ME: tuple(right().values())}) == {}
    assert layouts == [False, True], "float64 as the inputs are, then torch's own in NCHW"


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("past_the_counter", [False, True])
def test_a_candidate_that_wrote_to_the_inputs_is_found(
    dtype: torch.dtype, past_the_counter: bool
) -> None:
    """As a kernel does, through the data pointer, or an op of torch's."""
    written = judge(dtype)
    weight = written.given()["weight"]
    target = weight.data if past_the_counter else weight
    version = weight._version
    target[1, 1, 1, 1] += 1
    assert (weight._version == version) == past_the_counter, "the test does not do what it says"
    complaints = written({ME: tuple(right(dtype).values()), "peer": None})
    assert complaints == dict.fromkeys([ME, "peer"], "a candidate wrote to the inputs weight")


def test_running_statistics_of_a_fresh_copy_may_be_written_to() -> None:
    given = Given(x=torch.randn(4), running_mean=torch.randn(4)).sealed()
    given.fresh()["running_mean"].add_(1)
    assert given.written() == []
    given.fresh()["x"].add_(1)
    assert given.written() == ["x"], "only the statistics are copies"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t * 0, "z should have other values than zero"),
        (lambda t: t / 0, "z should be finite"),
        (lambda t: t[:0], "z should have other values than zero"),
    ],
)
def test_inputs_that_prove_nothing_are_refused(
    change: Callable[[Tensor], Tensor], complaint: str
) -> None:
    def degenerate(given: Given) -> Mapping[str, Tensor]:
        found = dict(plain(given))
        return {**found, "z": change(found["z"])}

    asked = replace(judge(), plain=degenerate)
    outputs = {ME: tuple(asked.plain(inputs()).values())}
    assert asked(outputs) == {ME: f"{complaint}: such inputs prove nothing"}


# Gradients through several ReLUs.


def chained(dtype: torch.dtype, gate: float = 0.01) -> Judge:
    return replace(judge(dtype), chained=["dweight"], gate=gate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_flipped_gate_is_allowed_in_a_chained_gradient_only(dtype: torch.dtype) -> None:
    output = right(dtype)
    norm = output["dweight"].double().norm().item()
    output["dweight"][1, 1, 1, 1] += 0.008 * norm  # a gradient's element that one gate moved
    assert verdict(chained(dtype), tuple(output.values())) == ""
    if dtype == torch.float32:
        assert verdict(judge(dtype), tuple(output.values())).startswith("dweight")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_chained_gradient_that_is_five_percent_wrong_is_found(dtype: torch.dtype) -> None:
    output = right(dtype)
    output["dweight"] = output["dweight"] * 1.05
    assert "gradients of 1 tensors are off by 5" in verdict(chained(dtype), tuple(output.values()))


def test_other_outputs_beside_chained_gradients_keep_the_strict_rule() -> None:
    output = right()
    output["z"] = output["z"] * 1.0001
    assert verdict(chained(torch.float32), tuple(output.values())).startswith("z (float32) is off")


def test_in_float64_no_gate_excuses_a_gradient() -> None:
    output = right(torch.float64)
    output["dweight"] = output["dweight"] * (1 + 1e-7)
    assert verdict(chained(torch.float64), tuple(output.values())).startswith("dweight (float64)")


def test_a_chained_gradient_of_another_dtype_or_shape_is_wrong() -> None:
    z, dweight = right().values()
    assert "has dtype torch.float64" in verdict(chained(torch.float32), (z, dweight.double()))
    assert "has shape" in verdict(chained(torch.float32), (z, dweight[:1]))


def test_nothing_is_computed_where_nothing_is_to_be_judged() -> None:
    def unreachable(given: Given) -> Mapping[str, Tensor]:
        raise AssertionError

    assert replace(judge(), plain=unreachable)({}) == {}
