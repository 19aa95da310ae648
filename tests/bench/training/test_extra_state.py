"""Extra parts of the state: trained, sampled, evaluated and probed as their equations say."""

import json
from itertools import pairwise

import pytest
import torch

from backbones import checkpoints
from bench.config import resolve
from bench.config.spec import InitialWeights
from bench.core.errors import UserError
from bench.core.parallel import UNDIVIDED
from bench.core.seeding import generator
from bench.evaluation import probing, sampling
from bench.evaluation.evaluator import evaluate_kept
from bench.evaluation.joint_state import JointState
from bench.launch.runner import Runner
from bench.nets import teachers
from bench.runs import loading
from bench.training.trainer import Trainer

CPU = torch.device("cpu")
METHOD = "reglue[components=4,encoder=digits-vit]"  # a token and a map
TRAINING = {"steps": 2, "batch_size": 8, "log_every": 1}


def spec_of(**protocol):
    scored = {"samples": 150, "sampler_flow": "euler[steps=3]"} | protocol
    return resolve.run_spec(METHOD, "sit-pico", "digits", 0, training=TRAINING, protocol=scored)


@pytest.fixture
def trainer():
    """No weight is zero, so that every part shows in the prediction."""
    found = Trainer(spec_of(), CPU)
    draw = torch.Generator().manual_seed(0)
    for network in (found.backbone, found.ema):
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return found


def test_noise_target_and_loss_of_both_kinds(trainer):
    """c_t = (1 - t) c + t eps with the sample's t and noise of a stream of its own; |v - (eps - c)|^2."""
    trainer.prepare(0)
    calls = []
    trainer.network.register_forward_hook(
        lambda _, given, named, output: calls.append((given[1], named["extras"], output.extras)),
        with_kwargs=True,
    )
    row = trainer.step(0)
    ((t, noised, predicted),) = calls
    image = trainer._read(0).image
    seen = teachers.load("digits-vit", 8, CPU, grid=(4, 4))(image)
    clean = {"cls": seen.cls_token, "pca": trainer.method.redi.map(seen)}
    for name, value in clean.items():
        noise = torch.randn(value.shape, generator=generator(0, f"noise of {name}", 0))
        wide = t.view(-1, *[1] * (value.dim() - 1))
        torch.testing.assert_close(noised[name], (1 - wide) * value + wide * noise, rtol=1e-4, atol=1e-5)
        expected = (predicted[name] - (noise - value)).square().mean()
        torch.testing.assert_close(row["raw"][f"denoise {name}"], expected, rtol=1e-4, atol=1e-5)
    weights = {"cls": 0.03, "pca": 1.0}
    for name, weight in weights.items():
        found, raw = (float(row[key][f"denoise {name}"]) for key in ("weighted", "raw"))
        assert found == pytest.approx(weight * raw)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_samples_are_those_of_a_loop_written_out(trainer, scale):
    """Guidance acts on image and class token, the map keeps its conditional velocity."""
    spec, model = spec_of(guidance_scale=scale), trainer.ema
    index, times = torch.tensor([4, 7]), torch.linspace(1, 0, 4)
    label, null = index % 10, torch.full((2,), 10)
    draw = lambda shape, stream: torch.stack(  # noqa: E731
        [torch.randn(shape, generator=generator(0, stream, number)) for number in index.tolist()]
    )
    x, extras = draw((1, 8, 8), "sampling"), {}
    for extra in model.extras:
        extras[extra.name] = draw(extra.shape(8), f"sampling {extra.name}")
    with torch.no_grad():
        for t, after in pairwise(times.tolist()):
            both = [model(x, torch.full((2,), t), given, extras=extras) for given in (label, null)]
            guide = lambda c, u: u + scale * (c - u)  # noqa: E731
            velocities = {name: both[0].extras[name] for name in extras}
            velocities["cls"] = guide(*(output.extras["cls"] for output in both))
            x = x + (after - t) * guide(*(output.prediction for output in both))
            extras = {name: extras[name] + (after - t) * velocities[name] for name in extras}
    (found,) = sampling.stream(model, trainer.process, spec, trainer.data, index)
    expected = sampling.to_uint8(trainer.data.to_pixels(x), spec.protocol.rounding)
    assert (found.images.int() - expected.int()).abs().max() <= 1  # rounding may tip over


def test_a_state_is_packed_and_split_without_loss(trainer):
    joint = JointState(trainer.ema)
    parts = {name: torch.randn(3, *shape) for name, shape in joint.shapes.items()}
    again = joint.split(joint.pack(parts))
    assert list(again) == ["", "cls", "pca"]
    assert all(torch.equal(again[name], value) for name, value in parts.items())


def test_weights_without_the_extra_state_are_refused(tmp_path):
    path = tmp_path / "baseline.safetensors"
    plain = Trainer(resolve.run_spec("baseline", "sit-pico", "digits", 0, training=TRAINING), CPU)
    checkpoints.save(path, plain.ema, "flow")
    spec = spec_of().model_copy(update={"weights": InitialWeights.of(path, None)})
    with pytest.raises(
        UserError, match=r"extra state: cls \(token of 64\), pca .*the weights have: none"
    ) as e:
        Trainer(spec, CPU)
    assert "\n" not in str(e.value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One run evaluated while it trains, and again from the weights that were kept for it."""
    found = {}
    for evaluate in ("here", "separate"):
        root = tmp_path_factory.mktemp(evaluate)
        runner = Runner(spec_of(), root, CPU, UNDIVIDED, evaluate)
        runner.run()
        if evaluate == "separate":
            for step in runner.run_folder.record.kept_steps():
                evaluate_kept(runner.spec, root, step, CPU)
        found[evaluate] = runner.run_folder.folder
    return found


def test_a_job_of_its_own_evaluates_to_the_same_row(folders):
    rows = {}
    for evaluate, folder in folders.items():
        (file,) = folder.glob("eval*.jsonl")
        (rows[evaluate],) = map(json.loads, file.read_text().splitlines())
    assert rows["here"]["metrics"] and rows["here"]["metrics"] == rows["separate"]["metrics"]


def test_hidden_states_do_not_depend_on_batches(folders, monkeypatch):
    run = loading.load(folders["here"], CPU)
    assert [extra.name for extra in run.model.extras] == ["cls", "pca"]
    x0, noise = (torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    whole = probing.hidden_states(run, x0, noise, t=0.4)
    monkeypatch.setattr(probing, "BATCH_SIZE", 3)
    for depth, tokens in probing.hidden_states(run, x0, noise, t=0.4).items():
        torch.testing.assert_close(tokens, whole[depth], rtol=1e-5, atol=1e-5)
