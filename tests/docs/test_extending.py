"""The example on each page of docs/extending/ works as shown: pasted into a file and named by its path."""

import re
from pathlib import Path

import pytest
import torch

from bench.config import resolve
from bench.config.spec import protocol_hash
from bench.core.errors import UserError
from bench.core.plugin import is_file
from bench.data import datasets
from bench.diffusion import samplers
from bench.diffusion.guidance import Guidance
from bench.diffusion.objectives import FlowMatching
from bench.evaluation.scorer import MetricOptions, Scorer
from bench.metrics import custom
from bench.metrics.names import metric
from bench.nets.base import Activations
from bench.runs import networks
from bench.training.trainer import Trainer

PAGES = Path(__file__).parents[2] / "docs" / "extending"
FILES = {
    "dataset": "squares.py",
    "encoder": "gradients.py",
    "method": "linear_repa.py",
    "metric": "coverage.py",
    "reward": "edges.py",
    "sampler": "midpoint.py",
}


@pytest.fixture(autouse=True)
def examples(tmp_path, monkeypatch):
    """The files of all pages, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for kind, file in FILES.items():
        page = (PAGES / f"{kind}.md").read_text()
        code = re.search(rf"```python\n# {file}\n(.*?)```", page, re.DOTALL)
        assert code, f"{kind}.md shows no {file}"
        Path(file).write_text(code[1])


def spec(method="baseline", data="digits", **protocol):
    training = {"steps": 3, "batch_size": 16, "log_every": 1, "precision": "fp32"}
    return resolve.run_spec(method, "sit-pico", data, 0, training=training, protocol=protocol)


def trained(run):
    trainer = Trainer(run, torch.device("cpu"))
    return [trainer.step(step) for step in range(run.training.steps)]


def edit(file, old, new):
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))


def test_every_page_has_an_example():
    assert {page.stem for page in PAGES.glob("*.md")} - {"backbone"} == set(FILES)


def test_dataset_trains_and_its_identity_is_its_content():
    dataset = datasets.get("squares.py[images=64]")
    records = dataset.open()
    images, labels = records.reference()
    assert len(records) == 64 and images.shape == (512, 1, 8, 8) and dataset.shape == (4, 1, 8)
    quadrants = images.unflatten(2, (2, 4)).unflatten(4, (2, 4)).amax(dim=(1, 3, 5)).flatten(1)  # [N, 4]
    assert torch.equal(quadrants.argmax(dim=1), labels) and ((quadrants > 0).sum(dim=1) == 1).all()
    run = spec("repa", "squares.py[images=64]", samples=20)
    assert all("repa" in row["raw"] for row in trained(run))
    edit("squares.py", "50 *", "51 *")
    assert spec("repa", "squares.py[images=64]", samples=20).hash != run.hash


def test_encoder_trains_repa():
    run = spec("repa[encoder=gradients.py[bins=4]]")
    assert all(-1 <= float(row["raw"]["repa"]) <= 1 for row in trained(run))
    assert networks.required(run) == ("gradients.py[bins=4]",) and networks.leaky(run) == ()
    edit("gradients.py", "/ 255", "/ 127")
    assert spec("repa[encoder=gradients.py[bins=4]]").hash != run.hash


def test_encoder_sees_the_direction_of_an_edge():
    from bench.nets import teachers

    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    image[..., 4:] = 255  # brighter to the right: direction 0, the first of four bins
    features = teachers.load("gradients.py[bins=4]", 8, torch.device("cpu"), grid=(1, 1))(image)
    assert features.patch_tokens.shape == (1, 1, 4) and features.patch_tokens.argmax() == 0


def test_method_trains_with_a_fading_weight():
    rows = trained(spec("linear_repa.py"))
    ratios = [float(row["weighted"]["align"] / row["raw"]["align"]) for row in rows]
    assert ratios == pytest.approx([0.5, 0.5 * 2 / 3, 0.5 / 3], rel=1e-4)


def test_metric_is_that_of_its_definition_and_is_recorded():
    class Flat:
        name, classifies = "flat", False

        def __call__(self, images):
            return Activations(images.flatten(1).float())

    draw = torch.Generator().manual_seed(0)
    samples, reference = (torch.randint(256, (40, 1, 2, 2), generator=draw).byte() for _ in range(2))
    scorer = Scorer([Flat()], reference, options=MetricOptions(custom=custom.load(["coverage.py[k=3]"])))
    scorer.update(samples)
    x, y = samples.flatten(1).double(), reference.flatten(1).double()
    covered = 0
    for own in y:
        radius = sorted(float((own - other).norm()) for other in y)[3]
        covered += min(float((own - other).norm()) for other in x) <= radius + 1e-4
    assert scorer.results()["coverage[flat]"] == pytest.approx(covered / 40)
    shown = metric("coverage[flat]")
    assert (shown.short, shown.arrow) == ("Cov.", "↑")


def test_metric_is_part_of_the_protocol():
    run = spec(metrics=("coverage.py",))
    moved = spec(metrics=("./coverage.py",))
    assert run.protocol.hash == moved.protocol.hash != spec().protocol.hash
    assert protocol_hash(run.protocol.model_dump(mode="json")) == run.protocol.hash
    edit("coverage.py", "<= radius", "< radius")
    assert spec(metrics=("coverage.py",)).protocol.hash != run.protocol.hash
    with pytest.raises(UserError, match="was changed"):
        resolve.refuse_changed_files(run.protocol)


def test_reward_guides_vrpo():
    run = spec("vrpo[semantic_reward=edges.py]")
    logs = [key for row in trained(run) for key in row["logs"]]
    assert any("edges.py" in key for key in logs)
    edit("edges.py", ".abs()", ".square()")
    assert spec("vrpo[semantic_reward=edges.py]").hash != run.hash


def test_sampler_is_of_second_order():
    """dx/dt = x has the solution x(0) = x(1) / e; halving the steps of a second-order rule divides the error
    by four."""

    class Exponential(torch.nn.Module):
        def forward(self, x, t, label, **_):
            return type("Output", (), {"prediction": x, "variance": None})

    noise = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    errors = []
    for steps in (10, 20):
        sampler = samplers.get(f"midpoint.py[steps={steps},float64=true]")
        assert sampler.evaluations == 2 * steps
        found = sampler.sample(
            Exponential(),
            noise,
            torch.zeros(1, dtype=torch.long),
            process=FlowMatching(),
            guidance=Guidance(),
            step_noise=lambda: noise,
        )
        errors.append(abs(float(found.mean()) - 1 / torch.e))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert spec(sampler_flow="midpoint.py").hash != spec().hash


@pytest.mark.parametrize("kind", FILES)
def test_files_that_define_nothing_are_refused_in_one_line(kind):
    Path("empty.py").write_text("")
    look = {
        "dataset": datasets.get,
        "encoder": lambda text: networks.required(spec(f"repa[encoder={text}]")),
        "method": resolve.method,
        "metric": lambda text: custom.load([text]),
        "reward": lambda text: networks.required(spec(f"vrpo[semantic_reward={text}]")),
        "sampler": samplers.get,
    }[kind]
    for text, message in (("empty.py", "must define one subclass"), ("absent.py", r"absent\.py")):
        assert is_file(text)
        with pytest.raises(UserError, match=message) as refused:
            look(text)
        assert "\n" not in str(refused.value)
