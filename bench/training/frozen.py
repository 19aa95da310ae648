"""Frozen networks of a run: encoders and reward networks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from backbones import cost
from bench.config.spec import RunSpec
from bench.core import distributed
from bench.core.seeding import generator, seed_of
from bench.data import datasets
from bench.data.base import Records
from bench.nets import teachers
from bench.nets.base import NO_LAYERS, Encoder
from bench.nets.feature_cache import FeatureCache
from bench.nets.rewards.base import RewardContext
from bench.nets.rewards.registry import Rewards
from bench.training.batch import TrainingBatch
from methods.base import REWARD_NET, TEACHER, EncoderInfo, EncoderLayers, Features, Needs

SAMPLE_BATCH = 64  # images


class FrozenNets:
    """Encoders and rewards of one run; only those that its method needs are loaded."""

    def __init__(
        self,
        spec: RunSpec,
        data: Records,
        grid: tuple[int, int],
        device: torch.device,
        encoder: Encoder | None = None,
    ) -> None:
        """`grid`: rows and columns of the backbone's tokens; `encoder` stands for whatever is asked for."""
        self.spec, self.data, self.grid, self.device, self.encoder = spec, data, grid, device, encoder
        self.encoders: dict[str, Encoder | FeatureCache] = {}
        self.sample_seconds, self.sample_flops = 0.0, 0  # of `EncoderInfo.sample`

    def load_encoder(self, name: str) -> EncoderInfo:
        """Load a frozen encoder, once, and return its properties.

        Raises:
            UserError: for an unknown name and for missing weights.
        """
        if name not in self.encoders:
            encoder = self.encoder or teachers.load(
                self.spec.teacher if name == TEACHER else name,
                self.data.image_size,
                self.device,
                grid=self.grid,
                precision=self.spec.training.precision,
            )
            encoder.info = encoder.info._replace(sample=partial(self._sample, encoder))
            data = datasets.get(self.spec.data).identity
            self.encoders[name] = FeatureCache(encoder, self.data, data) if encoder.cache else encoder
        return self.encoders[name].info

    def _sample(self, encoder: Encoder, count: int, layers: EncoderLayers = NO_LAYERS) -> Iterator[Features]:
        """`EncoderInfo.sample`: features of the first training records. Records the cost."""
        for indices in torch.arange(min(count, len(self.data))).split(SAMPLE_BATCH):
            records = self.data.batch(indices, generator(self.spec.seed, "sample"))
            start = time.perf_counter()
            with cost.counter() as counter:
                found = encoder(records.image.to(self.device), layers)
            self.sample_flops += counter.get_total_flops()
            self.sample_seconds += time.perf_counter() - start
            yield found

    def load_rewards(self, needs: Needs) -> None:
        """Load the rewards in `needs` of step 0; a student is distilled from the first encoder of the method.

        Raises:
            UserError: for rewards that cannot be computed.
        """
        self.teacher = next(iter(needs.encoders), TEACHER)
        context = RewardContext(
            channels=self.data.channels,
            size=self.data.size,
            to_pixels=self.data.to_pixels,
            grid=self.grid,
            net=self.spec.reward_net if needs.reward_net == REWARD_NET else needs.reward_net,
            teacher=lambda: self.load_encoder(self.teacher),
            prompts=datasets.get(self.spec.data).preset.get("prompts", ()),
            device=self.device,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.spec.seed, "init rewards"))
            self.rewards = Rewards(needs.rewards, context)

    @property
    def names(self) -> set[str]:
        """Names of the loaded encoders."""
        return {self.spec.teacher if name == TEACHER else name for name in self.encoders}

    @property
    def feature_caches(self) -> list[FeatureCache]:
        """The caches of encoders with `cache=true`, to be filled before the first step."""
        return [encoder for encoder in self.encoders.values() if isinstance(encoder, FeatureCache)]

    def required_encoders(self, needs: Needs) -> list[str]:
        """Names of the encoders of a batch: those of the method, and the teacher of a student."""
        student = needs.rewards and self.rewards.student
        return list(dict.fromkeys((*needs.encoders, self.teacher) if student else needs.encoders))

    def need_images(self, needs: Needs) -> bool:
        """Whether an encoder needs images, because its features are not cached."""
        return any(
            not isinstance(self.encoders[name], FeatureCache) for name in self.required_encoders(needs)
        )

    def features(self, batch: TrainingBatch, needs: Needs) -> dict[str, Features]:
        """Features of a batch, by name of the encoder."""
        return {name: self._encode(name, batch, needs) for name in self.required_encoders(needs)}

    def learn(self, batch: TrainingBatch, needs: Needs) -> dict[str, float | Tensor]:
        """Train the student of a reward, if there is one, on the local batch; returns its logs."""
        student = self.rewards.student if needs.rewards else None
        if student is None:
            return {}
        tokens = batch.features[self.teacher].patch_tokens
        mean_over_step = lambda mean: distributed.all_reduce_sum(mean * batch.fraction)  # noqa: E731
        return {"reward/student_loss": student.learn(batch.x0, tokens, mean_over_step)}

    def _encode(self, name: str, batch: TrainingBatch, needs: Needs) -> Features:
        encoder, layers = self.encoders[name], needs.encoder_layers.get(name, NO_LAYERS)
        if isinstance(encoder, FeatureCache):
            return encoder(batch.indices, layers).map(lambda value: value.to(self.device))
        return encoder(batch.image, layers)
