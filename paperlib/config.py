"""The configuration: its schema, its default values and how files replace them.

The classes below are the schema. Their defaults are the published values; where the
paper is silent, the reason for a choice stands beside it. A file in ``config/`` holds
only what differs, from the defaults or from the file that it ``extends``.
"""

import hashlib
import json
import os
import re
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from paperlib.paths import NOTEBOOKS, ROOT
from paperlib.strict_yaml import parse_yaml
from paperlib.validation import check_distinct, check_option, did_you_mean, reading

Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Pair = tuple[PositiveInt, PositiveInt]
Precision = Literal["no", "fp16", "bf16"]
Region = Literal["Frontal", "Central", "Temporal", "Parietal", "Occipital"]


def _distinct(values: list) -> list:
    if repeated := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"{repeated[0]!r} is listed twice.")
    return values


def _without_null(entries: Any) -> Any:
    """Drop entries that a file sets to null to remove what it inherits."""
    if not isinstance(entries, dict):
        return entries
    return {name: entry for name, entry in entries.items() if entry is not None}


def _expanded(path: Any) -> Any:
    """Fill in ~ and environment variables."""
    if not isinstance(path, str):
        return path
    if not all(os.environ.get(name) for name in re.findall(r"\$\{?(\w+)", path)):
        raise ValueError(f"{path}: the environment variable is not set, or empty.")
    *prefix, place = path.rpartition("local-dir:")  # open_clip's word for a folder
    expanded = os.path.expanduser(os.path.expandvars(place))
    if not expanded or expanded[0] == "~" or set(expanded) & set("${}"):
        raise ValueError(
            f"must be a path, possibly with ~, $NAME or ${{NAME}}; got {path!r}."
        )
    return "".join(prefix) + expanded


def _ascending(window: tuple[float, float]) -> tuple[float, float]:
    if window[0] >= window[1]:
        raise ValueError(f"must begin before it ends; got {window}.")
    return window


_MESSAGES = {  # by type of the problem, where pydantic's do not say what to write
    "int_parsing_size": "must be a smaller whole number",
    "path_type": "must be a path",
    "union_tag_not_found": "must have a key 'kind'",
}
Distinct = AfterValidator(_distinct)
Window = Annotated[tuple[float, float], AfterValidator(_ascending)]  # s
WithoutNull = BeforeValidator(_without_null)
Place = Annotated[str, BeforeValidator(_expanded)]  # of a file, or a model's name
Subjects = Annotated[list[PositiveInt], Field(min_length=1), Distinct]
Names = Annotated[list[str], Field(min_length=1), Distinct]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[list[Seed], Field(min_length=1), Distinct]
Group = Annotated[list[str], Field(min_length=2), Distinct]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
RunName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
# of tables and figures: no characters that Markdown or LaTeX reads as its own
Label = Annotated[
    str, StringConstraints(strip_whitespace=True, pattern=r"^[^$|\\{}~^\n]+$")
]


class Section(BaseModel):
    """Part of a configuration; unknown keys are errors that name the nearest key."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = cls.model_fields
            if unknown := [key for key in values if key not in known]:
                hints = [f"unknown key {k!r}.{did_you_mean(k, known)}" for k in unknown]
                raise ValueError("; ".join(hints))
        return values

    @classmethod
    def validated(cls, values: Any, source: str) -> Self:
        """Validate values, or say where in their source each problem is."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = error.errors()
        lines = []
        for problem in problems:
            parts = [str(part) for part in problem["loc"]]
            place = ".".join(
                p for p, q in zip(parts, ["", *parts], strict=False) if p != q
            )
            message = _MESSAGES.get(problem["type"], problem["msg"])
            message = message.removeprefix("Value error, ")
            if problem["type"] not in ("value_error", "missing"):
                message += f"; got {str(problem['input'])[:80]!r}."
            if problem["type"] == "literal_error":
                options = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
                message += did_you_mean(problem["input"], options)
            lines.append(f"  - {place + ': ' if place else ''}{message}")
        raise ValueError(f"{source} is not a valid configuration:\n" + "\n".join(lines))


