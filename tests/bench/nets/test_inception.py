"""One pass against the libraries themselves: same images, same (random) weights on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from cleanfid import features
from cleanfid import fid as clean_fid
from PIL import Image

from bench.core.errors import UserError
from bench.data.image_files import open_images, writing
from bench.evaluation.reference import read_reference
from bench.evaluation.scorer import MetricOptions, Scorer
from bench.nets.inception import AdmInception, CleanFid
from tests.helpers.closed_forms import frechet_distance_of_few
from tests.helpers.random_inception import save_parameters, save_torchscript

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*published weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*dimensions of:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # TorchScript, which clean-fid's file is
]
CPU = torch.device("cpu")
PARAMETERS = "pt_inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, as torch hub keeps them, and two sets of images: `samples` and `reference`."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "checkpoints").mkdir()
    save_parameters(folder / "checkpoints" / PARAMETERS)
    save_torchscript(folder)
    draw = torch.Generator().manual_seed(0)
    for name, count, contrast in (("samples", 10, 60), ("reference", 8, 50)):
        coarse = torch.rand(count, 3, 4, 4, generator=draw) * 255
        smooth = torch.nn.functional.interpolate(coarse, size=(40, 48), mode="bicubic")
        images = smooth + contrast * torch.randn(smooth.shape, generator=draw)
        with writing(folder / name, count) as write:
            write(images.clamp(0, 255).byte())
    return folder


def score(files: Path, net, options: MetricOptions) -> dict[str, float]:
    scorer = Scorer([net], read_reference(files / "reference", [net]), options=options)
    for batch in open_images(files / "samples").batches(4):
        scorer.update(batch)
    return scorer.results()


def test_adm_metrics_equal_those_of_torch_fidelity(files: Path):
    theirs = torch_fidelity.calculate_metrics(
        input1=str(files / "samples"),
        input2=str(files / "reference"),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(files / "checkpoints" / PARAMETERS),
        fid=True,
        isc=True,
        isc_splits=1,
        prc=True,
        cuda=False,
        verbose=False,
        batch_size=10,
    )
    ours = score(files, AdmInception(file=files / "checkpoints" / PARAMETERS), MetricOptions())
    assert set(ours) == {"fid", "sfid", "is", "precision", "recall"}
    for mine, name in (
        ("fid", "frechet_inception_distance"),
        ("is", "inception_score_mean"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        assert ours[mine] == pytest.approx(theirs[name], rel=1e-4), name


def test_spatial_features_are_seven_channels_of_mixed_6_in_the_order_of_the_graph(files: Path):
    adm = AdmInception(file=files / "checkpoints" / PARAMETERS)
    seen = {}
    adm.net.Mixed_6d.register_forward_hook(lambda _module, _inputs, output: seen.update(block=output))
    images = next(open_images(files / "samples").batches(2))
    spatial = adm(images).spatial
    assert spatial is not None and spatial.shape == (2, 17 * 17 * 7)
    # The 1x1 branch is the first that the block concatenates; TensorFlow has channels last.
    branch = seen["block"][:, :7].permute(0, 2, 3, 1)
    torch.testing.assert_close(spatial.view(2, 17, 17, 7), branch)


@pytest.fixture
def clean_fid_reads_our_file(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """clean-fid only looks for TorchScript weights in one fixed folder."""

    class OurFile(features.InceptionV3W):
        def __init__(self, _path: str, download: bool, resize_inside: bool) -> None:
            super().__init__(str(files), download=False, resize_inside=resize_inside)

    monkeypatch.setattr(features, "InceptionV3W", OurFile)


def features_of_clean_fid(paths: list[Path], mode: str = "clean", batch_size: int = 10) -> np.ndarray:
    return clean_fid.get_files_features(
        sorted(map(str, paths)),
        features.build_feature_extractor(mode, device=CPU, use_dataparallel=False),
        num_workers=0,
        batch_size=batch_size,
        device=CPU,
        mode=mode,
        verbose=False,
    )


@pytest.mark.usefixtures("clean_fid_reads_our_file")
def test_clean_metrics_equal_those_of_clean_fid(files: Path):
    ours = score(files, CleanFid("clean", file=files / "inception-2015-12-05.pt"), MetricOptions(kid=True))
    theirs = [features_of_clean_fid([*(files / name).iterdir()]) for name in ("samples", "reference")]
    # clean-fid's own distance takes the root of a 2048 x 2048 matrix by scipy, half a minute.
    assert ours["fid[clean]"] == pytest.approx(frechet_distance_of_few(*map(torch.tensor, theirs)), rel=1e-4)
    np.random.seed(0)
    assert ours["kid[clean]"] == pytest.approx(clean_fid.kernel_distance(*theirs), rel=1e-4)


@pytest.mark.usefixtures("clean_fid_reads_our_file")
def test_photographs_of_several_sizes_score_as_with_clean_fid(files: Path, tmp_path: Path):
    draw = np.random.default_rng(0)
    for number, shape in enumerate([(40, 30, 3), (40, 30, 3), (70, 90, 3), (50, 50), (30, 40, 3)]):
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / f"{number}.jpg")
    net = CleanFid("clean", file=files / "inception-2015-12-05.pt")
    ours = Scorer([net], read_reference(files / "reference", [net]))
    for batch in open_images(tmp_path).batches(4):
        ours.update(batch)
    photographs = features_of_clean_fid([*tmp_path.iterdir()], batch_size=1)
    reference = features_of_clean_fid([*(files / "reference").iterdir()])
    theirs = frechet_distance_of_few(torch.tensor(photographs), torch.tensor(reference))
    assert ours.results()["fid[clean]"] == pytest.approx(theirs, rel=1e-4)


@pytest.mark.usefixtures("clean_fid_reads_our_file")
@pytest.mark.parametrize("mode", CleanFid.MODES)
def test_features_equal_those_of_clean_fid(mode: str, files: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(files))
    theirs = features_of_clean_fid(sorted((files / "reference").iterdir())[:3], mode.replace("-", "_"))
    weights = (
        files / "checkpoints" / PARAMETERS if mode == "legacy-pytorch" else files / "inception-2015-12-05.pt"
    )
    ours = CleanFid(mode, file=weights)(next(open_images(files / "reference").batches(3))).pooled
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_absent_weights_are_asked_for_with_the_command_that_fetches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"curl -L .*weights-inception-2015-12-05-6726825d.pth https://.*--net-weights"
    ):
        AdmInception()


def test_a_damaged_file_in_the_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half a download")
    with pytest.raises(UserError, match="is damaged"):
        AdmInception()


def test_a_file_that_would_run_code_is_refused(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save(Evil(), tmp_path / "evil.pth")
    with pytest.raises(UserError, match="not a file of weights: it needs getattr, and only weights are read"):
        AdmInception(file=tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_net_are_refused(tmp_path: Path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not hold the weights of this Inception"):
        AdmInception(file=tmp_path / "other.pth")