class EEGPreprocessing(Section):
    """THINGS-EEG2, as NICE and ATM vary its authors' pipeline (Appendix D)."""

    source: Literal["raw", "published"] = "raw"  # or files its authors preprocessed
    channels: Literal["all", "posterior"] | Names = "all"  # 63, 17, or by name
    sfreq: PositiveFloat = 250  # Hz
    tmin: Annotated[float, Field(le=0)] = -0.2  # s
    tmax: PositiveFloat = 1.0  # s
    keep_from: float = 0.0  # s; earlier samples are cut before whitening
    mvnn: Literal["epochs", "time", "none"] = "epochs"  # the data set's authors: time
    covariance: Literal["training", "both"] = "training"  # the authors: both
    seed: Seed = 20200220  # the authors': which trials are kept, their order

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if not self.tmin <= self.keep_from < self.tmax:
            raise ValueError(
                f"keep_from ({self.keep_from:g} s) must lie between tmin "
                f"({self.tmin:g} s) and tmax ({self.tmax:g} s)."
            )
        return self


class MEGPreprocessing(Section):
    """THINGS-MEG; the keys from ``l_freq`` on are for ``source: raw_ctf``."""

    source: Literal["epochs", "raw_ctf"] = "epochs"  # released epochs, 0.1 to 40 Hz
    concepts: Literal["all_concepts", "zero_shot"] = "all_concepts"  # of training
    l_freq: PositiveFloat = 0.1  # Hz
    h_freq: PositiveFloat = 100.0  # Hz
    tmin: Annotated[float, Field(le=0)] = -0.1  # s; kept are 0 to 0.995 s
    tmax: PositiveFloat = 1.3  # s
    baseline: Window = (-0.1, 0.0)  # s; mean 0, standard deviation 1 there
    sfreq: PositiveFloat = 200  # Hz

    @model_validator(mode="after")
    def _check_band(self) -> Self:
        if self.l_freq >= self.h_freq:
            raise ValueError(
                f"l_freq ({self.l_freq:g} Hz) must lie below h_freq ({self.h_freq:g} "
                "Hz): a filter the other way round would remove the band."
            )
        return self


class Sections(Section):
    """Sections that replace those of the configuration in part."""

    coordinates: dict = {}
    training: dict = {}
    sampling: dict = {}
    machine: dict = {}
    resources: dict = {}

    @property
    def changes(self) -> dict:
        """The sections by name."""
        return {k: v for k, v in self if isinstance(v, dict) and k != "runs"}


class Dataset(Sections):
    """A data set, whose sections replace those of the configuration."""

    subjects: Subjects
    training_subject: PositiveInt = 1  # of cross-subject rows, tested on the others
    methods: dict = {}
    evaluation: dict = {}
    ablations: dict = {}
    topographies: dict = {}
    runs: dict[RunName, dict] = {}  # sections of single runs on this data set

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        check_option("training_subject", self.training_subject, self.subjects)
        return self


class EEGDataset(Dataset):
    """THINGS-EEG2."""

    name: Literal["things-eeg2"]
    subjects: Subjects = list(range(1, 11))
    preprocessing: EEGPreprocessing = EEGPreprocessing()


class MEGDataset(Dataset):
    """THINGS-MEG."""

    name: Literal["things-meg"]
    subjects: Subjects = [1, 2, 3, 4]
    preprocessing: MEGPreprocessing = MEGPreprocessing()


class QwenCaptioner(Section):
    """Qwen2-VL; ``revision`` is a commit of the hub, null for the newest."""

    kind: Literal["qwen2-vl"]
    model: Place
    revision: str | None
    pixels: PositiveInt  # of the image that the model reads


class MiniGPT4Captioner(Section):
    """MiniGPT-4, put together from its parts."""

    kind: Literal["minigpt4"]
    vision: Place
    vision_revision: str | None
    projection: Place
    language: Place
    language_revision: str | None


class FileCaptioner(Section):
    """Captions that another program wrote."""

    kind: Literal["file"]
    file: Place


Captioner = Annotated[
    QwenCaptioner | MiniGPT4Captioner | FileCaptioner, Field(discriminator="kind")
]


class Captioning(Section):
    """Captions of the images (Appendix F)."""

    captioners: Annotated[dict[Name, Captioner], WithoutNull] = {}
    prompt: Annotated[str, Field(min_length=1)] = (
        "Describe this image in one or two sentences."  # not stated; fits 77 tokens
    )
    max_new_tokens: PositiveInt = 77

    @field_validator("captioners")
    @classmethod
    def _check_names(cls, captioners: dict) -> dict:
        if taken := {"image", "alexnet", "efficientnet-lite0"} & captioners.keys():
            raise ValueError(
                f"a captioner cannot be called {taken.pop()!r}: the tokens of images "
                "and networks are stored under such names. Choose another one."
            )
        return captioners


class Clip(Section):
    """A CLIP model of open_clip."""

    model: Place = "ViT-L-14-quickgelu"  # OpenAI's activation; ViT-L-14 has another
    pretrained: str | None = "openai"
    revision: str | None = "18d0535469bb561bf468d76c1d73aa35156c922b"  # of the hub


class Network(Section):
    """A CNN for the encoding baselines; feature maps are averaged to a grid."""

    grid: PositiveInt = 6


class Embedding(Clip):
    """Condition tokens: CLIP's, and the layers of CNNs."""

    normalize_by_cls: bool = False  # divide image tokens by the norm of the class token
    project_text: bool = False
    networks: Annotated[
        dict[Literal["alexnet", "efficientnet-lite0"], Network], WithoutNull
    ] = {}


class Channels(Section):
    """Channels that a model learns."""

    without: Region | None = None  # a brain region that it never sees


class Conditioning(Section):
    """What a model knows of an image."""

    image: bool = True  # CLIP image tokens, 257 x 768
    captioner: str | None = None  # whose captions give the CLIP text tokens, 77 x 768
    network: str | None = None  # a CNN
    layers: list[str] | None = None  # of the CNN; attended to as maps by networks


class DiTOptions(Section):
    """The diffusion transformer (section 3.2, Appendix E)."""

    width: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 12
    mlp_ratio: PositiveFloat = 4.0
    patch: Pair = (4, 4)  # channels, samples
    padding: Literal["region", "global"] = "region"  # Appendix B; global: Appendix E
    region_embedding: bool = True
    temporal_embedding: bool = True
    row_embedding: bool = False  # names each row of patches; not in the paper
    cross_modulation: bool = False  # 9-way adaLN instead of 6-way
    open_gates: bool = False  # gates and cross-attention start open; not in the paper

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width ({self.width}) must be a multiple of heads ({self.heads})."
            )
        return self


class UNetOptions(Section):
    """The paper's first version."""

    widths: Annotated[list[PositiveInt], Field(min_length=1)] = [128, 256, 512]
    layers: PositiveInt = 2
    heads: PositiveInt = 8
    patch: Pair = (1, 1)  # channels, samples
    conditioning: Literal["cross", "concat", "add"] = "cross"

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if wrong := [width for width in self.widths[1:] if width % self.heads]:
            raise ValueError(
                f"widths must be multiples of heads ({self.heads}); got {wrong[0]}."
            )
        return self


class AutoencoderOptions(Section):
    """SynBrain's first stage, with the released weights of its losses."""

    steps: PositiveInt = 50000
    kl_weight: NonNegativeFloat = 0.01
    clip_weight: NonNegativeFloat = 0.3
    temperature: PositiveFloat = 0.125


class SynBrainOptions(Section):
    """SynBrain (2025)."""

    widths: Annotated[list[PositiveInt], Field(min_length=2)] = [128, 256, 512, 512]
    blocks: PositiveInt = 2
    hidden: PositiveInt = 2048
    depth: PositiveInt = 8
    heads: PositiveInt = 12
    autoencoder: AutoencoderOptions = AutoencoderOptions()


Penalties = Annotated[list[PositiveFloat], Field(min_length=1)]
HALF_DECADES = [1, 3.2, 10, 32, 100, 320, 1e3, 3.2e3, 1e4, 3.2e4, 1e5, 3.2e5, 1e6]


class LayerwiseRidgeOptions(Section):
    """Güçlü and van Gerven: ridge from every layer, the best one for each response."""

    n_components: PositiveInt = 1000
    alphas: Penalties = HALF_DECADES


class PLSOptions(Section):
    """Yamins et al.: partial least squares from one layer."""

    layer: str = "classifier.5"
    n_components: PositiveInt = 25


class KernelRegressionOptions(Section):
    """The authors of THINGS-EEG2."""

    n_components: PositiveInt = 1000


class RidgeOptions(Section):
    """A linear control on the tokens that a network attends to."""

    pooling: Literal["mean", "first", "flatten"] = "mean"  # 257 x 768 features if flat
    n_components: PositiveInt = 1000
    alphas: Penalties = HALF_DECADES


class Methods(Section):
    """Options of every method."""

    dit: DiTOptions = DiTOptions()
    unet: UNetOptions = UNetOptions()
    synbrain: SynBrainOptions = SynBrainOptions()
    layerwise_ridge: LayerwiseRidgeOptions = LayerwiseRidgeOptions()
    pls: PLSOptions = PLSOptions()
    kernel_regression: KernelRegressionOptions = KernelRegressionOptions()
    ridge: RidgeOptions = RidgeOptions()


Method = Literal[tuple(Methods.model_fields)]


class CoordinatesOptions(Section):
    """Coordinates of the responses in which a network learns; none in the paper."""

    mean: bool = False  # remove the mean training response
    whitening: NonNegativeFloat = 0.0  # power of the temporal components' variance
    spatial_whitening: NonNegativeFloat = 0.0  # of the components over channels
    components: PositiveInt = 32  # that are whitened
    floor: PositiveFloat = 0.3  # gain of all others, relative to the first of them
    color: bool = False  # noise has the covariance of the responses instead of white


class Diffusion(Section):
    """The noising process (section 3.3, Appendix E)."""

    timesteps: PositiveInt = 1000
    beta_start: Fraction = 1e-4  # not stated; of DDPM
    beta_end: Fraction = 2e-2  # not stated; of DDPM
    prediction: Literal["epsilon", "epsilon_skip", "v"] = "epsilon"
    scale_input: bool = False  # the network sees sqrt(alpha bar) y_t; not in the paper


class Training(Section):
    """Optimization (Appendix E); what it does not state says so."""

    seeds: Seeds = [0]  # one training each
    repetitions: Literal["mean", "single"] = "mean"  # one average an image, or trials
    validation_concepts: PositiveInt = 74  # held out; 740 images, as NICE does
    steps: PositiveInt = 100_000  # about 100 epochs of EEG, 19 of MEG; not stated
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 1e-5
    warmup: NonNegativeInt = 1000  # steps; not stated
    clip_norm: PositiveFloat = 1.0  # not stated
    ema_decay: Share = 0.9999  # not stated
    precision: Precision = "bf16"  # fp16 on GPUs without bfloat16
    evaluate_every: PositiveInt = 2000  # steps


class Sampling(Section):
    """Algorithm 2; the numbers of steps and of samples are not stated."""

    steps: PositiveInt = 50
    spacing: Literal["trailing", "angle"] = "trailing"
    solver: Literal["ddim", "euler"] = "ddim"
    eta: Share = 0.0  # Appendix A.2; 1 is ancestral
    bound: PositiveFloat | None = None  # of the estimated clean signal, SD
    samples: PositiveInt = 32  # K, for each image
    precision: Precision = "bf16"  # of the network; noise and signals stay in float32

    @model_validator(mode="after")
    def _check_noise(self) -> Self:
        if self.eta and self.solver != "ddim":
            raise ValueError(
                f"eta {self.eta:g} adds noise at every step, which the solver "
                f"{self.solver!r} cannot: set eta to 0 or solver to ddim."
            )
        return self


class Run(Sections):
    """A method with its options; the sections replace those of the data set."""

    label: Label
    method: Method
    bases: list[str] = []  # runs that this one extends, the first of them first
    channels: dict = {}
    conditioning: dict = {}
    model: dict = {}  # options of the method
    diffusion: dict = {}


class Row(Section):
    """A row of the main table."""

    run: str
    samples: Literal["posterior_mean", "mean", "one"] = "posterior_mean"
    seeds: Literal["each", "ensemble"] = "each"  # ensemble: mean of the trainings
    average_with: str | None = None  # mean of the predictions of two runs
    cross_subject: bool = False  # the training subject's model, tested on the others
    other_image: bool = False  # control: asked about another image

    @model_validator(mode="after")
    def _check_ensemble(self) -> Self:
        if self.seeds == "ensemble" and self.samples != "posterior_mean":
            raise ValueError(
                f"the row of {self.run} has seeds: ensemble and samples: "
                f"{self.samples}; only posterior means are averaged over trainings."
            )
        return self


class Evaluation(Section):
    """Scores; the parameters of the synchronization likelihood are not stated."""

    reference: str = "ours_plus"  # run whose first row is subtracted from all others
    dim: PositiveInt = 10  # of the delay vectors
    delay: PositiveFloat = 0.02  # s
    neighbors: PositiveInt = 10
    halvings: PositiveInt = 20  # of the test repetitions, for the ceiling
    resamples: PositiveInt = 10_000  # of the bootstrap


class Ablations(Section):
    """Groups of runs; the last one of each is the full model."""

    subjects: Subjects | None = None  # null: all
    components: Group  # Tables 3 and 4
    captioners: Group  # Tables 5 and 6
    conditioning: Group  # of the first version
    regions: Group  # Figure 6


GROUPS = tuple(name for name in Ablations.model_fields if name != "subjects")


class ClipScoreEncoder(Clip):
    """A CLIP model that scores captions, with its prefix to them."""

    name: Label
    prefix: str = ""


class ClipScore(Section):
    """CLIP Scores of the captions (Figures 4, 5 and 8, Tables 7 and 8)."""

    captioners: Annotated[list[str], Field(min_length=1, max_length=3), Distinct]
    labels: Annotated[dict[str, Label], WithoutNull]  # of the captioners
    encoders: Annotated[list[ClipScoreEncoder], Field(min_length=1)]
    resamples: PositiveInt = 10_000  # of the concepts, for the intervals

    @field_validator("encoders")
    @classmethod
    def _check_encoders(cls, encoders: list) -> list:
        check_distinct("Encoders", "names", [encoder.name for encoder in encoders])
        return encoders


class Topographies(Section):
    """Scalp maps; their windows are not stated."""

    windows: Annotated[list[Window], Field(min_length=1)] = [
        *[(0.0, 0.1), (0.1, 0.2), (0.2, 0.3)],
        *[(0.3, 0.4), (0.4, 0.6), (0.6, 1.0)],
    ]  # s


class Machine(Section):
    """Values that change how fast something runs, and results by no more than rounding.

    SynBrain is the exception: its first stage contrasts the pairs of each micro-batch,
    so that ``processes`` and ``accumulate`` change its loss.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"  # cuda if there is a GPU
    captioning_batch: PositiveInt = 16
    embedding_batch: PositiveInt = 64
    network_batch: PositiveInt = 64
    clip_score_batch: PositiveInt = 64
    sampling_batch: PositiveInt = 256
    ridge_block: PositiveInt = 2000  # responses solved at a time
    workers: NonNegativeInt = 4  # processes that read batches
    processes: PositiveInt = 1  # GPUs that share a training
    accumulate: PositiveInt = 1  # micro-batches of a batch that does not fit
    checkpointing: bool = False  # recompute the DiT's activations to save memory
    compile: bool = False  # torch.compile
    tensorboard: bool = False  # needs its package
    save_every: PositiveInt = 1000  # steps, for a restart


class Resources(Section):
    """What one execution of a notebook may use."""

    threads: PositiveInt = 1
    memory: PositiveFloat = 2  # GB
    hours: PositiveFloat = 1  # after which a cluster stops it
    gpu: Literal[0, 1] = 0


class Config(Section):
    """A configuration, from :func:`load_config`.

    :meth:`of` puts the values of a data set and of a run in place; the properties
    below belong to that data set or run.
    """

    name: str
    simulated: bool  # every table and figure says so
    data_root: Annotated[Path, BeforeValidator(_expanded)]
    seed: Seed = 20260217  # sampling noise, bootstrap, halvings
    datasets: Annotated[
        dict[str, Annotated[EEGDataset | MEGDataset, Field(discriminator="name")]],
        Field(min_length=1),
        WithoutNull,
    ]
    captioning: Captioning = Captioning()
    embedding: Embedding = Embedding()
    channels: Channels = Channels()
    conditioning: Conditioning = Conditioning()
    methods: Methods = Methods()
    coordinates: CoordinatesOptions = CoordinatesOptions()
    diffusion: Diffusion = Diffusion()
    training: Training = Training()
    sampling: Sampling = Sampling()
    runs: Annotated[dict[RunName, Run], WithoutNull]
    comparison: list[Row]
    evaluation: Evaluation = Evaluation()
    ablations: Ablations
    clip_score: ClipScore
    topographies: Topographies = Topographies()
    machine: Machine = Machine()
    resources: dict[Literal[NOTEBOOKS], Resources]
    minithings: dict | None = None  # the embedded world, see minithings.world.World

    _dataset: str | None = PrivateAttr(None)
    _run: str | None = PrivateAttr(None)
    _overrides: dict = PrivateAttr({})  # sections that replace those of runs, too

    @field_validator("datasets", mode="before")
    @classmethod
    def _name_datasets(cls, datasets: Any) -> Any:
        if not isinstance(datasets, dict):
            return datasets
        return {
            name: {"name": name} | entry if isinstance(entry, dict) else entry
            for name, entry in datasets.items()
        }

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """Stop at names that nothing has, and at labels that two runs have."""
        named = [("comparison.run", row.run) for row in self.comparison]
        named += [
            ("comparison.average_with", row.average_with)
            for row in self.comparison
            if row.average_with
        ]
        for group in GROUPS:
            runs = getattr(self.ablations, group)
            named += [(f"ablations.{group}", run) for run in runs]
        for name, dataset in self.datasets.items():
            named += [(f"datasets.{name}.runs", run) for run in dataset.runs]
        for place, run in named:
            check_option(place, run, tuple(self.runs))
        captioners, networks = self.captioning.captioners, self.embedding.networks
        for captioner in self.clip_score.captioners:
            check_option("clip_score.captioners", captioner, tuple(captioners))
        captioner, network = self.conditioning.captioner, self.conditioning.network
        check_option("conditioning.captioner", captioner, (None, *captioners))
        check_option("conditioning.network", network, (None, *networks))
        own = [r.run for r in self.comparison if not (r.cross_subject or r.other_image)]
        check_option("evaluation.reference", self.evaluation.reference, own)
        check_distinct("Runs", "labels", [run.label for run in self.runs.values()])
        *ablated, full = (
            self.runs[run].channels.get("without") for run in self.ablations.regions
        )
        if None in ablated or full is not None:
            raise ValueError(
                "ablations.regions must name runs that lack a region each, and last "
                f"the model of all channels; got {', '.join(self.ablations.regions)}."
            )
        if self.sampling.steps > self.diffusion.timesteps:
            raise ValueError(
                f"sampling.steps ({self.sampling.steps}) must not exceed "
                f"diffusion.timesteps ({self.diffusion.timesteps})."
            )
        if self.minithings is not None and not self.simulated:
            raise ValueError("simulated must be true where minithings makes the data.")
        return self

    def of(self, *, dataset: str | None = None, run: str | None = None) -> Self:
        """Return the configuration as it holds for a data set and a run.

        What comes later replaces what came before: the configuration, the data set, the
        run, and what the data set says of this run and of those that it extends.
        Overrides come last.
        """
        dataset, run = dataset or self._dataset, run or self._run
        layers = []
        if dataset is not None:
            check_option("dataset", dataset, tuple(self.datasets))
            layers.append(self.datasets[dataset].changes)
        if run is not None:
            check_option("run", run, tuple(self.runs))
            names = [*self.runs[run].bases, run]
            on_dataset = self.datasets[dataset].runs if dataset is not None else {}
            layers += [self.runs[run].changes]
            layers += [on_dataset.get(name, {}) for name in names]
        values = reduce(merge, layers, self.model_dump())
        if run is not None:
            options = {self.runs[run].method: values.pop("model", {})}
            values = merge(values, {"methods": options})
        values = merge(values, self._overrides)
        place = " of ".join(filter(None, (run, dataset)))
        chosen = Config.validated(values, f"{self.name}, {place}")
        chosen._dataset, chosen._run = dataset, run
        chosen._overrides = self._overrides
        return chosen

    @property
    def dataset(self) -> str:
        """Name of the chosen data set."""
        return self._chosen("dataset")

    @property
    def run(self) -> str:
        """Name of the chosen run."""
        return self._chosen("run")

    @property
    def subjects(self) -> list[int]:
        """Participants of the data set."""
        return self.datasets[self.dataset].subjects

    @property
    def training_subject(self) -> int:
        """Participant whose models are tested on the others."""
        return self.datasets[self.dataset].training_subject

    @property
    def preprocessing(self) -> EEGPreprocessing | MEGPreprocessing:
        """Options of the data set's preprocessing."""
        return self.datasets[self.dataset].preprocessing

    @property
    def ablated_subjects(self) -> list[int]:
        """Participants on whom the ablations are trained."""
        return self.ablations.subjects or self.subjects

    @property
    def label(self) -> str:
        """Name of the run in tables."""
        return self.runs[self.run].label

    @property
    def method(self) -> str:
        """Method of the run."""
        return self.runs[self.run].method

    @property
    def model(self) -> Section:
        """Options of the run's method."""
        return getattr(self.methods, self.method)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the run's trainings."""
        return self.training.seeds

    @property
    def sampled_seeds(self) -> list[int]:
        """Seeds of the trainings whose models are sampled.

        All of them where only the mean of samples predicts a response; else the first.
        """
        return self.seeds if self.diffusion.prediction == "epsilon" else self.seeds[:1]

    @property
    def token_sources(self) -> list[str]:
        """Names of the token files that condition the run, images first."""
        chosen = self.conditioning
        names = ["image" if chosen.image else None, chosen.captioner, chosen.network]
        return [name for name in names if name]

    def check_runs(self) -> None:
        """Raise ValueError unless every run is valid on every data set."""
        for dataset in self.datasets:
            for run in self.runs:
                self.of(dataset=dataset, run=run)

    def first_run(self, method: str) -> str:
        """Name the first run of a method."""
        for name, run in self.runs.items():
            if run.method == method:
                return name
        raise ValueError(f"No run has the method {method!r}; add one to runs.")

    def _chosen(self, key: str) -> str:
        value = getattr(self, f"_{key}")
        if value is None:
            options = ", ".join(getattr(self, f"{key}s"))
            raise ValueError(f"Name the {key}, one of {options}: cfg.of({key}=...).")
        return value


def load_config(config: str | Path, overrides: str = "") -> Config:
    """Read and validate a configuration.

    Parameters
    ----------
    config
        Name of a file in ``config/`` without its ending, or a path to a YAML file. The
        configuration, and the folders of its results, are called like the file.
    overrides
        YAML that replaces single values, such as ``"sampling: {steps: 20}"``, also
        where a data set or a run has its own. Results go to folders of their own then.
    """
    path = _config_path(config)
    _check_name(path)
    values, changes = _read(path), parse_yaml(overrides or "{}", "overrides")
    values, name = merge(values, changes), path.stem
    if "name" in values:
        raise ValueError(
            f"{path.name}: remove 'name'; a configuration is called like its file."
        )
    if overrides:
        text = json.dumps(changes, sort_keys=True, default=str)
        name += f"+{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    runs = values.get("runs")
    if isinstance(runs, dict):
        values["runs"] = {run: _inherit(runs, run, path.name) for run in runs}
    cfg = Config.validated(values | {"name": name}, path.name)
    entries = ("runs", "datasets")
    cfg._overrides = {k: v for k, v in changes.items() if k not in entries}
    return cfg


def merge(base: dict, changes: dict) -> dict:
    """Return ``base`` with single values replaced, recursively; neither is changed."""
    merged = deepcopy(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else deepcopy(value)
    return merged


def _inherit(runs: dict, name: str, source: str) -> Any:
    """Return a run with what it takes over from the run that it ``extends``."""
    line = [name]
    while isinstance(entry := runs[line[-1]], dict) and "extends" in entry:
        place, base = f"{source}: runs.{line[-1]}.extends", entry["extends"]
        there = [run for run in runs if runs[run] is not None and run != line[-1]]
        check_option(place, base, there)
        if base in line:
            raise ValueError(
                f"{source}: runs.{name} extends itself, through {', '.join(line)}."
            )
        line.append(base)
    if len(line) == 1:
        return entry
    entries = [runs[run] for run in reversed(line)]
    merged = reduce(merge, [entry for entry in entries if isinstance(entry, dict)])
    del merged["extends"]
    return merged | {"bases": line[:0:-1]}


def _config_path(config: str | Path) -> Path:
    named = ROOT / "config" / f"{config}.yaml"
    path = named if named.is_file() else ROOT / str(config)
    if not path.is_file():
        names = sorted(p.stem for p in (ROOT / "config").glob("*.yaml"))
        raise FileNotFoundError(
            f"There is no configuration {str(config)!r}: expected one of {names} or a "
            f"path, from {ROOT}, to a YAML file.{did_you_mean(config, names)}"
        )
    return path


def _check_name(path: Path) -> None:
    """Refuse a file whose results would get a bad folder, or that of another one."""
    if path.stem == "published" or not re.fullmatch(r"[A-Za-z0-9][\w-]*", path.stem):
        raise ValueError(
            f"Results go to folders called {path.stem!r} like the file: rename it to "
            "something else (not 'published'), of letters, digits, - and _."
        )
    twin = ROOT / "config" / f"{path.stem}.yaml"
    if twin.is_file() and not twin.samefile(path):
        raise ValueError(
            f"{path} is called like {twin}, and their results would replace each "
            "other. Rename it."
        )


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict:
    """Read a file, merged into the one that it extends."""
    if path in seen:
        raise ValueError(f"{path.name} extends itself.")
    if path.stat().st_size > 2**20:
        raise ValueError(f"{path} has more than 1 MiB; that is no configuration.")
    with reading(path, "Save it as UTF-8 text."):
        text = path.read_text(encoding="utf-8-sig")
    values = parse_yaml(text, path.name)
    if "extends" not in values:
        return values
    try:
        base = _read(_config_path(values.pop("extends")), (*seen, path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} extends what cannot be read. {error}") from error
    return merge(base, values)
